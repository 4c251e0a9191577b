"""Keepers: what is tried again and what is not, and that nobody waits for a model that will never come."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from lmx_ledger.core import events as ev
from lmx_ledger.core.config import Config
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.budget import Budget
from lmx_ledger.daemon.paging import Pager
from lmx_ledger.daemon.supervisor import ModelKeeper, Supervisor
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.memory.shared import SharedAccount
from lmx_ledger.serving.models import ModelState, ModelTable, ServedModel
from lmx_ledger.serving.queue import AdmissionQueue
from lmx_ledger.serving.service import Serving
from tests.conftest import RunningDaemon, eventually, free_port


def test_a_model_that_is_not_loaded_in_time_has_failed_for_that_reason_and_is_not_tried_again(
    tmp_path: Path, random_model: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        f'[server]\nport = {free_port()}\n[storage]\nhome = "{tmp_path}"\n'
        f'[engine]\nload_timeout = "1ms"\n[[models]]\nid = "slow"\npath = "{random_model}"\n'
    )
    command = [sys.executable, "-m", "lmx_ledger.cli", "serve", "start", "--foreground", "--config", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "LMX_HOME"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "lmx: no model could be loaded: slow: loading took longer than 0.001 s; raise [engine] load_timeout"
    )
    reader = Reader.open(tmp_path / "ledger.db")
    assert len(reader.events(EventFilter(types=("engine.started",)))) == 1
    (failed,) = reader.events(EventFilter(types=("model.load_failed",)))
    assert "longer than 0.001 s" in failed.data["error"]
    reader.close()


@contextmanager
def taken_away(folder: Path) -> Iterator[None]:
    away = folder.rename(folder.with_name("away"))
    yield
    away.rename(folder)


def readiness(daemon: RunningDaemon) -> dict[str, str]:
    found: dict[str, str] = httpx.get(f"{daemon.url}/readyz").json()
    return found


async def test_a_model_that_has_served_is_tried_until_its_folder_can_be_read_again(
    start_daemon: Callable[[str], RunningDaemon], tmp_path: Path, random_model: Path
) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "moving"))
    own = start_daemon(f'[engine]\nblas = "builtin"\n[[models]]\nid = "moving"\npath = "{folder}"\n')
    with taken_away(folder):
        (pid,) = own.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: readiness(own)["status"] == "unavailable")
        assert readiness(own)["reason"].startswith("moving: ")
        assert "is no folder" in readiness(own)["reason"]
        refused = own.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert "is no folder" in own.wait_event("model.load_failed")["data"]["error"]
    await eventually(lambda: readiness(own)["status"] == "ok", patience_s=60)
    assert own.chat(max_tokens=2).status_code == 200
    assert own.stop() == 0


class Faulty(ModelKeeper):
    """A keeper with a mistake in it."""

    async def _load(self, reason: str, cause: ev.Cause) -> bool:
        raise ZeroDivisionError("a mistake of ours")


async def test_a_keeper_that_fails_leaves_its_model_failed_and_nobody_waiting(tmp_path: Path) -> None:
    config = Config()
    ledger = Ledger.open(tmp_path / "ledger.db", boot="b", synchronous="NORMAL")
    model = ServedModel("m0", "nowhere", [], AdmissionQueue(1, 1))
    table = ModelTable([model])
    place = model.queue.enter(1)
    settings = Settings(config)
    shared = SharedAccount(tmp_path, "b")
    pager = Pager(ledger)
    budget = Budget(Accounts(table, settings, pager, shared, lambda: 10**9), table, ledger, settings, pager)
    keeper = Faulty(model, Serving(table, ledger, settings), ledger, config, budget=budget)
    supervisor = Supervisor([keeper])
    supervisor.start(None)
    async with asyncio.timeout(20):
        await supervisor.settled()
    assert model.state is ModelState.FAILED
    assert table.readiness() == ("unavailable", "m0: its keeper failed: ZeroDivisionError: a mistake of ours")
    assert "its keeper failed" in str(place.admitted.exception())
    await supervisor.stop()
    ledger.close()
    reader = Reader.open(tmp_path / "ledger.db")
    (failed,) = reader.events(EventFilter(types=("model.load_failed",)))
    assert "a mistake of ours" in failed.data["error"]
    reader.close()
