"""The day of agents, and the cache that knows the future."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.bench.traffic import best_reuse, unbounded, working_day
from lmx_ledger.engine.kv.chain import common

prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=12)


def in_order(asked: Sequence[Sequence[int]], room: int, block: int) -> int:
    """What a cache reuses that lets go of what was asked for the longest time ago, a prompt at a time."""
    held: list[Sequence[int]] = []
    reused = 0
    for prompt in asked:
        reused += max((common(prompt, other) for other in held), default=0)
        held = [prompt, *(other for other in held if other != prompt)]
        while held and unbounded(held, block) > room:
            held.pop()
    return reused


@given(prompts)
def test_with_room_for_all_it_reuses_whatever_was_said_before(asked: list[list[int]]) -> None:
    before = (max((common(prompt, other) for other in asked[:at]), default=0) for at, prompt in enumerate(asked))
    assert best_reuse(asked, 10_000, block=4) == sum(before)


@given(prompts, st.integers(0, 40))
def test_with_less_room_it_reuses_no_more_than_with_all(asked: list[list[int]], room: int) -> None:
    assert best_reuse(asked, room, block=4) <= best_reuse(asked, 10_000, block=4)


def test_it_is_better_than_what_goes_by_age_alone() -> None:
    for seed in range(5):
        asked = [turn.prompt for minute in working_day(40, seed) for turn in minute]
        best, by_age = best_reuse(asked, 8_192), in_order(asked, 8_192, 256)
        assert by_age < best < best_reuse(asked, 10**9)


def test_a_day_is_the_same_every_time_and_has_what_days_have() -> None:
    day = working_day(120)
    assert day == working_day(120)
    turns = [turn for minute in day for turn in minute]
    by_agent: dict[int, list[list[int]]] = {}
    for turn in turns:
        by_agent.setdefault(turn.agent, []).append(turn.prompt)
    went_back = sum(common(one, other) < len(one) for said in by_agent.values() for one, other in pairwise(said))
    assert went_back > 3
    assert len(by_agent) > 10
    assert unbounded([turn.prompt for turn in turns]) < sum(len(turn.prompt) for turn in turns) / 3
