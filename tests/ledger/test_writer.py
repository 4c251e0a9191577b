"""The writer: what was emitted is there, in order, with its causes; and trouble with the file stops nobody."""

import asyncio
import threading
from pathlib import Path

import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.events import CATALOGUE
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import locked, queued, stopped, verdict_of, write, writing

EVERYTHING = EventFilter(limit=1_000_000)


def test_an_event_comes_back_as_it_went_in(ledger: Ledger, reader: Reader) -> None:
    before = utc_us()
    ledger.emit(
        ev.Event(
            data=ev.RequestDegraded(reason="ceiling", asked=9, given=4, detail="caf\u00e9 \u2028"),
            stream="session:s1",
            request="req_01",
            session="s1",
            model="m0",
            incident="inc_1",
            severity=ev.Severity.CRITICAL,
        )
    )
    assert ledger.flush(30)
    (found,) = reader.events(EVERYTHING)
    assert before <= found.time_us <= utc_us()
    assert len(found.id) == 30
    assert found.id.startswith("evt_")
    assert (found.seq, found.boot, found.type, found.v) == (1, "boot-a", "request.degraded", 1)
    assert (found.stream, found.request, found.session, found.model) == ("session:s1", "req_01", "s1", "m0")
    assert (found.incident, found.severity, found.cause) == ("inc_1", ev.Severity.CRITICAL, None)
    assert found.data == {"reason": "ceiling", "asked": 9, "given": 4, "detail": "caf\u00e9 \u2028"}


def test_an_event_without_a_severity_of_its_own_has_that_of_its_type(ledger: Ledger, reader: Reader) -> None:
    ledger.emit(queued())
    ledger.emit(ev.Event(data=ev.ModelLoadFailed(path="p", error="e"), stream="model:m0", model="m0"))
    assert ledger.flush(30)
    assert [e.severity for e in reader.events(EVERYTHING)] == [
        CATALOGUE["request.queued"].severity,
        CATALOGUE["model.load_failed"].severity,
    ]


@pytest.mark.parametrize("stream", ["request:req_a", "session:s", "model:m", "guard", "request:other", "model:"])
def test_a_stream_is_read_back_whatever_it_names(ledger: Ledger, reader: Reader, stream: str) -> None:
    data = ev.RequestQueued(position=1, running=1)
    ledger.emit(ev.Event(data=data, stream=stream, request="req_a", session="s", model="m"))
    assert ledger.flush(30)
    assert [e.stream for e in reader.events(EVERYTHING)] == [stream]
    assert verdict_of(ledger.path).ok


def test_ids_sort_by_time_and_are_all_different(ledger: Ledger, reader: Reader) -> None:
    for _ in range(2_000):
        ledger.emit(queued())
    assert ledger.flush(30)
    found = reader.events(EVERYTHING)
    assert len({e.id for e in found}) == 2_000
    assert [e.id[:14] for e in found] == sorted(e.id[:14] for e in found)


async def test_commit_returns_the_seq_of_an_event_that_is_readable(ledger: Ledger, reader: Reader) -> None:
    assert await ledger.commit(stopped(), within_s=30) == 1
    assert await ledger.commit(stopped(), within_s=30) == 2
    assert (reader.head(), ledger.last_seq) == (2, 2)


async def test_many_waiters_each_get_their_own_seq(ledger: Ledger, reader: Reader) -> None:
    seqs = await asyncio.gather(*(ledger.commit(queued(i), within_s=30) for i in range(200)))
    by_position = {e.data["position"]: e.seq for e in reader.events(EVERYTHING)}
    assert seqs == [by_position[i] for i in range(200)]


async def test_the_cause_may_be_a_ticket_that_has_no_seq_yet(ledger: Ledger, reader: Reader) -> None:
    first = ledger.emit(queued(1))
    second = ledger.emit(queued(2, cause=first))
    third = ledger.emit(queued(3, cause=second))
    assert await ledger.seq_of(third, within_s=30) == 3
    assert (first.seq, second.seq) == (1, 2)
    assert await ledger.commit(queued(4, cause=first), within_s=30) == 4
    assert await ledger.commit(queued(5, cause=2), within_s=30) == 5
    assert [e.cause for e in reader.events(EVERYTHING)] == [None, 1, 2, 1, 2]
    assert await ledger.seq_of(first, within_s=0) == 1


