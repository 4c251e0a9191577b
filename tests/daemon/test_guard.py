"""The guard with a real daemon: who is let in while there is trouble, who goes, and that a replay comes to the same."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmx_ledger.bench.model import Shape, write_bench_model
from lmx_ledger.core.config import load_config
from lmx_ledger.daemon.guarding import rules
from lmx_ledger.guard.recorded import TYPES, decisions, observations, replayed
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from tests.conftest import RunningDaemon

Start = Callable[[str], RunningDaemon]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench_model(tmp_path_factory.mktemp("guard") / "one", Shape(1))


def config(model: Path, more: str) -> str:
    return f'[engine]\nstandby = false\n[[models]]\nid = "a"\npath = "{model}"\n{more}'


def ask(running: RunningDaemon, session: str, max_tokens: int = 8, prompt: int = 40) -> httpx.Response:
    ids = [300 + (hash(session) % 97 + n * 31) % 3_000 for n in range(prompt)]
    body = {"model": "a", "prompt": ids, "max_tokens": max_tokens, "temperature": 0, "session_id": session}
    return httpx.post(f"{running.url}/v1/completions", json=body, timeout=120, headers={"X-Session-ID": session})


def wait_for_stage(running: RunningDaemon, stage: str) -> dict[str, Any]:
    while True:
        event = running.wait_event("guard.stage_changed")
        if event["data"]["to"] == stage:
            return event


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


def same_decisions(running: RunningDaemon) -> None:
    """What was recorded as observed gives, fed in again, exactly what was recorded as decided."""
    reader = Reader.open(running.home / "ledger.db")
    recorded = reader.events(EventFilter(types=TYPES))
    reader.close()
    decided = list(decisions(recorded))
    assert decided
    policy = rules(load_config(running.home / "config.toml"))
    assert list(replayed(list(observations(recorded)), policy, decided[-1].at_us)) == decided
