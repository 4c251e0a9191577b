"""Signed heads: a ledger that was written anew, or cut off, is noticed."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from lmx_ledger.ledger import heads
from lmx_ledger.ledger.heads import check, heads_path, key_path
from lmx_ledger.ledger.store import LedgerUnusable
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import queued, verdict_of, write, writing


def verdict(path: Path) -> heads.HeadsVerdict:
    with closing(sqlite3.connect(path)) as connection:

        def hash_at(seq: int) -> bytes | None:
            row = connection.execute("SELECT hash FROM event WHERE seq = ?", (seq,)).fetchone()
            return row[0] if row else None

        return check(path, hash_at)


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_a_run_signs_its_last_event_for_its_owner_alone(path: Path) -> None:
    write(path, *(queued(i) for i in range(5)))
    assert verdict(path) == (True, 1, 5, None, None)
    assert {stat.S_IMODE(file(path).stat().st_mode) for file in (heads_path, key_path)} == {0o600}


def test_heads_are_signed_as_events_come(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "EVERY_EVENTS", 100)
    with writing(path) as ledger:
        for _ in range(10):
            for i in range(60):
                ledger.emit(queued(i))
            assert ledger.flush(30)
        assert verdict(path).heads == 5
    assert verdict(path) == (True, 5, 600, None, None)


def test_a_ledger_that_was_written_anew_is_noticed(path: Path) -> None:
    write(path, *(queued(i) for i in range(5)))
    remove(path)
    write(path, *(queued(i + 1) for i in range(9)))
    assert verdict_of(path).ok
    found = verdict(path)
    assert (found.ok, found.bad_seq) == (False, 5)
    assert "rewritten" in (found.reason or "")


def test_a_ledger_that_was_cut_off_is_noticed(path: Path) -> None:
    write(path, *(queued(i) for i in range(5)))
    remove(path)
    write(path, queued(0))
    found = verdict(path)
    assert (found.ok, found.bad_seq) == (False, 5)
    assert "not there any more" in (found.reason or "")


def test_a_head_that_was_signed_with_another_key_is_noticed(path: Path) -> None:
    write(path, *(queued(i) for i in range(5)))
    key_path(path).write_bytes(os.urandom(32))
    assert "not signed with this key" in (verdict(path).reason or "")


def test_a_lost_key_is_said(path: Path) -> None:
    write(path, queued())
    key_path(path).unlink()
    assert "cannot be read" in (verdict(path).reason or "")


@pytest.mark.parametrize("kept", [1, 40, 150])
def test_a_line_that_was_cut_short_spoils_neither_the_one_before_nor_the_one_behind(path: Path, kept: int) -> None:
    write(path, queued(0))
    line = heads_path(path).read_bytes()
    with heads_path(path).open("ab") as file:
        file.write(line[:kept])
    write(path, queued(1))
    assert verdict(path) == (True, 2, 2, None, None)


def test_a_head_that_cannot_be_signed_is_told_once_and_stops_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "EVERY_EVENTS", 1)
    heads_path(path).mkdir()
    told: list[str] = []
    ledger = Ledger.open(path, boot="b", synchronous="NORMAL", notice=told.append)
    for i in range(5):
        ledger.emit(queued(i))
        assert ledger.flush(30)
    assert ledger.close()
    assert verdict_of(path).events == 5
    (line,) = told
    assert "cannot be signed" in line
    assert "Is a directory" in line


def test_the_key_is_to_be_had_and_made_only_where_nothing_was_signed(path: Path) -> None:
    with pytest.raises(LedgerUnusable, match="a daemon makes it within a minute of its first start"):
        heads.key_of(path)
    made = heads.key_of(path, make=True)
    assert heads.key_of(path) == heads.key_of(path, make=True) == made
    assert len(made) == 32
    assert stat.S_IMODE(key_path(path).stat().st_mode) == 0o600


def test_a_key_that_was_lost_is_not_made_anew_because_that_would_deny_every_signed_head(path: Path) -> None:
    write(path, queued(1))
    key_path(path).unlink()
    for make in (False, True):
        with pytest.raises(LedgerUnusable, match="there is no such key; put it back from a copy"):
            heads.key_of(path, make=make)
    assert not key_path(path).exists()


def test_a_key_that_is_none_or_not_for_us_is_said(path: Path) -> None:
    write(path, queued(1))
    key_path(path).write_bytes(b"short")
    with pytest.raises(LedgerUnusable, match="is no key: 5 bytes instead of 32"):
        heads.key_of(path)
    key_path(path).unlink()
    key_path(path).mkdir()
    with pytest.raises(LedgerUnusable, match="the key cannot be read"):
        heads.key_of(path)