def test_events_from_many_threads_are_all_there_and_in_each_threads_order(ledger: Ledger, reader: Reader) -> None:
    def emit(thread: int) -> None:
        for i in range(500):
            ledger.emit(queued(i, request=f"req_{thread}"))

    threads = [threading.Thread(target=emit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.flush(30)
    for n in range(8):
        mine = reader.events(EventFilter(request=f"req_{n}", limit=1_000))
        assert [e.data["position"] for e in mine] == list(range(500))
    assert verdict_of(ledger.path) == verdict_of(ledger.path)._replace(ok=True, events=4_000)


async def test_a_locked_file_lets_the_caller_act_and_the_event_goes_in_late(ledger: Ledger, reader: Reader) -> None:
    with locked(ledger.path):
        assert await ledger.commit(stopped("late"), within_s=0.05) is None
        ticket = ledger.emit(queued())
        assert await ledger.seq_of(ticket, within_s=0.05) is None
        assert ledger.queue_depth == 2
        assert not ledger.flush(0.01)
        assert not await ledger.aflush(0.01)
    assert await ledger.aflush(30)
    late, *others = reader.events(EVERYTHING)
    assert (late.type, late.data["reason"]) == ("daemon.stopped", "late")
    assert {e.type for e in others} == {"request.queued", "ledger.dropped"}
    (dropped,) = (e for e in others if e.type == "ledger.dropped")
    assert [e.seq for e in others if e is not dropped] == [ticket.seq]
    assert dropped.type == "ledger.dropped"
    assert dropped.data == {"late": 1, "lost": 0, "reason": "database is locked"}
    assert ledger.queue_depth == 0
    assert verdict_of(ledger.path).ok


async def test_what_does_not_fit_in_memory_is_counted_and_recorded(path: Path) -> None:
    with writing(path, capacity=10) as ledger:
        with locked(path):
            # Nothing can be written, so the writer holds one group and the queue fills behind it.
            tickets = [ledger.emit(queued(i)) for i in range(5_000)]
            assert await ledger.commit(stopped(), within_s=30) is None
        assert await ledger.aflush(30)
        kept = sum(t.seq is not None for t in tickets)
        reader = Reader.open(path)
        dropped = reader.events(EventFilter(types=("ledger.dropped",)))
        assert reader.head() == kept + len(dropped)
        reader.close()
    assert kept < 5_000
    assert sum(e.data["lost"] for e in dropped) == 5_001 - kept
    assert all(e.data["reason"] for e in dropped)
    assert verdict_of(path).ok


def test_a_file_that_is_moved_away_is_waited_for(ledger: Ledger, path: Path) -> None:
    ledger.emit(stopped())
    assert ledger.flush(30)
    with locked(path):
        ledger.emit(queued())
        assert not ledger.flush(0.15)
        path.rename(path.with_suffix(".away"))
        assert not ledger.flush(0.15)
        assert not path.exists()
        path.with_suffix(".away").rename(path)
    assert ledger.flush(30)
    assert verdict_of(path).events == 2


async def test_a_caller_that_is_cancelled_leaves_the_event_in_the_ledger(ledger: Ledger) -> None:
    with locked(ledger.path):
        task = asyncio.create_task(ledger.commit(stopped(), within_s=30))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await ledger.aflush(30)
    assert ledger.last_seq == 1


def test_lone_surrogates_and_nan_do_not_stop_the_ledger(ledger: Ledger, reader: Reader) -> None:
    sampling = {"x\ud800": ["\udfff", float("nan")]}
    data = ev.OperatorCommanded(command="a\ud800b", arguments=sampling, via="v")
    ledger.emit(ev.Event(data=data, stream="s\ud800", model="\udfff"))
    ledger.emit(queued())
    assert ledger.flush(30)
    command, _ = reader.events(EVERYTHING)
    assert command.data == {"command": "a?b", "arguments": {"x?": ["?", None]}, "via": "v"}
    assert command.stream == "s?"
    assert verdict_of(ledger.path).ok


def test_an_event_that_can_never_be_stored_is_lost_alone(ledger: Ledger, reader: Reader) -> None:
    with locked(ledger.path):
        ledger.emit(queued(1))
        data = ev.OperatorCommanded(command="c", arguments={"x": object()}, via="v")
        ledger.emit(ev.Event(data=data, stream="daemon"))
        ledger.emit(queued(2, cause=2**70))
        ledger.emit(queued(3))
    assert ledger.flush(30)
    assert [e.data["position"] for e in reader.events(EventFilter(types=("request.*",)))] == [1, 3]
    (dropped,) = reader.events(EventFilter(types=("ledger.dropped",)))
    assert (dropped.data["lost"], dropped.data["late"]) == (2, 0)


async def test_closing_writes_what_is_left_and_later_events_are_refused_quietly(path: Path) -> None:
    ledger = Ledger.open(path, boot="b", synchronous="FULL")
    for i in range(3_000):
        ledger.emit(queued(i))
    assert ledger.close()
    assert ledger.close()
    assert ledger.emit(queued()).seq is None
    assert await ledger.commit(queued()) is None
    assert ledger.flush(1)
    assert verdict_of(path).events == 3_000


async def test_closing_a_ledger_that_cannot_write_gives_up_in_time_and_says_so(path: Path) -> None:
    ledger = Ledger.open(path, boot="b", synchronous="NORMAL")
    with locked(path):
        ticket = ledger.emit(queued())
        waiting = asyncio.create_task(ledger.commit(stopped(), within_s=30))
        await asyncio.sleep(0)
        assert not await asyncio.to_thread(ledger.close, 0.2)
        assert await waiting is None
        assert not ledger.flush(0.01)
    assert ticket.seq is None
    assert verdict_of(path).events == 0


def test_two_runs_share_names_and_keep_their_own_boot(path: Path) -> None:
    write(path, queued(model="m0"), boot="boot-a")
    write(path, queued(model="m0"), boot="boot-b")
    reader = Reader.open(path)
    assert [(e.boot, e.model) for e in reader.events(EVERYTHING)] == [("boot-a", "m0"), ("boot-b", "m0")]
    reader.close()
