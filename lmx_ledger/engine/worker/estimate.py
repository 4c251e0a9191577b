"""What a forward pass takes on top of what is there, foretold from those before it: without MLX and without a clock.

A pass over `tokens` new ones of each of some rows, behind `length`, takes about `rows * tokens * (a + b * length)`:
activations, and attention's weights where they are not fused. `a` is measured when the model is loaded, `b` follows
from its heads; how far that is from the truth is learned for each size of pass by itself.
"""

from typing import Final, NamedTuple

_FORGET: Final = 0.05
"""A pass that took less than was foretold brings the next one down by so much of the difference."""
_MARGIN: Final = 1.1
_FLOOR: Final = 1 << 18
"""Bytes that any pass may take: small arrays of which no formula knows."""
_GRAIN: Final = 4
_LEAST_OF_COPIES: Final = 0.5
_TELLING: Final = 16
"""Passes over fewer tokens are so small that what else happens beside them counts for more."""


class Pass(NamedTuple):
    """Of so many rows, so many new tokens each, the longest of which is then so long."""

    rows: int
    tokens: int
    length: int

    @property
    def size(self) -> tuple[int, int, int]:
        """Its neighbours, which are taken for the same: within a factor of two."""
        return self.rows.bit_length(), self.tokens.bit_length(), self.length.bit_length()


class Estimate:
    """Of one model. It errs upward, a little: a pass that took more counts at once, those that took less by and by."""

    def __init__(self, per_token: float, per_pair: float, scale: float = 1.0) -> None:
        """Bytes of a token, and of a token for each one that it looks at. `scale`: what earlier workers learned."""
        self.per_token, self.per_pair = max(per_token, 1.0), max(per_pair, 0.0)
        self._scale = max(scale, 1.0)
        self._overall = self._of_copies = 1.0
        self._ratios: dict[tuple[int, int, int], float] = {}

    def bytes(self, one: Pass) -> int:
        """What it will take at most, by all that is known."""
        ratio = self._ratios.get(one.size, max(self._overall, 1.0))
        return int(self._formula(one) * ratio * self._scale * _MARGIN) + _FLOOR

    def seen(self, one: Pass, took: int) -> None:
        """It took so many bytes."""
        ratio = max(took - _FLOOR // 2, 0) / self._formula(one) / self._scale
        self._ratios[one.size] = _toward(self._ratios.get(one.size, ratio), ratio)
        if one.tokens >= _TELLING:
            self._overall = _toward(self._overall, ratio)

    def copies(self, size: int) -> int:
        """What it takes to make so many bytes of caches anew: where old ones go in time, that is less."""
        return int(size * self._of_copies)

    def copied(self, size: int, took: int) -> None:
        """That took so many bytes."""
        self._of_copies = _toward(self._of_copies, min(max(took / size, _LEAST_OF_COPIES), 1.0))

    def tokens(self, room: int, length: int, most: int) -> int:
        """New tokens of one row behind `length` that should take no more than `room` bytes; 0: not even a few."""
        fits, too_many = 0, most // _GRAIN + 1
        while too_many - fits > 1:
            tokens = (fits + too_many) // 2 * _GRAIN
            if self.bytes(Pass(1, tokens, length + tokens)) <= room:
                fits = tokens // _GRAIN
            else:
                too_many = tokens // _GRAIN
        return fits * _GRAIN if fits * _GRAIN + _GRAIN <= most or not fits else most

    def _formula(self, one: Pass) -> float:
        return one.rows * one.tokens * (self.per_token + self.per_pair * one.length)


def _toward(known: float, ratio: float) -> float:
    return ratio if ratio > known else known + _FORGET * (ratio - known)
