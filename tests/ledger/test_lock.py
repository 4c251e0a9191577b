"""Of several writers of one ledger, one checkpoints."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_ledger.ledger import file as ledger_file
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.lock import CheckpointLock
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place
from tests.ledger.parts import queued, verdict_of

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from lmx_ledger.ledger.lock import CheckpointLock
print(CheckpointLock(Path(sys.argv[1])).take(), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_TAKE_EVERY_MS", 0)


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def append(file: LedgerFile, count: int) -> None:
    file.append([draft(Place(), queued(i), 1_000_000 + i) for i in range(count)])


def wal_bytes(path: Path) -> int:
    return path.with_name("ledger.db-wal").stat().st_size


def test_one_writer_at_a_time_has_it(path: Path) -> None:
    first, second = CheckpointLock(path), CheckpointLock(path)
    assert first.take()
    assert not first.take()
    assert not second.take()
    first.release()
    assert second.take()
    assert (first.held, second.held) == (False, True)
    second.release()


def test_a_writer_without_it_leaves_the_wal_to_the_other_until_that_one_is_killed(
    path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "WAL_PAGES", 10)
    migrate(path)
    file = LedgerFile(path, "NORMAL", "boot-a")
    sizes = []
    for _ in range(20):
        append(file, 200)
        sizes.append(wal_bytes(path))
    assert sizes == sorted(set(sizes))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    append(file, 200)
    for _ in range(5):
        append(file, 200)
    # Checkpointed, so the next group begins the WAL again instead of making it longer.
    assert wal_bytes(path) < sizes[-1] + 6 * sizes[0]
    before = wal_bytes(path)
    append(file, 200)
    assert wal_bytes(path) == before
    file.close()
    assert verdict_of(path).events == 27 * 200


def test_the_holder_checkpoints_what_others_wrote_while_it_wrote_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "WAL_PAGES", 10)
    migrate(path)
    holder, other = (LedgerFile(path, "NORMAL", boot) for boot in ("boot-a", "boot-b"))
    for _ in range(10):
        append(other, 200)
    grown = wal_bytes(path)
    holder.tend()
    append(other, 200)
    assert wal_bytes(path) == grown
    holder.close()
    other.close()
    assert verdict_of(path).events == 2_200


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_append(path: Path) -> None:
    path.with_suffix(".lock").mkdir()
    migrate(path)
    file = LedgerFile(path, "NORMAL", "boot-a")
    append(file, 10)
    file.close()
    assert verdict_of(path).events == 10
