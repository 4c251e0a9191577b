"""The guard with a real daemon: who is let in while there is trouble, who goes, and that a replay comes to the same."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lmx_ledger.bench.model import Shape, write_bench_model
from lmx_ledger.cli.main import lmx
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.config import load_config
from lmx_ledger.guard.recorded import TYPES, decisions, observations, replayed
from lmx_ledger.incident.replayed import Replayed, replay
from lmx_ledger.incident.rules import stage_rules
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from tests.conftest import RunningDaemon

Start = Callable[[str], RunningDaemon]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench_model(tmp_path_factory.mktemp("guard") / "one", Shape(1))


def config(model: Path, more: str) -> str:
    return f'[engine]\nstandby = false\n[[models]]\nid = "a"\npath = "{model}"\n{more}'


def ask(running: RunningDaemon, session: str, max_tokens: int = 8, model: str = "a") -> httpx.Response:
    ids = [300 + (len(session) * 7 + n * 31) % 3_000 for n in range(40)]
    body = {"model": model, "prompt": ids, "max_tokens": max_tokens, "temperature": 0, "session_id": session}
    return httpx.post(f"{running.url}/v1/completions", json=body, timeout=120, headers={"X-Session-ID": session})


def wait_for(running: RunningDaemon, kind: str, to: object) -> dict[str, Any]:
    """The newest event of that type that says so, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := [event for event in running.events(type=kind) if event["data"]["to"] == to]:
            return found[-1]
        time.sleep(0.05)
    raise AssertionError(f"no {kind} to {to}")


def wait_for_stage(running: RunningDaemon, stage: str) -> dict[str, Any]:
    return wait_for(running, "guard.stage_changed", stage)


def test_a_flood_is_refused_at_once_and_who_is_known_goes_on(start_daemon: Start, model: Path) -> None:
    guard = '[guard]\nqueue_wait = "1s"\ndwell = "1s"\nexit_after = "1s"\n[queue]\nmax_running = 2\nmax_choices = 2\n'
    running = start_daemon(config(model, guard))
    assert ask(running, "known").status_code == 200
    running.wait_event("kv.saved")
    with ThreadPoolExecutor(24) as clients:
        flood = [clients.submit(ask, running, f"new-{n}", 300) for n in range(20)]
        wait_for_stage(running, "backpressure")
        again = ask(running, "known", 4)
        answers = [one.result() for one in flood]
    assert again.status_code == 200
    refused = [one for one in answers if one.status_code != 200]
    assert refused
    assert len(refused) < len(answers)
    event = wait_for_stage(running, "normal")
    for one in refused:
        error = one.json()["error"]
        assert (one.status_code, error["code"], error["lmx"]["stage"]) == (429, "backpressure", "backpressure")
        assert int(one.headers["Retry-After"]) >= 1
    on, off = running.wait_event("guard.backpressure_on"), running.wait_event("guard.backpressure_off")
    assert (on["data"]["reasons"], off["data"]["refused"]) == (["queue_wait"], len(refused))
    assert off["cause"] == event["seq"]
    rejected = running.events(type="request.rejected")
    assert {one["cause"] for one in rejected} == {on["cause"]}
    assert ask(running, "new again").status_code == 200
    assert running.get("/lmx/guard")["stage"] == "normal"
    same_decisions(running)
    # With patience for any line nobody would have been refused; with none, earlier and for longer.
    patient = replay_of(running, guard__queue_wait="1h").public()
    assert (set(patient["stages_s"]["recorded"]), patient["stages_s"]["replayed"]) == ({"backpressure"}, {})
    assert patient["different"] == 2
    longer = replay_of(running, guard__exit_after="30s").public()["differences"]
    assert [one["replayed"] for one in longer] == [None]


def same_decisions(running: RunningDaemon) -> None:
    """What was recorded as observed gives, fed in again, exactly what was recorded as decided."""
    reader = Reader.open(running.home / "ledger.db")
    recorded = reader.events(EventFilter(types=TYPES))
    reader.close()
    decided = list(decisions(recorded))
    assert decided
    policy = stage_rules(load_config(running.home / "config.toml"))
    assert list(replayed(list(observations(recorded)), policy, decided[-1].at_us)) == decided
    again = replay_of(running)
    assert len(again.compared) >= len(decided)
    assert [one for one in again.compared if not one.same] == []


