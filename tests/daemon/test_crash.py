"""Death and what is left of it: a worker's takes nobody along, a daemon's leaves no orphan and a valid chain."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from tests.conftest import RunningDaemon

ENDLESS = {
    "model": "chain",
    "messages": [{"role": "user", "content": "Sing"}],
    "temperature": 0,
    "max_tokens": 8000,
    "chat_template_kwargs": {"script": "endless"},
}


@pytest.fixture
def own_daemon(start_daemon: Callable[[str], RunningDaemon], model_config: str) -> RunningDaemon:
    """A daemon that the test may kill."""
    return start_daemon(model_config)


class Stream:
    """A streamed answer, read line by line."""

    def __init__(self, daemon: RunningDaemon, body: dict[str, Any]) -> None:
        self._client = httpx.Client(timeout=30)
        request = self._client.build_request("POST", f"{daemon.url}/v1/chat/completions", json={**body, "stream": True})
        self.response = self._client.send(request, stream=True)
        self._lines = self.response.iter_lines()

    def next_frame(self) -> dict[str, Any] | None:
        """The next data frame; None when the stream is closed."""
        for line in self._lines:
            if line.startswith("data: {"):
                frame: dict[str, Any] = json.loads(line.removeprefix("data: "))
                return frame
            if line == "data: [DONE]":
                return None
        return None

    def close(self) -> None:
        """Go away."""
        self.response.close()
        self._client.close()


def worker_of(daemon: RunningDaemon, model: str) -> int:
    daemon.wait_event("model.loaded", model=model)
    models = daemon.get("/lmx/models")["models"]
    (pid,) = [m["worker_pid"] for m in models if m["id"] == model]
    return int(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_that_dies_in_a_stream_takes_nobody_along(own_daemon: RunningDaemon, number: signal.Signals) -> None:
    stream = Stream(own_daemon, ENDLESS)
    for _ in range(5):
        frame = stream.next_frame()
        assert frame is not None
        assert "choices" in frame
    os.kill(worker_of(own_daemon, "chain"), number)

    last: dict[str, Any] = {}
    while (frame := stream.next_frame()) is not None:
        last = frame
    assert last["error"]["code"] == "engine_failed"
    assert number.name in last["error"]["message"]
    stream.close()
    assert own_daemon.get("/healthz")["status"] == "ok"
    assert own_daemon.chat(model="random", max_tokens=2).status_code == 200

    answer = own_daemon.chat(model="chain", temperature=0)
    assert answer.json()["choices"][0]["message"]["content"].startswith("Once upon")

    exited = own_daemon.wait_event("engine.exited", model="chain")
    assert exited["data"]["signal"] == number.name
    assert any(act.startswith("step ") for act in exited["data"]["last_acts"])
    assert len(exited["data"]["in_flight"]) == 1
    restarted = own_daemon.wait_event("engine.restarted", model="chain")
    assert restarted["cause"] == exited["seq"]
    (failed,) = own_daemon.events(type="request.failed")
    assert failed["request"] == exited["data"]["in_flight"][0]
    assert failed["cause"] == exited["seq"] == last["error"]["lmx"]["event"]


def test_a_segfault_leaves_its_traceback_as_evidence(own_daemon: RunningDaemon) -> None:
    os.kill(worker_of(own_daemon, "random"), signal.SIGSEGV)
    exited = own_daemon.wait_event("engine.exited")
    assert "Fatal Python error: Segmentation fault" in exited["data"]["stderr_tail"]


def test_an_answer_that_is_not_streamed_gets_a_typed_error_too(own_daemon: RunningDaemon) -> None:
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(own_daemon.post("/v1/chat/completions", ENDLESS)))
    asking.start()
    own_daemon.wait_event("request.first_token")
    os.kill(worker_of(own_daemon, "chain"), signal.SIGKILL)
    asking.join()
    assert answers[0].status_code == 500
    assert answers[0].json()["error"]["code"] == "engine_failed"


def test_the_engine_goes_on_when_one_of_two_models_cannot_be_loaded(
    start_daemon: Callable[[str], RunningDaemon], tmp_path: Path, random_model: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    config = (
        f'[engine]\nblas = "builtin"\n[[models]]\nid = "random"\npath = "{random_model}"\n'
        f'[[models]]\nid = "broken"\npath = "{tmp_path / "broken"}"\n'
    )
    daemon = start_daemon(config)
    assert daemon.chat(model="random").status_code == 200
    refused = daemon.chat(model="broken")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert "no model*.safetensors" in refused.json()["error"]["message"]
    assert int(refused.headers["Retry-After"]) > 0
    failed = daemon.wait_event("model.load_failed", model="broken")
    assert refused.json()["error"]["lmx"]["event"] == failed["seq"]
    assert daemon.stop() == 0


def test_a_killed_daemon_leaves_no_orphan_and_the_next_one_says_so(own_daemon: RunningDaemon) -> None:
    stream = Stream(own_daemon, ENDLESS)
    stream.next_frame()
    boot = own_daemon.get("/healthz")["boot"]
    workers = [psutil.Process(pid) for pid in own_daemon.worker_pids()]
    assert len(workers) == 2
    own_daemon.kill()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert len(gone) == 2
    assert not alive
    stream.close()

    own_daemon.restart()
    (crash,) = own_daemon.events(type="daemon.crash_detected")
    assert crash["data"]["boot"] == boot
    assert crash["data"]["last_seq"] < crash["seq"]
    assert any("request." in act or "model." in act for act in crash["data"]["last_acts"])
    assert own_daemon.chat().status_code == 200
    assert own_daemon.stop() == 0
    reader = Reader.open(own_daemon.home / "ledger.db")
    verdict = reader.verify()
    reader.close()
    assert verdict.ok, verdict

    own_daemon.restart()
    assert len(own_daemon.events(type="daemon.crash_detected")) == 1


def test_a_stop_lets_the_stream_in_flight_finish_and_refuses_new_work(own_daemon: RunningDaemon) -> None:
    stream = Stream(own_daemon, {**ENDLESS, "max_tokens": 600})
    assert stream.next_frame() is not None
    own_daemon.process.send_signal(signal.SIGTERM)
    own_daemon.wait_event("daemon.draining")
    refused = own_daemon.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "draining")
    assert int(refused.headers["Retry-After"]) > 0
    assert httpx.get(f"{own_daemon.url}/readyz").json()["status"] == "draining"
    last: dict[str, Any] = {}
    while (frame := stream.next_frame()) is not None:
        last = frame
    assert last["choices"][0]["finish_reason"] == "length"
    stream.close()
    assert own_daemon.process.wait(30) == 0
    reader = Reader.open(own_daemon.home / "ledger.db")
    story = reader.events(EventFilter(types=("daemon.*", "operator.*")))
    reader.close()
    assert [event.type for event in story] == [
        "daemon.started",
        "daemon.ready",
        "operator.commanded",
        "daemon.draining",
        "daemon.drained",
        "daemon.stopped",
    ]
    assert (story[2].data["command"], story[2].data["via"]) == ("stop", "SIGTERM")
    assert story[3].cause == story[2].seq


def test_a_ledger_that_is_taken_away_stops_no_answer(own_daemon: RunningDaemon) -> None:
    for file in own_daemon.home.glob("ledger.db*"):
        file.rename(file.with_name(f"away-{file.name}"))
    (own_daemon.home / "ledger.db").write_bytes(b"no ledger any more" * 100)
    assert own_daemon.chat(model="chain").status_code == 200
    for _ in range(6):
        answer = httpx.get(f"{own_daemon.url}/lmx/events")
        assert answer.status_code in {200, 503}
    assert own_daemon.get("/healthz")["status"] == "ok"
    assert "Traceback" not in own_daemon.log.read_text()
