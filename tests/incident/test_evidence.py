"""Requests through a real daemon: their parts add up, and each is told for what it really lacked."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmx_ledger.bench.mixed import ENDS, KINDS, figures_of, load, settings, told
from lmx_ledger.bench.model import Shape, write_bench_model
from lmx_ledger.bench.servers import Daemon, running
from tests.conftest import RunningDaemon

Start = Callable[[str], RunningDaemon]
MB = 10**6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench_model(tmp_path_factory.mktemp("why") / "six", Shape(6))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench_model(tmp_path_factory.mktemp("why") / "one", Shape(1))


def config(*models: tuple[str, Path], more: str = "") -> str:
    served = "".join(f'[[models]]\nid = "{name}"\npath = "{path}"\n' for name, path in models)
    return f'{more}\n[engine]\nstandby = false\nblas = "builtin"\n{served}'


def body(name: str = "m", tokens: int = 40, max_tokens: int = 8, seed: int = 0, **more: Any) -> dict[str, Any]:
    ids = [300 + (seed * 97 + n * 31) % 3_000 for n in range(tokens)]
    return {"model": name, "prompt": ids, "max_tokens": max_tokens, "temperature": 0, **more}


def ask(daemon: RunningDaemon, *args: Any, session: str = "s", **more: Any) -> str:
    """The id of a request that was answered."""
    headers = {"X-Session-ID": session}
    response = httpx.post(f"{daemon.url}/v1/completions", json=body(*args, **more), headers=headers, timeout=120)
    assert response.status_code == 200, response.text
    return response.headers["X-Request-ID"]


@contextmanager
def streaming(daemon: RunningDaemon, *args: Any, **more: Any) -> Iterator[tuple[str, Iterator[str]]]:
    """A request under way: its id, and its lines behind the first."""
    with httpx.stream(
        "POST", f"{daemon.url}/v1/completions", json=body(*args, stream=True, **more), timeout=120
    ) as response:
        lines = response.iter_lines()
        next(lines)
        yield response.headers["X-Request-ID"], lines


def why(daemon: RunningDaemon, request: str) -> dict[str, Any]:
    """The explanation of one that has ended, whose parts add up."""
    deadline = time.monotonic() + 30
    while (answer := daemon.get(f"/lmx/why/{request}"))["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sum(part["ms"] for part in answer["parts"]) == pytest.approx(answer["wall_ms"], abs=0.05)
    found: dict[str, Any] = answer
    return found


def part(answer: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(part for part in answer["parts"] if part["name"] == name)
    return found


def reasons(answer: dict[str, Any], name: str) -> str:
    return "\n".join(one["text"] for one in part(answer, name)["because"])


def main(answer: dict[str, Any]) -> str:
    return str(max(answer["parts"], key=lambda part: part["ms"])["name"])


def test_a_cold_prompt_and_a_warm_one(start_daemon: Start, model: Path) -> None:
    daemon = start_daemon(config(("m", model)))
    cold = why(daemon, ask(daemon, tokens=1_500, max_tokens=2))
    assert main(cold) == "prefill"
    assert "1,500 of 1,500 tokens computed because this session is new" in cold["text"]
    daemon.wait_event("kv.saved")
    warm = why(daemon, ask(daemon, tokens=1_600, max_tokens=2))
    assert "were kept from earlier" in reasons(warm, "prefill")
    assert part(warm, "restore")["ms"] > 0
    clothes = [prefix + warm["request"].removeprefix("req_") for prefix in ("chatcmpl-", "cmpl-", "resp_", "msg_", "")]
    assert all(daemon.get(f"/lmx/why/{name}") == warm for name in clothes)
    assert daemon.get("/lmx/why", params={"last": ""}) == warm
    rows = daemon.get("/lmx/why", params={"slowest": 1, "since": "1h", "by": "ttft"})["slowest"]
    assert [(row["request"], row["part"]) for row in rows] == [(cold["request"], "prefill")]
    assert daemon.get("/lmx/why/costs")["misses"][0]["reason"] == "new_session"


def test_whoever_waits_behind_a_long_answer_is_told_whose(start_daemon: Start, model: Path) -> None:
    daemon = start_daemon(config(("m", model), more="[queue]\nmax_running = 1\nmax_choices = 1\n"))
    with streaming(daemon, max_tokens=300) as (holder, lines), ThreadPoolExecutor(1) as client:
        waiting = client.submit(ask, daemon, max_tokens=2)
        daemon.wait_event("request.queued")
        for _ in lines:
            pass
        waited = why(daemon, waiting.result())
    assert main(waited) == "queue"
    assert f"request {holder} of python-httpx/{httpx.__version__} took" in reasons(waited, "queue")
    assert "in line for a slot of m, of which 1 were taken" in waited["text"]
    assert main(why(daemon, holder)) == "decode"


def test_a_prompt_that_is_read_beside_an_answer_stalls_it(start_daemon: Start, model: Path) -> None:
    daemon = start_daemon(config(("m", model)))
    with streaming(daemon, max_tokens=800) as (stalled, lines):
        reader = ask(daemon, tokens=3_000, max_tokens=1, seed=5)
        for _ in lines:
            pass
    answer = why(daemon, stalled)
    assert part(answer, "stalls")["ms"] > part(why(daemon, reader), "prefill")["ms"] / 4
    assert f"request {reader} of python-httpx/{httpx.__version__} had 3,000 tokens to read" in reasons(answer, "stalls")


def test_a_killed_worker_is_the_reason_of_what_was_started_over(start_daemon: Start, model: Path) -> None:
    daemon = start_daemon(config(("m", model)))
    with streaming(daemon, max_tokens=400) as (request, lines):
        (pid,) = [one["worker_pid"] for one in daemon.get("/lmx/models")["models"]]
        os.kill(pid, signal.SIGKILL)
        assert daemon.get(f"/lmx/why/{request}")["notes"][0]["text"].startswith("it is still running")
        for _ in lines:
            pass
    answer = why(daemon, request)
    assert part(answer, "resume")["ms"] > 0
    assert "the worker of m ended by SIGKILL; the last thing that it did: " in reasons(answer, "resume")
    assert daemon.get("/lmx/why/costs")["resumes"][0]["reason"] == "worker_died"


def test_a_paged_model_is_told_with_who_put_it_out(start_daemon: Start, model: Path) -> None:
    daemon = start_daemon(config(("m", model)))
    ask(daemon)
    assert daemon.post("/lmx/models/page-out", {"model": "m"}).status_code == 200
    answer = why(daemon, ask(daemon, max_tokens=1))
    said = reasons(answer, "page_in")
    assert "of m's weights were back in memory" in said
    assert "an operator ordered" in said
    assert "queue" not in [one["name"] for one in answer["parts"] if one["share"] > 0.5]


def test_a_model_that_is_loaded_for_it_is_told(start_daemon: Start, model: Path, small: Path) -> None:
    daemon = start_daemon(config(("m", model), ("n", small)))
    assert daemon.post("/lmx/models/unload", {"model": "n"}).status_code == 200
    answer = why(daemon, ask(daemon, "n"))
    assert main(answer) == "load"
    assert "n began to load" in reasons(answer, "load")
    assert "because a request named it" in reasons(answer, "load")


def test_kv_that_went_for_another_model_is_told_with_the_plan_and_the_request(
    start_daemon: Start, model: Path, small: Path
) -> None:
    more = f'[memory]\nlimit = {56 * MB}\n[kv]\nram = "12MB"\ndisk = 0\nblock_tokens = 16\n'
    daemon = start_daemon(config(("m", small), ("big", model), more=more))
    ask(daemon, "m", tokens=1_500, session="agent")
    daemon.wait_event("kv.saved")
    loader = ask(daemon, "big", tokens=400)
    again = ask(daemon, "m", tokens=1_500, session="agent")
    assert daemon.wait_event("kv.missed", request=again)["data"]["reason"] in {"evicted", "paged"}
    said = reasons(why(daemon, again), "prefill")
    assert "1,500 of 1,500 tokens re-computed: this session's KV was evicted at" in said
    assert f"which request {loader} asked for" in said


def test_a_refusal_by_a_rehearsed_safe_mode_says_so(start_daemon: Start, tmp_path: Path) -> None:
    folder = write_bench_model(tmp_path / "long", Shape(1, context=131_072))
    more = '[drills]\nenabled = true\n[sensors]\nevery = "200ms"\n[context]\nsafe_mode_tokens = 100\n'
    daemon = start_daemon(config(("m", folder), more=more))
    assert daemon.post("/lmx/drills", {"kind": "thermal", "for_s": 600}).status_code == 200
    changed = daemon.wait_event("guard.context_ceiling_changed")
    refused = httpx.post(f"{daemon.url}/v1/completions", json=body(tokens=200), timeout=60)
    assert refused.status_code == 400
    daemon.wait_event("request.rejected", request=refused.headers["X-Request-ID"])
    answer = daemon.get(f"/lmx/why/{refused.headers['X-Request-ID']}")
    assert (answer["state"], answer["parts"]) == ("rejected", [])
    assert "safe mode began, because heat slowed this machine: at most 100 tokens" in answer["text"]
    assert f"(event {changed['seq']})" in answer["text"]
    assert any("rehearsal" in note["text"] for note in answer["notes"])
    short = why(daemon, ask(daemon, max_tokens=500))
    assert any("held to 60 tokens where 500 were asked for" in note["text"] for note in short["notes"])


def test_an_unknown_one_is_404_and_wrong_questions_are_400(start_daemon: Start, model: Path) -> None:
    daemon = start_daemon(config(("m", model)))
    assert httpx.get(f"{daemon.url}/lmx/why", params={"last": ""}).status_code == 404
    assert daemon.get("/lmx/why", params={"slowest": ""})["slowest"] == []
    unknown = httpx.get(f"{daemon.url}/lmx/why/req_unknown")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    for query in ("", "?slowest=0", "?slowest=many", "?slowest=3&by=size", "?slowest=3&since=noon", "?colour=red"):
        assert httpx.get(f"{daemon.url}/lmx/why{query}").status_code == 400, query
    assert httpx.get(f"{daemon.url}/lmx/why/costs?since=noon").status_code == 400


def test_the_parts_of_every_request_of_a_mixed_load_add_up(tmp_path: Path, chain_model: Path) -> None:
    shape = Shape(2)
    models = {name: write_bench_model(tmp_path / name, shape, seed) for seed, name in enumerate("ab")}
    ours = Daemon(tmp_path / "home", {**models, "chain": chain_model}, settings(shape, 2))
    with running(ours):
        ours.first_token_s()
        sent = asyncio.run(load(ours, list(models), 64, tools="chain"))
        found = told(ours, sent)
        came = {event["request"] for event in ours.events("request.received")}
        ended = {event["request"] for event in ours.events(*ENDS, "request.rejected")}
    # Who hung up before a request could be read never came.
    assert came - ended == set()
    untold, most, share = figures_of(found)
    assert len(found) > 50
    assert {one.kind for one in found} >= set(KINDS) - {"given up"}
    assert (untold.value, most.met, share.met) == (0, True, True), untold
    # Each kind of wait was there, or nothing was proved.
    parts = {name for one in found for name in one.parts_ms}
    assert parts >= {"admission", "queue", "memory", "prefill", "decode", "stalls", "tools", "client"}
