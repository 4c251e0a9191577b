"""A stretch of the ledger under other rules: what a replay reads of it, and what it shows of the decisions in it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import rules
from lmx_ledger.incident.replay import DECISIONS, Compared, compare, held_s
from lmx_ledger.ledger.filter import EventFilter

TYPES: Final = (*DECISIONS, *rules.TYPES)
"""The events that a replay of decisions reads."""
MOST: Final = 1_000_000
"""Events that are read at once."""


class Asked(Protocol):
    """The ledger, whole: what is sealed too (`ledger.history.Whole`)."""

    def events(self, wanted: EventFilter) -> Sequence[Recorded]:
        """Those that match."""


class Replayed(NamedTuple):
    """All decisions of the stretch, the rules that were set, and for how many seconds each stage was raised."""

    given: Mapping[str, Any]
    compared: list[Compared]
    recorded_s: Mapping[str, float]
    replayed_s: Mapping[str, float]

    @property
    def different(self) -> int:
        """Decisions that are not the recorded ones."""
        return sum(not one.same for one in self.compared)

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/replay`."""
        return {
            "set": dict(self.given),
            "decisions": len(self.compared),
            "different": self.different,
            "stages_s": {"recorded": dict(self.recorded_s), "replayed": dict(self.replayed_s)},
            "differences": [
                {
                    "seq": one.seq,
                    "time": rfc3339(one.at_us),
                    "kind": one.kind,
                    "recorded": one.recorded,
                    "replayed": one.replayed,
                }
                for one in self.compared
                if not one.same
            ],
        }


class Stretch(NamedTuple):
    """A time of the ledger, and of each run that has a decision in it the events that one hangs on, from its start."""

    since_us: int
    until_us: int
    runs: list[list[Recorded]]


def read(ledger: Asked, since_us: int, until_us: int) -> Stretch:
    """What a replay of that time needs.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    touched = ledger.events(EventFilter(types=DECISIONS, since_us=since_us, until_us=until_us, limit=MOST))
    boots = dict.fromkeys(event.boot for event in touched)
    # From the run's beginning on: which signals are on at a moment is told by those before it.
    runs = [list(ledger.events(EventFilter(types=TYPES, boot=boot, until_us=until_us, limit=MOST))) for boot in boots]
    return Stretch(since_us, until_us, runs)


def decided(stretch: Stretch, given: Mapping[str, str]) -> Replayed:
    """Of the decisions of that time, what other rules make of them.

    Raises:
        BadRule: a key that cannot be set, or not so.
    """
    compared, recorded_s, replayed_s = list[Compared](), Counter[str](), Counter[str]()
    values = rules.course([], given).given
    since_us, until_us = stretch.since_us, stretch.until_us
    for run in stretch.runs:
        found = compare(run, rules.course(run, given))
        compared += [one for one in found if since_us <= one.at_us <= until_us]
        # A run that was killed has raised nothing since.
        end_us = min(max((event.time_us for event in run), default=until_us), until_us)
        recorded_s.update(held_s(found, since_us, end_us, as_replayed=False))
        replayed_s.update(held_s(found, since_us, end_us, as_replayed=True))
    return Replayed(values, compared, recorded_s, replayed_s)


def replay(ledger: Asked, since_us: int, until_us: int, given: Mapping[str, str]) -> Replayed:
    """See `read` and `decided`."""
    return decided(read(ledger, since_us, until_us), given)
