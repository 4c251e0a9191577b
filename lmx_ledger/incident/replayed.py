"""A stretch of the ledger under other rules: reads the runs that it has, and gives what a replay shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import rules
from lmx_ledger.incident.replay import TYPES, Compared, compare, held_s
from lmx_ledger.incident.rules import with_rules
from lmx_ledger.ledger.filter import EventFilter


class Asked(Protocol):
    """The ledger, whole: what is sealed too."""

    def events(self, wanted: EventFilter) -> Sequence[Recorded]:
        """Those that match."""


class Replayed(NamedTuple):
    """All decisions of the stretch, the rules that were set, and for how many seconds each stage was raised."""

    given: Mapping[str, Any]
    compared: list[Compared]
    recorded_s: Mapping[str, float]
    replayed_s: Mapping[str, float]

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/replay`."""
        return {
            "set": dict(self.given),
            "decisions": len(self.compared),
            "different": sum(not one.same for one in self.compared),
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


def replay(ledger: Asked, since_us: int, until_us: int, given: Mapping[str, str]) -> Replayed:
    """Of the decisions between these moments, what other rules make of them.

    Raises:
        BadRule: a key that cannot be set, or not so.
        LedgerError: the ledger cannot be read.
    """
    touched = ledger.events(EventFilter(types=TYPES, since_us=since_us, until_us=until_us, limit=_MOST))
    boots = dict.fromkeys(event.boot for event in touched)
    compared, recorded_s, replayed_s = list[Compared](), Counter[str](), Counter[str]()
    values: Mapping[str, Any] = with_rules(rules.recorded([]), given).given
    for boot in boots:
        # From the run's beginning on: which signals are on at a moment is told by those before it.
        run = ledger.events(EventFilter(types=(*TYPES, *rules.TYPES), boot=boot, until_us=until_us, limit=_MOST))
        config = rules.recorded(event for event in run if event.type in rules.TYPES)
        wanted = with_rules(config, given)
        found = list(compare(run, wanted))
        compared += [one for one in found if since_us <= one.at_us <= until_us]
        # A run that was killed has raised nothing since.
        end_us = min(max((event.time_us for event in run), default=until_us), until_us)
        recorded_s.update(held_s(found, since_us, end_us, as_replayed=False))
        replayed_s.update(held_s(found, since_us, end_us, as_replayed=True))
    return Replayed(values, compared, recorded_s, replayed_s)


_MOST = 1_000_000
