"""Minutes that were slept are in no window, and seconds that were slept in no duration."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.slo.asleep import Slept, awake_s, first_minute, with_sleep

MINUTE_US = 60_000_000


def sleep(first: float, behind: float) -> Slept:
    return Slept(int(first * MINUTE_US), int(behind * MINUTE_US))


def test_a_window_reaches_back_over_what_was_slept() -> None:
    assert first_minute(100, 5, []) == 96
    assert first_minute(100, 5, [sleep(98, 100)]) == 94
    assert first_minute(100, 5, [sleep(50, 99)]) == 47
    assert first_minute(100, 5, [sleep(50, 96)]) == 96
    assert first_minute(100, 5, [sleep(97.5, 99.5)]) == 95
    assert first_minute(100, 5, [sleep(120, 130)]) == 96


def test_what_lasted_is_without_what_was_slept() -> None:
    slept = [sleep(10, 20), sleep(40, 50)]
    assert awake_s(0, 60 * MINUTE_US, slept) == 40 * 60
    assert awake_s(15 * MINUTE_US, 45 * MINUTE_US, slept) == 20 * 60
    assert awake_s(5, 5, slept) == awake_s(6, 5, slept) == 0


SLEEPS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), max_size=8)


@given(SLEEPS, st.integers(1, 120))
def test_a_window_has_as_many_minutes_awake_as_it_is_long(found: list[tuple[int, int]], count: int) -> None:
    slept: tuple[Slept, ...] = ()
    for first, length in found:
        slept = with_sleep(slept, sleep(first, first + length))
    asleep = {minute for first, length in found for minute in range(first, first + length)}
    begin = first_minute(400, count, slept)
    awake = [minute for minute in range(begin, 401) if minute not in asleep]
    assert len(awake) == count
    assert awake[0] == begin
    assert awake_s(0, 400 * MINUTE_US, slept) == sum(minute not in asleep for minute in range(400)) * 60
