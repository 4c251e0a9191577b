"""What misses, stalls, page-ins and waiting cost over a while: by reason, by who made it so, and by session."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from lmx_ledger.core.events import Recorded
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


class _Sum(NamedTuple):
    times: int = 0
    ms: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def plus(self, ms: float, tokens: int = 0, size: int = 0) -> "_Sum":
        return _Sum(self.times + 1, self.ms + ms, self.tokens + tokens, self.bytes + size)


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
    """What they add up to; every list has the dearest first.

    `page_ins` is by the model that came back and what it had been put out for (`by`: the model that wanted room),
    `parts` is by part of the requests' time.
    """
    misses: defaultdict[tuple[str, str | None], _Sum] = defaultdict(_Sum)
    page_ins: defaultdict[tuple[str, str, str], _Sum] = defaultdict(_Sum)
    resumes: defaultdict[str, _Sum] = defaultdict(_Sum)
    parts: defaultdict[str, _Sum] = defaultdict(_Sum)
    sessions: defaultdict[str, _Sum] = defaultdict(_Sum)
    put_out: dict[str, tuple[str, str]] = {}
    whole = _Sum()
    for event in events:
        data, session = event.data, event.session
        match event.type:
            case "kv.missed":
                cost = data["cost_ms"] or 0.0
                key = data["reason"], data["breaker"]
                misses[key] = misses[key].plus(cost, data["lost_tokens"])
                if session is not None:
                    sessions[session] = sessions[session].plus(cost, data["lost_tokens"])
            case "paging.planned":
                for victim in data["victims"]:
                    put_out[victim] = event.model or "", data["reason"]
            case "paging.in_finished":
                model = event.model or ""
                by, reason = put_out.get(model, ("", ""))
                page_ins[model, by, reason] = page_ins[model, by, reason].plus(data["ms"], size=data["bytes"])
            case "request.resumed":
                resumes[data["reason"]] = resumes[data["reason"]].plus(data["gap_ms"], data["reread_tokens"])
            case _:
                whole = whole.plus(data["wall_ms"])
                for part, spent in (data.get("parts_ms") or {}).items():
                    parts[part] = parts[part].plus(spent)
                    if session is not None and part in LOST:
                        sessions[session] = sessions[session].plus(spent)
    return {
        "requests": whole.times,
        "wall_ms": round(whole.ms, 3),
        "parts": [
            {"name": name, "means": names.PARTS.get(name, ""), "requests": one.times, "ms": round(one.ms, 3)}
            for name, one in _dearest(parts)
        ],
        "misses": [
            {
                "reason": reason,
                "breaker": breaker,
                "times": one.times,
                "lost_tokens": one.tokens,
                "ms": round(one.ms, 3),
            }
            for (reason, breaker), one in _dearest(misses)
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
            for (model, by, reason), one in _dearest(page_ins)
        ],
        "resumes": [
            {"reason": reason, "times": one.times, "reread_tokens": one.tokens, "ms": round(one.ms, 3)}
            for reason, one in _dearest(resumes)
        ],
        "sessions": [
            {"session": session, "lost_tokens": one.tokens, "ms": round(one.ms, 3)}
            for session, one in _dearest(sessions)[:_SESSIONS]
            if one.ms or one.tokens
        ],
    }


def _dearest(sums: "dict[Any, _Sum]") -> "list[tuple[Any, _Sum]]":
    return sorted(sums.items(), key=lambda pair: (-pair[1].ms, -pair[1].tokens, -pair[1].times))
