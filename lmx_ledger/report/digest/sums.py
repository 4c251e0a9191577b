"""What a stretch of time adds up to, event by event: in memory that goes by days, models and codes, not by events."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.core.week import DAY_US, Period
from lmx_ledger.incident import costs, losses
from lmx_ledger.incident.costs import LOST, Costs
from lmx_ledger.incident.dearest import Dearest, Sum
from lmx_ledger.incident.losses import Losses
from lmx_ledger.report.text import counted, figure, moment
from lmx_ledger.slo import histogram
from lmx_ledger.slo.rollup import EMPTY, NO_MODEL, Rollup, RollupProjection, merged, values_of

TYPES: Final = tuple(
    dict.fromkeys(
        (
            *costs.TYPES,
            *losses.TYPES,
            *RollupProjection.types,
            *("request.received", "slo.*", "incident.*", "drill.started", "daemon.crash_detected", "ledger.dropped"),
        )
    )
)
"""What a digest is made of."""
_ENDS: Final = frozenset({"request.finished", "request.failed", "request.cancelled", "request.rejected"})
_OF_COSTS: Final = frozenset(costs.TYPES)
_OF_LOSSES: Final = frozenset(losses.TYPES)
_OF_ROLLUPS: Final = frozenset(RollupProjection.types)
_PLANNED: Final = "paging.planned"
_HOUR_US: Final = 3_600_000_000
_NOTICED_US: Final = 1_000_000
"""Threads write a little out of order; a step back of more than this is the clock's."""
_STEPS_TOLD: Final = 3
_IN_FLIGHT: Final = 20_000
"""Requests whose client is remembered until they end; of more at once the oldest are nobody's."""

OUTCOME: Final = "outcome."
"""Of each request that ended one indicator begins so."""

Key = tuple[int, str, str]
"""Number of the UTC day, model, indicator of `slo.rollup`."""


