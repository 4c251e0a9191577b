"""What the rules of `actions` go by, counted once over the window's events."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.requests import Seen

_KEPT: Final = 5
"""Seqs that are kept as evidence, of each kind: the first ones."""


@dataclass(slots=True)
class Facts:
    """Counts by kind, the data of the last event of each, and the first seqs of each."""

    count: Counter[str] = field(default_factory=Counter)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)
    seqs: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    of: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Of a kind, by model, session or what was broken."""
    requests: int = 0
    slow: int = 0

    def note(self, kind: str, event: Recorded, of: str | None = None, times: int = 1) -> None:
        """One more of that kind."""
        self.count[kind] += times
        self.last[kind] = event.data
        if len(self.seqs[kind]) < _KEPT:
            self.seqs[kind].append(event.seq)
        if of is not None:
            self.of[kind][of] += times

    def most(self, kind: str) -> tuple[str, int]:
        """Who has most of that kind, and how much; an empty name where nobody has any."""
        ranked = sorted(self.of[kind].items(), key=lambda one: (-one[1], one[0]))
        return ranked[0] if ranked else ("", 0)


def facts_of(events: Sequence[Recorded], requests: Sequence[Seen], slow: int) -> Facts:
    """Of these events."""
    facts = Facts(requests=len(requests), slow=slow)
    for event in events:
        data, model = event.data, event.model or "-"
        match event.type:
            case "paging.out_finished" if not data.get("error"):
                facts.note("out", event, model)
            case "paging.in_finished":
                facts.note("in", event, model)
            case "request.received":
                facts.note("received", event, event.session or "-")
                facts.note("asked", event, model)
            case "request.rejected":
                facts.note(f"refused.{data.get('code')}", event, model)
                if data.get("status") == 429:
                    facts.note("turned_away", event, event.session or "-")
            case "request.failed":
                facts.note("failed", event, str(data.get("code")))
            case "kv.missed" if data.get("lost_tokens"):
                where = str(data.get("breaker") or data.get("role") or "another beginning")
                facts.note(f"lost.{data.get('reason')}", event, where, data["lost_tokens"])
            case "kv.evicted":
                facts.note(f"evicted.{data.get('reason')}", event, model)
            case "engine.exited" if not data.get("expected"):
                facts.note("hung" if data.get("hung") else "exited", event, model)
            case "guard.threshold_breached":
                facts.note(f"breached.{data.get('name')}", event, str(data.get("reason")))
            case "guard.restart_requested":
                facts.note(f"restart.{data.get('reason')}", event, model)
            case kind:
                if not kind.startswith("request."):
                    facts.note(kind, event, model)
    return facts
