"""Evidence by hand: events as the ledger has them, from the examples of the catalogue."""

from typing import Any

import msgspec

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.examples import example_of
from tests.recorded import recorded

REQUEST = "req_01KD3Y9A5S6D7F8G9H0J1K2L3M"
OTHER = "req_01KD3Y9A5S6D7F8G9H0J1K2XYZ"
NOON = "2026-03-14T14:02:00Z"


def told(
    seq: int,
    kind: str,
    at_s: float = 0.0,
    *,
    request: str | None = None,
    session: str | None = None,
    model: str | None = "m0",
    cause: int | None = None,
    **data: Any,
) -> Recorded:
    """An event `at_s` behind 14:02, as its type's example but for what is given."""
    return recorded(
        kind,
        {**msgspec.to_builtins(example_of(kind)), **data},
        seq=seq,
        id=f"evt_{seq}",
        time_us=parse_rfc3339(NOON) + int(at_s * 1e6),
        request=request,
        session=session,
        model=model,
        cause=cause,
    )


def own(seq: int, kind: str, at_s: float = 0.0, **more: Any) -> Recorded:
    """An event of the request that is asked about."""
    return told(seq, kind, at_s, request=REQUEST, session=more.pop("session", "agent"), **more)
