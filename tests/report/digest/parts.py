"""Two weeks of a ledger, written by hand: traffic, misses, page-ins, refusals, an incident, a rehearsal."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.week import DAY_US, read_week
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.digest.from_ledger import digest
from lmx_ledger.report.digest.model import Digest
from tests.incident.by_hand import NOON, told
from tests.incident.parts import load

WEEK = read_week("2026-W11")
INCIDENT = "inc_01KMNPX3V6Q0W1E2R3T4Y5U6I7"
DRILLED = "inc_01KMNPX3V6Q0W1E2R3T4Y5U6I8"
_SHIFT_S = (WEEK.since_us - parse_rfc3339(NOON)) / 1e6


def at(day: float, kind: str, **more: Any) -> Recorded:
    """An event so many days behind the week's Monday, as its type's example but for what is given."""
    incident, drill = more.pop("incident", None), more.pop("drill", None)
    event = told(0, kind, _SHIFT_S + day * 86_400, **more)
    data = {**event.data, **({} if drill is None else {"drill": drill})}
    return msgspec.structs.replace(event, incident=incident, data=data)


def in_order(events: Iterable[Recorded]) -> list[Recorded]:
    """By time, with the seqs that a ledger gives them."""
    ordered = sorted(events, key=lambda one: one.time_us)
    return [msgspec.structs.replace(event, seq=seq, id=f"evt_{seq}") for seq, event in enumerate(ordered, 1)]


def answered(
    day: float, number: int, *, model: str = "m0", session: str = "agent", **parts_ms: float
) -> list[Recorded]:
    """A request that came from a client, and was answered."""
    named = {"request": f"req_01KD3Y9A5S6D7F8G{number:010d}", "session": session, "model": model}
    wall_ms = 900.0 + sum(parts_ms.values())
    return [
        at(day, "request.received", **named, client="claude-cli/2.0"),
        at(
            day + 1e-5,
            "request.finished",
            **named,
            wall_ms=wall_ms,
            ttft_ms=400.0 + number % 7 * 10,
            itl_p95_ms=20.0,
            queue_ms=parts_ms.get("queue", 0.0),
            parts_ms={"prefill": 300.0, "decode": 600.0, **parts_ms},
        ),
    ]


def a_week(first_day: float = 0.0) -> list[Recorded]:
    """Seven days from there on."""
    events: list[Recorded] = []
    for number in range(70):
        day = first_day + number / 10 + 0.01
        model = "m1" if number % 3 == 0 else "m0"
        events += answered(day, int(first_day * 100) + 1_000 + number, model=model, queue=50.0, stalls=120.0)
        if number % 7 == 0:
            named = {"session": "agent", "model": model}
            events.append(at(day, "kv.missed", **named, reason="diverged", breaker="date", cost_ms=2_000.0))
    for number in range(4):
        day = first_day + number + 0.5
        events += [
            at(day, "paging.planned", model="m0", victims=["m1"], reason="page_in", account={"limit": 16 * 10**9}),
            at(day + 1e-4, "paging.in_finished", model="m1", ms=3_000.0, bytes=4 * 10**9),
            at(day, "request.rejected", model="m0", status=429, code="backpressure", retry_after_s=5),
        ]
    left = {"objective": "ttft", "model": None, "good": 90, "total": 100, "shed": 0}
    for hour in range(0, 168, 6):
        remaining = 0.9 - hour / 1_000
        events.append(at(first_day + hour / 24, "slo.evaluated", **left, budget_remaining=remaining, burn={"1h": 2.5}))
    return events


def two_weeks() -> list[Recorded]:
    """The week before, and the week with an incident, a rehearsal, and an event behind it."""
    begun = rfc3339(WEEK.since_us + 2 * DAY_US - 30_000_000)
    drilled = rfc3339(WEEK.since_us + 4 * DAY_US)
    opened = {"title": "The worker of m0 died (SIGKILL)", "severity": "error", "models": ["m0"], "symptom": "worker"}
    events = [
        at(-7.0, "config.loaded", changed={"slo": {"ttft": {"threshold": 1.0}}}),
        *a_week(-7.0),
        *a_week(),
        at(2.0, "engine.exited", model="m0", signal="SIGKILL"),
        at(2.00001, "incident.opened", incident=INCIDENT, **opened, events=[1], started_at=begun),
        at(2.001, "incident.acknowledged", incident=INCIDENT),
        at(2.01, "incident.mitigated", incident=INCIDENT, at=rfc3339(WEEK.since_us + int(2.0095 * DAY_US))),
        at(2.011, "incident.resolved", incident=INCIDENT),
        at(4.0, "drill.started"),
        at(4.0001, "incident.opened", incident=DRILLED, **opened, events=[2], started_at=drilled, rehearsal=7),
        at(4.001, "incident.mitigated", incident=DRILLED, at=drilled),
        at(4.002, "incident.resolved", incident=DRILLED),
        at(4.0002, "request.resumed", model="m0", reason="worker_died", gap_ms=90_000.0, drill=7),
        at(7.5, "daemon.stopped"),
    ]
    return in_order(events)


def write(folder: Path, events: Iterable[Recorded]) -> Path:
    """As a ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ledger.db"
    load(path, in_order(events))
    return path


def made(ledger: Path, period: Any = WEEK) -> Digest:
    reader = Reader.open(ledger)
    try:
        return digest(ledger, reader, period)
    finally:
        reader.close()
