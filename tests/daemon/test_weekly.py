"""The digest of each week, written once: soon after it ended, at the next start, and by one daemon of several."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.week import DAY_US, WEEK_US, week_before
from lmx_ledger.daemon import weekly as weekly_module
from lmx_ledger.daemon.weekly import Weekly
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.digest.model import Digest
from lmx_ledger.report.digest.write import read_json, write_digest
from lmx_ledger.report.write import Written
from tests.conftest import RunningDaemon, eventually
from tests.report.digest import parts
from tests.report.digest.parts import WEEK

MONDAY_US = WEEK.until_us + 5 * 60_000_000
NAME = "digest-2026-W11"


class Home:
    """A ledger, a folder of reports, and the jobs of several daemons."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports = folder / "reports"
        self.notices: list[str] = []
        self._open: list[Reader] = []
        self._jobs: list[Weekly] = []

    def job(self) -> Weekly:
        reader = Reader.open(self.folder / "ledger.db")
        self._open.append(reader)
        job = Weekly(self.folder / "ledger.db", reader, lambda: self.reports, self.notices.append)
        self._jobs.append(job)
        return job

    @property
    def document(self) -> Digest:
        return read_json((self.reports / f"{NAME}.json").read_bytes())

    def close(self) -> None:
        for reader in self._open:
            reader.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    parts.write(tmp_path, parts.two_weeks())
    home = Home(tmp_path)
    yield home
    home.close()


async def test_a_week_that_has_ended_gets_its_digest_once(home: Home) -> None:
    job = home.job()
    assert await job.look(MONDAY_US)
    assert {file.name for file in home.reports.iterdir()} == {
        *(f"{NAME}.json", f"{NAME}.md", f"{NAME}.html", "index.html")
    }
    assert home.document == parts.made(home.folder / "ledger.db")
    assert not await job.look(MONDAY_US)
    assert not await home.job().look(MONDAY_US)
    assert home.notices == []


async def test_while_a_week_goes_on_it_has_none(home: Home) -> None:
    assert await home.job().look(WEEK.until_us - 1)
    assert [file.name for file in home.reports.glob("digest-*.json")] == ["digest-2026-W10.json"]


async def test_a_daemon_that_was_off_then_writes_it_at_its_next_start(home: Home) -> None:
    assert await home.job().look(MONDAY_US + 6 * DAY_US)
    assert home.document.header.whole


async def test_of_a_week_that_the_ledger_has_nothing_of_there_is_none(home: Home) -> None:
    assert not await home.job().look(MONDAY_US + 3 * WEEK_US)
    assert not home.reports.exists()


async def test_a_clock_that_jumped_writes_nothing_of_the_time_that_it_claims(home: Home) -> None:
    job = home.job()
    assert not await job.look(MONDAY_US + 500 * WEEK_US)
    assert await job.look(MONDAY_US)
    assert home.document.header.week == "2026-W11"


async def test_a_digest_that_was_written_before_all_of_the_week_was_there_is_written_anew(home: Home) -> None:
    early = home.folder / "early"
    wednesday = [event for event in parts.two_weeks() if event.time_us < WEEK.since_us + 3 * DAY_US]
    write_digest(home.reports, parts.made(parts.write(early, wednesday)))
    assert not home.document.header.whole
    assert await home.job().look(MONDAY_US)
    assert home.document == parts.made(home.folder / "ledger.db")


async def test_events_that_came_late_are_in_it_after_the_next_start(home: Home) -> None:
    full = parts.made(home.folder / "ledger.db")
    fewer = parts.made(parts.write(home.folder / "fewer", parts.two_weeks()[:-40]))
    header = msgspec.structs.replace(fewer.header, whole=True)
    write_digest(home.reports, msgspec.structs.replace(fewer, header=header))
    assert await home.job().look(MONDAY_US)
    assert home.document == full


