"""Conversations in the form that operators are shown, over HTTP and in the terminal."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.follow import Asked
from lmx_ledger.session.book import Cost, Entry, totals
from lmx_ledger.session.breakers import mending

_TURNS: Final = 100
_RECURS: Final = 3
"""What broke prefixes so often is worth mending."""


def shown(entry: Entry, extent: tuple[int, int] | None, *, in_flight: bool) -> dict[str, Any]:
    """One conversation. `extent`: bytes in RAM and on disk, None where nobody can say just now."""
    return {
        "id": entry.session,
        "model": entry.model,
        "first": rfc3339(entry.first_us),
        "last": rfc3339(entry.last_us),
        "in_flight": in_flight,
        "turns": entry.turns,
        "tokens": entry.tokens,
        "prompt_tokens": entry.prompt_tokens,
        "cached_tokens": entry.cached_tokens,
        "completion_tokens": entry.completion_tokens,
        "hits": entry.hits,
        "misses": _costs(entry.misses),
        "breakers": entry.breakers,
        "ram_bytes": extent[0] if extent else None,
        "disk_bytes": extent[1] if extent else None,
    }


def shown_totals(entries: Sequence[Entry]) -> dict[str, Any]:
    """What all of them add up to, and what is worth mending."""
    found = totals(entries)
    recurring = sorted(found["breakers"].items(), key=lambda pair: -pair[1])
    return {
        **found,
        "misses": _costs(found["misses"]),
        "advice": [
            {"breaker": name, "times": times, "mend": mending(name)} for name, times in recurring if times >= _RECURS
        ],
    }


def turns(ledger: Asked, session: str) -> list[dict[str, Any]]:
    """The last turns of a conversation, the oldest first: what was cached, what was computed, and why.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    wanted = EventFilter(
        types=("kv.hit", "kv.missed", "request.finished", "request.cancelled", "request.failed"),
        session=session,
        order="desc",
        limit=2 * _TURNS,
    )
    by_request: defaultdict[str, list[Recorded]] = defaultdict(list)
    for event in reversed(ledger.events(wanted)):
        if event.request is not None:
            by_request[event.request].append(event)
    return [_turn(request, events) for request, events in by_request.items()][-_TURNS:]


def _turn(request: str, events: Sequence[Recorded]) -> dict[str, Any]:
    turn: dict[str, Any] = {
        "request": request,
        "time": rfc3339(events[0].time_us),
        "model": events[0].model,
        "state": "in_flight",
        "seq": events[0].seq,
    }
    for event in events:
        data = event.data
        if event.type == "kv.hit":
            turn |= {"cache": "hit", "reused_tokens": data["reused_tokens"], "computed_tokens": data["computed_tokens"]}
        elif event.type == "kv.missed":
            turn |= {"cache": "missed", "computed_tokens": data["recomputed_tokens"]}
            turn |= {key: value for key, value in data.items() if key != "recomputed_tokens"}
        else:
            keys = ("prompt_tokens", "completion_tokens", "ttft_ms", "wall_ms")
            turn |= {"state": event.type.removeprefix("request.")} | {key: data.get(key) for key in keys}
    return turn


def _costs(misses: dict[str, Cost]) -> dict[str, dict[str, Any]]:
    ordered = sorted(misses.items(), key=lambda pair: -pair[1].tokens)
    return {
        reason: {"times": cost.times, "lost_tokens": cost.tokens, "cost_ms": round(cost.ms, 1)}
        for reason, cost in ordered
    }
