"""Sealed segments: nothing is lost on the way out of the database, and nothing can be changed afterwards."""

import gzip
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from lmx_ledger.bench.served import served_requests
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.append import Appender, draft
from lmx_ledger.ledger.chain import GENESIS, broken_in
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import BadSegment, Segment, read, seal_through, segments_of
from lmx_ledger.ledger.store import LedgerError, connect, migrate, migrations_folder
from lmx_ledger.ledger.ticket import Place
from tests.ledger.parts import verdict_of

COUNT = 6 * BLOCK
LARGEST = 2 * BLOCK


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "LARGEST", LARGEST)
    monkeypatch.setattr(sealing, "KEPT", 100)


@pytest.fixture
def filled(path: Path) -> Path:
    migrate(path)
    append(path, COUNT)
    return path


def append(path: Path, count: int) -> None:
    file = LedgerFile(path, "NORMAL", "boot-a")
    load = islice(served_requests(), count)
    file.append([draft(Place(), event, 1_700_000_000_000_000 + n) for n, event in enumerate(load)])
    file.close()


def rows(path: Path) -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT seq, hash FROM event ORDER BY seq").fetchall()


def segments(path: Path) -> list[Segment]:
    with closing(sqlite3.connect(path)) as connection:
        return segments_of(connection)


def whole(path: Path) -> Iterator[tuple[int, bytes]]:
    """(seq, hash) of everything, sealed or not."""
    previous = GENESIS
    for segment in segments(path):
        for event, digest in read(path, segment, previous):
            yield event[0], digest
        previous = segment.last_hash
    yield from rows(path)


def test_what_is_sealed_is_the_same_and_out_of_the_database(filled: Path) -> None:
    before = rows(filled)
    done = list(seal_through(filled, 5 * BLOCK))
    assert [(s.first_seq, s.last_seq) for s in done] == [
        (1, LARGEST - 1),
        (LARGEST, 2 * LARGEST - 1),
        (2 * LARGEST, 5 * BLOCK - 1),
    ]
    assert done == segments(filled)
    assert rows(filled) == before[5 * BLOCK - 1 :]
    assert list(whole(filled)) == before
    files = sorted(file.name for file in (filled.parent / "segments").iterdir())
    assert files == [s.file for s in done]
    assert {file.stat().st_mode & 0o777 for file in (filled.parent / "segments").iterdir()} == {0o600}


def test_the_newest_events_are_never_sealed(filled: Path) -> None:
    list(seal_through(filled, 1 << 40))
    assert rows(filled)[0][0] <= COUNT - 100


