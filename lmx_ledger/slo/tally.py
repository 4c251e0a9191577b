"""What is good of how many, for each objective and model, in any window: kept in memory and read on from the rollups.

Three days of minutes are kept for the windows, and hours for the period. With each stands the sum up to it, so that any
window is two searches and a subtraction; the newest ones change, and only those are put in anew.
"""

import sqlite3
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.slo import rows
from lmx_ledger.slo.asleep import Slept, first_minute
from lmx_ledger.slo.burn import Count, Observed
from lmx_ledger.slo.objective import Objective, judged
from lmx_ledger.slo.rollup import HOUR, MINUTE, MINUTE_US, NO_MODEL

LATELY: Final = 2
"""Minutes: what burns now has burned in these."""
_ALL: Final = None
"""The model of what all models add up to."""


class Series:
    """Counts by the number of a span, sparse: a machine that is idle keeps nothing."""

    def __init__(self) -> None:
        self._at = array("q")
        self._good, self._total, self._shed = array("q"), array("q"), array("q")
        self._gone = Count()

    def put(self, number: int, count: Count) -> None:
        """It is that now, whatever it was before. What was forgotten must not be put in again."""
        place = bisect_left(self._at, number)
        known = place < len(self._at) and self._at[place] == number
        behind = [(self._at[i], self._one(i)) for i in range(place + known, len(self._at))]
        for column in (self._at, self._good, self._total, self._shed):
            del column[place:]
        for at, one in [(number, count), *behind]:
            good, total, shed = self._up_to(len(self._at))
            self._at.append(at)
            self._good.append(good + one.good)
            self._total.append(total + one.total)
            self._shed.append(shed + one.shed)

    def forget(self, before: int) -> None:
        """Let go of what is before that number; sums must not begin there any more."""
        place = bisect_left(self._at, before)
        self._gone = self._up_to(place)
        for column in (self._at, self._good, self._total, self._shed):
            del column[:place]

    def sum(self, first: int, last: int) -> Count:
        """Of these numbers, both included."""
        begin, end = bisect_left(self._at, first), bisect_left(self._at, last + 1)
        if begin >= end:
            return Count()
        low, high = self._up_to(begin), self._up_to(end)
        return Count(high.good - low.good, high.total - low.total, high.shed - low.shed)

    def __len__(self) -> int:
        return len(self._at)

    def _up_to(self, place: int) -> Count:
        return Count(self._good[place - 1], self._total[place - 1], self._shed[place - 1]) if place else self._gone

    def _one(self, place: int) -> Count:
        low, high = self._up_to(place), self._up_to(place + 1)
        return Count(high.good - low.good, high.total - low.total, high.shed - low.shed)


class Tally:
    """Of all objectives, of each model and of all together (None)."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = [(objective, objective.limit) for objective in objectives]
        self._longest = max(
            (window.minutes for one in objectives for window in one.policy.profile.windows), default=MINUTE
        )
        self._hours = max((one.policy.profile.period.minutes // HOUR for one in objectives), default=1)
        self._series: defaultdict[tuple[str, str | None, int], Series] = defaultdict(Series)
        self._models: set[str] = set()
        self.seq = 0

    @property
    def models(self) -> list[str]:
        """Those of which there was anything."""
        return sorted(self._models - {NO_MODEL})

    def read(
        self,
        connection: sqlite3.Connection,
        now_us: int,
        slept: Sequence[Slept] = (),
        events: Iterable[Recorded] = (),
    ) -> None:
        """Take in what was folded since the last time, and `events`, which have not been folded yet.

        A file that is folded anew is behind what is known already: then all stays as it is until that is caught up.

        Raises:
            sqlite3.Error: there are no rollups, or they cannot be read.
        """
        minute = now_us // MINUTE_US
        first = {
            MINUTE: first_minute(minute, self._longest, slept),
            HOUR: minute // HOUR - self._hours + 1,
        }
        connection.execute("BEGIN")
        try:
            reached = rows.reached(connection)
            if reached >= self.seq:
                for span, number in first.items():
                    for at, models in rows.changed(connection, span, number, self.seq):
                        self.put(span, at, models)
                self.seq = reached
                for (span, at), models in rows.with_events(connection, events).items():
                    if at >= first[span]:
                        self.put(span, at, models)
        finally:
            connection.execute("ROLLBACK")
        for (_, _, span), series in self._series.items():
            series.forget(first[span])

    def put(self, span: int, number: int, models: rows.Models) -> None:
        """What a span of `MINUTE` or `HOUR` has by model, instead of what was known of it."""
        for objective, limit in self._objectives:
            good = total = shed = 0
            for model, found in models.items():
                self._models.add(model)
                count = judged(objective, limit, found)
                good, total, shed = good + count.good, total + count.total, shed + count.shed
                if any(count) or (objective.name, model, span) in self._series:
                    self._series[objective.name, model, span].put(number, count)
            self._series[objective.name, _ALL, span].put(number, Count(good, total, shed))

    def observed(self, objective: Objective, model: str | None, now_us: int, slept: Sequence[Slept] = ()) -> Observed:
        """What there is to judge, with the minute (and, of the period, the hour) that goes on."""
        minute = now_us // MINUTE_US
        profile = objective.policy.profile
        windows = {
            window: self._sum(objective, model, MINUTE, first_minute(minute, window.minutes, slept), minute)
            for window in profile.windows
        }
        hour = minute // HOUR
        period = self._sum(objective, model, HOUR, hour - profile.period.minutes // HOUR + 1, hour)
        return Observed(now_us, windows, period)

    def lately(self, objective: Objective, model: str | None, now_us: int, slept: Sequence[Slept] = ()) -> Count:
        """What there was in the minute that goes on and in the one before it."""
        minute = now_us // MINUTE_US
        return self._sum(objective, model, MINUTE, first_minute(minute, LATELY, slept), minute)

    def _sum(self, objective: Objective, model: str | None, span: int, first: int, last: int) -> Count:
        found = self._one(objective, model, span, first, last)
        if model is _ALL:
            return found
        # Who was refused before a model was looked for may have meant this one.
        return found._replace(shed=found.shed + self._one(objective, NO_MODEL, span, first, last).shed)

    def _one(self, objective: Objective, model: str | None, span: int, first: int, last: int) -> Count:
        series = self._series.get((objective.name, model, span))
        return series.sum(first, last) if series is not None else Count()