async def test_a_digest_of_another_ledger_in_the_same_folder_is_left_as_it_is(home: Home) -> None:
    other = [msgspec.structs.replace(event, session="other") for event in parts.two_weeks()]
    theirs = parts.made(parts.write(home.folder / "other", other))
    write_digest(home.reports, theirs)
    assert not await home.job().look(MONDAY_US)
    assert home.document == theirs


async def test_whoever_deletes_it_does_not_get_it_again_before_a_restart(home: Home) -> None:
    job = home.job()
    assert await job.look(MONDAY_US)
    (home.reports / f"{NAME}.json").unlink()
    assert not await job.look(MONDAY_US)
    job._lock.release()
    assert await home.job().look(MONDAY_US)


async def test_a_file_that_is_no_digest_any_more_is_replaced(home: Home) -> None:
    home.reports.mkdir()
    (home.reports / f"{NAME}.json").write_text("{")
    assert await home.job().look(MONDAY_US)
    assert home.document.header.week == "2026-W11"


async def test_of_two_daemons_one_writes_and_the_other_one_takes_over(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote: list[str] = []

    def noted(folder: Path, document: Digest) -> Written:
        wrote.append(document.header.name)
        return write_digest(folder, document)

    monkeypatch.setattr(weekly_module, "write_digest", noted)
    one, other = home.job(), home.job()
    await asyncio.gather(one.look(MONDAY_US), other.look(MONDAY_US))
    assert wrote == ["2026-W11"]
    for job in (one, other):
        job._lock.release()
    (home.reports / f"{NAME}.json").unlink()
    assert await other.look(MONDAY_US) or await one.look(MONDAY_US)
    assert wrote == ["2026-W11"] * 2


async def test_a_folder_that_cannot_be_written_is_said_once_and_tried_again(home: Home) -> None:
    home.reports.write_text("a file, where the folder should be")
    job = home.job()
    for _ in range(3):
        assert not await job.look(MONDAY_US)
    (told,) = home.notices
    assert told.startswith("digest of week 2026-W11: the report was not written")
    assert "tried again every hour" in told
    home.reports.unlink()
    assert await job.look(MONDAY_US)
    assert len(home.notices) == 2
    assert home.document.header.week == "2026-W11"


async def test_a_ledger_that_cannot_be_read_is_said_and_stops_nothing(home: Home) -> None:
    job = home.job()
    with closing(sqlite3.connect(home.folder / "ledger.db", isolation_level=None)) as connection:
        connection.execute("ALTER TABLE span RENAME TO gone")
    assert not await job.look(MONDAY_US)
    assert len(home.notices) == 1
    with closing(sqlite3.connect(home.folder / "ledger.db", isolation_level=None)) as connection:
        connection.execute("ALTER TABLE gone RENAME TO span")
    assert await job.look(MONDAY_US)


async def test_it_looks_by_itself_and_lets_go_when_it_is_stopped(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weekly_module, "utc_us", lambda: MONDAY_US)
    job, other = home.job(), home.job()
    running = asyncio.create_task(job.run(first_after_s=0.0))
    await eventually((home.reports / "index.html").exists)
    (home.reports / f"{NAME}.json").unlink()
    assert not await other.look(MONDAY_US)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await other.look(MONDAY_US)


def test_a_daemon_that_starts_behind_a_weekend_writes_what_is_missing(
    start_daemon: Callable[[str], RunningDaemon], model_config: str, tmp_path: Path
) -> None:
    shift_us = week_before(utc_us()).since_us - WEEK.since_us
    events = [msgspec.structs.replace(event, time_us=event.time_us + shift_us) for event in parts.a_week()]
    parts.write(tmp_path / "home0", events)
    running = start_daemon(model_config)
    file = running.home / "reports" / f"digest-{week_before(utc_us()).week}.json"
    running.wait_event("daemon.ready")
    index = running.home / "reports" / "index.html"
    asyncio.run(eventually(index.exists, patience_s=120))
    assert json.loads(file.read_bytes())["header"]["requests"] == 74
    assert "Digests" in index.read_text()
    assert running.stop() == 0, running.log.read_text()
