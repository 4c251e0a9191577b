"""Which requests to look at: the last one that ended, and the slowest ones of a while, each with its main reason."""

import heapq
from collections.abc import Callable
from dataclasses import replace
from datetime import tzinfo
from typing import Any, Final

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.because import Case
from lmx_ledger.incident.evidence import ENDS, Asked, gather
from lmx_ledger.incident.why import main_part, why
from lmx_ledger.ledger.filter import EventFilter

BY: Final = {"wall": "wall_ms", "ttft": "ttft_ms"}
"""What slow is measured by, and the field that has it."""
_PAGE: Final = 1_000


def last_ended(ledger: Asked) -> str | None:
    """The id of the request that ended last; None where none has.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    for event in ledger.events(EventFilter(types=ENDS, order="desc", limit=100)):
        if event.request is not None:
            return event.request
    return None


def slowest(
    ledger: Asked,
    count: int,
    since_us: int | None,
    by: str,
    is_alive: Callable[[int], bool],
    zone: tzinfo,
) -> list[dict[str, Any]]:
    """So many requests that ended since then, the slowest first, each with the part that took longest and why.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    rows = []
    for end in _ends(ledger, count, since_us, BY[by]):
        assert end.request is not None  # noqa: S101 - asked for below
        evidence = gather(ledger, end.request, is_alive, walk=False)
        if evidence is None:
            continue
        told = why(evidence, zone)
        main = main_part(told.parts)
        rows.append(
            {
                "request": told.request,
                "time": rfc3339(told.time_us),
                "model": told.model,
                "session": told.session,
                "state": told.state,
                "wall_ms": told.wall_ms,
                "ttft_ms": told.ttft_ms,
                "part": main.name if main is not None else None,
                "part_ms": main.ms if main is not None else None,
                "reason": Case(evidence, zone).lead(main.name) if main is not None else told.text,
            }
        )
    return rows


def _ends(ledger: Asked, count: int, since_us: int | None, field: str) -> list[Recorded]:
    wanted = EventFilter(types=ENDS[:3], since_us=since_us, limit=_PAGE)
    best: list[tuple[float, int, Recorded]] = []
    while page := ledger.events(wanted):
        for event in page:
            value = event.data.get(field)
            if value is None or event.request is None:
                continue
            heapq.heappush(best, (value, event.seq, event))
            if len(best) > count:
                heapq.heappop(best)
        wanted = replace(wanted, after=page[-1].seq)
    return [event for _, _, event in sorted(best, reverse=True)]
