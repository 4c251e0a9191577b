"""`lmx ledger`: verify, archive, export and stats, on files of their own."""

import json
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from lmx_ledger.bench.served import served_requests
from lmx_ledger.core.clock import utc_us
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place
from tests.cli.parts import document, lmx, queued, write_ledger

COUNT = 6 * BLOCK
HOUR_US = 3_600_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A ledger whose older half is a day old."""
    file = tmp_path / "ledger.db"
    migrate(file)
    ledger = LedgerFile(file, "NORMAL", "boot-a")
    now = utc_us()
    load = enumerate(islice(served_requests(), COUNT))
    ledger.append(
        [draft(Place(), e, now - HOUR_US + n if n >= COUNT // 2 else now - 24 * HOUR_US + n) for n, e in load]
    )
    ledger.close()
    return tmp_path


def test_a_good_ledger_verifies_with_its_head(home: Path) -> None:
    done = lmx("ledger", "verify", home=home)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT:,} events verify; head {COUNT} " in done.stdout
    assert f"1 signed head agrees, up to event {COUNT}" in done.stdout


def test_the_first_wrong_event_is_named_and_the_status_says_so(home: Path) -> None:
    with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET severity = 50 WHERE seq = 700")
    done = lmx("ledger", "verify", home=home)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "wrong from event 700 on" in done.stderr
    told = lmx("ledger", "verify", "--json", home=home)
    assert told.returncode == 1
    assert json.loads(told.stdout)["bad_seq"] == 700


def test_the_old_half_is_sealed_and_all_of_it_is_exported_as_before(home: Path) -> None:
    before = lmx("ledger", "export", home=home).stdout.splitlines()
    assert [json.loads(line)["seq"] for line in before] == list(range(1, COUNT + 1))
    sealed = document(lmx("ledger", "archive", "--before", "2h", "--json", home=home))
    assert sealed["events"] == COUNT // 2 - 1
    assert [file.name for file in (home / "segments").iterdir()] == sealed["segments"]
    after = lmx("ledger", "export", home=home).stdout.splitlines()
    assert after[:COUNT] == before
    assert [json.loads(line)["type"] for line in after[COUNT:]] == ["ledger.sealed", "ledger.archived"]
    asked = lmx("events", "--limit", "100000", home=home)
    assert f"events up to {COUNT // 2 - 1:,} are sealed and were not asked" in asked.stderr
    assert "were not asked" not in lmx("events", "--limit", "5", home=home).stderr
    assert "were not asked" not in lmx("events", "--since", "1h", "--limit", "100000", home=home).stderr
    assert "in 1 segment;" in lmx("ledger", "verify", home=home).stdout
    stats = document(lmx("ledger", "stats", "--json", home=home))
    assert (stats["events"], stats["sealed_events"], stats["segments"]) == (COUNT + 2, COUNT // 2 - 1, 1)
    assert sum(row["events"] for row in stats["types"]) == COUNT // 2 + 3


def test_nothing_is_due_is_said(home: Path) -> None:
    done = lmx("ledger", "archive", home=home)
    assert done.returncode == 0, done.stderr
    assert "nothing is due" in done.stdout
    assert not (home / "segments").exists()


def test_retention_by_size_is_kept_when_it_is_asked_for(home: Path) -> None:
    (home / "config.toml").write_text('[ledger]\nretention = "500KB"\n')
    assert document(lmx("ledger", "archive", "--json", home=home))["events"] > BLOCK
    assert lmx("ledger", "verify", home=home).returncode == 0


def test_a_retention_that_is_none_is_refused(home: Path) -> None:
    (home / "config.toml").write_text('[ledger]\nretention = "a while"\n')
    done = lmx("ledger", "archive", home=home)
    assert done.returncode == 1
    assert "write it like 90d, 4GB" in done.stderr


def test_cloud_events_have_what_the_specification_asks_for(tmp_path: Path) -> None:
    write_ledger(tmp_path, queued(1))
    (line,) = lmx("ledger", "export", "--format", "cloudevents", home=tmp_path).stdout.splitlines()
    told = json.loads(line)
    assert (told["specversion"], told["type"], told["seq"]) == ("1.0", "lmx.request.queued", 1)
    assert {"id", "source", "time", "subject", "datacontenttype", "data"} <= told.keys()
    assert all(name.islower() and name.isalnum() for name in told)
    assert None not in told.values()


def test_a_window_of_time_is_exported(home: Path) -> None:
    lines = lmx("ledger", "export", "--since", "2h", home=home).stdout.splitlines()
    assert len(lines) == COUNT // 2
    assert lmx("ledger", "export", "--until", "48h", home=home).stdout == ""
    assert lmx("ledger", "export", "--since", "soon", home=home).returncode == 2


def test_a_missing_segment_is_named_by_verify_and_by_export(home: Path) -> None:
    assert lmx("ledger", "archive", "--before", "2h", home=home).returncode == 0
    (file,) = (home / "segments").iterdir()
    file.unlink()
    for command in ("verify", "export"):
        done = lmx("ledger", command, home=home)
        assert done.returncode == 1
        assert f"{file.name} is missing; put it back" in done.stderr


@pytest.mark.parametrize("command", ["verify", "archive", "export", "stats"])
def test_no_ledger_is_one_line(tmp_path: Path, command: str) -> None:
    done = lmx("ledger", command, home=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "there is no ledger yet" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_ledger_is_good_and_says_so(tmp_path: Path) -> None:
    migrate(tmp_path / "ledger.db")
    assert "0 events verify; head 0" in lmx("ledger", "verify", home=tmp_path).stdout
    assert lmx("ledger", "export", home=tmp_path).stdout == ""
    assert "events    0" in lmx("ledger", "stats", home=tmp_path).stdout


@pytest.mark.parametrize("command", ["verify", "archive", "export", "stats"])
def test_the_ledger_of_another_machine_is_not_read_here(home: Path, command: str) -> None:
    done = lmx("ledger", command, "--url", "http://192.0.2.1:3456", home=home)
    assert done.returncode == 1
    assert "its ledger is a file on 192.0.2.1; run this there" in done.stderr
