"""What was lost, by cause: read again, waited, started over, refused; added up event by event."""

from dataclasses import dataclass, field
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.costs import LOST
from lmx_ledger.incident.dearest import Dearest
from lmx_ledger.incident.sentences import plain
from lmx_ledger.serving import parts
from lmx_ledger.session.explain import Reason

TYPES: Final = (
    "kv.missed",
    "paging.planned",
    "paging.in_finished",
    "request.resumed",
    "request.rejected",
    "request.finished",
    "request.failed",
    "request.cancelled",
)
DIVERGED: Final = str(Reason.DIVERGED)
HOUR_US: Final = 3_600_000_000
DEAREST: Final = 3
"""Events of a cause that are remembered."""
_NOBODYS_FAULT: Final = frozenset({Reason.NEW_SESSION, Reason.TOO_SHORT})
_NAMES: Final = 2_000


@dataclass(slots=True)
class Loss:
    """What one cause cost; `who`: by session where prompts were read again, else by model.

    `hours` has the milliseconds by the number of the hour since the epoch.
    """

    times: int = 0
    ms: float = 0.0
    tokens: int = 0
    who: Dearest = field(default_factory=lambda: Dearest(_NAMES))
    dearest: list[tuple[float, int]] = field(default_factory=list)
    hours: dict[int, float] = field(default_factory=dict)

    def add(self, event: Recorded, lost_ms: float, who: str | None, tokens: int = 0) -> None:
        """By one event more."""
        self.times, self.ms, self.tokens = self.times + 1, self.ms + lost_ms, self.tokens + tokens
        hour = event.time_us // HOUR_US
        self.hours[hour] = self.hours.get(hour, 0.0) + lost_ms
        if who is not None:
            self.who.add(who, lost_ms, tokens)
        if len(self.dearest) < DEAREST or lost_ms > self.dearest[-1][0]:
            self.dearest = sorted([*self.dearest, (lost_ms, event.seq)], key=lambda one: (-one[0], one[1]))[:DEAREST]


class Losses:
    """Adds up what was lost, by cause."""

    def __init__(self) -> None:
        self.by: dict[str, Loss] = {}
        """As `part.queue`, `missed.evicted`, `missed.diverged.date`, `resumed.worker_died`, `refused.backpressure`."""
        self.limit_bytes = 0
        """The highest memory limit that a plan was made under; 0: there was none."""
        self._put_out_by: dict[str, str] = {}

    def add(self, event: Recorded) -> None:
        """One more, of `TYPES`, in their order."""
        data = event.data
        match event.type:
            case "kv.missed":
                if data["reason"] not in _NOBODYS_FAULT and data["lost_tokens"]:
                    cause = f"missed.{data['reason']}"
                    if data["reason"] == DIVERGED:
                        cause = f"{cause}.{data['breaker'] or ''}"
                    self._lose(cause, event, data["cost_ms"] or 0.0, event.session, data["lost_tokens"])
            case "paging.planned":
                self.limit_bytes = max(self.limit_bytes, int((data.get("account") or {}).get("limit") or 0))
                for victim in data["victims"]:
                    self._put_out_by[victim] = event.model or ""
            case "paging.in_finished":
                model = event.model or ""
                by = self._put_out_by.get(model, "")
                self._lose("paged_in", event, data["ms"], f"{plain(model)} for {plain(by)}" if by else plain(model))
            case "request.resumed":
                self._lose(f"resumed.{data['reason']}", event, data["gap_ms"], event.model, data["reread_tokens"])
            case "request.rejected":
                if data["retry_after_s"]:
                    self._lose(f"refused.{data['code']}", event, data["retry_after_s"] * 1e3, event.model)
            case _:
                if event.type == "request.failed":
                    self._lose(f"failed.{data['code']}", event, data["wall_ms"], event.model)
                for part, spent in (data.get("parts_ms") or {}).items():
                    if part in LOST and part != parts.RESUME:
                        self._lose(f"part.{part}", event, spent, event.model)

    def _lose(self, cause: str, event: Recorded, lost_ms: float, who: str | None, tokens: int = 0) -> None:
        loss = self.by.get(cause)
        if loss is None:
            loss = self.by[cause] = Loss()
        loss.add(event, lost_ms, who, tokens)

    def of(self, *causes: str) -> list[Loss]:
        """Those of these that there are."""
        return [self.by[cause] for cause in causes if cause in self.by]
