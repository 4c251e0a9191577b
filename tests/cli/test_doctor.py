"""The doctor finds what is wrong and says how to mend it."""

import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lmx_ledger.cli import checks
from lmx_ledger.cli.connection import Connection
from lmx_ledger.core.config import Config
from tests.cli.parts import document, lmx, nowhere, queued, write_ledger


def test_a_machine_that_can_serve_passes(tmp_path: Path) -> None:
    write_ledger(tmp_path, queued(1))
    report = document(lmx("doctor", "--json", "--url", nowhere(), home=tmp_path))
    assert report["ok"] is True
    rows = {row["name"]: row for row in report["checks"]}
    assert {"python", "mlx", "config", "memory", "home", "disk", "port", "sensors", "sqlite", "ledger"} <= set(rows)
    assert rows["mlx"]["state"] == rows["ledger"]["state"] == "ok"
    assert "1 events" in rows["ledger"]["found"]
    assert all(row["mend"] for row in report["checks"] if row["state"] != "ok")


def test_what_fails_is_status_1_and_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nprot = 1\n")
    done = lmx("doctor", "--url", nowhere(), home=tmp_path)
    assert done.returncode == 1
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert "config.toml:2" in row
    assert "prot" in row
    assert "(config)" in done.stderr


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 40, 1), "warn"),
        ((3, 44, 5), "warn"),
        ((3, 44, 6), "ok"),
        ((3, 45, 0), "warn"),
        ((3, 50, 6), "warn"),
        ((3, 50, 7), "ok"),
        ((3, 51, 0), "warn"),
        ((3, 51, 2), "warn"),
        ((3, 51, 3), "ok"),
        ((3, 52, 0), "ok"),
    ],
)
def test_the_sqlite_versions_with_the_wal_reset_bug_are_known(version: tuple[int, int, int], state: str) -> None:
    assert checks.sqlite(version).state == state


def test_an_altered_event_is_found(tmp_path: Path) -> None:
    file = write_ledger(tmp_path, queued(1), queued(2), queued(3))
    with closing(sqlite3.connect(file)) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("UPDATE event SET data = '{}' WHERE seq = 2")
        connection.commit()
    row = checks.ledger(file)
    assert row.state == "fail"
    assert "event 2" in row.found
    assert row.mend


def test_whoever_holds_the_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        free = checks.port(tmp_path, Config(), Connection(f"http://127.0.0.1:{port}"))
        assert free.state == "fail"
        assert str(port) in free.found
    assert checks.port(tmp_path, Config(), Connection(nowhere())).state == "ok"


def test_a_home_that_cannot_be_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert checks.writable(tmp_path / "file").state == "fail"
    assert checks.writable(tmp_path / "file" / "below").state == "fail"
    assert checks.writable(tmp_path / "new" / "deep").state == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="what a Mac has is asked of a Mac")
def test_the_sensors_that_a_machine_has_are_named_and_those_that_it_lacks(tmp_path: Path) -> None:
    bare = checks.sensors(tmp_path)
    assert (bare.state, bare.found.split(";")[0]) == ("ok", "none")
    for file in ("proc/pressure/memory", "proc/vmstat", "sys/class/thermal/thermal_zone0/temp"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    row = checks.sensors(tmp_path)
    assert row.found == "memory pressure (PSI), swap rates, thermal zones (1); not there: GPU (NVML)"
