"""Who cost most: sums by name in bounded memory, however many names there are."""

from typing import Final, NamedTuple

KEPT: Final = 20_000
"""Names that stay when there are twice as many."""


class Sum(NamedTuple):
    """How often, and how much in all."""

    times: int = 0
    ms: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def plus(self, ms: float, tokens: int = 0, size: int = 0) -> "Sum":
        """With one more."""
        return Sum(self.times + 1, self.ms + ms, self.tokens + tokens, self.bytes + size)


class Dearest:
    """Sums by name. Beyond `2 * kept` names the cheapest are forgotten: one that comes back begins anew."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._sums: dict[str, Sum] = {}

    def add(self, name: str, ms: float, tokens: int = 0) -> None:
        """One more of that name."""
        self._sums[name] = self._sums.get(name, Sum()).plus(ms, tokens)
        if len(self._sums) > 2 * self._kept:
            self._sums = dict(self.ranked()[: self._kept])

    def ranked(self) -> list[tuple[str, Sum]]:
        """The dearest first."""
        return sorted(self._sums.items(), key=lambda one: (-one[1].ms, -one[1].tokens, -one[1].times, one[0]))
