"""Swap: a rate over a window, and what is no rate."""

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.sensed import MemoryReading
from lmx_ledger.guard.swap import Rate, SwapPolicy, Window, noted, rate

POLICY = SwapPolicy(window_s=10.0)
MB = 10**6


def reading(out: int | None = None, used: int | None = None) -> MemoryReading:
    return MemoryReading(total_bytes=1000, available_bytes=500, swap_out_bytes=out, swap_used_bytes=used)


def window(readings: Iterable[MemoryReading], every_s: float = 2.0) -> Window:
    found: Window = ()
    for number, each in enumerate(readings):
        found = noted(found, int(number * every_s * 1e6), each, POLICY)
    return found


def test_there_is_no_rate_before_the_window_is_full() -> None:
    assert rate((), POLICY) is None
    assert rate(window([reading(0)] * 5), POLICY) is None
    assert rate(window([reading(0)] * 6), POLICY) == Rate(0.0, 0.0, 0.0)


def test_a_burst_is_not_sustained_and_steady_writing_is() -> None:
    burst = rate(window(reading(out) for out in (0, 0, 0, 0, 999 * MB, 999 * MB)), POLICY)
    assert burst is not None
    assert (burst.sustained, burst.whole) == (0.0, 99.9 * MB)
    steady = rate(window(reading(number * 100 * MB) for number in range(20)), POLICY)
    assert steady is not None
    assert steady.sustained == steady.whole == 50 * MB


def test_what_lies_in_swap_is_no_trouble_however_much_it_is() -> None:
    found = rate(window(reading(10**12, 10**12) for _ in range(9)), POLICY)
    assert found == Rate(0.0, 0.0, 0.0)


def test_without_a_counter_what_is_added_counts_and_what_goes_does_not() -> None:
    found = rate(window(reading(used=used * MB) for used in (90, 100, 50, 60, 60, 70)), POLICY)
    assert found is not None
    assert found.whole == 3 * MB


def test_a_counter_that_is_reset_or_not_there_for_a_moment_says_nothing() -> None:
    found = rate(window(reading(out) for out in (10**12, 10**12, None, 5, 5, 5, 0)), POLICY)
    assert found == Rate(0.0, 0.0, 0.0)


def test_two_readings_of_one_moment_are_one() -> None:
    both = noted(noted(noted((), 0, reading(0), POLICY), 5, reading(7), POLICY), 5, reading(9), POLICY)
    assert [sample.written_bytes for sample in both] == [0, 9]


@given(
    st.lists(
        st.tuples(st.integers(0, 12_000_000), st.none() | st.integers(0, 10**15), st.none() | st.integers(0, 10**12)),
        max_size=60,
    )
)
def test_whatever_is_read_the_window_is_short_and_the_rate_is_one(
    steps: list[tuple[int, int | None, int | None]],
) -> None:
    found: Window = ()
    at_us = 0
    for wait_us, out, used in steps:
        at_us += wait_us
        found = noted(found, at_us, reading(out, used), POLICY)
        assert all(one.at_us < other.at_us for one, other in pairwise(found))
        assert sum(sample.at_us <= at_us - 10_000_000 for sample in found) <= 1
        if (now := rate(found, POLICY)) is not None:
            assert 0 <= now.sustained <= now.whole <= max(now.first, now.second)
