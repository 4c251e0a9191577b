"""The whole ledger held against itself, in good days and after anything was changed."""

import random
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from lmx_ledger.bench.served import served_requests
from lmx_ledger.ledger import heads
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.audit import audit
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import seal_through
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place


@pytest.fixture
def sealed(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six blocks of events, four of them in two segments, a signed head in every block."""
    monkeypatch.setattr(heads, "EVERY_EVENTS", BLOCK)
    monkeypatch.setattr(sealing, "KEPT", 100)
    monkeypatch.setattr(sealing, "LARGEST", 2 * BLOCK)
    migrate(path)
    file = LedgerFile(path, "NORMAL", "boot-a")
    load = list(islice(served_requests(), 6 * BLOCK))
    for at in range(0, len(load), BLOCK):
        group = load[at : at + BLOCK]
        file.append([draft(Place(), event, 1_700_000_000_000_000 + at + n) for n, event in enumerate(group)])
    file.close()
    assert len(list(seal_through(path, 4 * BLOCK))) == 2
    return path


def test_all_of_it_is_held_against_itself(sealed: Path) -> None:
    found = audit(sealed)
    assert found.ok, found.reason
    assert (found.events, found.sealed, found.segments) == (6 * BLOCK, 4 * BLOCK - 1, 2)
    assert (found.heads, found.signed_seq, found.unsigned) == (6, 6 * BLOCK, 0)


@pytest.mark.parametrize("seed", range(12))
def test_a_change_anywhere_in_the_events_is_found_no_later_than_where_it_is(sealed: Path, seed: int) -> None:
    seq = random.Random(seed).randrange(4 * BLOCK, 6 * BLOCK)
    column, value = random.Random(seed).choice(
        [("severity", "77"), ("time_us", "time_us + 1"), ("data", "'{}'"), ("cause", "1"), ("v", "9"), ("type", "2")]
    )
    with closing(sqlite3.connect(sealed, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        before = connection.execute(f"SELECT {column} FROM event WHERE seq = {seq}").fetchone()
        connection.execute(f"UPDATE event SET {column} = {value} WHERE seq = {seq}")
        changed = connection.execute(f"SELECT {column} FROM event WHERE seq = {seq}").fetchone() != before
    found = audit(sealed)
    assert found.ok is not changed
    assert not changed or found.bad_seq == seq


@pytest.mark.parametrize("at", [0.0, 0.3, 0.99])
def test_a_flipped_byte_in_a_segment_is_found(sealed: Path, at: float) -> None:
    file = sorted((sealed.parent / "segments").iterdir())[1]
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 0x40
    file.write_bytes(content)
    found = audit(sealed)
    assert (found.ok, found.bad_seq) == (False, 2 * BLOCK)
    assert file.name in (found.reason or "")


def test_a_missing_segment_is_named(sealed: Path) -> None:
    sorted((sealed.parent / "segments").iterdir())[0].unlink()
    found = audit(sealed)
    assert (found.ok, found.bad_seq, found.events) == (False, 1, 0)
    assert "missing; put it back" in (found.reason or "")


def test_a_signed_head_within_a_segment_is_looked_up_there(sealed: Path) -> None:
    lines = heads.heads_path(sealed).read_text().splitlines()
    heads.heads_path(sealed).write_text(lines[1] + "\n")
    found = audit(sealed)
    assert (found.ok, found.heads, found.signed_seq) == (True, 1, 2 * BLOCK)
    assert found.unsigned == 4 * BLOCK
