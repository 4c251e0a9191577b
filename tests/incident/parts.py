"""What happened, as a ledger has it, and what is made of it: recorded faults, and stories that a test tells."""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.ids import new_ulid
from lmx_ledger.incident.announce import announced, opened
from lmx_ledger.incident.dating import began
from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.incident.lifecycle import Opened, Policy, decide
from lmx_ledger.incident.state import State
from lmx_ledger.ledger.append import Draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place

SCENARIOS = Path(__file__).parent / "scenarios"
NAMES = sorted(file.stem for file in SCENARIOS.glob("*.json"))
FOLD = IncidentsFold()
SECOND_US = 1_000_000
BEGIN_US = 1_773_480_000_000_000


def scenario(name: str) -> tuple[list[Recorded], dict[str, Any]]:
    """The events of a recording, and what was put into it: `injected_us`, `kind`."""
    told = json.loads((SCENARIOS / f"{name}.json").read_text())
    told["injected_us"] = parse_rfc3339(told["injected_at"])
    with gzip.open(SCENARIOS / f"{name}.ndjson.gz", "rt") as lines:
        return [Recorded.of_public(json.loads(line)) for line in lines], told


def observed(events: Iterable[Recorded]) -> list[Recorded]:
    """Without what was decided about incidents then: that can be decided again."""
    return [event for event in events if not event.type.startswith("incident.")]


def recorded(seq: int, at_s: float, event: ev.Event, *, drill: int | None = None, boot: str = "b1") -> Recorded:
    """An event as a ledger would have it, so many seconds behind `BEGIN_US`."""
    data = msgspec.to_builtins(event.data)
    if drill is not None:
        data["drill"] = drill
    cause = event.cause if isinstance(event.cause, int) else None
    return Recorded(
        seq=seq,
        id=f"evt_{seq}",
        time_us=BEGIN_US + int(at_s * SECOND_US),
        boot=boot,
        type=event.kind.name,
        v=1,
        severity=event.kind.severity if event.severity is None else event.severity,
        stream=event.stream,
        request=event.request,
        session=event.session,
        model=event.model,
        incident=event.incident,
        cause=cause,
        data=data,
    )


class Replayed:
    """A daemon's job without a daemon: events go in, decisions are written behind them at once."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.state = State()
        self.written: list[Recorded] = []
        self._before: list[Recorded] = []
        self._seq = 1_000_000

    def feed(self, events: Iterable[Recorded]) -> "Replayed":
        for event in events:
            self._before.append(event)
            self.state = FOLD.evolve(self.state, event)
            self.tick(0.0)
        return self

    def follow(self, events: Iterable[Recorded]) -> "Replayed":
        """As `feed`, of events among which the decisions are."""
        for event in events:
            self._before.append(event)
            self.state = FOLD.evolve(self.state, event)
        return self

    def tick(self, later_s: float) -> "Replayed":
        """So many seconds behind the last event."""
        while decisions := decide(self.state, self.state.at_us + int(later_s * SECOND_US), self.policy):
            for decision in decisions:
                if isinstance(decision, Opened):
                    first = next(e for e in reversed(self._before) if e.seq == decision.symptom.seq)
                    cause = next((e for e in self._before if e.seq == first.cause), None)
                    event = opened(decision, f"inc_{new_ulid(first.time_us)}", began(first, cause, self._before))
                else:
                    event = announced(decision, self.policy)
                self._seq += 1
                later = recorded(self._seq, (self.state.time_us - BEGIN_US) / SECOND_US + later_s, event)
                self.written.append(later)
                self.state = FOLD.evolve(self.state, later)
        return self

    @property
    def types(self) -> list[str]:
        return [event.type.removeprefix("incident.") for event in self.written]


def story(*moments: tuple[float, ev.EventData] | tuple[float, ev.EventData, dict[str, Any]]) -> Iterator[Recorded]:
    """Events by second; the third value has their `model`, `cause`, `drill` or `boot`."""
    for seq, (at_s, data, *more) in enumerate(moments, 1):
        told: dict[str, Any] = dict(more[0]) if more else {}
        drill, boot = told.pop("drill", None), told.pop("boot", "b1")
        yield recorded(seq, at_s, ev.Event(data=data, stream="s", **told), drill=drill, boot=boot)


def load(path: Path, events: Iterable[Recorded]) -> None:
    """Write events into a fresh ledger, with the seqs that they have."""
    migrate(path)
    drafts: dict[str, list[Draft]] = {}
    for event in events:
        drafts.setdefault(event.boot, []).append(
            Draft(
                Place(),
                event.time_us,
                event.type,
                event.v,
                int(event.severity),
                event.stream,
                event.request,
                event.session,
                event.model,
                event.incident,
                event.cause,
                msgspec.json.encode(event.data),
            )
        )
    for boot, mine in drafts.items():
        file = LedgerFile(path, "NORMAL", boot)
        for at in range(0, len(mine), 500):
            file.append(mine[at : at + 500])
        file.close()
