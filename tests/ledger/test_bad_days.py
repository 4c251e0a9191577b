"""Files that came to harm: what is left is whole, what is gone is said, and the ledger goes on."""

import shutil
from pathlib import Path

import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.audit import audit
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.heads import heads_path
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerUnusable
from tests.ledger.parts import queued, write, writing


def left_behind(path: Path, folder: Path) -> Path:
    """What is on the disk when a daemon is killed: a WAL that nobody copied into the database yet."""
    with writing(path) as ledger:
        for i in range(300):
            ledger.emit(queued(i))
            assert i % 30 or ledger.flush(30)
        folder.mkdir()
        for file in path.parent.glob("ledger.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, folder)
    return folder / path.name


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_wal_leaves_a_valid_beginning_and_the_next_run_goes_on_behind_it(
    path: Path, tmp_path: Path, share: float
) -> None:
    copy = left_behind(path, tmp_path / "crashed")
    wal = copy.with_name("ledger.db-wal")
    with wal.open("r+b") as file:
        file.truncate(int(share * wal.stat().st_size))
    write(copy, queued(1_000))
    found = audit(copy)
    assert found.ok, found.reason
    reader = Reader.open(copy)
    positions = [event.data["position"] for event in reader.events(EventFilter(limit=1_000))]
    reader.close()
    assert positions == [*range(len(positions) - 1), 1_000]


def test_what_was_signed_and_is_gone_with_the_wal_is_noticed(path: Path, tmp_path: Path) -> None:
    copy = left_behind(path, tmp_path / "crashed")
    # The run ended well, and signed its last event; of the crashed copy only the beginning is left.
    shutil.copy(heads_path(path), heads_path(copy))
    shutil.copy(path.with_name("ledger.db.key"), copy.with_name("ledger.db.key"))
    copy.with_name("ledger.db-wal").unlink()
    with writing(copy) as ledger:
        ledger.emit(queued())
        assert ledger.flush(30)
    found = audit(copy)
    assert not found.ok
    assert "not there any more" in (found.reason or "") or "rewritten" in (found.reason or "")


def test_an_event_of_ten_megabytes_is_kept_and_read_back(path: Path) -> None:
    data = ev.ModelLoadFailed(path="x", error="e" * 10_000_000)
    write(path, queued(0), ev.Event(data=data, stream="model:m0"), queued(1))
    reader = Reader.open(path)
    found = reader.events(EventFilter())
    reader.close()
    assert [len(event.data.get("error", "")) for event in found] == [0, 10_000_000, 0]
    assert audit(path).ok


@pytest.mark.parametrize("page", range(1, 12))
def test_a_torn_page_is_a_verdict_or_an_error_of_one_line(path: Path, page: int) -> None:
    write(path, *(queued(i, model=f"m{i % 3}", session=f"s{i % 7}") for i in range(400)))
    content = bytearray(path.read_bytes())
    # Half of the page is of another moment, as a disk leaves it that loses power in mid-write.
    content[page * 4096 + 2048 : (page + 1) * 4096] = bytes(2048)
    damaged = bytes(content[: path.stat().st_size]) != path.read_bytes()
    path.write_bytes(content[: path.stat().st_size])
    try:
        found = audit(path)
    except LedgerUnusable as error:
        assert "\n" not in str(error)
        return
    # A page of an index alone may be torn without any event being wrong: then all of them are there.
    assert not found.ok or not damaged or found.events == 400
