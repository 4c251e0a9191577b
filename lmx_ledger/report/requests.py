"""Each request of the window, folded from its events: where its time went, and what became of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from lmx_ledger.core.events import Recorded

TYPES: Final = ("request.", "kv.missed")


@dataclass(slots=True)
class Seen:
    """One request. Milliseconds, microseconds and tokens as its events have them; None where none has."""

    id: str
    model: str | None = None
    session: str | None = None
    received_us: int | None = None
    admitted_us: int | None = None
    first_token_us: int | None = None
    end_us: int | None = None
    outcome: str = "unfinished"
    """answered, refused, failed, cancelled, or unfinished."""
    code: str = ""
    message: str = ""
    queue_ms: float | None = None
    ttft_ms: float | None = None
    prefill_ms: float | None = None
    itl_ms: float | None = None
    wall_ms: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    position: int | None = None
    resumed: int = 0
    gap_ms: float = 0.0
    resumed_why: str = ""
    recomputed_tokens: int = 0
    missed: str = ""
    breaker: str | None = None
    cost_ms: float = 0.0
    seqs: dict[str, int] = field(default_factory=dict)
    """By type, the last one."""

    @property
    def parts(self) -> tuple[float, float, float]:
        """Milliseconds in the line, until the first token, and behind it; they add up to the wall time."""
        wall, queue = self.wall_ms or 0.0, min(self.queue_ms or 0.0, self.wall_ms or 0.0)
        if self.ttft_ms is None:
            return queue, wall - queue, 0.0
        first = min(max(self.ttft_ms, queue), wall)
        return queue, first - queue, wall - first

    def is_slow(self, ttft_ms: float, itl_ms: float) -> bool:
        """Answered, but later than the objectives."""
        late = self.ttft_ms is not None and self.ttft_ms > ttft_ms
        return self.outcome == "answered" and (late or (self.itl_ms is not None and self.itl_ms > itl_ms))


def seen_in(events: Iterable[Recorded]) -> list[Seen]:
    """All requests that have an event there, in the order of their first one."""
    found: dict[str, Seen] = {}
    for event in events:
        if not event.type.startswith(TYPES):
            continue
        # Who is refused at the door may have no id.
        key = event.request or f"#{event.seq}"
        seen = found.get(key)
        if seen is None:
            seen = found[key] = Seen(key)
        seen.model = event.model or seen.model
        seen.session = event.session or seen.session
        seen.seqs[event.type] = event.seq
        _add(seen, event)
    return list(found.values())


def _add(seen: Seen, event: Recorded) -> None:
    data = event.data
    match event.type:
        case "request.received":
            seen.received_us = event.time_us
        case "request.queued":
            seen.position = data.get("position")
        case "request.admitted":
            seen.admitted_us = event.time_us
            seen.queue_ms, seen.prompt_tokens = data.get("queue_ms"), data.get("prompt_tokens", 0)
        case "request.first_token":
            seen.first_token_us = event.time_us
            seen.ttft_ms, seen.prefill_ms = data.get("ttft_ms"), data.get("prefill_ms")
        case "request.resumed":
            seen.resumed += 1
            seen.gap_ms += data.get("gap_ms", 0.0)
            seen.recomputed_tokens += data.get("reread_tokens", 0)
            seen.resumed_why = data.get("reason", "")
        case "kv.missed":
            seen.recomputed_tokens += data.get("lost_tokens", 0)
            seen.missed, seen.breaker = data.get("reason", ""), data.get("breaker")
            seen.cost_ms = data.get("cost_ms") or 0.0
        case "request.finished":
            seen.outcome, seen.end_us, seen.wall_ms = "answered", event.time_us, data.get("wall_ms")
            seen.queue_ms, seen.itl_ms = data.get("queue_ms"), data.get("itl_p95_ms")
            seen.ttft_ms = data.get("ttft_ms") if data.get("ttft_ms") is not None else seen.ttft_ms
            seen.prompt_tokens = data.get("prompt_tokens", seen.prompt_tokens)
            seen.completion_tokens = data.get("completion_tokens", 0)
            if seen.first_token_us is None and seen.wall_ms is not None and seen.ttft_ms is not None:
                seen.first_token_us = event.time_us - int((seen.wall_ms - seen.ttft_ms) * 1000)
        case "request.failed" | "request.cancelled":
            seen.outcome = event.type.partition(".")[2]
            seen.code = str(data.get("code") or data.get("phase") or "")
            seen.message = str(data.get("message") or data.get("reason") or "")
            seen.end_us, seen.wall_ms = event.time_us, data.get("wall_ms")
            seen.completion_tokens = data.get("completion_tokens", 0)
        case "request.rejected":
            seen.outcome, seen.end_us = "refused", event.time_us
            seen.code, seen.message = str(data.get("code", "")), str(data.get("message", ""))


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that this share (0 to 1) of them does not exceed, one of them; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]