def test_the_same_events_make_the_same_file(filled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "ledger.db"
    copy.parent.mkdir()
    copy.write_bytes(filled.read_bytes())
    assert list(seal_through(copy, 4 * BLOCK)) == list(seal_through(filled, 4 * BLOCK))


def test_sealing_goes_on_where_it_stopped_and_appending_too(filled: Path) -> None:
    list(seal_through(filled, 2 * BLOCK))
    append(filled, BLOCK)
    list(seal_through(filled, 4 * BLOCK))
    assert [seq for seq, _ in whole(filled)] == list(range(1, COUNT + BLOCK + 1))


@pytest.mark.parametrize("step", ["_write", "_remove", "_sync_folder", "_digest"])
def test_a_crash_at_any_step_loses_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = rows(filled)
    real = getattr(sealing, step)

    class Killed(BaseException):
        pass

    passed = 0
    for passed in range(100):
        calls = itertools.count()

        def dying(*given: object, calls: Iterator[int] = calls, passed: int = passed) -> object:
            if next(calls) == passed:
                raise Killed
            return real(*given)

        monkeypatch.setattr(sealing, step, dying)
        try:
            list(seal_through(filled, 5 * BLOCK))
        except Killed:
            monkeypatch.setattr(sealing, step, real)
            known = segments(filled)
            covered = known[-1].last_seq if known else 0
            live = rows(filled)
            assert [row for row in live if row[0] > covered] == before[covered:]
            continue
        break
    monkeypatch.setattr(sealing, step, real)
    assert list(whole(filled)) == before
    assert passed >= 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM event WHERE seq = 2000",
        "DELETE FROM segment",
        "UPDATE segment SET last_seq = 5000",
        "INSERT INTO segment SELECT last_seq + 1, 3000, 0, 0, last_hash, 'x', sha256, 1 FROM segment",
        "INSERT INTO segment SELECT s.last_seq + 2, 3000, 0, 0, e.hash, 'x', sha256, 1 FROM segment s, event e "
        "WHERE e.seq = 3000",
        "REPLACE INTO segment SELECT * FROM segment",
    ],
)
def test_the_database_itself_refuses_to_delete_what_is_not_sealed(filled: Path, statement: str) -> None:
    list(seal_through(filled, 2 * BLOCK))
    with closing(sqlite3.connect(filled, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
        assert len(segments_of(connection)) == 1


def test_a_broken_chain_is_not_sealed(filled: Path) -> None:
    with closing(sqlite3.connect(filled, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET severity = 50 WHERE seq = 700")
    with pytest.raises(LedgerError, match="broken at event 700"):
        list(seal_through(filled, 5 * BLOCK))
    assert segments(filled) == []
    assert len(rows(filled)) == COUNT
    assert list((filled.parent / "segments").iterdir()) == []


def test_a_changed_or_missing_file_is_named(filled: Path) -> None:
    (sealed,) = seal_through(filled, 2 * BLOCK)
    file = filled.parent / "segments" / sealed.file
    good = file.read_bytes()
    file.write_bytes(good[:-20])
    with pytest.raises(BadSegment, match="SHA-256"):
        list(read(filled, sealed, GENESIS))
    file.write_bytes(good)
    assert len(list(read(filled, sealed, GENESIS))) == sealed.last_seq
    file.unlink()
    with pytest.raises(BadSegment, match="missing"):
        list(read(filled, sealed, GENESIS))


def test_a_segment_that_was_forged_whole_does_not_fit_the_chain(filled: Path) -> None:
    (sealed,) = seal_through(filled, 2 * BLOCK)
    file = filled.parent / "segments" / sealed.file
    lines = gzip.decompress(file.read_bytes()).splitlines()
    lines[5] = lines[5].replace(b"request", b"requesT", 1)
    file.write_bytes(gzip.compress(b"\n".join(lines), mtime=0))
    forged = sealed._replace(sha256=sealing._digest(file)[0])
    with pytest.raises(BadSegment) as caught:
        list(read(filled, forged, GENESIS))
    assert caught.value.seq == 5
    with pytest.raises(BadSegment, match="does not go on"):
        list(read(filled, sealed._replace(sha256=forged.sha256), bytes(32)))


def test_the_live_part_verifies_behind_its_segments(filled: Path) -> None:
    list(seal_through(filled, 5 * BLOCK))
    append(filled, 10)
    verdict = verdict_of(filled)
    assert verdict.ok, verdict.reason
    assert verdict.head_seq == COUNT + 10


def test_a_ledger_of_the_schema_before_is_brought_up_to_date_with_its_events(path: Path) -> None:
    upgrade(path, "0002")
    append_raw(path, 700)
    before = rows(path)
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'event'").fetchone()
    migrate(path)
    assert rows(path) == before
    with closing(sqlite3.connect(path)) as connection:
        # The same pages: the table of events was not copied.
        assert connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'event'").fetchone() == root
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute("DELETE FROM event WHERE seq = 5")
    append(path, 400)
    assert verdict_of(path).events == 1_100
    assert [s.last_seq for s in seal_through(path, 600)] == [BLOCK - 1]


def upgrade(path: Path, revision: str) -> None:
    path.touch()
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def append_raw(path: Path, count: int) -> None:
    with closing(connect(path, "NORMAL")) as connection:
        load = islice(served_requests(), count)
        Appender("boot-a").append(
            connection, [draft(Place(), e, 1_600_000_000_000_000 + n) for n, e in enumerate(load)]
        )


def test_behind_a_segment_a_stretch_is_as_written_unless_it_was_altered(filled: Path) -> None:
    (segment, *_) = seal_through(filled, 2 * BLOCK)
    first = segment.last_seq + 1
    with closing(sqlite3.connect(filled, isolation_level=None)) as connection:
        assert broken_in(connection, 1, COUNT) is None
        assert broken_in(connection, 1, first - 1) is None
        assert broken_in(connection, first, first + 5) is None
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET severity = 50 WHERE seq = ?", (first,))
        assert broken_in(connection, 1, COUNT) == broken_in(connection, first, first) == first
        assert broken_in(connection, first + 1, COUNT) is None
