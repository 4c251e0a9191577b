"""Death and what is left of it: a worker's takes nobody along, a daemon's leaves no orphan and a valid chain."""

import json
import os
import signal
import threading
import time
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


def told(stream: Stream) -> str:
    """The text of the frames that are left."""
    text = ""
    while (frame := stream.next_frame()) is not None:
        assert "error" not in frame, frame
        text += frame["choices"][0]["delta"].get("content", "")
    return text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_that_dies_in_a_stream_costs_it_no_token(own_daemon: RunningDaemon, number: signal.Signals) -> None:
    body = {**ENDLESS, "max_tokens": 1000}
    undisturbed = own_daemon.post("/v1/chat/completions", body).json()["choices"][0]
    stream = Stream(own_daemon, body)
    frames = [stream.next_frame() for _ in range(5)]
    os.kill(worker_of(own_daemon, "chain"), number)
    text = "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames if frame) + told(stream)
    stream.close()
    assert text == undisturbed["message"]["content"]
    assert own_daemon.chat(model="random", max_tokens=2).status_code == 200

    exited = own_daemon.wait_event("engine.exited", model="chain")
    assert exited["data"]["signal"] == number.name
    assert any(act.startswith("step ") for act in exited["data"]["last_acts"])
    restarted = own_daemon.wait_event("engine.restarted", model="chain")
    assert restarted["cause"] == exited["seq"]
    (resumed,) = own_daemon.events(type="request.resumed")
    assert exited["data"]["in_flight"] == [resumed["request"]]
    assert (resumed["cause"], resumed["data"]["reason"]) == (exited["seq"], "worker_died")
    assert resumed["data"]["tokens"] >= 4
    finished = own_daemon.events(type="request.finished", request=resumed["request"])
    assert finished[0]["data"]["completion_tokens"] == 1000
    assert own_daemon.events(type="request.failed") == []


def test_an_answer_that_is_not_streamed_is_whole_too(own_daemon: RunningDaemon) -> None:
    body = {**ENDLESS, "max_tokens": 3000}
    undisturbed = own_daemon.post("/v1/chat/completions", body).json()["choices"][0]
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(own_daemon.post("/v1/chat/completions", body)))
    asking.start()
    eventually_two_first_tokens(own_daemon)
    os.kill(worker_of(own_daemon, "chain"), signal.SIGKILL)
    asking.join()
    assert answers[0].json()["choices"][0] == undisturbed
    assert len(own_daemon.events(type="request.resumed")) == 1


def eventually_two_first_tokens(daemon: RunningDaemon) -> None:
    patience = time.monotonic() + 30
    while len(daemon.events(type="request.first_token")) < 2:
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_drawn_penalised_and_measured_streams_go_on_as_they_would_have(
    own_daemon: RunningDaemon, random_model: Path
) -> None:
    end = json.loads((random_model / "config.json").read_text())["eos_token_id"]
    common = {
        "model": "random",
        "messages": [{"role": "user", "content": "one two three"}],
        "max_tokens": 1000,
        "logit_bias": {end: -100},  # all of them are under way still when the worker dies
        "logprobs": True,
        "top_logprobs": 3,
    }
    bodies = [
        {**common, "seed": 5, "temperature": 1.0, "top_p": 0.9, "n": 2},
        {**common, "seed": 6, "temperature": 0.7, "frequency_penalty": 0.4, "presence_penalty": 0.3},
        {**common, "temperature": 0, "repetition_penalty": 1.2},
    ]
    undisturbed = [own_daemon.post("/v1/chat/completions", body).json()["choices"] for body in bodies]
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = own_daemon.post("/v1/chat/completions", bodies[number]).json()

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
    before = len(own_daemon.events(type="request.first_token"))
    for thread in asking:
        thread.start()
    patience = time.monotonic() + 30
    while len(own_daemon.events(type="request.first_token")) < before + len(bodies):
        assert time.monotonic() < patience
        time.sleep(0.01)
    os.kill(worker_of(own_daemon, "random"), signal.SIGKILL)
    for thread in asking:
        thread.join()
    for number, expected in enumerate(undisturbed):
        assert [c["message"] for c in answers[number]["choices"]] == [c["message"] for c in expected]
        for choice, other in zip(answers[number]["choices"], expected, strict=True):
            tokens = [(t["token"], len(t["top_logprobs"])) for t in choice["logprobs"]["content"]]
            assert tokens == [(t["token"], len(t["top_logprobs"])) for t in other["logprobs"]["content"]]
    resumed = own_daemon.events(type="request.resumed")
    assert sorted(event["data"]["choice"] for event in resumed) == [0, 0, 0, 1]


def test_a_worker_that_hangs_is_replaced_and_its_stream_goes_on(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    daemon = start_daemon(model_config.replace("[engine]\n", '[engine]\nhang_timeout = "1s"\n'))
    body = {**ENDLESS, "max_tokens": 1000}
    undisturbed = daemon.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    stream = Stream(daemon, body)
    first = stream.next_frame()
    assert first is not None
    os.kill(worker_of(daemon, "chain"), signal.SIGSTOP)
    assert first["choices"][0]["delta"].get("content", "") + told(stream) == undisturbed
    stream.close()
    exited = daemon.wait_event("engine.exited", model="chain")
    assert exited["data"]["hung"]
    requested = daemon.wait_event("guard.restart_requested")
    assert (requested["data"]["reason"], exited["cause"]) == ("no_progress", requested["seq"])
    assert requested["data"]["silent_s"] >= 1
    (resumed,) = daemon.events(type="request.resumed")
    assert resumed["cause"] == exited["seq"]


def test_a_worker_that_always_dies_opens_the_breaker_and_a_token_closes_it(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    daemon = start_daemon(model_config.replace("[engine]\n", "[engine]\nstandby = false\n"))
    daemon.wait_event("model.loaded", model="chain")
    killed: set[int] = set()
    patience = time.monotonic() + 60
    while not (opened := daemon.events(type="breaker.opened")):
        assert time.monotonic() < patience
        for started in daemon.events(type="engine.started", model="chain"):
            if started["data"]["pid"] not in killed:
                killed.add(started["data"]["pid"])
                os.kill(started["data"]["pid"], signal.SIGKILL)
    assert opened[0]["data"]["failures"] == len(killed) == 4
    assert "SIGKILL" in opened[0]["data"]["reason"]
    refused = daemon.chat(model="chain")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert refused.json()["error"]["lmx"]["event"] == opened[0]["seq"]
    assert daemon.chat(model="random", max_tokens=2).status_code == 200

    half_opened = daemon.wait_event("breaker.half_opened")
    assert half_opened["cause"] == opened[0]["seq"]
    while not (loaded := daemon.events(type="model.loaded", model="chain", after=half_opened["seq"])):
        assert time.monotonic() < patience
    assert daemon.chat(model="chain", temperature=0).status_code == 200
    assert daemon.wait_event("breaker.closed")["cause"] == loaded[0]["seq"]


def test_a_segfault_leaves_its_traceback_as_evidence(own_daemon: RunningDaemon) -> None:
    os.kill(worker_of(own_daemon, "random"), signal.SIGSEGV)
    exited = own_daemon.wait_event("engine.exited")
    assert "Fatal Python error: Segmentation fault" in exited["data"]["stderr_tail"]


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
