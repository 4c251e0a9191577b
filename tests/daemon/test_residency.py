"""Models come and go on an operator's order, and because nobody has asked for so long."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lmx_ledger.cli.main import lmx
from tests.conftest import RunningDaemon

Start = Callable[[str], RunningDaemon]


@pytest.fixture
def folder(tmp_path: Path, random_model: Path) -> Path:
    return Path(shutil.copytree(random_model, tmp_path / "model"))


@pytest.fixture
def running(start_daemon: Start, folder: Path, chain_model: Path) -> RunningDaemon:
    return start_daemon(config(folder, chain_model))


def config(folder: Path, chain_model: Path, more: str = "") -> str:
    return (
        '[engine]\nblas = "builtin"\nstandby = false\n'
        f'[[models]]\nid = "m"\npath = "{folder}"\n{more}\n'
        f'[[models]]\nid = "chain"\npath = "{chain_model}"\n'
    )


def order(running: RunningDaemon, name: str, model: str = "m") -> Any:
    return CliRunner().invoke(lmx, ["serve", name, "--model", model, "--url", running.url])


def state(running: RunningDaemon, model: str = "m") -> dict[str, Any]:
    return next(one for one in running.get("/lmx/models")["models"] if one["id"] == model)


def answer(running: RunningDaemon) -> httpx.Response:
    return running.post("/v1/completions", {"model": "m", "prompt": "Once", "max_tokens": 4, "temperature": 0})


def test_an_unloaded_model_is_gone_and_its_next_request_loads_it(running: RunningDaemon) -> None:
    expected = answer(running).json()["choices"]
    pid = state(running)["worker_pid"]
    done = order(running, "unload")
    assert done.exit_code == 0, done.output
    assert done.stdout == "m: unloaded, 0 B in memory\n"
    assert pid not in running.worker_pids()
    commanded = running.events(type="operator.commanded")[-1]
    unloaded = running.events(type="model.unloaded")[-1]
    assert (unloaded["cause"], unloaded["data"]["reason"]) == (commanded["seq"], "asked")
    assert all(line["model"] != "m" for line in running.get("/lmx/memory")["accounts"])
    assert running.get("/readyz")["status"] == "ok"
    assert answer(running).json()["choices"] == expected
    assert state(running)["state"] == "resident"


def test_a_load_is_over_when_the_model_is_in_memory(running: RunningDaemon) -> None:
    assert order(running, "unload").exit_code == 0
    done = order(running, "load")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("m: resident, ")
    out = order(running, "page-out")
    assert out.exit_code == 0, out.output
    back = order(running, "load")
    assert back.stdout.startswith("m: resident, "), back.output
    assert running.events(type="paging.in_finished")


def test_what_is_pinned_stays_until_it_is_unpinned_also_behind_a_restart(running: RunningDaemon) -> None:
    assert order(running, "pin").stdout.startswith("m: resident, pinned")
    refused = running.post("/lmx/models/unload", {"model": "m"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "unpin it first" in refused.json()["error"]["message"]
    assert running.stop() == 0
    running.restart()
    assert state(running)["pinned"]
    assert order(running, "unpin").exit_code == 0
    assert order(running, "unload").exit_code == 0
    assert not state(running)["pinned"]


def test_what_has_work_in_flight_is_not_unloaded(running: RunningDaemon) -> None:
    body = {"model": "m", "prompt": "Once upon a time", "max_tokens": 3_000, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{running.url}/v1/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        for name in ("unload", "reload"):
            refused = running.post(f"/lmx/models/{name}", {"model": "m"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
            assert "in flight" in refused.json()["error"]["message"]


def test_a_reload_reads_the_files_anew_and_one_that_cannot_be_served_changes_nothing(
    running: RunningDaemon, folder: Path
) -> None:
    expected, pid = answer(running).json()["choices"], state(running)["worker_pid"]
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    done = order(running, "reload")
    assert done.exit_code == 1
    assert "m stays as it is" in done.stderr
    assert (state(running)["state"], state(running)["worker_pid"]) == ("resident", pid)
    assert answer(running).status_code == 200
    weights.write_bytes(whole)
    assert order(running, "reload").exit_code == 0
    assert state(running)["worker_pid"] != pid
    assert answer(running).json()["choices"] == expected


def test_a_load_that_fails_leaves_everything_else_as_it_was(running: RunningDaemon, folder: Path) -> None:
    assert order(running, "unload").exit_code == 0
    before = state(running, "chain")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "no-such-thing"}))
    refused = order(running, "load")
    assert refused.exit_code == 1
    assert "no-such-thing" in refused.stderr
    assert state(running)["state"] == "failed"
    assert state(running, "chain") == before
    assert running.chat(model="chain", max_tokens=2).status_code == 200
    (folder / "config.json").write_text(json.dumps(settings))
    assert order(running, "load").exit_code == 0


def test_a_model_that_nobody_asks_for_is_unloaded_when_its_time_is_up(
    start_daemon: Start, folder: Path, chain_model: Path
) -> None:
    running = start_daemon(config(folder, chain_model, 'ttl = "1s"'))
    unloaded = running.wait_event("model.unloaded", model="m")
    assert unloaded["data"]["reason"] == "ttl"
    assert state(running, "chain")["state"] == "resident"
    assert answer(running).status_code == 200


def test_orders_for_models_that_do_not_exist_are_404(running: RunningDaemon) -> None:
    for name in ("load", "unload", "reload", "pin", "unpin"):
        assert running.post(f"/lmx/models/{name}", {"model": "nobody"}).status_code == 404
        assert running.post(f"/lmx/models/{name}", {}).status_code == 400
    assert order(running, "load", "nobody").exit_code == 1


def test_the_account_is_shown_line_by_line(running: RunningDaemon) -> None:
    shown = CliRunner().invoke(lmx, ["serve", "memory", "--url", running.url])
    assert shown.exit_code == 0, shown.output
    assert {line.split("\t")[0] for line in shown.stdout.splitlines()[:2]} == {"m", "chain"}
    assert "reserved  " in shown.stdout
    account = running.get("/lmx/memory")
    lines = account["accounts"]
    assert account["used_bytes"] == account["reserved_bytes"] + sum(line["total_bytes"] for line in lines)