def replay_of(running: RunningDaemon, **given: str) -> Replayed:
    reader = Reader.open(running.home / "ledger.db")
    try:
        return replay(reader, 0, utc_us(), {name.replace("__", "."): value for name, value in given.items()})
    finally:
        reader.close()


def ask_long(running: RunningDaemon, tokens: int) -> httpx.Response:
    body = {"model": "a", "prompt": [300] * tokens, "max_tokens": 4, "temperature": 0}
    return httpx.post(f"{running.url}/v1/completions", json=body, timeout=120)


def test_a_rehearsed_heat_lowers_the_ceiling_and_its_end_gives_it_back(start_daemon: Start, tmp_path: Path) -> None:
    folder = write_bench_model(tmp_path / "long", Shape(1, context=131_072))
    more = '[drills]\nenabled = true\n[sensors]\nevery = "200ms"\n[guard]\ncool_after = "1s"\nsafe_dwell = "1s"\n'
    running = start_daemon(config(folder, more))
    started = running.post("/lmx/drills", {"kind": "thermal", "gpu_drop": 0.21, "for_s": 600}).json()["running"]
    changed = running.wait_event("guard.context_ceiling_changed")
    assert (changed["data"]["from"], changed["data"]["to"]) == (131_072, 64_000)
    assert running.get("/lmx/status")["max_context_tokens"] == 64_000
    refused = ask_long(running, 70_000)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["lmx"]["reason"]) == ("context_length_exceeded", "safe_mode_thermal")
    assert (error["lmx"]["reduce_by"], error["lmx"]["event"]) == (6_001, changed["seq"])
    assert ask_long(running, 70_000).json() == refused.json()
    logs = CliRunner().invoke(lmx, ["serve", "logs", "--url", running.url, "--since", "1h"]).stdout.splitlines()
    throttled = "[LMX-Guard] Thermal throttle detected (GPU freq drop 21%)."
    at = logs.index(throttled)
    assert logs[at + 1] == "[LMX-Guard] Applying safe mode: max_context_tokens=64000"
    assert running.post("/lmx/drills", {"kind": "stop"}).status_code == 200
    wait_for(running, "guard.context_ceiling_changed", 131_072)
    assert running.get("/lmx/status")["max_context_tokens"] == 131_072
    assert ask_long(running, 70_000).status_code == 200
    finished = running.wait_event("drill.finished")
    between = [event for event in running.events() if started["event"] < event["seq"] <= finished["seq"]]
    assert {event["data"].get("drill") for event in between} == {started["event"]}
    chain = running.get(f"/lmx/events/{changed['seq']}")["causes"]
    assert [event["type"] for event in chain] == ["sensor.thermal_throttled", "guard.threshold_breached"]
    same_decisions(running)


