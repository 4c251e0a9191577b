"""Times as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.clock import elapsed_ms, mono_ns, parse_rfc3339, rfc3339, utc_us

MICROSECONDS = st.integers(0, 253_402_300_799_999_999)


@given(time_us=MICROSECONDS)
def test_a_time_reads_back_to_the_microsecond(time_us: int) -> None:
    assert parse_rfc3339(rfc3339(time_us)) == time_us


@given(times=st.tuples(MICROSECONDS, MICROSECONDS))
def test_times_sort_as_their_text_does(times: tuple[int, int]) -> None:
    first, second = times
    assert (first < second) == (rfc3339(first) < rfc3339(second))


def test_the_form_is_that_of_the_contract() -> None:
    assert rfc3339(1_769_851_800_000_001) == "2026-01-31T09:30:00.000001Z"


def test_a_time_without_an_offset_is_utc_and_one_with_it_is_moved() -> None:
    assert parse_rfc3339("2026-01-31T09:30:00") == parse_rfc3339("2026-01-31T10:30:00+01:00") == 1_769_851_800_000_000


@pytest.mark.parametrize("text", ["", "now", "10m", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|month"):
        parse_rfc3339(text)


def test_elapsed_time_never_goes_back() -> None:
    began = mono_ns()
    assert elapsed_ms(began) >= 0
    assert elapsed_ms(1_000_000, 3_500_000) == 2.5


def test_wall_time_is_counted_in_microseconds() -> None:
    assert utc_us() > 1_700_000_000_000_000
