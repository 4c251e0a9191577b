"""The daemon has its ledger verified by itself, and says what came of it."""

import asyncio
import sqlite3
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import psutil
import pytest

from lmx_ledger.bench.served import served_requests
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.daemon.verifier import Verifier
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger


def filled(path: Path, events: int = 600) -> Ledger:
    ledger = Ledger.open(path, boot="boot-a", synchronous="NORMAL")
    for event in islice(served_requests(), events):
        ledger.emit(event)
    assert ledger.flush(30)
    return ledger


def verified(ledger: Ledger) -> list[Recorded]:
    assert ledger.flush(30)
    reader = Reader.open(ledger.path)
    found = reader.events(EventFilter(types=("ledger.verified",)))
    reader.close()
    return found


async def test_a_good_ledger_is_on_record_as_good(tmp_path: Path) -> None:
    ledger, told = filled(tmp_path / "ledger.db"), list[str]()
    await Verifier(ledger, told.append).verify()
    (found,) = verified(ledger)
    assert (found.data["ok"], found.data["events"], found.severity) == (True, 600, Severity.INFO)
    assert told == []
    ledger.close()


async def test_a_changed_event_is_told_and_recorded_as_critical(tmp_path: Path) -> None:
    ledger, told = filled(tmp_path / "ledger.db"), list[str]()
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET time_us = time_us + 1 WHERE seq = 77")
    await Verifier(ledger, told.append).verify()
    (found,) = verified(ledger)
    assert (found.data["ok"], found.data["bad_seq"], found.severity) == (False, 77, Severity.CRITICAL)
    assert len(told) == 1
    assert "event 77" in told[0]
    ledger.close()


async def test_a_ledger_that_is_gone_is_told_and_nothing_is_raised(tmp_path: Path) -> None:
    ledger, told = filled(tmp_path / "ledger.db"), list[str]()
    ledger.path.rename(tmp_path / "elsewhere.db")
    await Verifier(ledger, told.append).verify()
    assert len(told) == 1
    assert "could not be verified" in told[0]
    ledger.close(0.1)


async def test_a_walk_that_goes_on_when_the_daemon_stops_is_broken_off(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db", 60_000)
    before = set(psutil.Process().children())
    task = asyncio.create_task(Verifier(ledger, pytest.fail).run(first_after_s=0))
    patience = time.monotonic() + 30
    while not (walking := set(psutil.Process().children()) - before):
        assert time.monotonic() < patience
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(child.is_running() for child in walking)
    assert verified(ledger) == []
    ledger.close()
