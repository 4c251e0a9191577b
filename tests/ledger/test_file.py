"""A file that cannot be written, or is not where it was: it is said, nothing goes astray, and what fits is kept."""

# ruff: noqa: ASYNC240 - a rename in a test keeps nobody waiting

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from tests.conftest import eventually
from tests.ledger.parts import locked, queued, verdict_of, write

ROOT = Path(__file__).parents[2]


class Watched:
    """A ledger with three events in it, and the lines that its operator was given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.ledger = Ledger.open(path, boot="boot-a", synchronous="NORMAL", notice=self.lines.append)
        self.write_some()
        assert self.ledger.flush(30)

    def write_some(self) -> None:
        for position in range(3):
            self.ledger.emit(queued(position))

    async def in_trouble(self, says: str) -> None:
        """Until three more events wait, and it has been said why."""
        self.write_some()
        await eventually(lambda: says in (self.ledger.error or ""))
        assert len(self.lines) == 1
        assert self.lines[0].startswith("the ledger cannot be written: ")
        assert says in self.lines[0]
        assert self.ledger.queue_depth == 3

    async def well_again(self) -> None:
        """Until all six events are in the file, and that has been said."""
        assert await self.ledger.aflush(30)
        assert self.ledger.error is None
        assert self.lines[1:] == ["the ledger is written again, up to event 6"]
        assert verdict_of(self.path)[:3] == (True, 6, 6)


@pytest.fixture
def watched(path: Path) -> Iterator[Watched]:
    opened = Watched(path)
    yield opened
    opened.ledger.close(0.1)


def move(path: Path, to: str) -> Path:
    """The file and all that belongs to it, as `mv ledger.db* elsewhere` does."""
    for file in path.parent.glob(f"{path.name}*"):
        file.rename(path.parent / file.name.replace(path.name, to))
    return path.parent / to


@contextmanager
def as_it_was(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before


async def test_nothing_is_written_into_a_file_that_was_moved_away_and_it_goes_on_when_it_is_back(
    watched: Watched, path: Path
) -> None:
    away = move(path, "away.db")
    with as_it_was(away):
        await watched.in_trouble("is gone; put it back")
    assert not path.exists()
    move(away, path.name)
    await watched.well_again()


async def test_a_database_that_is_moved_without_its_wal_is_whole_again_when_it_is_back(
    watched: Watched, path: Path
) -> None:
    path.rename(path.with_name("away.db"))
    await watched.in_trouble("is gone; put it back")
    path.with_name("away.db").rename(path)
    await watched.well_again()


async def test_a_whole_copy_in_its_place_is_gone_on_with(watched: Watched, path: Path) -> None:
    away = move(path, "away.db")
    await watched.in_trouble("is gone")
    for file in path.parent.glob("away.db*"):
        shutil.copy(file, path.parent / file.name.replace("away.db", path.name))
    with as_it_was(away):
        await watched.well_again()


async def test_an_older_copy_in_its_place_is_left_as_it_is(watched: Watched, path: Path) -> None:
    old = path.with_name("old.db")
    write(old, queued(0), queued(1))
    move(path, "away.db")
    old.rename(path)
    with as_it_was(path):
        await watched.in_trouble("without event 3 of this run")
    assert not watched.ledger.close(0.1)


async def test_what_is_no_ledger_is_left_as_it_is(watched: Watched, path: Path) -> None:
    move(path, "away.db")
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE diary (text)")
    with as_it_was(path):
        await watched.in_trouble("another file is in the ledger's place")


async def test_a_deleted_ledger_is_not_begun_anew_and_what_is_lost_is_counted(watched: Watched, path: Path) -> None:
    path.unlink()
    await watched.in_trouble("is gone")
    assert not watched.ledger.close(0.1)
    assert watched.ledger.lost == 3
    assert not path.exists()


async def test_another_process_that_writes_for_a_moment_is_no_trouble(watched: Watched, path: Path) -> None:
    with locked(path):
        watched.write_some()
        assert not watched.ledger.flush(0.5)
        assert (watched.ledger.error, watched.lines) == (None, [])
    assert await watched.ledger.aflush(30)
    assert watched.lines == []


def test_a_reader_sees_the_file_that_is_there_and_not_the_one_that_was(watched: Watched, path: Path) -> None:
    reader = Reader.open(path)
    assert reader.head() == 3
    watched.ledger.close()
    move(path, "away.db")
    write(path, queued(1))
    assert reader.head() == 1
    assert len(reader.events(EventFilter())) == 1
    reader.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import queued
ledger = Ledger.open(Path(sys.argv[1]), boot="b", synchronous="NORMAL", notice=lambda line: print(line, flush=True))
def write():
    for i in range(500):
        ledger.emit(queued(i))
    return ledger.flush(2)
assert write()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (Path(sys.argv[1] + "-wal").stat().st_size, hard))
assert not write()
assert ledger.error
if sys.argv[2] == "room":
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert ledger.flush(30)
print(ledger.close(0.2), ledger.lost)
"""


@pytest.mark.parametrize("then", ["room", "no room"])
def test_a_full_disk_is_said_once_and_loses_only_what_never_finds_room(path: Path, then: str) -> None:
    # A limit on the size of files stands for the disk: the writer meets the same error in the same calls.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), then], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    first, *more, end = done.stdout.splitlines()
    assert first.startswith("the ledger cannot be written: ")
    if then == "room":
        assert more == ["the ledger is written again, up to event 1000"]
        assert end == "True 0"
        assert verdict_of(path).events == 1_000
    else:
        assert (more, end) == ([], "False 500")
        assert verdict_of(path).events == 500
