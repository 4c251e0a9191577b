"""More than fits: models take turns, streams wait for memory, and nobody is refused who can be served."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lmx_ledger.bench.model import Shape, write_bench_model
from lmx_ledger.cli.main import lmx
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.memory.recorded import asked, steps_of
from tests.conftest import RunningDaemon

Start = Callable[[str], RunningDaemon]
MB = 10**6
WEIGHTS = 26 * MB
"""About what six layers of the model take; a token's KV takes 6 KB."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench_model(tmp_path_factory.mktemp("budget") / "six", Shape(6))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench_model(tmp_path_factory.mktemp("budget") / "one", Shape(1))


def config(limit: int, *models: tuple[str, Path, str], more: str = "") -> str:
    served = "".join(f'[[models]]\nid = "{name}"\npath = "{path}"\n{rest}\n' for name, path, rest in models)
    return f"[memory]\nlimit = {limit}\n{more}\n[engine]\nstandby = false\n{served}"


def ask(running: RunningDaemon, name: str, seed: int, max_tokens: int = 8, prompt: int = 40) -> httpx.Response:
    ids = [300 + (seed * 97 + n * 31) % 3_000 for n in range(prompt)]
    body = {"model": name, "prompt": ids, "max_tokens": max_tokens, "temperature": 0}
    return httpx.post(f"{running.url}/v1/completions", json=body, timeout=120)


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def memory(running: RunningDaemon) -> dict[str, Any]:
    found: dict[str, Any] = running.get("/lmx/memory")
    return found


def same_plans(running: RunningDaemon) -> None:
    """Asked again what the ledger says that it was asked, the planner comes to what the ledger says that it found."""
    reader = Reader.open(running.home / "ledger.db")
    planned = reader.events(EventFilter(types=("paging.planned",)))
    reader.close()
    assert planned
    for event in planned:
        question = asked(event)
        assert question is not None
        found = question.plan()
        assert (steps_of(found), found.short_by) == (event.data["steps"], event.data["short_by_bytes"])


def causes(running: RunningDaemon, event: dict[str, Any]) -> Iterator[str]:
    """The types of what made it happen, the first cause first."""
    chain = running.get(f"/lmx/events/{event['seq']}")["causes"]
    return (cause["type"] for cause in chain)


def test_models_that_do_not_fit_together_take_turns_and_answer_as_with_room(start_daemon: Start, model: Path) -> None:
    roomy = start_daemon(config(1_000 * MB, ("a", model, "")))
    expected = {seed: text(ask(roomy, "a", seed)) for seed in range(4)}
    assert roomy.stop() == 0
    tight = start_daemon(config(52 * MB, ("a", model, ""), ("b", model, ""), ("c", model, "")))
    assert sorted(one["state"] for one in tight.get("/lmx/models")["models"]) == ["resident", "unloaded", "unloaded"]
    asked = [(name, seed) for seed in range(4) for name in "abc"]
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda one: text(ask(tight, *one)), asked))
    assert answers == [expected[seed] for _, seed in asked]
    assert tight.events(type="paging.in_finished")
    for planned in tight.events(type="paging.planned"):
        lines = planned["data"]["account"]["lines"]
        held = sum(sum(line["layers"]) + line["kv"] + line["kept"] + line["working"] + line["spare"] for line in lines)
        assert held <= 52 * MB
    same_plans(tight)
    assert not tight.events(type="engine.exited")


def test_the_guides_scene_leaves_its_log_lines_and_its_chain(start_daemon: Start, model: Path, small: Path) -> None:
    more = 'kv_reserve = 18000000\n[kv]\nram = "1MB"'
    running = start_daemon(config(62 * MB, ("small", small, ""), ("large", model, ""), more=more))
    before = text(ask(running, "small", 1))
    assert text(ask(running, "large", 1, prompt=1_900))
    reserved = [event for event in running.events(type="kv.reserved") if event["severity"] == "info"]
    assert reserved
    assert reserved[0]["data"]["bytes"] == 18 * MB
    chain = list(causes(running, reserved[0]))
    assert chain[-4:] == [
        "guard.threshold_breached",
        "paging.planned",
        "paging.out_started",
        "paging.out_finished",
    ]
    logs = CliRunner().invoke(lmx, ["serve", "logs", "--url", running.url, "--since", "1h"]).stdout
    assert "[LMX-Core] VRAM threshold (85%) breached." in logs
    assert "[LMX-Core] Paging small weights to NVMe (" in logs
    assert "[LMX-Core] Reserving 18MB for context KV cache." in logs
    assert text(ask(running, "small", 1)) == before
    assert len(running.events(type="model.loaded")) == 2