class Told:
    """What was told of one objective of one model."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self.fastest: float | None = None
        self.window: str | None = None
        self.alerts = 0
        self.exhausted = False
        self.by_hour: dict[int, float] = {}
        """What was left of the budget, by the number of the hour since the epoch."""

    def add(self, event: Recorded) -> None:
        """One more `slo.*`."""
        data = event.data
        left = data.get("budget_remaining")
        if left is not None:
            self.first = left if self.first is None else self.first
            self.last = self.by_hour[event.time_us // _HOUR_US] = left
        rates = {**data.get("burn", {})}
        if event.type == "slo.burn_alerted":
            self.alerts += 1
            rates |= {data["long"]: data["long_burn"], data["short"]: data["short_burn"]}
        self.exhausted = self.exhausted or event.type == "slo.budget_exhausted"
        for window, rate in rates.items():
            if rate is not None and (self.fastest is None or rate > self.fastest):
                self.fastest, self.window = rate, window


@dataclass(slots=True)
class _Cell:
    """A rollup that is being added to."""

    count: int = 0
    sum: float = 0.0
    least: float = 0.0
    most: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        self.least = min(self.least, value) if self.count else value
        self.most = max(self.most, value) if self.count else value
        self.count, self.sum = self.count + 1, self.sum + value
        self.buckets[histogram.bucket_of(value)] += 1


class Sums:
    """Of one period. Traffic and budgets have everything, costs and losses only what was no rehearsal."""

    def __init__(self, period: Period, before: "Sums | None" = None) -> None:
        """`before` is the time just before it: who put weights out then is known."""
        self.period = period
        self.costs = Costs()
        self.losses = Losses()
        if before is not None:
            self.costs.put_out = dict(before.costs.put_out)
        self.clients = Dearest()
        self.refusals: dict[tuple[str, int], Sum] = {}
        self.told: dict[tuple[str, str], Told] = {}
        """By objective and model ("": all)."""
        self.events = self.first_seq = self.last_seq = self.last_us = 0
        self.last_id = ""
        self.drills = self.rehearsed = 0
        self._cells: dict[Key, _Cell] = {}
        self._asking: dict[str, str] = {}
        self._steps: list[str] = []
        self._stepped = 0
        self._dropped: Counter[str] = Counter()
        self._crashed = 0

    def add(self, event: Recorded) -> None:
        """One more, of `TYPES`, by ascending seq."""
        if self.events and self.last_us - event.time_us > _NOTICED_US:
            self._step_back(event)
        self.events += 1
        self.first_seq = self.first_seq or event.seq
        self.last_seq, self.last_us, self.last_id = event.seq, event.time_us, event.id
        kind = event.type
        if kind in _OF_ROLLUPS:
            day = event.time_us // DAY_US
            for sli, value in values_of(event):
                key = (day, event.model or NO_MODEL, sli)
                cell = self._cells.get(key)
                if cell is None:
                    cell = self._cells[key] = _Cell()
                cell.add(value)
        if event.data.get("drill") is None or kind == _PLANNED:
            self._cost(event)
        elif kind in _ENDS:
            self.rehearsed += 1
            self._asking.pop(event.request or "", None)
        if kind.startswith("slo."):
            self.told.setdefault((event.data["objective"], event.model or ""), Told()).add(event)
        elif kind == "drill.started":
            self.drills += 1
        elif kind == "daemon.crash_detected":
            self._crashed += 1
        elif kind == "ledger.dropped":
            self._dropped.update({"late": event.data.get("late", 0), "lost": event.data.get("lost", 0)})

    def _cost(self, event: Recorded) -> None:
        kind, data = event.type, event.data
        if kind in _OF_COSTS:
            self.costs.add(event)
        if kind in _OF_LOSSES:
            self.losses.add(event)
        if kind == "request.received":
            if data["client"] and event.request:
                self._asking[event.request] = data["client"]
                if len(self._asking) > _IN_FLIGHT:
                    del self._asking[next(iter(self._asking))]
        elif kind == "request.rejected":
            code = data["code"], data["status"]
            self.refusals[code] = self.refusals.get(code, Sum()).plus((data["retry_after_s"] or 0) * 1e3)
        client = self._asking.get(event.request or "")
        if client is not None:
            if kind == "kv.missed":
                self.clients.add(client, data["cost_ms"] or 0.0, data["lost_tokens"])
            elif kind in _ENDS:
                del self._asking[event.request or ""]
                lost = [ms for part, ms in (data.get("parts_ms") or {}).items() if part in LOST]
                if lost:
                    self.clients.add(client, sum(lost))

    def _step_back(self, event: Recorded) -> None:
        self._stepped += 1
        if self._stepped <= _STEPS_TOLD:
            back = figure((self.last_us - event.time_us) / 1000, "ms")
            self._steps.append(
                f"The clock went back by {back} between events {self.last_seq} and {event.seq}"
                f" ({moment(self.last_us)}): what each day had goes by the times as they were written."
            )

    @property
    def notes(self) -> list[str]:
        """Where the clock went back, runs that crashed, events that were lost."""
        notes = list(self._steps)
        if self._stepped > _STEPS_TOLD:
            notes.append(f"The clock went back {self._stepped - _STEPS_TOLD:,} more times.")
        if self._crashed:
            notes.append(f"{counted(self._crashed, 'run')} ended without a word: what was done last may be missing.")
        if self._dropped:
            lost, late = self._dropped["lost"], self._dropped["late"]
            notes.append(f"Events that did not reach the ledger: {lost:,}; that came late: {late:,}.")
        return notes

    def tables(self) -> "Tables":
        """The rollups by indicator, of all, of each day and of each model."""
        found = Tables({}, {}, {}, {})
        for (day, model, sli), cell in sorted(self._cells.items()):
            one = Rollup(cell.count, cell.sum, cell.least, cell.most, dict(cell.buckets))
            for rows in (found.all, found.days.setdefault(day, {}), found.models.setdefault(model, {})):
                rows[sli] = merged(rows.get(sli, EMPTY), one)
            if sli.startswith(OUTCOME):
                key = model, day
                found.ended[key] = found.ended.get(key, 0) + one.count
        return found


class Tables(NamedTuple):
    """Rollups by indicator: of all, by day (number since the epoch), by model; and how many ended, by model and day."""

    all: dict[str, Rollup]
    days: dict[int, dict[str, Rollup]]
    models: dict[str, dict[str, Rollup]]
    ended: dict[tuple[str, int], int]
