"""A worker that waits without a model, and takes the place of one that died."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lmx_ledger.daemon.standby import Standby
from lmx_ledger.ledger.writer import Ledger
from tests.conftest import RunningDaemon


async def until_there(standby: Standby, but: int | None = None) -> int:
    patience = time.monotonic() + 60
    while (pid := standby.pid) is None or pid == but:
        assert time.monotonic() < patience
        await asyncio.sleep(0.02)
    return pid


async def test_what_is_taken_is_replaced_and_what_waits_ends_with_it(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.db", boot="boot-a", synchronous="NORMAL")
    standby = Standby(ledger, "builtin", after_s=0)
    keeping = asyncio.create_task(standby.run())
    first = await until_there(standby)
    taken = standby.take()
    assert taken is not None
    assert (taken.pid, taken.alive) == (first, True)
    second = await until_there(standby, but=first)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert standby.take() is None
    assert not psutil.pid_exists(second)
    assert taken.alive
    await taken.stop()
    ledger.close()


def test_a_dead_worker_is_followed_by_the_standby(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    daemon = start_daemon(model_config)
    ready = daemon.wait_event("engine.standby_ready")
    (model,) = [model for model in daemon.get("/lmx/models")["models"] if model["id"] == "chain"]
    os.kill(model["worker_pid"], signal.SIGKILL)
    daemon.wait_event("engine.restarted", model="chain")
    assert daemon.events(type="engine.started")[-1]["data"]["pid"] == ready["data"]["pid"]
    assert daemon.chat(model="chain", temperature=0).status_code == 200


def test_there_is_none_where_none_is_wanted(start_daemon: Callable[[str], RunningDaemon], model_config: str) -> None:
    daemon = start_daemon(model_config.replace("[engine]\n", "[engine]\nstandby = false\n"))
    time.sleep(7)
    assert daemon.events(type="engine.standby_ready") == []
