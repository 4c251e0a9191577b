"""Sleep, told from a clock that was set and from a daemon that was held up."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.guard.sleep import Decision, Observed, Slept, State, Woke, decide, evolve

NOW = 1_700_000_000_000_000


def run(*looks: tuple[float, float]) -> list[list[Decision]]:
    """Looks at so many seconds of wall time, with so many of sleep behind the machine."""
    state, found = State(), []
    for at_s, slept_s in looks:
        observed = Observed(NOW + int(at_s * 1e6), slept_s)
        found.append(decide(state, observed))
        state = evolve(state, observed)
    return found


def test_a_night_asleep_is_told_when_it_is_over_with_when_it_began_and_how_long_it_was() -> None:
    assert run((0, 500), (2, 500), (30_004, 30_500), (30_006, 30_500)) == [
        [],
        [],
        [Slept(NOW + 2_000_000), Woke(30_000)],
        [],
    ]


def test_what_the_machine_slept_before_the_daemon_began_is_not_its_business() -> None:
    assert run((0, 99_999)) == [[]]


def test_less_than_two_seconds_is_not_worth_a_word_and_two_are() -> None:
    assert run((0, 0), (4, 1.9), (8, 3.9)) == [[], [], [Slept(NOW + 4_000_000), Woke(2.0)]]


def test_a_clock_that_was_set_and_a_daemon_that_was_held_up_have_not_slept() -> None:
    assert run((0, 7), (90_000, 7), (-90_000, 7), (0, 7.000001)) == [[]] * 4


def test_behind_a_clock_that_was_set_back_meanwhile_sleep_did_not_begin_later_than_its_length_says() -> None:
    assert run((0, 0), (-1_000, 600)) == [[], [Slept(NOW - 1_600_000_000), Woke(600)]]


def test_what_is_no_number_says_nothing_and_loses_nothing() -> None:
    assert run((0, 5), (2, float("nan")), (104, 105)) == [[], [], [Slept(NOW), Woke(100)]]


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e5)), max_size=30))
def test_all_that_is_slept_in_stretches_of_two_seconds_is_told_once(steps: list[tuple[float, float]]) -> None:
    total, looks = 0.0, [(0.0, 0.0)]
    for at_s, more in steps:
        total += more
        looks.append((at_s, total))
    told = [decision.slept_s for found in run(*looks) for decision in found if isinstance(decision, Woke)]
    assert told == [new - old for (_, old), (_, new) in pairwise(looks) if new - old >= 2]
