"""Many at once: same tokens in company as alone, nobody reset, and who goes away stops costing."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conftest import RunningDaemon, eventually

ENDLESS = {
    "model": "chain",
    "messages": [{"role": "user", "content": "Sing"}],
    "temperature": 0,
    "max_tokens": 8000,
    "chat_template_kwargs": {"script": "endless"},
}


def seeded(seed: int, length: int = 32) -> dict[str, Any]:
    return {
        "model": "random",
        "messages": [{"role": "user", "content": "the lazy dog " * (seed % 5 + 1)}],
        "seed": seed,
        "max_tokens": length,
    }


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=body)


async def test_a_seeded_answer_is_the_same_alone_and_beside_seven_others(daemon: RunningDaemon) -> None:
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        alone = [(await ask(client, seeded(seed))).json()["choices"][0]["message"]["content"] for seed in range(8)]
        together = await asyncio.gather(*(ask(client, seeded(seed)) for seed in range(8)))
        assert [answer.json()["choices"][0]["message"]["content"] for answer in together] == alone
        greedy = {**seeded(3), "temperature": 0}
        first = (await ask(client, greedy)).json()["choices"][0]["message"]["content"]
        again, *_ = await asyncio.gather(ask(client, greedy), *(ask(client, seeded(seed, 48)) for seed in range(7)))
        assert again.json()["choices"][0]["message"]["content"] == first


async def test_150_clients_at_once_are_each_answered_or_told_when_to_come_back(daemon: RunningDaemon) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=120, limits=limits) as client:
        answers = await asyncio.gather(*(ask(client, seeded(seed, 8)) for seed in range(150)))
    by_status = {status: [a for a in answers if a.status_code == status] for status in {a.status_code for a in answers}}
    assert set(by_status) <= {200, 429}
    assert len(by_status[200]) >= 16
    for refused in by_status.get(429, []):
        assert refused.json()["error"]["code"] == "queue_full"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert daemon.get("/lmx/status")["in_flight"] == 0


async def idle(daemon: RunningDaemon) -> None:
    """Until nothing is in flight; the tokens that were asked for would outlast the test's patience."""
    await eventually(
        lambda: (
            not daemon.get("/lmx/status")["in_flight"]
            and not any(model["in_flight"] for model in daemon.get("/lmx/models")["models"])
        )
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_in_decode_stops_costing(daemon: RunningDaemon, *, stream: bool) -> None:
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        seen = len(daemon.events(type="request.first_token"))
        asking = asyncio.create_task(ask(client, {**ENDLESS, "stream": stream}))
        await eventually(lambda: len(daemon.events(type="request.first_token")) > seen)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await idle(daemon)
    cancelled = daemon.wait_event("request.cancelled")
    assert cancelled["data"]["phase"] == "decode"
    assert cancelled["data"]["reason"] == "client_gone"
    assert cancelled["data"]["completion_tokens"] < 8000


async def test_a_client_that_goes_away_in_prefill_stops_costing(daemon: RunningDaemon) -> None:
    body = {"model": "random", "prompt": [3 + i % 250 for i in range(8000)], "max_tokens": 100}
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        seen = len(daemon.events(type="request.admitted"))
        asking = asyncio.create_task(client.post("/v1/completions", json=body))
        await eventually(lambda: len(daemon.events(type="request.admitted")) > seen)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await idle(daemon)
    cancelled = daemon.wait_event("request.cancelled")
    assert (cancelled["data"]["phase"], cancelled["data"]["completion_tokens"]) == ("prefill", 0)


async def test_a_client_that_goes_away_in_the_queue_leaves_the_line(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    config = "[queue]\nmax_running = 1\nmax_waiting = 1\nmax_choices = 1\n" + model_config
    own = start_daemon(config)
    async with httpx.AsyncClient(base_url=own.url, timeout=60) as client:
        running = asyncio.create_task(ask(client, ENDLESS))
        await eventually(lambda: bool(own.events(type="request.first_token")))
        waiting = asyncio.create_task(ask(client, seeded(1) | {"model": "chain"}))
        await eventually(lambda: bool(own.events(type="request.queued")))
        full = await ask(client, seeded(2) | {"model": "chain"})
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        cancelled = own.wait_event("request.cancelled")
        assert cancelled["data"]["phase"] == "queue"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert (await ask(client, seeded(3) | {"model": "chain"})).status_code == 200
    assert own.stop() == 0


async def test_a_waiting_stream_gets_parsed_progress_and_then_its_answer(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    config = (
        '[server]\nport = PORT\nprogress_every = "20ms"\n[queue]\nmax_running = 1\nmax_choices = 1\n' + model_config
    )
    own = start_daemon(config)
    async with httpx.AsyncClient(base_url=own.url, timeout=60) as client:
        running = asyncio.create_task(ask(client, ENDLESS))
        await eventually(lambda: bool(own.events(type="request.first_token")))
        body = {**seeded(1), "model": "chain", "stream": True}
        frames: list[dict[str, Any]] = []
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    frames.append(json.loads(line.removeprefix("data: ")))
                if "lmx" in (frames[-1] if frames else {}):
                    running.cancel()
        prompt = {"model": "random", "prompt": [3 + i % 250 for i in range(6000)], "max_tokens": 2, "stream": True}
        prefill: list[dict[str, Any]] = []
        async with client.stream("POST", "/v1/completions", json=prompt) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {") and "lmx" in (frame := json.loads(line.removeprefix("data: "))):
                    prefill.append(frame["lmx"])
    assert {step["phase"] for step in prefill} == {"prefill"}
    assert [step["done"] for step in prefill] == sorted({step["done"] for step in prefill})
    assert all(step["total"] == 6000 for step in prefill)
    progress = [frame["lmx"] for frame in frames if "lmx" in frame]
    assert progress[0] == {"phase": "queued", "done": 1, "total": 1}
    assert all(frame["choices"][0]["delta"].get("content", "") == "" for frame in frames if "lmx" in frame)
    assert frames[-1]["choices"][0]["finish_reason"] in {"stop", "length"}
    assert own.stop() == 0


def test_a_request_tells_its_story_in_events(daemon: RunningDaemon) -> None:
    answer = daemon.chat(model="chain", temperature=0).json()
    finished = daemon.wait_event("request.finished", request=answer["id"])
    daemon.wait_event("kv.saved", request=answer["id"])
    story = daemon.events(request=answer["id"])
    types = [event["type"] for event in story]
    # What is kept is written behind the request.
    types.remove("kv.saved")
    assert types[2] in {"kv.hit", "kv.missed"}
    assert [*types[:2], *types[3:]] == [
        "request.received",
        "request.admitted",
        "request.first_token",
        "request.finished",
    ]
    data = finished["data"]
    assert (data["status"], data["finish_reason"]) == (200, "stop")
    assert data["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert data["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert 0 < data["ttft_ms"] <= data["wall_ms"]
    assert "Hi" not in json.dumps(story)


def test_a_session_is_named_by_header_or_body(daemon: RunningDaemon) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    for name in ("X-Session-ID", "X-LMX-Session"):
        response = daemon.post("/v1/chat/completions", body, headers={name: "work-1"})
        assert response.headers["X-LMX-Session"] == "work-1"
    for field in ("prompt_cache_key", "session_id"):
        response = daemon.post("/v1/chat/completions", {**body, field: "work-2"})
        assert response.headers["X-LMX-Session"] == "work-2"
    assert {event["session"] for event in daemon.events(type="request.*", session="work-2")} == {"work-2"}


@pytest.mark.parametrize("name", ["two\nlines", "größe", "x" * 201])
def test_a_session_name_that_no_header_can_carry_is_refused(daemon: RunningDaemon, name: str) -> None:
    refused = daemon.chat(session_id=name)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "session_id")
