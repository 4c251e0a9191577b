"""The step loop's decisions, by themselves."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.engine.worker.schedule import (
    LEAST_CHUNK,
    MOST_GROUPS,
    SLOWEST,
    Mean,
    Queued,
    Speed,
    Turns,
    alike,
    due,
    to_join,
)

LENGTHS = st.lists(st.lists(st.integers(1, 100_000), min_size=1, max_size=4), min_size=1, max_size=8)


@given(LENGTHS)
def test_groups_are_joined_until_they_are_few_and_unlike(groups: list[list[int]]) -> None:
    while (pair := to_join(groups)) is not None:
        first, second = pair
        groups = [g for n, g in enumerate(groups) if n not in pair] + [groups[first] + groups[second]]
    assert len(groups) <= MOST_GROUPS
    assert not any(alike(a, b) for n, a in enumerate(groups) for b in groups[n + 1 :])


def test_a_long_row_stays_apart_from_short_ones_and_short_ones_never_do() -> None:
    assert to_join([[8_000], [64, 80]]) is None
    assert to_join([[8_000], [64], [500]]) == (1, 2)
    assert to_join([[8_000], [3_000]]) == (0, 1)


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=5))
def test_every_group_steps_within_bounds_and_the_fastest_always(steps_s: list[float]) -> None:
    waited = [0] * len(steps_s)
    for _ in range(4 * SLOWEST):
        now = due(steps_s, waited)
        assert steps_s.index(min(steps_s)) in now
        waited = [0 if n in now else rounds + 1 for n, rounds in enumerate(waited)]
        assert max(waited) < SLOWEST


@given(
    st.dictionaries(st.integers(1, 5), st.integers(1, 3), min_size=2, max_size=5),
    st.lists(st.integers(16, 512), min_size=20, max_size=60),
)
def test_no_owner_gets_ahead_of_another_by_more_than_a_piece(waiting: dict[int, int], pieces: list[int]) -> None:
    turns = Turns()
    read = dict.fromkeys(waiting.values(), 0)
    for tokens in pieces:
        row = turns.next(waiting)
        turns.read(waiting[row], tokens, 1.0)
        read[waiting[row]] += tokens
    assert max(read.values()) - min(read.values()) <= max(pieces)


def test_a_newcomer_does_not_wait_for_a_long_prompt_and_twice_the_weight_is_twice_the_share() -> None:
    turns = Turns()
    for _ in range(100):
        assert turns.next({1: 10}) == 1
        turns.read(10, 64, 1.0)
    assert turns.next({1: 10, 2: 20}) in {1, 2}
    read = {10: 0, 20: 0}
    for _ in range(90):
        row = turns.next({1: 10, 2: 20})
        owner = {1: 10, 2: 20}[row]
        read[owner] += 64
        turns.read(owner, 64, 2.0 if owner == 20 else 1.0)
    assert 1.8 < read[20] / read[10] < 2.2


def test_a_chunk_fits_the_room_and_is_never_nothing() -> None:
    speed = Speed()
    speed.seen(100, 0.1)
    assert speed.chunk(0.05, 2048) == 48
    assert speed.chunk(0.0, 2048) == LEAST_CHUNK
    assert speed.chunk(100.0, 2048) == 2048
    for _ in range(20):
        speed.seen(100, 0.4)
    assert 96 <= speed.chunk(0.4, 2048) <= 100


def test_a_wait_is_put_to_what_was_waited_for() -> None:
    queued, fast, slow = Queued(), Mean(), Mean()
    first = queued.give(fast, 0.0)
    queued.waited(first, 0.01)
    assert fast.value == 0.01
    queued.give(fast, 1.0)
    other = queued.give(slow, 1.0)
    queued.waited(other, 1.06)
    assert slow.value is not None
    assert abs(slow.value - 0.05) < 1e-9
    known_done = queued.give(fast, 2.0)
    assert abs(queued.waited_for_all(2.0, 2.11) - 0.1) < 1e-9
    queued.waited(known_done, 2.111)
    assert fast.value == 0.01


def test_the_time_behind_a_step_that_nobody_waits_for_is_put_to_nothing() -> None:
    queued, gone, fast = Queued(), Mean(), Mean()
    queued.forget(queued.give(gone, 0.0))
    queued.waited(queued.give(fast, 60.0), 60.01)
    assert gone.value is None
    assert fast.value is not None
    assert abs(fast.value - 0.01) < 1e-9