def test_streams_that_outgrow_memory_wait_for_it_and_lose_no_token(start_daemon: Start, model: Path) -> None:
    roomy = start_daemon(config(1_000 * MB, ("a", model, "")))
    expected = [text(ask(roomy, "a", seed, 500)) for seed in range(3)]
    assert roomy.stop() == 0
    tight = start_daemon(config(37 * MB, ("a", model, "")))
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda seed: text(ask(tight, "a", seed, 500)), range(3)))
    assert [len(answer) for answer in answers] == [len(answer) for answer in expected]
    resumed = tight.events(type="request.resumed")
    assert resumed
    assert {event["data"]["reason"] for event in resumed} == {"memory"}
    assert {event["data"]["completion_tokens"] for event in tight.events(type="request.finished")} == {500}
    assert memory(tight)["kv_bytes"] == 0


def test_a_prompt_that_memory_can_never_take_is_told_by_how_much_it_is_too_long(
    start_daemon: Start, model: Path
) -> None:
    running = start_daemon(config(48 * MB, ("a", model, "")))
    refused = ask(running, "a", 1, prompt=9_000)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "context_length_exceeded"
    told = error["lmx"]
    assert (told["reason"], told["prompt_tokens"]) == ("memory", 9_000)
    assert told["reduce_by"] == 9_000 - told["max_context_tokens"] + 1
    assert ask(running, "a", 1, prompt=9_000).json() == refused.json()
    fits = ask(running, "a", 1, max_tokens=4, prompt=told["max_context_tokens"] - 8)
    assert fits.status_code == 200, fits.text


def test_two_daemons_of_one_home_share_one_account(start_daemon: Start, model: Path) -> None:
    first = start_daemon(config(70 * MB, ("a", model, "")))
    second = RunningDaemon(first.home, config(70 * MB, ("a", model, "")))
    try:
        second.wait_ready()
        # Together they may have passed the threshold: then layers of what is idle have gone.
        assert memory(second)["others_bytes"] > WEIGHTS / 2
        assert memory(first)["used_bytes"] <= 70 * MB
        text(ask(second, "a", 1))
        assert memory(second)["used_bytes"] <= 70 * MB
        assert second.stop() == 0
        assert memory(first)["others_bytes"] == 0
    finally:
        if second.process.poll() is None:
            second.kill()


def test_a_pinned_model_stays_and_what_needs_its_place_is_refused(start_daemon: Start, model: Path) -> None:
    running = start_daemon(config(48 * MB, ("a", model, "pin = true"), ("b", model, "")))
    assert text(ask(running, "a", 1))
    refused = ask(running, "b", 1)
    assert refused.status_code == 507, refused.text
    assert refused.json()["error"]["lmx"]["short_by_bytes"] > 0
    assert running.post("/lmx/models/unpin", {"model": "a"}).status_code == 200
    assert text(ask(running, "b", 1))
    assert running.events(type="paging.out_finished", model="a")


def test_a_limit_that_others_lower_has_what_is_idle_go(start_daemon: Start, tmp_path: Path, model: Path) -> None:
    script = tmp_path / "readings.jsonl"
    total = 64 * 10**9
    script.write_text(
        f'{{"total_bytes": {total}, "available_bytes": {60 * 10**9}, "at_s": 0}}\n'
        f'{{"total_bytes": {total}, "available_bytes": 0, "at_s": 4}}\n'
    )
    body = config(80 * MB, ("a", model, "")) + f'[sensors]\nevery = "200ms"\nscript = "{script}"\n'
    running = start_daemon(body)
    lowered = running.wait_event("guard.threshold_breached")
    assert lowered["data"]["name"] in {"memory", "memory_limit"}
    out = running.wait_event("paging.out_finished")
    assert out["model"] == "a"
    assert memory(running)["limit_bytes"] < 80 * MB
