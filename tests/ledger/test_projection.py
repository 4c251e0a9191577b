"""What is folded beside the ledger is what folding all of it gives, however it came about."""

import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.daemon.main import projections
from lmx_ledger.ledger.fold import SNAPSHOT_EVERY, Folded, state_at
from lmx_ledger.ledger.follow import PAGE
from lmx_ledger.ledger.projection import Projection, ProjectionError, Projections, open_to_read, table_of
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.status import status_projection
from lmx_ledger.slo.rollup import RollupProjection
from tests.ledger.parts import locked, queued, started, stopped, write

BOOTS = ("boot-a", "boot-b")
MODELS = ("m0", "m1")


def of_model(data: ev.EventData, model: str) -> ev.Event:
    return ev.Event(data=data, stream=f"model:{model}", model=model)


def of_request(data: ev.EventData, number: int, model: str = "m0") -> ev.Event:
    return ev.Event(data=data, stream=f"request:req_{number}", request=f"req_{number}", model=model)


def finished(ttft_ms: float | None) -> ev.RequestFinished:
    return ev.RequestFinished(
        status=200,
        finish_reason="stop",
        prompt_tokens=10,
        cached_tokens=0,
        completion_tokens=5,
        queue_ms=0.1,
        ttft_ms=ttft_ms,
        itl_p95_ms=None,
        wall_ms=30.7,
    )


def received() -> ev.RequestReceived:
    return ev.RequestReceived(
        route="r",
        stream=True,
        messages=1,
        tools=0,
        chars=1,
        prompt_sha256="",
        client=None,
        client_request_id=None,
        sampling={},
    )


def loaded(ms: float = 5.5) -> ev.ModelLoaded:
    return ev.ModelLoaded(weights_bytes=100, context=64, vocab=3, architecture="llama", ms=ms)


ADMITTED = ev.RequestAdmitted(prompt_tokens=10, max_tokens=5, choices=1, queue_ms=0.1, sampling={})
EXITED = ev.EngineExited(pid=1, code=1, signal=None, stderr_tail="", last_acts=[], expected=False, in_flight=[])
ms = st.floats(0, 1e6, allow_nan=False)
requests = st.builds(
    of_request,
    st.one_of(
        st.builds(received),
        st.just(ADMITTED),
        st.builds(ev.RequestQueued, position=st.just(1), running=st.just(1)),
        st.builds(ev.RequestFirstToken, ttft_ms=ms, prefill_ms=ms),
        st.builds(finished, ms | st.none()),
        st.just(ev.RequestRejected(status=429, code="queue_full", message="", route="")),
        st.just(ev.RequestCancelled(phase="queue", reason="gone", prompt_tokens=0, completion_tokens=0, wall_ms=1.0)),
    ),
    st.integers(1, 4),
    st.sampled_from(MODELS),
)
models = st.builds(
    of_model,
    st.one_of(
        st.just(ev.ModelLoadStarted(path="/m", weights_bytes=100, reason="configured")),
        st.builds(loaded, ms),
        st.builds(ev.ModelUnloaded, reason=st.sampled_from(["daemon_stopped", "asked"])),
        st.just(ev.ModelLoadFailed(path="/m", error="no")),
        st.just(EXITED),
    ),
    st.sampled_from(MODELS),
)
of_daemon = st.one_of(
    st.builds(started),
    st.builds(stopped),
    st.builds(
        lambda boot: ev.Event(
            data=ev.DaemonCrashDetected(boot=boot, pid=1, last_seq=1, last_time="", last_acts=[]), stream="daemon"
        ),
        st.sampled_from(BOOTS),
    ),
)
steps = st.one_of(
    st.tuples(st.sampled_from(BOOTS), st.lists(st.one_of(requests, models, of_daemon), min_size=1, max_size=6)),
    st.tuples(st.sampled_from(("advance", "crash in 0", "crash in 1", "crash in 2")), st.sampled_from((0, 1))),
)


class Crashing:
    """A projection that folds a page, and is gone before it is committed."""

    def __init__(self, inner: Projection) -> None:
        self.name, self.version, self.types = inner.name, inner.version, inner.types
        self.inner, self.crashes = inner, False

    def create(self, connection: sqlite3.Connection) -> None:
        self.inner.create(connection)

    def fold(self, connection: sqlite3.Connection, events: Sequence[Recorded], seq: int) -> None:
        self.inner.fold(connection, events, seq)
        if self.crashes:
            raise sqlite3.OperationalError("the process is gone")


