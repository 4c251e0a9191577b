"""`lmx replay`: with a daemon and without, under the rules that were and under others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lmx_ledger.bench.model import Shape, write_bench_model
from lmx_ledger.cli.main import lmx
from lmx_ledger.core.clock import rfc3339, utc_us
from tests.conftest import RunningDaemon
from tests.daemon.test_budget import MB, ask, config, text

Start = Callable[[str], RunningDaemon]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(lmx, ["replay", *arguments])


def told(*arguments: str) -> dict[str, Any]:
    done = run("--json", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def storm(start_daemon: Start, tmp_path: Path) -> RunningDaemon:
    """Two models that do not fit together, asked by turns."""
    model = write_bench_model(tmp_path / "six", Shape(6))
    running = start_daemon(config(46 * MB, ("a", model, ""), ("b", model, "")))
    for n in range(4):
        text(ask(running, "ab"[n % 2], n))
    return running


def test_a_storm_is_decided_again_as_it_was_and_does_not_come_with_more_memory(storm: RunningDaemon) -> None:
    here = ("--url", storm.url)
    same = told(*here)
    assert same["decisions"] > 3
    assert (same["different"], same["differences"]) == (0, [])
    now_us = utc_us()
    stretch = (*here, "--since", rfc3339(now_us - 3_600_000_000), "--until", rfc3339(now_us))
    roomy = told(*stretch, "--set", "memory.limit=200MB")
    plans = [row for row in roomy["differences"] if row["kind"] == "plan"]
    assert len(plans) == len(storm.events(type="paging.planned"))
    assert {row["replayed"] for row in plans} == {None}
    shown = run(*stretch, "--set", "memory.limit=200MB").stdout
    assert "With memory.limit = 200000000:" in shown
    assert storm.stop() == 0
    assert told("--home", str(storm.home), *stretch, "--set", "memory.limit=200MB") == roomy


def test_nothing_decided_is_said_and_what_cannot_be_set_is_refused(daemon: RunningDaemon) -> None:
    here = ("--url", daemon.url)
    quiet = run(*here, "--since", "2000-01-01T00:00:00Z", "--until", "2000-01-02T00:00:00Z")
    assert "0 decisions, 0 of them different" in quiet.stdout
    for given, why in (
        ("memory.wired=true", "a replay cannot set 'memory.wired'"),
        ("memory.page_at=much", "memory.page_at"),
        ("memory.page_at=0.1", "page_to (0.75) cannot be above page_at (0.1)"),
        ("memory.page_at", "is no KEY=VALUE"),
    ):
        wrong = run(*here, "--set", given)
        assert wrong.exit_code != 0
        assert why in wrong.output
    assert daemon.post("/lmx/replay", {"set": {"a": 1}}).status_code == 400
