"""Ledgers written by hand for the tests of this room: quiet traffic, a paging storm, a flood."""

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.ledger.log_lines import render
from lmx_ledger.report.model import Evidence, Hypothesis, Incident, Integrity, TimelineLine, WhatIf
from tests.recorded import recorded

START_US = parse_rfc3339("2026-03-14T09:26:00Z")
SECOND = 1_000_000
GB = 1_000_000_000
CODER, CHAT = "qwen3-coder-30b", "deepseek-r1-8b"


class Book:
    """Events in the order in which they are added, each with the next seq."""

    def __init__(self, first_seq: int = 20_000) -> None:
        self.events: list[Recorded] = []
        self._next = first_seq

    def add(self, kind: str, at_s: float, /, **fields: Any) -> int:
        """`at_s` counts from the start of the trouble; `request`, `session`, `model` are the event's own."""
        named = {key: fields.pop(key, None) for key in ("request", "session", "model", "incident", "cause")}
        seq, self._next = self._next, self._next + 1
        self.events.append(
            recorded(
                kind,
                fields,
                seq=seq,
                id=f"{seq:026d}",
                time_us=START_US + round(at_s * SECOND),
                boot="boot-a",
                stream=f"model:{named['model']}" if named["model"] else "daemon",
                **named,
            )
        )
        return seq

    def sorted(self) -> list[Recorded]:
        """By time, with seqs in that order."""
        first = self.events[0].seq if self.events else 0
        ordered = sorted(self.events, key=lambda e: (e.time_us, e.seq))
        renamed = {e.seq: first + n for n, e in enumerate(ordered)}
        self.renamed = renamed
        return [msgspec.structs.replace(event, seq=renamed[event.seq]) for event in ordered]


def request_id(number: int) -> str:
    return f"req_01KMNP{number:020d}"


def request(
    book: Book,
    number: int,
    at_s: float,
    *,
    session: str,
    model: str,
    queue_s: float = 0.01,
    prefill_s: float = 0.4,
    decode_s: float = 5.0,
    itl_ms: float = 22.0,
    prompt: int = 4_812,
    tokens: int = 240,
    position: int | None = None,
) -> None:
    named: dict[str, Any] = {"request": request_id(number), "session": session, "model": model}
    book.add("request.received", at_s, **named, route="/v1/chat/completions", stream=True)
    if position is not None:
        book.add("request.queued", at_s + 0.001, **named, position=position, running=8)
    book.add("request.admitted", at_s + queue_s, **named, prompt_tokens=prompt, queue_ms=queue_s * 1000)
    ttft = (queue_s + prefill_s) * 1000
    book.add("request.first_token", at_s + ttft / 1000, **named, ttft_ms=ttft, prefill_ms=prefill_s * 1000)
    book.add(
        "request.finished",
        at_s + queue_s + prefill_s + decode_s,
        **named,
        status=200,
        finish_reason="stop",
        prompt_tokens=prompt,
        cached_tokens=0,
        completion_tokens=tokens,
        queue_ms=queue_s * 1000,
        ttft_ms=ttft,
        itl_p95_ms=itl_ms,
        wall_ms=ttft + decode_s * 1000,
    )


