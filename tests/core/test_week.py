"""Weeks and other stretches of time, as people ask for them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.week import DAY_US, WEEK_US, Period, read_period, read_week, week_before

NOW = parse_rfc3339("2026-11-27T09:30:12.345678Z")


def test_a_week_goes_from_monday_to_monday_of_utc() -> None:
    week = read_week("2026-W47")
    assert week == Period(parse_rfc3339("2026-11-16T00:00:00Z"), parse_rfc3339("2026-11-23T00:00:00Z"))
    assert week.name == week.week == "2026-W47"
    assert week.before.name == "2026-W46"
    assert [datetime.fromtimestamp(day * 86_400, UTC).isoweekday() for day in week.days] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("text", ["2020-W53", "2026-W01", "2024-W52", "2025-W01"])
def test_weeks_at_the_turn_of_a_year_keep_their_names(text: str) -> None:
    assert read_week(text).name == text


@given(some.integers(0, 4_000_000_000_000_000))
def test_the_week_before_any_moment_has_ended_by_then_and_the_next_one_has_not(now_us: int) -> None:
    week = week_before(now_us)
    assert week.until_us <= now_us < week.until_us + WEEK_US
    assert week.since_us < 0 or read_week(week.name) == week


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-47", "2026-W5", "2026-W00", "2025-W53", "2026-W54", "x" * 900, "2026-W\u0664\u0667"]
)
def test_what_is_no_week_is_said_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 2026-W47") as caught:
        read_period(text, None, None, NOW)
    assert len(str(caught.value)) < 120


def test_without_a_word_it_is_the_week_that_ended_last() -> None:
    assert read_period(None, None, None, NOW).name == "2026-W47"


def test_since_and_until_are_whole_seconds_and_a_name_for_a_file() -> None:
    period = read_period(None, "7d", None, NOW)
    assert period.name == "20261120T093012Z-20261127T093013Z"
    assert period.week is None
    assert read_period(None, None, "2026-11-23T00:00:00Z", NOW).week == "2026-W47"
    assert read_period(None, "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z", NOW).week == "2026-W47"


@pytest.mark.parametrize(
    ("week", "since", "until", "said"),
    [
        ("2026-W49", None, None, "has not begun yet; the week that ended last is 2026-W47"),
        ("9999-W52", None, None, "has not begun yet"),
        ("1969-W52", None, None, "no ledger is older than 1970"),
        ("0001-W01", None, None, "no ledger is older than 1970"),
        ("2026-W47", "7d", None, "give week, or since and until"),
        (None, "2026-11-23T00:00:00Z", "2026-11-16T00:00:00Z", "until has to be later than since"),
        (None, "60d", None, "at most 31 days"),
        (None, "yesterday", None, "neither a duration"),
        (None, None, "\x1b[31m", "neither a duration"),
    ],
)
def test_what_cannot_be_told_of_is_refused_with_what_to_do(
    week: str | None, since: str | None, until: str | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        read_period(week, since, until, NOW)


def test_the_week_that_goes_on_may_be_asked_for() -> None:
    assert read_period("2026-W48", None, None, NOW).until_us > NOW


def test_days_are_all_that_it_has_a_part_of() -> None:
    assert len(read_period(None, "31d", None, NOW).days) == 32
    assert Period(5 * DAY_US + 1_000_000, 5 * DAY_US + 2_000_000).days == [5]