def contents(path: Path) -> dict[str, Any]:
    """All that is folded, without when it was."""
    with closing(open_to_read(path)) as connection:
        return {
            "projection": connection.execute(
                "SELECT name, version, reached_seq, reached_id FROM projection"
            ).fetchall(),
            "snapshot": connection.execute("SELECT * FROM snapshot").fetchall(),
            "rollup": connection.execute(f"SELECT * FROM {table_of(RollupProjection())}").fetchall(),
        }


def fold_all(path: Path, reader: Reader, *chosen: Projection) -> dict[str, Any]:
    folding = Projections(path, chosen or projections(), reader)
    while folding.advance():
        pass
    folding.close()
    return contents(path) if not chosen else {}


@contextmanager
def folding(path: Path, reader: Reader, *chosen: Projection) -> Iterator[Projections]:
    opened = Projections(path, chosen or projections(), reader)
    try:
        yield opened
    finally:
        opened.close()


@settings(max_examples=40, deadline=None)
@given(history=st.lists(steps, max_size=14))
def test_folding_in_pieces_by_two_daemons_that_crash_is_folding_all_at_once(
    history: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fold")
    path, file = folder / "ledger.db", folder / "projections.db"
    write(path, queued())
    reader = Reader.open(path)
    crashing = [[Crashing(each) for each in projections()] for _ in range(2)]
    runners = [Projections(file, each, reader) for each in crashing]
    ledgers = {boot: Ledger.open(path, boot=boot, synchronous="NORMAL") for boot in BOOTS}
    for what, argument in history:
        if what in BOOTS:
            for event in argument:
                ledgers[what].emit(event)
            assert ledgers[what].flush(10)
            continue
        for number, each in enumerate(crashing[argument]):
            each.crashes = what == f"crash in {number}"
        try:
            runners[argument].advance()
        except sqlite3.OperationalError:
            assert what != "advance"
    for ledger in ledgers.values():
        ledger.close()
    for runner, each in zip(runners, crashing, strict=True):
        for projection in each:
            projection.crashes = False
        while runner.advance():
            pass
        runner.close()
    assert contents(file) == fold_all(folder / "anew.db", reader)
    assert state_at(status_projection(), reader, file, reader.head()) == state_at(
        status_projection(), reader, folder / "none.db", reader.head()
    )
    reader.close()


def test_the_file_is_its_owners_alone_and_deleting_it_costs_only_a_fold(path: Path, tmp_path: Path) -> None:
    write(path, started(), of_model(loaded(), "m0"), *(of_request(finished(1.5), n) for n in range(20)), stopped())
    reader, file = Reader.open(path), tmp_path / "projections.db"
    with folding(file, reader) as runner:
        runner.advance()
        before = contents(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(before["rollup"]) > 1
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink()
        runner.advance()
        assert contents(file) == before
    reader.close()


def test_a_corrupt_file_is_said_and_made_anew(path: Path, tmp_path: Path) -> None:
    write(path, started(), *(of_request(finished(1.5), n) for n in range(20)))
    reader, file = Reader.open(path), tmp_path / "projections.db"
    before = fold_all(file, reader)
    pages = bytearray(file.read_bytes())
    pages[4096:] = b"\xa5" * (len(pages) - 4096)
    for junk in (bytes(pages), b"no database at all" * 1000):
        file.write_bytes(junk)
        with folding(file, reader) as runner:
            with pytest.raises(ProjectionError, match="was corrupt"):
                runner.advance()
            runner.advance()
        assert contents(file) == before
    reader.close()


def test_another_ledger_at_the_path_is_folded_anew_and_so_is_an_older_copy_of_it(path: Path, tmp_path: Path) -> None:
    file, copy = tmp_path / "projections.db", tmp_path / "copy.db"
    write(path, started(), of_model(loaded(), "m0"))
    copy.write_bytes(path.read_bytes())
    write(path, *(of_request(finished(1.5), n) for n in range(9)))
    reader = Reader.open(path)
    fold_all(file, reader)
    reader.close()
    write(tmp_path / "other.db", *(of_request(finished(9.5), n) for n in range(30)))
    for another in (copy, tmp_path / "other.db"):
        reader = Reader.open(another)
        assert fold_all(file, reader) == fold_all(tmp_path / f"{another.name}.anew", reader)
        reader.close()


def test_another_version_folds_from_zero_beside_the_old_one(path: Path, reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "projections.db"
    write(path, started(), of_model(loaded(), "m0"), of_request(finished(1.5), 1))
    before = fold_all(file, reader)
    newer = [Crashing(each) for each in projections()]
    for each in newer:
        each.version += 1
        if each.name in {"rollup", "session"}:  # those that have tables of their own
            each.inner.version += 1  # type: ignore[misc]
    fold_all(file, reader, *newer)
    after = contents(file)
    assert after["rollup"] == before["rollup"]
    assert {row[:3] for row in after["projection"]} == {
        *((name, known, seq) for name, version, seq, _ in before["projection"] for known in (version, version + 1))
    }
    with closing(open_to_read(file)) as connection:
        assert connection.execute("SELECT * FROM rollup_v4").fetchall() == before["rollup"]
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE projection SET updated_us = 0 WHERE name = 'rollup' AND version = 3")
        connection.execute("DELETE FROM projection WHERE name = 'rollup' AND version = 4")
        connection.commit()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        fold_all(file, reader, *newer)
        contents(file)


def test_a_state_that_its_own_code_cannot_read_is_folded_anew(path: Path, reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "projections.db"
    write(path, started(), of_model(loaded(), "m0"))
    before = fold_all(file, reader)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE snapshot SET state = x'c1'")
        connection.commit()
    assert state_at(status_projection(), reader, file, 2).running["boot-a"].models["m0"].state == "resident"
    write(path, of_request(finished(2.5), 1))
    assert fold_all(file, reader)["projection"] != before["projection"]
    assert contents(file) == fold_all(tmp_path / "anew.db", reader)


def test_one_that_cannot_be_folded_keeps_none_of_the_others_back(path: Path, reader: Reader, tmp_path: Path) -> None:
    class Broken(Crashing):
        def fold(self, connection: sqlite3.Connection, events: Sequence[Recorded], seq: int) -> None:
            raise KeyError("no such field")

    file = tmp_path / "projections.db"
    write(path, started(), of_request(finished(1.5), 1))
    first, *rest = projections()
    with folding(file, reader, Broken(first), *rest) as runner:
        with pytest.raises(ProjectionError, match="residency cannot be folded between events 1 and 2"):
            runner.advance()
        assert contents(file)["rollup"]


def test_a_file_that_another_process_holds_is_an_error_that_passes(path: Path, reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "projections.db"
    write(path, started(), of_request(finished(1.5), 1))
    with folding(file, reader) as runner:
        runner.advance()
        write(path, of_request(finished(1.5), 2))
        with locked(file), pytest.raises(sqlite3.OperationalError, match="locked"):
            runner.advance()
        runner.advance()
        assert {row[2] for row in contents(file)["projection"]} == {3}


def test_snapshots_are_kept_at_most_so_far_apart(path: Path, reader: Reader, tmp_path: Path) -> None:
    file, count = tmp_path / "projections.db", 3 * SNAPSHOT_EVERY + 700
    write(path, started(), *(of_request(received(), n % 9) for n in range(count - 1)))
    fold_all(file, reader, Folded(status_projection()))
    with closing(open_to_read(file)) as connection:
        kept = [seq for (seq,) in connection.execute("SELECT seq FROM snapshot ORDER BY seq")]
    assert len(kept) == 4
    assert kept[-1] == count
    assert all(after - before < SNAPSHOT_EVERY + PAGE for before, after in zip([0, *kept], kept, strict=False))
    for seq in (1, 500, SNAPSHOT_EVERY + 3, count):
        assert state_at(status_projection(), reader, file, seq) == state_at(
            status_projection(), reader, tmp_path / "none.db", seq
        )


def test_the_end_of_one_run_leaves_the_other_as_it_is(path: Path, reader: Reader, tmp_path: Path) -> None:
    write(path, started(), of_request(received(), 1), boot="boot-a")
    write(path, started(), of_request(received(), 2), stopped(), boot="boot-b")
    state = state_at(status_projection(), reader, tmp_path / "none.db", reader.head())
    assert list(state.running) == ["boot-a"]
    assert list(state.running["boot-a"].requests) == ["req_1"]
    assert state.ended is not None
    assert (state.ended_boot, state.ended.state) == ("boot-b", "stopped")


def test_of_runs_that_nobody_saw_end_only_the_newest_are_remembered(path: Path, reader: Reader, tmp_path: Path) -> None:
    for number in range(12):
        write(path, started(), boot=f"boot-{number}")
    state = state_at(status_projection(), reader, tmp_path / "none.db", reader.head())
    assert list(state.running) == [f"boot-{number}" for number in range(4, 12)]


def test_two_that_fold_at_the_same_moment_fold_each_event_once(path: Path, reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "projections.db"
    write(path, started(), *(of_request(finished(float(n % 70)), n) for n in range(6_000)))
    failed: list[Exception] = []

    def fold() -> None:
        own = Projections(file, projections(), reader)
        more = True
        while more:
            try:
                more = own.advance()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    failed.append(error)
                    break
        own.close()

    threads = [threading.Thread(target=fold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert contents(file) == fold_all(tmp_path / "anew.db", reader)