def _account(weights: dict[str, int], kv: int, working: int, limit: int) -> dict[str, Any]:
    lines = [
        {"model": model, "layers": [size // 4] * 4, "kv": kv // 2, "kept": 0, "working": working // 2, "spare": 0}
        for model, size in weights.items()
    ]
    return {"limit": limit, "reserve": GB, "others": 0, "lines": lines}


def paging_storm(length_s: float = 900.0) -> list[Recorded]:
    """Two models that do not fit together take turns, until an operator pins one; the guard sheds meanwhile."""
    book, chance = Book(), random.Random(7)
    limit, sizes = 32 * GB, {CODER: 17 * GB, CHAT: 9 * GB}
    number = 0
    at: float
    for at in range(-600, 0, 6):
        number += 1
        request(
            book,
            number,
            at + chance.random(),
            session=f"alice-{number % 5}",
            model=CODER,
            prefill_s=0.3 + chance.random() * 0.5,
            itl_ms=18 + chance.random() * 8,
        )
        if at % 60 == 0:
            book.add("sensor.sampled", at, sensor="macos", used_bytes=19 * GB + at * 1_000_000, total_bytes=64 * GB)
    for hour, left in ((-500, 0.86), (-100, 0.85)):
        burn = {"5m": 0.4, "1h": 0.3, "6h": 0.2}
        book.add(
            "slo.evaluated", hour, objective="ttft", good=9_000, total=9_100, shed=0, budget_remaining=left, burn=burn
        )
    turn, at, resident = 0, 0.0, {CODER: 17 * GB, CHAT: 4 * GB}
    while at < length_s - 300:
        model, other = (CHAT, CODER) if turn % 2 == 0 else (CODER, CHAT)
        book.add(
            "guard.threshold_breached",
            at,
            name="memory",
            reason="used",
            used_bytes=int((27.4 + chance.random() * 2) * GB),
            limit_bytes=limit,
            fraction=0.9,
            page_at=0.85,
        )
        account = _account(resident, int((3 + chance.random()) * GB), 2 * GB, limit)
        book.add(
            "paging.planned",
            at + 0.01,
            model=model,
            need_bytes=6 * GB,
            victims=[other],
            reason="page_in",
            steps=[],
            account=account,
        )
        book.add("paging.out_started", at + 0.02, model=other, resident_bytes=resident[other])
        gone = sizes[other] // 2
        resident[other] -= gone
        resident[model] = sizes[model]
        book.add(
            "paging.out_finished",
            at + 0.4,
            model=other,
            bytes=gone,
            ms=380.0,
            layers=24,
            bytes_per_s=22 * GB,
            resident_bytes=resident[other],
        )
        book.add("paging.in_started", at + 0.5, model=model, bytes=sizes[model] // 2)
        took = 6 + chance.random() * 4
        book.add("paging.in_finished", at + 0.5 + took, model=model, bytes=sizes[model] // 2, ms=took * 1000, layers=24)
        for offset in range(6):
            number += 1
            wait = took + 8 + offset * 2.5 + chance.random() * 3 if at < 500 else took + offset * 0.4
            request(
                book,
                number,
                at - 6 + offset * 2,
                session=f"{'alice' if model == CODER else 'bob'}-{number % 5}",
                model=model,
                queue_s=wait,
                prefill_s=1.2 + chance.random() * 2,
                decode_s=9 + chance.random() * 6,
                itl_ms=40 + chance.random() * 60,
                position=offset + 1,
            )
        book.add("kv.reserved", at + took + 1, model=model, bytes=GB, used_bytes=int(29.1 * GB), limit_bytes=limit)
        at += 22 + chance.random() * 6
        turn += 1
    for offset in range(30):
        number += 1
        book.add(
            "request.received",
            119.9 + offset * 6.0,
            request=request_id(number),
            session=f"carol-{offset % 3}",
            model=CHAT,
            route="/v1/chat/completions",
        )
        book.add(
            "request.rejected",
            120 + offset * 6.0,
            request=request_id(number),
            session=f"carol-{offset % 3}",
            model=CHAT,
            status=429,
            code="backpressure",
            message="new sessions are refused for now",
            route="/v1/chat/completions",
            retry_after_s=10,
        )
    for offset in range(4):
        number += 1
        named: dict[str, Any] = {"request": request_id(number), "session": "bob-1", "model": CHAT}
        book.add("request.received", 200 + offset * 30, **named, route="/v1/chat/completions", stream=True)
        book.add(
            "kv.missed",
            202 + offset * 30,
            **named,
            reason="paged",
            reused_tokens=0,
            recomputed_tokens=4_800,
            lost_tokens=4_800,
            breaker=None,
            cost_ms=4_100.0,
        )
        book.add(
            "request.resumed",
            215 + offset * 30,
            **named,
            reason="memory",
            error="no room for more of it",
            choice=0,
            tokens=90,
            reread_tokens=1_731,
            gap_ms=9_400.0,
        )
        book.add(
            "request.failed",
            240 + offset * 30,
            **named,
            status=500,
            code="engine_failed",
            message="three workers ended while they were busy with it",
            prompt_tokens=4_800,
            completion_tokens=90,
            wall_ms=40_000.0,
        )
    book.add(
        "guard.threshold_breached", 60, name="queue_wait", reason="used", value=21.5, threshold=15.0, clears_at=7.5
    )
    book.add(
        "guard.stage_changed",
        60.1,
        **{"from": "normal", "to": "backpressure", "reasons": ["queue_wait"], "readings": {"queue_wait": 21.5}},
    )
    book.add("guard.backpressure_on", 60.2, reasons=["queue_wait"])
    full = {"from": "backpressure", "to": "shedding", "reasons": ["memory_full"], "readings": {"memory_full": 0.97}}
    book.add("guard.stage_changed", 150, **full)
    down: dict[str, Any] = {"reasons": [], "readings": {}}
    book.add("guard.stage_changed", length_s - 260, **{"from": "shedding", "to": "backpressure", **down})
    book.add("guard.stage_changed", length_s - 240, **{"from": "backpressure", "to": "normal", **down})
    book.add("guard.backpressure_off", length_s - 239.9, refused=30)
    alert: dict[str, Any] = {"objective": "ttft", "severity": "page", "long": "1h", "short": "5m", "factor": 14.4}
    for minute, fast, slow, left in (
        (1, 6.0, 2.0, 0.84),
        (3, 16.0, 9.0, 0.8),
        (6, 19.0, 15.2, 0.71),
        (9, 18.5, 15.8, 0.62),
    ):
        book.add(
            "slo.evaluated",
            minute * 60,
            objective="ttft",
            good=9_050,
            total=9_300,
            shed=0,
            budget_remaining=left,
            burn={"5m": fast, "1h": slow, "6h": slow / 3},
        )
    book.add(
        "slo.burn_alerted", 361, **alert, long_burn=15.2, short_burn=19.0, budget_remaining=0.71, exhausts_in_s=9e4
    )
    book.add("slo.burn_cleared", length_s - 60, **alert, lasted_s=length_s - 420)
    after = {"5m": 0.3, "1h": 12.1, "6h": 4.4}
    book.add(
        "slo.evaluated", length_s, objective="ttft", good=9_300, total=9_700, shed=0, budget_remaining=0.58, burn=after
    )
    book.add("operator.commanded", 420, command="models.pin", arguments={"model": CODER}, via="http")
    book.add("model.pinned", 420.1, model=CODER)
    book.add("operator.commanded", length_s - 300, command="models.unload", arguments={"model": CHAT}, via="http")
    book.add("model.unloaded", length_s - 290, model=CHAT, reason="operator")
    for at_s in range(int(length_s) - 200, int(length_s) + 200, 6):
        number += 1
        request(
            book,
            number,
            at_s + chance.random(),
            session=f"alice-{number % 5}",
            model=CODER,
            prefill_s=0.3 + chance.random() * 0.5,
        )
        if at_s % 60 < 6:
            book.add("sensor.sampled", at_s, sensor="macos", used_bytes=20 * GB, total_bytes=64 * GB)
    return book.sorted()


def flood(length_s: float = 300.0) -> list[Recorded]:
    """One client sends far more than there is room for; most of it is refused."""
    book, chance = Book(50_000), random.Random(11)
    for number in range(400):
        at = number * length_s / 400
        if number % 8 == 0:
            wait = min(18.0, number / 15)
            request(book, number, at, session="calm", model=CHAT, queue_s=wait, position=4, tokens=60)
        else:
            named: dict[str, Any] = {"request": request_id(number), "session": "flooding", "model": CHAT}
            book.add("request.received", at, **named, route="/v1/chat/completions", stream=False)
            book.add(
                "request.rejected",
                at + 0.002,
                **named,
                status=429,
                code=chance.choice(["queue_full", "backpressure"]),
                message="64 requests wait already; try again in 5 s",
                route="/v1/chat/completions",
                retry_after_s=5,
            )
    reasons = {"reasons": ["queue_wait"], "readings": {"queue_wait": 17.2}}
    book.add("guard.stage_changed", 40, **{"from": "normal", "to": "backpressure", **reasons})
    book.add(
        "guard.stage_changed", length_s + 20, **{"from": "backpressure", "to": "normal", "reasons": [], "readings": {}}
    )
    return book.sorted()


def incident(**changed: Any) -> Incident:
    """Of the storm."""
    given: dict[str, Any] = {
        "id": "inc_01KMNPX3V6",
        "title": "Paging storm: two models take turns in memory",
        "severity": "error",
        "status": "resolved",
        "models": (CHAT, CODER),
        "started_us": START_US,
        "detected_us": START_US + 61 * SECOND,
        "acknowledged_us": START_US + 200 * SECOND,
        "mitigated_us": START_US + 640 * SECOND,
        "resolved_us": START_US + 900 * SECOND,
        **changed,
    }
    return Incident(**given)


def timeline(events: list[Recorded]) -> list[TimelineLine]:
    """A line for each event that is not of a request, the page-outs as one."""
    loud = [e for e in events if e.severity >= Severity.INFO and not e.type.startswith(("request.", "kv.", "paging."))]
    lines = [
        TimelineLine(
            at_us=e.time_us,
            seq=e.seq,
            last_seq=e.seq,
            kind=e.type,
            severity=e.severity.label,
            text=render(e).partition("] ")[2],
        )
        for e in loud
        if e.type != "guard.threshold_breached"
    ]
    pages = [e for e in events if e.type == "paging.out_finished"]
    if pages:
        text = f"Weights of {CODER} and {CHAT} left memory"
        lines.append(
            TimelineLine(
                at_us=pages[0].time_us,
                seq=pages[0].seq,
                last_seq=pages[-1].seq,
                kind="paging.out_finished",
                severity="warning",
                text=text,
                count=len(pages),
            )
        )
    return lines


def hypotheses() -> list[Hypothesis]:
    return [
        Hypothesis(
            title="The models do not fit together",
            score=0.83,
            sentence="Each page-in of one was followed within a second by a page-out of the other.",
            evidence=(
                Evidence(text="Weights of both left memory in turns", seqs=(20_412, 20_455)),
                Evidence(text="Memory stood above page_at all the while", seqs=(20_410,)),
            ),
        ),
        Hypothesis(title="Prompts became longer", score=0.21, sentence="They did not: 4,812 tokens before and after."),
    ]


def what_if() -> list[WhatIf]:
    return [
        WhatIf(
            setting="memory.page_at=0.95",
            recorded="31 plans, 268 GB paged out",
            replayed="4 plans, 31 GB paged out",
            difference="-87 %",
        )
    ]


def integrity(events: list[Recorded]) -> Integrity:
    return Integrity(
        first_seq=events[0].seq,
        last_seq=events[-1].seq,
        head_seq=events[-1].seq + 40,
        head_hash="3f1a0c5b9d2e4f687a8b9c0d1e2f30415263748596a7b8c9d0e1f2a3b4c5d6e7",
        signed_seq=events[-1].seq + 12,
    )


def named_events(events: list[Recorded], kind: str) -> Iterator[Recorded]:
    return (event for event in events if event.type == kind)
