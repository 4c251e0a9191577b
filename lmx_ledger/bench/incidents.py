"""What it costs to tell of an incident: its timeline and its hypotheses, of a window with very many events."""

import random
import time
from collections.abc import Iterator
from typing import Any, Final

from lmx_ledger.bench.measure import Figure
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.events import CATALOGUE, Recorded, Severity
from lmx_ledger.incident.rank import rank
from lmx_ledger.incident.state import OPEN, Incident
from lmx_ledger.incident.timeline import timeline

EVENTS: Final = 100_000
_SECONDS: Final = 600
_OF_REQUEST: Final = 5
_ROUNDS: Final = 3


def measure_incidents(events: int = EVENTS) -> list[Figure]:
    """The best of three: timeline and ranking of a window of so many events, in which a prefix breaks half-way."""
    now = utc_us()
    window = list(_served(events, now))
    incident = _incident(window)
    since_us, until_us = window[0].time_us, window[-1].time_us
    took, lines, found = [], 0, 0
    for _ in range(_ROUNDS):
        began = time.monotonic()
        lines, found = len(timeline(window, incident)), len(rank(window, incident, since_us, until_us))
        took.append(time.monotonic() - began)
    told = f"{len(window):,} events in {_SECONDS} s: {lines} lines, {found} hypotheses"
    return [Figure("an incident's timeline and hypotheses", min(took) * 1e3, "ms", 1_000.0, "lower", told)]


def _incident(window: list[Recorded]) -> Incident:
    half = window[len(window) // 2]
    return Incident(
        id="inc_BENCH",
        title="Objective cache_hit burns its budget",
        severity=Severity.WARNING,
        status=OPEN,
        models=("m0",),
        events=(half.seq,),
        symptoms=("alert",),
        started_us=half.time_us,
        detected_us=half.time_us + 5_000_000,
        at_us=half.time_us,
        changed_us=half.time_us,
        opened_seq=half.seq,
    )


def _served(count: int, now_us: int) -> Iterator[Recorded]:
    """Requests of a hundred sessions, with their cache hits, tokens and ends; from half-way on nothing is reused."""
    rng = random.Random(7)  # noqa: S311 - a load, not a secret
    began_us = now_us - _SECONDS * 1_000_000
    for number in range(count // _OF_REQUEST):
        at_us = began_us + number * _OF_REQUEST * _SECONDS * 1_000_000 // count
        session, request = f"s{rng.randrange(100)}", f"req_{number:026d}"
        broken = number >= count // _OF_REQUEST // 2
        ttft = rng.gauss(2_000 if broken else 200, 20)
        cached: tuple[str, dict[str, Any]] = (
            ("kv.missed", {"reason": "diverged", "breaker": "nonce", "lost_tokens": 900, "recomputed_tokens": 1_000,
                           "role": "system"})
            if broken
            else ("kv.hit", {"computed_tokens": 100})
        )  # fmt: skip
        said: tuple[tuple[str, dict[str, Any]], ...] = (
            ("request.received", {"client": "bench"}),
            ("request.admitted", {}),
            cached,
            ("request.first_token", {"ttft_ms": ttft}),
            ("request.finished", {}),
        )
        for place, (kind, data) in enumerate(said):
            seq = number * _OF_REQUEST + place + 1
            yield Recorded(
                seq=seq,
                id=f"evt_{seq}",
                time_us=at_us + place,
                boot="b",
                type=kind,
                v=1,
                severity=CATALOGUE[kind].severity,
                stream=f"request:{request}",
                request=request,
                session=session,
                model="m0",
                incident=None,
                cause=seq - 1 or None,
                data=data,
            )
