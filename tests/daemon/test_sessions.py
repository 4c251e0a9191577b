"""Conversations through a real daemon: what is reused, what the client and the ledger are told, and each reason."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lmx_ledger.cli.main import lmx
from tests.conftest import RunningDaemon
from tests.engine.shapes import write_shape
from tests.models import write_test_model

Start = Callable[[str], RunningDaemon]
LONG = "A word of many. " * 40


@pytest.fixture
def config(random_model: Path) -> str:
    return f'[kv]\nblock_tokens = 16\n[engine]\nblas = "builtin"\n[[models]]\nid = "m"\npath = "{random_model}"\n'


def ask(
    running: RunningDaemon, *texts: str, system: str = "You are kind.", name: str | None = None, **more: Any
) -> httpx.Response:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    headers = {"X-Session-ID": name} if name else {}
    body = {
        "messages": [{"role": "system", "content": system}, *messages],
        "max_tokens": 4,
        "temperature": 0,
        **more,
    }
    response = running.post("/v1/chat/completions", body, headers=headers)
    assert response.status_code == 200, response.text
    return response


def cached(response: httpx.Response) -> int:
    return int(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def told(running: RunningDaemon, response: httpx.Response) -> dict[str, Any]:
    """The `kv.hit` or `kv.missed` of a request."""
    request = response.headers["X-Request-ID"]
    running.wait_event("request.finished", request=request)
    found = running.events(type=["kv.hit", "kv.missed"], request=request)
    assert len(found) == 1
    event: dict[str, Any] = found[0]
    return event


def missed(running: RunningDaemon, response: httpx.Response, reason: str) -> dict[str, Any]:
    event = told(running, response)
    assert (event["type"], event["data"].get("reason")) == ("kv.missed", reason), event
    expected = f"miss;reason={reason}" if not event["data"]["reused_tokens"] else "partial"
    assert response.headers["X-LMX-Cache"] == expected
    return event


def saved(running: RunningDaemon, response: httpx.Response) -> dict[str, Any]:
    return dict(running.wait_event("kv.saved", request=response.headers["X-Request-ID"])["data"])


def reconfigured(running: RunningDaemon, old: str, new: str) -> None:
    """The next run, with another configuration."""
    running._config = running._config.replace(old, new)
    running.restart()


@pytest.mark.parametrize("kind", [None, "sliding window", "gated delta"])
def test_a_conversation_computes_only_what_is_new_and_goes_on_behind_a_restart(
    start_daemon: Start, config: str, random_model: Path, tmp_path: Path, kind: str | None
) -> None:
    if kind is not None:
        model = write_shape(tmp_path / "model", kind)
        shutil.copy(random_model / "tokenizer_config.json", model)
        config = config.replace(str(random_model), str(model))
    running = start_daemon(config)
    plain = start_daemon(config.replace("[kv]", "[kv]\nram = 0"))
    texts = [LONG]
    for turn in range(3):
        if turn == 2:
            running.stop()
            running.restart()
        response, without = ask(running, *texts), ask(plain, *texts)
        assert "X-LMX-Cache" not in without.headers
        assert cached(without) == 0
        answer = response.json()["choices"][0]["message"]["content"]
        assert answer == without.json()["choices"][0]["message"]["content"]
        event = told(running, response)
        if turn == 0:
            missed(running, response, "new_session")
            session = response.headers["X-LMX-Session"]
        else:
            assert event["type"] == "kv.hit"
            assert response.headers["X-LMX-Cache"] == "hit"
            assert response.headers["X-LMX-Session"] == session
            assert cached(response) == event["data"]["reused_tokens"] > 590
        assert saved(running, response)["on_disk"]
        texts += [answer, f"Go on, for the time {turn}."]
    running.stop()
    assert not list((plain.home / "kv").glob("**/*.kv")) if (plain.home / "kv").exists() else True


def test_a_crash_of_the_daemon_loses_nothing_that_was_said_to_be_saved(start_daemon: Start, config: str) -> None:
    running = start_daemon(config)
    first = ask(running, LONG, name="work")
    tokens = saved(running, first)["tokens"]
    running.kill()
    running.restart()
    again = ask(running, LONG, "An answer.", "And then?", name="work")
    assert tokens - 16 <= cached(again)
    assert told(running, again)["type"] == "kv.hit"


def test_a_prompt_that_parts_from_its_conversation_is_told_where_and_why(start_daemon: Start, config: str) -> None:
    running = start_daemon(config)
    ask(running, LONG, system="It is 2026-11-23 09:41. Be kind.", name="work")
    for minute in range(42, 45):
        data = missed(
            running, ask(running, LONG, system=f"It is 2026-11-23 09:{minute}. Be kind.", name="work"), "diverged"
        )["data"]
        assert (data["message_index"], data["role"], data["breaker"]) == (0, "system", "date")
        assert data["reused_tokens"] == data["diverged_at"] < 60
        assert data["lost_tokens"] > 500
        assert data["cost_ms"] > 0
    listed = running.get("/lmx/sessions")
    assert listed["totals"]["misses"]["diverged"]["times"] == 3
    (advice,) = listed["totals"]["advice"]
    assert (advice["breaker"], advice["times"]) == ("date", 3)
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("read", "write")]
    ask(running, LONG, name="tools", tools=tools)
    data = missed(running, ask(running, LONG, name="tools", tools=tools[::-1]), "diverged")["data"]
    assert (data["role"], data["breaker"]) == ("tools", "tools_reordered")
    ask(running, LONG, "Sure!", "Go on.", name="edited")
    data = missed(running, ask(running, LONG, "Sure.", "Go on.", name="edited"), "diverged")["data"]
    assert (data["message_index"], data["role"], data["breaker"]) == (2, "assistant", "answer_edited")


def test_what_went_for_lack_of_room_is_told_with_the_event_that_took_it(start_daemon: Start, config: str) -> None:
    running = start_daemon(config.replace("[kv]", '[kv]\nram = "600KB"\ndisk = 0'))
    ask(running, LONG, name="first")
    for number in range(6):
        ask(running, f"{number}. {LONG}", system=f"{number} is yours.", name=f"other {number}")
    event = missed(running, ask(running, LONG, name="first"), "evicted")
    (cause,) = [e for e in running.events(type="kv.evicted") if e["seq"] == event["cause"]]
    assert cause["data"]["reason"] == "room"
    assert running.get(f"/lmx/events/{cause['seq']}")["causes"], "whose KV took its place"


def test_what_only_a_dead_worker_had_is_paged(start_daemon: Start, config: str) -> None:
    running = start_daemon(config.replace("[kv]", "[kv]\ndisk = 0"))
    assert not saved(running, ask(running, LONG, name="work"))["on_disk"]
    (pid,) = [model["worker_pid"] for model in running.get("/lmx/models")["models"]]
    os.kill(pid, signal.SIGKILL)
    running.wait_event("engine.restarted")
    missed(running, ask(running, LONG, name="work"), "paged")


def test_a_change_of_model_template_or_format_is_told(
    start_daemon: Start, config: str, random_model: Path, tmp_path: Path
) -> None:
    other = write_test_model(tmp_path / "other")
    weights = other / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    running = start_daemon(config)

    def next_run(old: str, new: str) -> httpx.Response:
        saved(running, ask(running, LONG, name="work"))
        running.stop()
        reconfigured(running, old, new)
        return ask(running, LONG, name="work")

    missed(running, next_run("block_tokens = 16", "block_tokens = 32"), "format_changed")
    assert running.events(type="kv.evicted")[-1]["data"]["reason"] == "form"
    missed(running, next_run(str(random_model), str(other)), "model_changed")
    template = other / "chat_template.jinja"
    if template.exists():
        template.write_text("{{ 'now ' }}" + template.read_text())
    else:
        settings = other / "tokenizer_config.json"
        known = json.loads(settings.read_text())
        settings.write_text(json.dumps({**known, "chat_template": "{{ 'now ' }}" + known["chat_template"]}))
    missed(running, next_run('id = "m"', 'id = "m" '), "template_changed")


def test_damage_on_disk_is_told_and_never_an_answer(start_daemon: Start, config: str) -> None:
    running = start_daemon(config)
    first = ask(running, LONG, name="work")
    saved(running, first)
    running.stop()
    (path,) = (running.home / "kv").rglob("*.kv")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    running.restart()
    again = ask(running, LONG, name="work")
    assert again.json()["choices"] == first.json()["choices"]
    event = missed(running, again, "corrupt")
    assert running.events(type="kv.corrupt")
    assert event["data"]["reused_tokens"] + event["data"]["recomputed_tokens"] == again.json()["usage"]["prompt_tokens"]


def test_a_prompt_of_a_few_tokens_is_too_short(start_daemon: Start, config: str) -> None:
    running = start_daemon(config)
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 2, "session_id": "work"}
    missed(running, running.post("/v1/completions", body), "too_short")


def test_what_is_computed_just_now_for_another_request_is_busy(start_daemon: Start, config: str) -> None:
    running = start_daemon(config)
    body = {"messages": [{"role": "user", "content": LONG * 10}], "max_tokens": 4, "stream": True}
    with httpx.stream(
        "POST", f"{running.url}/v1/chat/completions", json=body, headers={"X-Session-ID": "work"}, timeout=60
    ) as one:
        deadline = time.monotonic() + 20
        while not running.events(type="request.admitted"):
            assert time.monotonic() < deadline
        other = running.post(
            "/v1/chat/completions", {**body, "stream": False}, headers={"X-Session-ID": "work", "X-Request-ID": "2"}
        )
        missed(running, other, "busy")
        one.read()


def test_the_kv_of_another_daemon_of_this_home_is_of_use_and_is_had_when_that_one_is_gone(
    start_daemon: Start, config: str
) -> None:
    running = start_daemon(config)
    beside = RunningDaemon(running.home, config)
    try:
        beside.wait_ready()
        first = ask(running, LONG, name="work")
        assert saved(running, first)["on_disk"] is True
        again = ask(beside, LONG, "Sure!", "Go on.", name="work")
        assert cached(again) > 500
        assert saved(beside, again)["on_disk"] is False
        answer = CliRunner().invoke(
            lmx, ["sessions", "rm", "work", "--yes", "--home", str(beside.home), "--url", beside.url]
        )
        assert "another process" in answer.output
        assert running.stop() == 0
        last = ask(beside, LONG, "Sure!", "Go on.", "Of course.", "More.", name="work")
        assert told(beside, last)["type"] == "kv.hit"
        assert saved(beside, last)["on_disk"] is True
        assert beside.stop() == 0
    finally:
        if beside.process.poll() is None:
            beside.kill()


def test_sessions_are_listed_shown_and_erased_with_and_without_a_daemon(start_daemon: Start, config: str) -> None:
    running = start_daemon(config)
    for name in ("one", "two"):
        saved(running, ask(running, LONG, "Sure!", f"I am {name}.", name=name))

    def run(*arguments: str) -> Any:
        shown = CliRunner().invoke(
            lmx, ["sessions", *arguments, "--json", "--home", str(running.home), "--url", running.url]
        )
        assert shown.exit_code == 0, shown.output
        return json.loads(shown.stdout)

    rows = {row["id"]: row for row in run("list")["sessions"]}
    assert set(rows) == {"one", "two"}
    assert rows["two"]["cached_tokens"] > 600
    assert rows["one"]["disk_bytes"] > rows["one"]["ram_bytes"] > 100_000
    (turn,) = run("show", "two")["turns"]
    assert (turn["cache"], turn["state"]) == ("hit", "finished")
    before = sum(path.stat().st_size for path in (running.home / "kv").rglob("*.kv"))
    first = run("rm", "one")["erased_bytes"]
    # The beginning is the other's as well.
    assert 0 < first < before / 2
    assert [row["id"] for row in run("list")["sessions"]] == ["two"]
    assert httpx.delete(f"{running.url}/lmx/sessions/one").status_code == 404
    running.stop()
    assert [row["id"] for row in run("list")["sessions"]] == ["two"]
    assert run("rm", "two")["erased_bytes"] > first
    assert run("list")["sessions"] == []
    running.restart()
    assert cached(ask(running, LONG, name="two")) == 0
