"""What became of the requests of a time: as recorded, as a model of it has it, and as other rules would have had it.

A model is only as good as it comes to what was recorded under the rules that were: its error stands beside each of its
figures, and where that is larger than what the rules change, nobody can tell.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.units import show_duration

REQUESTS: Final = "requests"
"""What is counted; any other unit is milliseconds."""
MS: Final = "ms"
_LEAST_MS: Final = 1.0


class Outcome(NamedTuple):
    """Of the requests that came in that time and have ended. `refused` is by code; `failed` ended without an answer for
    another reason, that their client left included.

    `waited_ms` is the sum of all time in which requests only waited: for a slot, for memory, for their model to be
    loaded or to come back. `ttft_*`: of those that were answered, None where none was.
    """

    requests: int = 0
    answered: int = 0
    refused: Mapping[str, int] = {}
    failed: int = 0
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    waited_ms: float = 0.0
    page_ins: int = 0
    page_in_ms: float = 0.0

    @property
    def refused_all(self) -> int:
        """Whatever the code."""
        return sum(self.refused.values())

    def public(self) -> dict[str, Any]:
        """For a program."""
        return {**self._asdict(), "refused": dict(self.refused)}


class Figure(NamedTuple):
    """One figure of an outcome, three times; `error` is by how much the model is off, in the figure's unit."""

    key: str
    name: str
    unit: str
    recorded: float | None
    modelled: float | None
    estimated: float | None
    error: float

    @property
    def told(self) -> bool:
        """Whether there is anything to say of it."""
        return any((self.recorded, self.modelled, self.estimated))

    @property
    def change(self) -> float:
        """What the rules change, in the model: only like is compared with like."""
        return (self.estimated or 0.0) - (self.modelled or 0.0)

    @property
    def changes(self) -> bool:
        """Whether they change anything that is worth a word."""
        if self.unit != MS or self.estimated is None or self.modelled is None:
            return self.estimated != self.modelled
        return abs(self.change) >= _LEAST_MS

    @property
    def too_rough(self) -> bool:
        """Whether the model's own error is no less than that: then nobody can tell."""
        return self.changes and abs(self.change) <= self.error

    def public(self) -> dict[str, Any]:
        """For a program."""
        return {**self._asdict(), "error": round(self.error, 3), "change": round(self.change, 3),
                "too_rough": self.too_rough}  # fmt: skip

    def held(self) -> str:
        """How good the model is, in words."""
        recorded, modelled = shown(self.recorded, self.unit), shown(self.modelled, self.unit)
        return f"{self.name}: {recorded} recorded, {modelled} by the model (off by {shown(self.error, self.unit)})"

    def text(self) -> str:
        """What other rules change, in words."""
        told, error = f"{self.name}: {shown(self.recorded, self.unit)} recorded", shown(self.error, self.unit)
        if not self.changes:
            return f"{told}, unchanged with these rules (the model is off by {error})"
        if self.too_rough:
            return f"{told}; too rough to tell what these rules change (the model is off by {error})"
        return f"{told}, about {shown(self.estimated, self.unit)} with these rules (the model is off by {error})"


_FIGURES: Final = (
    ("answered", "requests answered", ""),
    ("refused_all", "requests refused", ""),
    ("failed", "requests that failed", ""),
    ("ttft_p50_ms", "TTFT, median", MS),
    ("ttft_p95_ms", "TTFT, 95th percentile", MS),
    ("waited_ms", "time spent waiting", MS),
    ("page_ins", "page-ins", ""),
    ("page_in_ms", "time spent paging in", MS),
)
_KEYS: Final = {"refused_all": "refused"}


class Estimate(NamedTuple):
    """`given` are the rules that are set otherwise. `modelled` is under those that were; `off` by how much each
    request's first token is off in it, in milliseconds. `cut_us`: there were more requests than a model is made of, and
    what came from then on is in none of it; None: it is all.
    """

    given: Mapping[str, Any]
    recorded: Outcome
    modelled: Outcome
    estimated: Outcome
    off: Sequence[float] = ()
    cut_us: int | None = None

    def figures(self) -> Iterator[Figure]:
        """All of them."""
        for attribute, name, unit in _FIGURES:
            recorded, modelled, estimated = (
                getattr(one, attribute) for one in (self.recorded, self.modelled, self.estimated)
            )
            error = abs((modelled or 0.0) - (recorded or 0.0))
            if attribute in {"ttft_p50_ms", "ttft_p95_ms"} and self.off:
                # That two percentiles meet may be luck: no figure is better than the requests that it is made of.
                error = max(error, share_of(sorted(self.off), 0.5))
            yield Figure(_KEYS.get(attribute, attribute), name, unit, recorded, modelled, estimated, error)

    def figure(self, key: str) -> Figure:
        """One of them; `KeyError` where there is none of that key."""
        for one in self.figures():
            if one.key == key:
                return one
        raise KeyError(key)

    def public(self) -> dict[str, Any]:
        """For a program."""
        return {
            "set": dict(self.given),
            "recorded": self.recorded.public(),
            "modelled": self.modelled.public(),
            "estimated": self.estimated.public(),
            "figures": [one.public() for one in self.figures()],
            "text": self.text(),
            "cut": None if self.cut_us is None else rfc3339(self.cut_us),
        }

    def text(self) -> list[str]:
        """In words, a line for each figure that there is anything to say of."""
        told = [one for one in self.figures() if one.told]
        if self.given:
            return [one.text() for one in told]
        return [one.held() for one in told]


def share_of(ordered: Sequence[float], share: float) -> float:
    """The value that such a share of them does not exceed (nearest rank); 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def shown(value: float | None, unit: str) -> str:
    """For people."""
    if value is None:
        return "none"
    return show_duration(value / 1e3) if unit == MS else f"{value:,.0f}"
