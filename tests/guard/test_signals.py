"""Figures become signals: with hysteresis, for as long as they must hold, and whatever the readings are."""

import math
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.guard.signals import (
    GPU,
    MEMORY_FULL,
    QUEUE_WAIT,
    SIGNALS,
    Breached,
    Cleared,
    Decision,
    Observed,
    State,
    Threshold,
    decide,
    evolve,
)
from lmx_ledger.ledger import log_lines

POLICY = {
    QUEUE_WAIT: Threshold(15.0, 5.0),
    MEMORY_FULL: Threshold(0.95, 0.85, for_s=5.0),
    GPU: Threshold(0.98, 0.9, for_s=30.0),
}
S = 1_000_000


def run(observed: Iterable[Observed]) -> list[Decision]:
    state, found = State(), list[Decision]()
    for one in observed:
        decisions = decide(state, one, POLICY)
        state = evolve(state, one, POLICY)
        for decision in decisions:
            state = evolve(state, decision, POLICY)
        found += decisions
    return found


def told(decisions: Iterable[Decision]) -> list[tuple[str, str, int]]:
    return [(type(one).__name__, one.name, one.at_us // S) for one in decisions]


def test_a_long_line_is_a_signal_at_once_and_until_it_is_short_again() -> None:
    waits = [14.9, 15.0, 14.0, 5.1, 5.0, 14.9]
    found = run(Observed(second * S, {QUEUE_WAIT: wait}) for second, wait in enumerate(waits))
    assert told(found) == [("Breached", QUEUE_WAIT, 1), ("Cleared", QUEUE_WAIT, 4)]


def test_a_figure_that_has_to_hold_for_a_while_begins_again_where_it_was_not_known() -> None:
    shares = [0.96, 0.97, 0.99, None, 0.96, 0.96, 0.96, 0.96, 0.96, 0.96]
    found = run(Observed(second * S, {MEMORY_FULL: share}) for second, share in enumerate(shares))
    assert told(found) == [("Breached", MEMORY_FULL, 9)]


def test_a_gpu_that_is_busy_for_a_moment_is_none() -> None:
    found = run(Observed(second * S, {GPU: 1.0 if second % 10 else 0.5}) for second in range(300))
    assert found == []


def test_there_is_a_log_line_for_each_of_them() -> None:
    assert log_lines.SIGNALS == SIGNALS


def test_what_is_no_figure_changes_nothing() -> None:
    found = run(Observed(n * S, {QUEUE_WAIT: value}) for n, value in enumerate([20.0, math.nan, -1.0, math.inf, None]))
    assert told(found) == [("Breached", QUEUE_WAIT, 0)]


numbers = st.one_of(st.none(), st.floats(0, 40), st.sampled_from([math.nan, math.inf, -math.inf, -3.0]))
moments = st.builds(
    Observed, st.integers(-10 * S, 500 * S), st.dictionaries(st.sampled_from(SIGNALS), numbers, max_size=4)
)


@given(st.lists(moments, max_size=60))
def test_whatever_comes_signals_alternate_and_their_clock_does_not_go_back(observed: list[Observed]) -> None:
    found = run(observed)
    assert [one.at_us for one in found] == sorted(one.at_us for one in found)
    for name in SIGNALS:
        mine = [one for one in found if one.name == name]
        assert all(isinstance(one, (Breached, Cleared)[number % 2]) for number, one in enumerate(mine))
        assert all(math.isfinite(one.value) for one in mine)
        assert name in POLICY or not mine
