"""Where a series changed, to the second."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.incident.onset import rise

QUIET = st.lists(st.floats(90, 110), min_size=12, max_size=60)


@given(QUIET, st.lists(st.floats(400, 900), min_size=3, max_size=40))
def test_a_step_is_found_where_it_is(before: list[float], after: list[float]) -> None:
    change = rise([*before, *after], len(before) // 2, least=60.0)
    assert change is not None
    assert abs(change.at - len(before)) <= 1
    assert change.after > 350


@given(QUIET)
def test_what_varies_as_usual_is_no_change(values: list[float]) -> None:
    assert rise(values, len(values) // 3, least=60.0) is None


def test_one_that_was_slow_once_is_no_change() -> None:
    assert rise([5_000.0, *[100.0] * 30, 4_000.0, *[100.0] * 30], 20) is None


def test_seconds_in_which_nothing_was_to_be_seen_say_nothing() -> None:
    values = [100.0, None, None, 101.0, None, 99.0, None, None, 100.0, 100.0, None, 900.0, None, 900.0, 950.0]
    change = rise(values, 8)
    assert change is not None
    assert change.at == 11


def test_of_what_never_happened_a_few_are_a_change() -> None:
    change = rise([*[0.0] * 30, 2.0, 3.0, 1.0, 4.0], 10, least=1.0)
    assert change is not None
    assert (change.at, change.before) == (30, 0.0)


def test_of_nothing_nothing_is_said() -> None:
    assert rise([], 10) is None
    assert rise([None] * 20, 10) is None
