"""What a hypothesis is made of: a series, where it went up, and a sentence; pure."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.onset import rise
from lmx_ledger.incident.series import Seconds

PAGING_STORM: Final = "paging_storm"
THERMAL: Final = "thermal"
SWAP_THRASH: Final = "swap_thrash"
OTHER_PROGRAMS: Final = "other_programs"
WORKER_CRASH: Final = "worker_crash"
ENGINE_HANG: Final = "engine_hang"
SESSION_FLOOD: Final = "session_flood"
BROKEN_PREFIX: Final = "broken_prefix"
SLOW_DISK: Final = "slow_disk"
LONG_PROMPTS: Final = "long_prompts"
BAD_CONFIGURATION: Final = "bad_configuration"

_SHOWN: Final = 5

Events = dict[int, Recorded]
"""By seq."""


class Suspect(NamedTuple):
    """`values` by second; it began at `onset_us`, its rate went from `before` to `after` (per `unit`), by `z` standard
    deviations. `lasts`: a state, which does not fade as something that happened once does. `weight` is 1, or less where
    it explains a part of the trouble only. `told` are more numbers.
    """

    kind: str
    name: str
    values: Sequence[float]
    onset_us: int
    before: float
    after: float
    unit: str
    z: float
    text: str
    all_seqs: Sequence[int]
    told: Mapping[str, Any] = MappingProxyType({})
    lasts: bool = True
    weight: float = 1.0

    @property
    def seqs(self) -> tuple[int, ...]:
        """The first events of it."""
        return tuple(self.all_seqs[:_SHOWN])


class Jump(NamedTuple):
    """What is counted went up: from `before` to `after` a second, with the events from then on."""

    at_us: int
    before: float
    after: float
    z: float
    seqs: list[int]


def jump_of(seconds: Seconds, by_seq: Events, name: str, quiet: int, least: float) -> Jump | None:
    """A series that counts, where it went up."""
    change = rise(seconds.ahead(name), quiet, least=least)
    if change is None:
        return None
    begin = seconds.time_us(seconds.first(name, change.at))
    seqs = [seq for seq in seconds.seqs[name] if by_seq[seq].time_us >= begin]
    if not seqs:
        return None
    at_us = by_seq[seqs[0]].time_us
    values, at = seconds.counts(name), seconds.at(at_us)
    return Jump(at_us, mean(values[:at]), mean(values[at:]), change.z, seqs)


def mean(values: Sequence[float]) -> float:
    """0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0


def decaying(counts: Sequence[float]) -> list[float]:
    """What happens at once has effects for a while."""
    values, last = [], 0.0
    for count in counts:
        last = max(count, last * 0.8)
        values.append(last)
    return values


def some(names: Sequence[str]) -> str:
    """The first ones, and how many more."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