def test_a_drill_is_refused_where_they_are_not_enabled_and_where_it_makes_no_sense(
    start_daemon: Start, model: Path
) -> None:
    running = start_daemon(config(model, ""))
    refused = running.post("/lmx/drills", {"kind": "swap"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    for order, param in (
        ({"kind": "earthquake"}, "kind"),
        ({"kind": "swap", "gpu_drop": 0.2}, "gpu_drop"),
        ({"kind": "thermal", "gpu_drop": 7}, "gpu_drop"),
        ({"kind": "thermal", "for_s": 0}, "for_s"),
    ):
        wrong = running.post("/lmx/drills", order)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, param)
    assert not running.events(type="drill.started")


def test_of_drills_that_are_asked_for_at_once_one_begins(start_daemon: Start, model: Path) -> None:
    running = start_daemon(config(model, "[drills]\nenabled = true\n"))
    with ThreadPoolExecutor(4) as operators:
        asked = [operators.submit(running.post, "/lmx/drills", {"kind": "swap", "for_s": 60}) for _ in range(4)]
        assert sorted(one.result().status_code for one in asked) == [200, 409, 409, 409]
    assert len(running.events(type="drill.started")) == 1
    assert running.post("/lmx/drills", {"kind": "stop"}).status_code == 200
    assert running.wait_event("drill.finished")["data"]["reason"] == "operator"


def test_a_drill_ends_by_itself_when_its_time_is_over(start_daemon: Start, model: Path) -> None:
    running = start_daemon(config(model, "[drills]\nenabled = true\n"))
    assert running.post("/lmx/drills", {"kind": "swap", "for_s": 1}).status_code == 200
    assert running.wait_event("drill.finished")["data"]["reason"] == "time"


def test_swapping_without_end_goes_through_the_stages_and_no_stream_is_lost(start_daemon: Start, model: Path) -> None:
    other = write_bench_model(model.parent / "other", Shape(1))
    more = (
        f'priority = 1\n[[models]]\nid = "b"\npath = "{other}"\n[drills]\nenabled = true\n[sensors]\nevery = "200ms"\n'
        '[guard]\nshed_after = "1s"\nrestart_after = "1s"\ndwell = "1s"\nexit_after = "1s"\n'
    )
    running = start_daemon(config(model, more))
    undisturbed = ask(running, "stream", 3_000).json()["choices"][0]["text"]
    running.wait_event("kv.saved")
    assert ask(running, "b", model="b").status_code == 200
    assert running.post("/lmx/drills", {"kind": "swap", "for_s": 600}).status_code == 200
    wait_for_stage(running, "backpressure")
    with ThreadPoolExecutor(1) as client:
        stream = client.submit(ask, running, "stream", 3_000)
        wait_for_stage(running, "shedding")
        shed = running.wait_event("guard.model_shed")
        assert (shed["model"], shed["data"]["primary"]) == ("b", "a")
        unloaded = running.wait_event("model.unloaded")
        assert (unloaded["cause"], unloaded["data"]["reason"]) == (shed["seq"], "shed")
        refused = ask(running, "b", model="b")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "backpressure")
        restart = wait_for_stage(running, "restart")
        requested = running.wait_event("guard.restart_requested")
        assert (requested["model"], requested["cause"]) == ("a", restart["seq"])
        exited = running.wait_event("engine.exited", model="a")
        assert (exited["cause"], exited["data"]["expected"]) == (requested["seq"], True)
        assert running.wait_event("engine.restarted")["model"] == "a"
        whole = stream.result()
    assert running.post("/lmx/drills", {"kind": "stop"}).status_code == 200
    assert whole.json()["choices"][0]["text"] == undisturbed
    wait_for_stage(running, "normal")
    wait_for(running, "guard.context_ceiling_changed", 131_072)
    assert ask(running, "b", model="b").status_code == 200
    same_decisions(running)


def test_a_drill_that_is_ended_early_keeps_its_label_until_what_it_set_off_is_over(
    start_daemon: Start, model: Path
) -> None:
    more = '[drills]\nenabled = true\n[sensors]\nevery = "200ms"\n[guard]\ncool_after = "1s"\nsafe_dwell = "1s"\n'
    running = start_daemon(config(model, more))
    assert running.post("/lmx/drills", {"kind": "thermal", "for_s": 60}).status_code == 200
    wait_for(running, "guard.context_ceiling_changed", 64_000)
    assert running.post("/lmx/drills", {"kind": "swap"}).status_code == 409
    assert running.post("/lmx/drills", {"kind": "stop"}).status_code == 200
    finished = running.wait_event("drill.finished")
    assert finished["data"]["reason"] == "operator"
    back = wait_for(running, "guard.context_ceiling_changed", 131_072)
    assert back["seq"] > finished["seq"]
    assert back["data"]["drill"] == finished["data"]["drill"]
    while running.get("/lmx/drills")["label"] is not None:
        time.sleep(0.1)
    # This machine has no GPU: what was made up of one does not stay.
    while "\nlmx_gpu_busy_ratio " in httpx.get(f"{running.url}/metrics").text:
        time.sleep(0.1)
    assert ask(running, "afterwards").status_code == 200
    assert "drill" not in running.wait_event("request.finished")["data"]
