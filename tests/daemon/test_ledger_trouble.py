"""A daemon whose ledger cannot be written says so where its operator looks, and serves on."""

import resource
import sys
from collections.abc import Callable

import pytest

from tests.conftest import RunningDaemon, eventually


def error_of(daemon: RunningDaemon) -> str:
    return daemon.get("/lmx/status")["ledger"]["error"] or ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the files of a process that runs")
async def test_a_full_disk_is_said_at_once_and_again_when_it_is_over(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    own = start_daemon(model_config)
    before = own.get("/lmx/status")["ledger"]
    assert (before["error"], before["lost"]) == (None, 0)
    limits = resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE)
    size = (own.home / "ledger.db-wal").stat().st_size
    resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
    assert own.chat(model="chain").status_code == 200
    await eventually(lambda: bool(error_of(own)))
    assert own.get("/lmx/status")["ledger"]["queue"] > 0
    assert own.log.read_text().count("lmx: the ledger cannot be written: ") == 1
    resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, limits)
    await eventually(lambda: not error_of(own))
    assert own.log.read_text().count("lmx: the ledger is written again, up to event ") == 1
    assert [event["data"]["status"] for event in own.events(type="request.finished")] == [200]
    assert own.stop() == 0


async def test_events_that_are_lost_at_the_end_are_counted_and_the_exit_status_says_so(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    own = start_daemon(model_config)
    (own.home / "ledger.db").rename(own.home / "away.db")
    assert own.chat(model="chain").status_code == 200
    await eventually(lambda: "is gone; put it back" in error_of(own))
    assert own.stop() == 1
    last = own.log.read_text().splitlines()[-1]
    assert last.startswith("lmx: ")
    assert "events of this run are lost" in last
    assert "ledger.db is gone; put it back" in last
    assert int(last.split()[1]) >= 4
    assert "Traceback" not in own.log.read_text()
