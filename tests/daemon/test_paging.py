"""Weights that go on an operator's order and come back with the next request, through a real daemon."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lmx_ledger.cli.main import lmx
from tests.conftest import RunningDaemon
from tests.models import write_test_model

Start = Callable[[str], RunningDaemon]
BODY = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}


@pytest.fixture
def running(start_daemon: Start, random_model: Path) -> RunningDaemon:
    return start_daemon(f'[engine]\nblas = "builtin"\n[[models]]\nid = "m"\npath = "{random_model}"\n')


def answer(running: RunningDaemon) -> str:
    response = running.post("/v1/completions", BODY)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def model(running: RunningDaemon) -> dict[str, Any]:
    (found,) = running.get("/lmx/models")["models"]
    return dict(found)


def page_out(running: RunningDaemon, *more: str) -> Any:
    return CliRunner().invoke(lmx, ["serve", "page-out", "--model", "m", "--url", running.url, *more])


def test_a_paged_model_answers_as_before_without_being_loaded_again(running: RunningDaemon) -> None:
    expected = answer(running)
    done = page_out(running, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["bytes"] == told["model"]["weights_bytes"] > 0
    assert (told["written_bytes"], told["model"]["resident_bytes"], told["model"]["state"]) == (0, 0, "paged")
    assert running.get("/readyz")["status"] == "ok"
    assert answer(running) == expected
    assert (model(running)["state"], model(running)["resident_bytes"]) == ("resident", told["bytes"])
    assert len(running.events(type="model.loaded")) == 1
    chain = [
        running.events(type=kind)[-1]
        for kind in ("operator.commanded", "paging.planned", "paging.out_started", "paging.out_finished")
    ]
    assert [event["cause"] for event in chain[1:]] == [event["seq"] for event in chain[:-1]]
    wanted = running.events(type="request.received")[-1]
    begun, back = running.events(type="paging.in_started")[-1], running.events(type="paging.in_finished")[-1]
    assert (begun["cause"], back["cause"]) == (wanted["seq"], begun["seq"])
    assert back["data"]["bytes"] == told["bytes"]
    lines = CliRunner().invoke(lmx, ["serve", "logs", "--url", running.url]).stdout
    assert "[LMX-Core] Paging m weights to NVMe (" in lines
    assert "B/s)..." in lines
    then = CliRunner().invoke(lmx, ["serve", "status", "--at", chain[-1]["time"], "--url", running.url, "--json"])
    assert json.loads(then.stdout)["models"][0]["state"] == "paged"


def test_no_more_goes_than_it_takes_and_a_person_is_told(running: RunningDaemon) -> None:
    done = page_out(running, "--free", "1KB")
    assert done.exit_code == 0, done.output
    assert "m: 1 layers out" in done.stdout
    found = model(running)
    assert found["state"] == "partly_paged"
    assert 0 < found["resident_bytes"] < found["weights_bytes"]
    again = page_out(running)
    assert "0 B in memory" in again.stdout
    assert page_out(running, "--free", "much").exit_code == 2


def test_whoever_comes_while_it_is_out_is_served_and_it_comes_back_once(running: RunningDaemon) -> None:
    expected = answer(running)
    page_out(running)
    with ThreadPoolExecutor(6) as clients:
        assert set(clients.map(lambda _: answer(running), range(6))) == {expected}
    assert len(running.events(type="paging.in_finished")) == 1


def test_what_has_work_is_no_victim(start_daemon: Start, tmp_path: Path, running: RunningDaemon) -> None:
    body = {**BODY, "max_tokens": 3_000, "stream": True}
    with httpx.stream("POST", f"{running.url}/v1/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        refused = running.post("/lmx/models/page-out", {"model": "m"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "in flight" in refused.json()["error"]["message"]
    assert running.post("/lmx/models/page-out", {"model": "other"}).status_code == 404
    assert running.post("/lmx/models/page-out", {"model": "m", "bytes": -1}).status_code == 400
    assert not running.events(type="paging.planned")


def test_a_worker_that_dies_while_it_is_paged_is_replaced(running: RunningDaemon) -> None:
    expected = answer(running)
    page_out(running)
    os.kill(model(running)["worker_pid"], signal.SIGKILL)
    running.wait_event("engine.restarted")
    assert answer(running) == expected
    assert model(running)["state"] == "resident"
    assert not running.events(type="paging.in_started")


def test_weights_that_cannot_be_read_any_more_are_said(start_daemon: Start, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_test_model(folder)
    running = start_daemon(f'[engine]\nblas = "builtin"\n[[models]]\nid = "m"\npath = "{folder}"\n')
    page_out(running)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"")
    refused = running.post("/v1/completions", BODY)
    assert refused.status_code == 503
    assert running.events(type="paging.in_finished")[-1]["data"]["error"]
    assert model(running)["state"] == "failed"
