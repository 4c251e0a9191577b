"""The events of served requests, as the daemon writes them: what the ledger's figures are about."""

import hashlib
import random
from collections.abc import Iterator
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.ids import new_request_id

MODELS: Final = ("qwen3-8b", "deepseek-r1-32b", "gemma-3-27b")
PER_SESSION: Final = 20
"""Requests of one session."""
SAMPLING: Final = {"temperature": 0.7, "top_p": 0.95}


def served_requests(seed: int = 0) -> Iterator[ev.Event]:
    """Without end: of each request `received`, `admitted`, `first_token`, `finished`, of every sixth also `queued`.

    Each request has an id of its own, a model, and a session that it shares with others.
    """
    rng = random.Random(seed)  # noqa: S311 - a load, not a secret
    sessions = [f"s-{rng.getrandbits(40):010x}" for _ in range(16)]
    while True:
        at = rng.randrange(len(sessions))
        if rng.randrange(PER_SESSION) == 0:
            sessions[at] = f"s-{rng.getrandbits(40):010x}"
        yield from _one(rng, new_request_id(), sessions[at])


def _one(rng: random.Random, request: str, session: str) -> Iterator[ev.Event]:
    model, stream = rng.choice(MODELS), f"request:{request}"
    prompt, given = rng.randrange(20, 30_000), rng.randrange(1, 2_000)
    queue_ms, ttft_ms = round(rng.expovariate(1 / 3), 3), round(rng.uniform(20, 4_000), 3)

    def event(data: ev.EventData) -> ev.Event:
        return ev.Event(data=data, stream=stream, request=request, session=session, model=model)

    yield event(
        ev.RequestReceived(
            route="/v1/chat/completions",
            stream=True,
            messages=rng.randrange(1, 40),
            tools=rng.choice((0, 0, 12)),
            chars=4 * prompt,
            prompt_sha256=hashlib.sha256(request.encode()).hexdigest(),
            client="127.0.0.1",
            client_request_id=None,
            sampling={"temperature": 0.7},
        )
    )
    if rng.randrange(6) == 0:
        yield event(ev.RequestQueued(position=rng.randrange(1, 9), running=4))
    yield event(
        ev.RequestAdmitted(prompt_tokens=prompt, max_tokens=4_096, choices=1, queue_ms=queue_ms, sampling=SAMPLING)
    )
    yield event(ev.RequestFirstToken(ttft_ms=ttft_ms, prefill_ms=round(ttft_ms - 5, 3)))
    yield event(
        ev.RequestFinished(
            status=200,
            finish_reason="stop",
            prompt_tokens=prompt,
            cached_tokens=prompt // 2,
            completion_tokens=given,
            queue_ms=queue_ms,
            ttft_ms=ttft_ms,
            itl_p95_ms=round(rng.uniform(8, 40), 3),
            wall_ms=round(ttft_ms + given * 12.5, 3),
            parts_ms={
                "admission": 1.204,
                "queue": queue_ms,
                "prefill": round(ttft_ms - queue_ms, 3),
                "decode": round(given * 12.5, 3),
                "client": 0.412,
            },
        )
    )
