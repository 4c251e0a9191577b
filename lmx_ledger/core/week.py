"""ISO weeks in UTC, and the stretch of time that a digest is of."""

import re
from datetime import date, timedelta
from typing import Final, NamedTuple

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.reading import read_moment

DAY_US: Final = 86_400_000_000
WEEK_US: Final = 7 * DAY_US
LONGEST_DAYS: Final = 31
_SECOND_US: Final = 1_000_000
_WEEK: Final = re.compile(r"(\d{4})-W(\d{2})", re.ASCII)
_EPOCH: Final = date(1970, 1, 1)
_FIRST_MONDAY_US: Final = 4 * DAY_US
"""Of 1970: the day of the epoch was a Thursday."""


class Period(NamedTuple):
    """From `since_us` (included) to `until_us` (not), microseconds since the epoch, both whole seconds."""

    since_us: int
    until_us: int

    @property
    def week(self) -> str | None:
        """`2026-W47` where it is just that week of UTC; None where it is not one."""
        if self.until_us - self.since_us != WEEK_US or (self.since_us - _FIRST_MONDAY_US) % WEEK_US:
            return None
        year, number, _ = (_EPOCH + timedelta(days=self.since_us // DAY_US)).isocalendar()
        return f"{year:04}-W{number:02}"

    @property
    def name(self) -> str:
        """The week's, or `20261120T090000Z-20261127T090000Z`: good for a file's name."""
        return self.week or f"{_compact(self.since_us)}-{_compact(self.until_us)}"

    @property
    def before(self) -> "Period":
        """As long, and just before it."""
        return Period(2 * self.since_us - self.until_us, self.since_us)

    @property
    def days(self) -> list[int]:
        """Numbers (since the epoch) of the UTC days that it has a part of."""
        return list(range(self.since_us // DAY_US, -(-self.until_us // DAY_US)))


def week_before(now_us: int) -> Period:
    """The ISO week of UTC that ended last."""
    until_us = (now_us - _FIRST_MONDAY_US) // WEEK_US * WEEK_US + _FIRST_MONDAY_US
    return Period(until_us - WEEK_US, until_us)


def read_week(text: str) -> Period:
    """Of `2026-W47`.

    Raises:
        ValueError: it is no week.
    """
    found = _WEEK.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is no week; write it like 2026-W47")
    try:
        monday = date.fromisocalendar(int(found[1]), int(found[2]), 1)
    except ValueError:
        raise ValueError(f"there is no week {int(found[2])} in the year {found[1]}; write it like 2026-W47") from None
    since_us = (monday - _EPOCH).days * DAY_US
    return Period(since_us, since_us + WEEK_US)


def read_period(week: str | None, since: str | None, until: str | None, now_us: int) -> Period:
    """What people asked for: a week, or since when and until when (without them now, and seven days before that).

    Of nothing at all it is the ISO week that ended last.

    Raises:
        ValueError: that is none, it has not begun yet, or is longer than `LONGEST_DAYS`; the message says what to do.
    """
    if week is not None:
        if since is not None or until is not None:
            raise ValueError("a week has its own beginning and end; give week, or since and until")
        period = read_week(week)
    elif since is None and until is None:
        period = week_before(now_us)
    else:
        until_us = now_us if until is None else read_moment(until, now_us)
        since_us = until_us - WEEK_US if since is None else read_moment(since, now_us)
        period = Period(since_us // _SECOND_US * _SECOND_US, -(-until_us // _SECOND_US) * _SECOND_US)
    if period.since_us >= period.until_us:
        raise ValueError("it ends before it begins; until has to be later than since")
    if period.since_us >= now_us:
        raise ValueError(f"it has not begun yet; the week that ended last is {week_before(now_us).week}")
    if period.since_us < 0:
        raise ValueError(f"no ledger is older than 1970; the week that ended last is {week_before(now_us).week}")
    # A second more, by which whole seconds at both ends may be longer than what was asked for.
    if period.until_us - period.since_us > LONGEST_DAYS * DAY_US + _SECOND_US:
        raise ValueError(f"a digest is of at most {LONGEST_DAYS} days; ask for a shorter time")
    return period


def _compact(at_us: int) -> str:
    return f"{rfc3339(at_us)[:19].replace('-', '').replace(':', '')}Z"
