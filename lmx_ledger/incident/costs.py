"""What misses, stalls, page-ins and waiting cost over a while: by reason, by who made it so, and by session."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.dearest import Dearest, Sum
from lmx_ledger.incident.sentences import purpose
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.serving import parts as names

TYPES: Final = (
    "kv.missed",
    "paging.planned",
    "paging.in_finished",
    "request.resumed",
    "request.finished",
    "request.failed",
    "request.cancelled",
)
LOST: Final = (names.LOAD, names.MEMORY, names.PAGE_IN, names.QUEUE, names.STALLS, names.RESUME)
"""Parts of a request's time that another day would not cost it."""
_SESSIONS: Final = 10
_PAGE: Final = 1_000
UNKNOWN: Final = "before this time"
"""Whoever put weights out of memory before the time that was asked about."""


class Asked(Protocol):
    """The ledger: `Reader`."""

    def events(self, wanted: EventFilter) -> Sequence[Recorded]:
        """At most `limit` events."""


def events_since(ledger: Asked, since_us: int | None) -> Iterator[Recorded]:
    """Of the types that cost something, oldest first.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    wanted = EventFilter(types=TYPES, since_us=since_us, limit=_PAGE)
    while page := ledger.events(wanted):
        yield from page
        wanted = replace(wanted, after=page[-1].seq)


def costs(events: Iterable[Recorded]) -> dict[str, Any]:
    """What they add up to, see `Costs.told`."""
    found = Costs()
    for event in events:
        found.add(event)
    return found.told()


class Costs:
    """Adds up, event by event."""

    def __init__(self) -> None:
        self._misses: defaultdict[tuple[str, str | None], Sum] = defaultdict(Sum)
        self._page_ins: defaultdict[tuple[str, str, str], Sum] = defaultdict(Sum)
        self._resumes: defaultdict[str, Sum] = defaultdict(Sum)
        self._parts: defaultdict[str, Sum] = defaultdict(Sum)
        self._sessions = Dearest()
        self._whole = Sum()
        self.put_out: dict[str, tuple[str, str]] = {}
        """Models by who wanted their room, and what for."""

    def add(self, event: Recorded) -> None:
        """One more, of `TYPES`, in their order."""
        data, session = event.data, event.session
        match event.type:
            case "kv.missed":
                cost = data["cost_ms"] or 0.0
                key = data["reason"], data["breaker"]
                self._misses[key] = self._misses[key].plus(cost, data["lost_tokens"])
                if session is not None:
                    self._sessions.add(session, cost, data["lost_tokens"])
            case "paging.planned":
                for victim in data["victims"]:
                    self.put_out[victim] = event.model or "", data["reason"]
            case "paging.in_finished":
                model = event.model or ""
                who = (model, *self.put_out.get(model, ("", "")))
                self._page_ins[who] = self._page_ins[who].plus(data["ms"], size=data["bytes"])
            case "request.resumed":
                reason = data["reason"]
                self._resumes[reason] = self._resumes[reason].plus(data["gap_ms"], data["reread_tokens"])
            case _:
                self._whole = self._whole.plus(data["wall_ms"])
                for part, spent in (data.get("parts_ms") or {}).items():
                    self._parts[part] = self._parts[part].plus(spent)
                    if session is not None and part in LOST:
                        self._sessions.add(session, spent)

    def told(self) -> dict[str, Any]:
        """What it is up to now; every list has the dearest first.

        `page_ins` is by the model that came back and what it had been put out for (`by`: the model that wanted room),
        `parts` is by part of the requests' time.
        """
        return {
            "requests": self._whole.times,
            "wall_ms": round(self._whole.ms, 3),
            "parts": [
                {"name": name, "means": names.PARTS.get(name, ""), "requests": one.times, "ms": round(one.ms, 3)}
                for name, one in _dearest(self._parts)
            ],
            "misses": [
                {
                    "reason": reason,
                    "breaker": breaker,
                    "times": one.times,
                    "lost_tokens": one.tokens,
                    "ms": round(one.ms, 3),
                }
                for (reason, breaker), one in _dearest(self._misses)
            ],
            "page_ins": [
                {
                    "model": model,
                    "by": by or None,
                    "reason": reason or None,
                    "why": purpose(reason, by) if reason else UNKNOWN,
                    "times": one.times,
                    "bytes": one.bytes,
                    "ms": round(one.ms, 3),
                }
                for (model, by, reason), one in _dearest(self._page_ins)
            ],
            "resumes": [
                {"reason": reason, "times": one.times, "reread_tokens": one.tokens, "ms": round(one.ms, 3)}
                for reason, one in _dearest(self._resumes)
            ],
            "sessions": [
                {"session": session, "lost_tokens": one.tokens, "ms": round(one.ms, 3)}
                for session, one in self._sessions.ranked()[:_SESSIONS]
                if one.ms or one.tokens
            ],
        }


def _dearest(sums: "dict[Any, Sum]") -> "list[tuple[Any, Sum]]":
    return sorted(sums.items(), key=lambda pair: (-pair[1].ms, -pair[1].tokens, -pair[1].times))
