"""Admission: places are never oversold, the line is bounded and fair."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.errors import ModelUnavailable, QueueFull
from lmx_ledger.serving.queue import AdmissionQueue, Place


def opened(running: int, waiting: int) -> AdmissionQueue:
    queue = AdmissionQueue(running, waiting)
    queue.open()
    return queue


async def test_whoever_comes_first_is_admitted_first() -> None:
    queue = opened(1, 3)
    first, second, third = queue.enter(1), queue.enter(1), queue.enter(1)
    assert [p.admitted.done() for p in (first, second, third)] == [True, False, False]
    assert (second.position, third.position) == (1, 2)
    first.leave()
    assert second.admitted.done()
    assert not third.admitted.done()


async def test_a_higher_priority_is_before_others_in_line_and_behind_its_equals() -> None:
    queue = opened(1, 9)
    running = queue.enter(1)
    order = {name: queue.enter(1, priority) for name, priority in (("a", 0), ("b", 2), ("c", 0), ("d", 2), ("e", -1))}
    assert sorted(order, key=lambda name: order[name].position) == ["b", "d", "a", "c", "e"]
    running.leave()
    assert [name for name, place in order.items() if place.admitted.done()] == ["b"]


async def test_a_full_line_says_when_to_come_back() -> None:
    queue = opened(1, 1)
    queue.enter(1)
    queue.enter(1)
    with pytest.raises(QueueFull) as refused:
        queue.enter(1)
    assert refused.value.retry_after_s is not None
    assert 1 <= refused.value.retry_after_s <= 60


async def test_a_wide_request_waits_for_all_its_places_and_is_not_overtaken() -> None:
    queue = opened(4, 4)
    running = queue.enter(2)
    wide = queue.enter(4)
    narrow = queue.enter(1)
    assert not wide.admitted.done()
    assert not narrow.admitted.done()
    running.leave()
    assert wide.admitted.done()
    assert not narrow.admitted.done()


async def test_a_closed_queue_keeps_its_line() -> None:
    queue = AdmissionQueue(2, 2)
    place = queue.enter(1)
    assert not place.admitted.done()
    queue.open()
    assert place.admitted.done()


async def test_those_in_line_can_be_turned_away() -> None:
    queue = AdmissionQueue(1, 2)
    place = queue.enter(1)
    queue.refuse_waiting(ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable):
        await place.admitted
    assert queue.waiting == 0


async def test_leaving_twice_gives_one_place_back() -> None:
    queue = opened(1, 5)
    first, second, third = (queue.enter(1) for _ in range(3))
    first.leave()
    first.leave()
    assert second.admitted.done()
    assert not third.admitted.done()


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "open", "close"]), st.integers(0, 7)), max_size=60))
def test_no_order_of_events_oversells_places_or_strands_anybody(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        queue = opened(4, 3)
        is_open = True
        places: list[Place] = []
        for what, number in steps:
            if what == "enter":
                try:
                    places.append(queue.enter(number % 4 + 1))
                except QueueFull:
                    assert queue.waiting == 3
            elif what == "leave" and places:
                places.pop(number % len(places)).leave()
            elif what == "open":
                queue.open()
                is_open = True
            elif what == "close":
                queue.close()
                is_open = False
            admitted = [p for p in places if p.admitted.done()]
            waiting = [p for p in places if not p.admitted.done()]
            assert queue.running == sum(p.size for p in admitted) <= 4
            assert queue.waiting == len(waiting) <= 3
            if is_open and waiting:
                assert queue.running + waiting[0].size > 4

    asyncio.run(play())


async def test_who_comes_now_waits_for_all_before_it_a_lane_each() -> None:
    queue = opened(2, 9)
    queue.expect(3.0)
    assert queue.wait_s() == 0
    places = [queue.enter(1) for _ in range(2)]
    # Nobody waits, and there is no place: the next one waits for one of two to be done.
    assert queue.wait_s() == pytest.approx(1.5)
    for _ in range(3):
        queue.enter(1)
    assert queue.wait_s() == pytest.approx(6.0)
    places[0].leave()
    assert queue.wait_s() == pytest.approx(4.5)


async def test_how_long_a_request_takes_is_learned_from_the_first_one_on() -> None:
    queue = opened(1, 9)
    queue.enter(1)
    queue.finished(8.0)
    assert queue.wait_s() == pytest.approx(8.0, rel=0.01)
    queue.finished(3.0)
    assert queue.wait_s() == pytest.approx(7.0, rel=0.01)


async def test_whoever_runs_longer_than_any_before_is_expected_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = opened(1, 9)
    queue.expect(1.0)
    queue.enter(1)
    began_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began_s + 30)
    assert queue.wait_s() == pytest.approx(30, rel=0.1)


async def test_beside_free_places_there_are_only_as_many_lanes_as_run() -> None:
    queue = opened(8, 9)
    queue.expect(2.0)
    queue.enter(1)
    queue.room_for = lambda _: False
    queue.enter(1)
    # It waits for memory, so that the seven free places are of no use.
    assert queue.wait_s() == pytest.approx(4.0)


async def test_behind_a_closed_door_all_go_in_together() -> None:
    queue = AdmissionQueue(8, 9)
    queue.expect(4.0)
    queue.enter(1)
    # A model that is just being loaded is no flood.
    assert queue.wait_s() == pytest.approx(1.0)
