"""A model of the store is served because a request names it."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmx_ledger.bench.model import Shape, write_bench_model
from tests.conftest import RunningDaemon
from tests.models import write_test_model

Start = Callable[[str], RunningDaemon]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_test_model(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def one_model(chain_model: Path) -> str:
    return f'[engine]\nblas = "builtin"\n[[models]]\nid = "chain"\npath = "{chain_model}"\n'


def put(daemon: RunningDaemon, name: str, model: Path) -> Path:
    """As a pull does: whole, in one step."""
    folder = daemon.home / "models" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    rough = folder.with_name(".rough")
    shutil.copytree(model, rough)
    shutil.rmtree(folder, ignore_errors=True)
    rough.rename(folder)
    return folder


def ids(daemon: RunningDaemon) -> list[str]:
    return [model["id"] for model in daemon.get("/v1/models")["data"]]


def test_a_stored_model_is_listed_loaded_on_request_and_says_who_asked(
    start_daemon: Start, one_model: str, tiny: Path
) -> None:
    daemon = start_daemon(one_model)
    assert ids(daemon) == ["chain"]
    put(daemon, "some-org/tiny", tiny)
    assert ids(daemon) == ["chain", "some-org/tiny"]
    assert daemon.get("/v1/models/some-org/tiny")["id"] == "some-org/tiny"
    assert [model["id"] for model in daemon.get("/lmx/models")["models"]] == ["chain"]

    answer = daemon.chat(model="some-org/tiny")
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "some-org/tiny"
    started = daemon.wait_event("model.load_started", model="some-org/tiny")
    assert started["data"]["reason"] == "requested"
    (received,) = daemon.events(type="request.received", model="some-org/tiny")
    assert started["cause"] == received["seq"]
    assert ids(daemon) == ["chain", "some-org/tiny"]
    assert daemon.chat(model="TINY").json()["model"] == "some-org/tiny"
    assert daemon.chat().json()["model"] == "chain"


def test_a_crowd_that_names_one_model_loads_it_once(start_daemon: Start, one_model: str, tiny: Path) -> None:
    daemon = start_daemon(one_model)
    put(daemon, "some-org/tiny", tiny)
    with ThreadPoolExecutor(12) as pool:
        names = ["some-org/tiny", "tiny", "SOME-ORG/Tiny"] * 4
        answers = list(pool.map(lambda name: daemon.chat(model=name), names))
    assert [answer.status_code for answer in answers] == [200] * 12
    assert len(daemon.events(type="model.load_started", model="some-org/tiny")) == 1
    assert [model["id"] for model in daemon.get("/lmx/models")["models"]] == ["chain", "some-org/tiny"]


def test_the_embedded_model_is_always_there(start_daemon: Start, one_model: str) -> None:
    daemon = start_daemon(one_model)
    answer = daemon.chat("What is LMX?", model="lmx-demo", temperature=0, max_tokens=100)
    assert answer.status_code == 200, answer.text
    assert "local LLM server" in answer.json()["choices"][0]["message"]["content"]


def test_what_can_never_fit_is_refused_with_the_bytes_it_is_short(
    start_daemon: Start, one_model: str, tmp_path: Path
) -> None:
    daemon = start_daemon(f'{one_model}[memory]\nlimit = "16MB"\n')
    put(daemon, "big", write_bench_model(tmp_path / "big", Shape(6)))
    refused = daemon.chat(model="big")
    assert refused.status_code == 507
    error = refused.json()["error"]
    assert error["code"] == "insufficient_memory"
    assert 10**7 < error["lmx"]["short_by_bytes"] < 2 * 10**7
    assert "short by " in error["message"]
    assert daemon.chat(model="big").json()["error"]["lmx"]["short_by_bytes"] == error["lmx"]["short_by_bytes"]
    assert daemon.chat().status_code == 200
    assert [model["state"] for model in daemon.get("/lmx/models")["models"]] == ["resident", "failed"]


def test_one_that_cannot_be_loaded_says_why_until_it_is_pulled_anew(
    start_daemon: Start, one_model: str, tiny: Path, tmp_path: Path
) -> None:
    daemon = start_daemon(one_model)
    broken = shutil.copytree(tiny, tmp_path / "broken")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-100])
    put(daemon, "tiny", broken)
    for _ in range(2):
        refused = daemon.chat(model="tiny")
        assert refused.status_code == 503, refused.text
        assert "cut short" in refused.json()["error"]["message"]
    assert len(daemon.events(type="model.load_failed", model="tiny")) == 1
    put(daemon, "tiny", tiny)
    assert daemon.chat(model="tiny").status_code == 200
    assert daemon.get("/readyz")["status"] == "ok"


def test_a_name_that_is_in_no_store_is_not_found_and_what_is_there_is_said(
    start_daemon: Start, one_model: str, tiny: Path
) -> None:
    daemon = start_daemon(one_model)
    put(daemon, "some-org/tiny", tiny)
    for name in ("nosuch", "../home0", "some-org/../tiny", "/etc", ".partial/x", "a/b/c", "\u0000"):
        missing = daemon.chat(model=name)
        assert missing.status_code == 404, name
        error = missing.json()["error"]
        assert error["code"] == "model_not_found"
        assert "there are: chain; in the store: some-org/tiny" in error["message"]


def test_what_is_half_pulled_is_neither_listed_nor_served(start_daemon: Start, one_model: str, tiny: Path) -> None:
    daemon = start_daemon(one_model)
    shutil.copytree(tiny, daemon.home / "models" / ".partial" / "some-org%2Ftiny" / "abc")
    assert ids(daemon) == ["chain"]
    assert daemon.chat(model="some-org/tiny").status_code == 404


def test_it_is_unloaded_with_the_others_when_the_daemon_stops(start_daemon: Start, one_model: str, tiny: Path) -> None:
    daemon = start_daemon(one_model)
    put(daemon, "tiny", tiny)
    daemon.chat(model="tiny")
    assert daemon.stop() == 0, daemon.log.read_text()
    daemon.restart()
    unloaded = {event["model"] for event in daemon.events(type="model.unloaded")}
    assert unloaded == {"chain", "tiny"}
    assert ids(daemon) == ["chain", "tiny"]
