"""One worker's time: no second of it is lost or given twice, and nobody who draws stands still for a prompt."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.incident.simulation.worker import Done, Stream, WorkerTime


def until_idle(worker: WorkerTime) -> list[tuple[float, Done]]:
    found = []
    while (at_s := worker.next_s()) < math.inf:
        done = worker.advance(at_s)
        if done.read or done.drawn:
            found.append((at_s, done))
    return found


work = st.floats(0, 3).map(lambda seconds: round(seconds, 4))


@settings(max_examples=200)
@given(st.lists(st.tuples(work, work, st.integers(0, 2)), min_size=1, max_size=10), st.integers(2, 10))
def test_work_that_nobody_shares_takes_its_time_and_all_of_it_is_done(
    asked: list[tuple[float, float, int]], gap: int
) -> None:
    # Each other answer makes one as much slower as it is long: then the worker does one second of work in a second.
    worker = WorkerTime(1.0, gap, 0.01)
    streams = [Stream(read_s, draw_s, owner) for read_s, draw_s, owner in asked]
    ended = [(0.0, worker.take(stream, 0.0)) for stream in streams]
    ended += until_idle(worker)
    assert sorted(id(one) for _, done in ended for one in done.drawn) == sorted(map(id, streams))
    assert sum(len(done.read) for _, done in ended) == len(streams)
    assert ended[-1][0] == pytest.approx(sum(read_s + draw_s for read_s, draw_s, _ in asked), abs=1e-6)


def test_a_prompt_alone_is_read_at_once_and_beside_an_answer_in_pieces() -> None:
    worker = WorkerTime(0.0, 7, 0.01)
    first, second = Stream(0.1, 0.2, 1), Stream(0.35, 0.1, 2)
    worker.take(first, 0.0)
    assert (worker.next_s(), worker.advance(0.1)) == (0.1, Done((first,)))
    worker.take(second, 0.1)
    (read, _), *_ = until_idle(worker)
    # One step in eight is drawn meanwhile.
    assert read == pytest.approx(0.1 + 0.35 * 8 / 7)
    assert first.draw_s == pytest.approx(0.0, abs=1e-6)


def test_a_newcomer_has_its_turn_behind_a_piece_and_one_conversation_reads_one_prompt_after_the_other() -> None:
    def read_at(owner: int) -> list[float]:
        worker = WorkerTime(0.0, 7, 0.01)
        worker.take(Stream(1.2, 0.0, 1), 0.0)
        worker.take(Stream(0.2, 0.0, owner), 0.1)
        return [round(at_s, 6) for at_s, done in until_idle(worker) if done.read]

    # Piece by piece of 300 ms: the newcomer begins where the other one is, and that one goes first.
    assert read_at(2) == [0.8, 1.4]
    assert read_at(1) == [1.2, 1.4]


def test_while_it_is_away_nothing_goes_on() -> None:
    worker = WorkerTime(0.0, 7, 0.01)
    stream = Stream(1.0, 0.0)
    worker.take(stream, 0.0)
    worker.leave(0.4)
    assert worker.next_s() == math.inf
    worker.come(5.0)
    assert worker.next_s() == pytest.approx(5.6)
    worker.drop(stream, 5.1)
    assert worker.next_s() == math.inf
