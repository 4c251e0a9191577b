"""A flood of new sessions, for a rehearsal: requests to this daemon, through its own door."""

import asyncio
from collections import Counter
from typing import Any, Final

import httpx

from lmx_ledger.core.ids import new_ulid

_MOST_TURNS: Final = 20
_ANSWER_S: Final = 600.0
_LEAST_PAUSE_S: Final = 0.2


async def flood(url: str, key: str | None, sessions: int, for_s: float) -> dict[str, Any]:
    """So many clients, each with a new session per request, until the time is over; what they were answered."""
    until = asyncio.get_running_loop().time() + for_s
    answers: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    limits = httpx.Limits(max_connections=sessions)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=_ANSWER_S) as client:

        async def one() -> None:
            for _ in range(_MOST_TURNS):
                left = until - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                wait_s = await _ask(client, answers)
                # As a client's SDK does, which honours Retry-After.
                await asyncio.sleep(min(max(wait_s, _LEAST_PAUSE_S), max(left, 0.0)))

        await asyncio.gather(*(one() for _ in range(sessions)))
    return {"sessions": sessions, "answers": dict(answers)}


async def _ask(client: httpx.AsyncClient, answers: Counter[str]) -> float:
    """One request of a new session; how long to wait before the next."""
    session = f"drill-{new_ulid()}"
    body = {
        "messages": [{"role": "user", "content": f"This is {session}. What is LMX?"}],
        "max_tokens": 32,
    }
    try:
        answer = await client.post("/v1/chat/completions", json=body, headers={"X-Session-ID": session})
    except httpx.TransportError as error:
        answers[type(error).__name__] += 1
        return 1.0
    answers[str(answer.status_code)] += 1
    retry = answer.headers.get("Retry-After", "0")
    return float(retry) if retry.isdigit() else 0.0
