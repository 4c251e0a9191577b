"""The chain finds what was changed, and the database refuses the change."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lmx_ledger.ledger.chain import GENESIS, broken_in
from tests.ledger.parts import queued, stopped, verdict_of, write

TRIGGERS = ("event_no_update", "event_no_delete", "event_only_next", "name_no_update", "name_no_delete", "head_only_on")


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def ten(path: Path) -> Path:
    write(path, *(queued(i, model="m0") for i in range(9)), stopped())
    return path


def test_an_empty_ledger_verifies_and_its_head_is_the_genesis(path: Path) -> None:
    write(path)
    assert verdict_of(path) == (True, 0, 0, GENESIS, None, None)


def test_what_was_written_verifies(ten: Path) -> None:
    verdict = verdict_of(ten)
    assert verdict.ok
    assert (verdict.events, verdict.head_seq, verdict.bad_seq) == (10, 10, None)


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE event SET data = '{"position":7,"running":1}' WHERE seq = 4""",
        "UPDATE event SET time_us = time_us + 1 WHERE seq = 4",
        "UPDATE event SET request = 'req_b' WHERE seq = 4",
        "UPDATE event SET cause = 1 WHERE seq = 4",
        "UPDATE event SET severity = 50 WHERE seq = 4",
        "UPDATE event SET stream = -9 WHERE seq = 4",
        "UPDATE event SET type = 99 WHERE seq = 4",
        "UPDATE event SET hash = zeroblob(32) WHERE seq = 4",
        "UPDATE event SET data = CAST(x'ff' AS TEXT) WHERE seq = 4",
        "DELETE FROM event WHERE seq = 4",
    ],
)
def test_a_changed_or_missing_event_is_named(ten: Path, change: str) -> None:
    tamper(ten, change)
    verdict = verdict_of(ten)
    assert not verdict.ok
    assert (verdict.events, verdict.bad_seq) == (3, 4)
    assert "4" in (verdict.reason or "")


@pytest.mark.parametrize(
    ("change", "seq", "reason"),
    [
        ("UPDATE span SET last_us = first_us", 1, "hide it from questions"),
        ("DELETE FROM span_model", 1, "hide it from questions"),
        ("INSERT INTO span_model VALUES (1, 0)", 1, "hide it from questions"),
        ("DELETE FROM span", 1, "hide it from questions"),
        ("UPDATE head SET seq = 3", 11, "there are 3 events"),
        ("DELETE FROM event WHERE seq > 7", 8, "there are 10 events"),
    ],
)
def test_what_is_kept_beside_the_events_must_agree_with_them(ten: Path, change: str, seq: int, reason: str) -> None:
    tamper(ten, change)
    verdict = verdict_of(ten)
    assert not verdict.ok
    assert verdict.bad_seq == seq
    assert reason in (verdict.reason or "")


def test_two_events_that_changed_places_are_found(ten: Path) -> None:
    tamper(
        ten,
        "UPDATE event SET seq = 100 WHERE seq = 5",
        "UPDATE event SET seq = 5 WHERE seq = 6",
        "UPDATE event SET seq = 6 WHERE seq = 100",
    )
    assert verdict_of(ten).bad_seq == 5


def test_a_changed_name_is_found_where_it_is_first_used(ten: Path) -> None:
    tamper(ten, "UPDATE name SET text = 'm1' WHERE text = 'm0'")
    assert verdict_of(ten).bad_seq == 1


def test_a_torn_file_is_a_verdict_and_no_crash(ten: Path) -> None:
    size = ten.stat().st_size
    with ten.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    verdict = verdict_of(ten)
    assert not verdict.ok
    assert verdict.bad_seq == 1


def test_what_is_ignored_changes_nothing(ten: Path) -> None:
    with closing(sqlite3.connect(ten, isolation_level=None)) as connection:
        connection.execute("INSERT OR IGNORE INTO event SELECT * FROM event WHERE seq = 3")
    assert verdict_of(ten).events == 10


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET v = 2 WHERE seq = 10",
        "DELETE FROM event WHERE seq = 10",
        "DELETE FROM event",
        "INSERT OR REPLACE INTO event SELECT * FROM event WHERE seq = 10",
        "REPLACE INTO event SELECT 5, time_us, boot, type, v, severity, stream, request, session, model, incident, "
        "cause, data, hash FROM event WHERE seq = 10",
        "INSERT INTO event SELECT 0, time_us, boot, type, v, severity, stream, request, session, model, incident, "
        "cause, data, hash FROM event WHERE seq = 10",
        "UPDATE head SET seq = 9",
        "UPDATE head SET id = 2, seq = 11",
        "DELETE FROM head",
        "REPLACE INTO head VALUES (1, 3)",
        "UPDATE name SET text = 'x' WHERE id = 1",
        "DELETE FROM name WHERE id = 1",
        "REPLACE INTO name VALUES (1, 'x')",
        "REPLACE INTO name SELECT 77, text FROM name WHERE id = 1",
    ],
)
@pytest.mark.parametrize("recursive", ["ON", "OFF"])
def test_the_database_itself_refuses_to_change_the_past(ten: Path, statement: str, recursive: str) -> None:
    with closing(sqlite3.connect(ten, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA recursive_triggers={recursive}")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    assert verdict_of(ten).events == 10


def test_a_stretch_of_the_chain_is_looked_at_alone(ten: Path) -> None:
    tamper(ten, "UPDATE event SET severity = 50 WHERE seq = 6")
    with closing(sqlite3.connect(ten)) as connection:
        found = [broken_in(connection, first, last) for first, last in ((1, 10), (1, 5), (6, 9), (7, 10), (4, 5))]
        # Whether an event is as written says the hash of the one before it, which nobody has changed.
        assert found == [6, None, 6, None, None]
        connection.execute("DELETE FROM event WHERE seq = 3")
        assert broken_in(connection, 1, 5) == 4
        assert broken_in(connection, 20, 30) is None
