"""The figures of a digest, as data; pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.week import DAY_US, Period
from lmx_ledger.report.chart import Band, Bar, BarChart, Chart, Lane, LaneChart, Level, Series, TimeChart
from lmx_ledger.report.digest.model import Costs, Incident, Traffic
from lmx_ledger.report.digest.sums import Told
from lmx_ledger.report.text import NAME, figure, plain
from lmx_ledger.slo.recall import EVERY_MODEL

_LANES: Final = 12
_BARS: Final = 10
_BUDGETS: Final = 5
_HOUR_US: Final = 3_600_000_000
_TONES: Final = {"critical": "bad", "error": "bad", "warning": "warn"}
_EARLIER: Final = "as long before"


def requests_chart(period: Period, days: Sequence[Traffic], before: Sequence[Traffic] | None) -> TimeChart:
    """How many ended on each day, and how; with the time before as a line."""
    starts = [day * DAY_US for day in period.days]
    line = Series(label="requests", points=_points(starts, [day.requests for day in days]), step=True)
    if before is not None:
        line = Series(
            label=f"requests {_EARLIER}", points=_shifted(period, [day.requests for day in before]), step=True
        )
    return TimeChart(
        key="requests",
        title="Requests of each day",
        about="How many requests ended on each day of UTC, and how.",
        unit="",
        from_us=period.since_us,
        until_us=period.until_us,
        series=[
            line,
            Series(label="answered", points=_points(starts, [day.answered for day in days])),
            Series(label="refused", points=_points(starts, [sum(day.refused.values()) for day in days])),
            Series(
                label="failed or cancelled",
                points=_points(starts, [sum(day.failed.values()) + day.cancelled for day in days]),
            ),
        ],
        columns=True,
        column_us=DAY_US,
        empty=None if any(day.requests for day in days) else "No request ended in this time.",
    )


def latency_charts(
    period: Period, days: Sequence[Traffic], before: Sequence[Traffic] | None, levels: Mapping[str, float]
) -> list[TimeChart]:
    """Time to the first token and between tokens, 95th percentile of each day; `levels` are objectives in ms."""
    return [
        _latency("ttft", "Time to first token, 95th percentile", period, days, before, levels.get("ttft")),
        _latency("itl", "Time between tokens, 95th percentile", period, days, before, levels.get("itl")),
    ]


def _latency(
    key: str,
    title: str,
    period: Period,
    days: Sequence[Traffic],
    before: Sequence[Traffic] | None,
    level_ms: float | None,
) -> TimeChart:
    def of(traffic: Sequence[Traffic]) -> list[float | None]:
        return [day.ttft_p95_ms if key == "ttft" else day.itl_p95_ms for day in traffic]

    middles = [min(max(day * DAY_US + DAY_US // 2, period.since_us), period.until_us) for day in period.days]
    series = [Series(label="95th percentile", points=_points(middles, of(days)))]
    if before is not None and any(value is not None for value in of(before)):
        series.append(Series(label=_EARLIER, points=_shifted(period, of(before), at=DAY_US // 2)))
    return TimeChart(
        key=key,
        title=title,
        about="Of the requests that were answered on each day, in the middle of the day.",
        unit="ms",
        from_us=period.since_us,
        until_us=period.until_us,
        series=series,
        levels=[] if level_ms is None else [Level(label=f"objective {figure(level_ms, 'ms')}", value=level_ms)],
        empty=None if any(value is not None for value in of(days)) else "No request gave a token in this time.",
    )


def budgets_chart(period: Period, told: Mapping[tuple[str, str], Told]) -> TimeChart:
    """What was left of the budgets that were used most, of all models."""
    mine = {name: one.by_hour for (name, model), one in told.items() if model == EVERY_MODEL and one.by_hour}
    ranked = sorted(mine, key=lambda name: (min(mine[name].values()), name))[:_BUDGETS]
    return TimeChart(
        key="budgets",
        title="Error budgets left, in percent",
        about="Of each objective's period, of all models; those of which least was left.",
        unit="",
        from_us=period.since_us,
        until_us=period.until_us,
        series=[
            Series(
                label=name,
                points=[(hour * _HOUR_US, max(left, 0.0) * 100) for hour, left in sorted(mine[name].items())],
                step=True,
            )
            for name in ranked
        ],
        empty=None if ranked else "No objective was judged in this time.",
    )


def incidents_chart(period: Period, incidents: Sequence[Incident]) -> LaneChart:
    """When each was, the longest ones, under the numbers that they have in the table."""
    longest = sorted(enumerate(incidents, 1), key=lambda pair: (-pair[1].lasted_s, pair[1].id))[:_LANES]
    lanes = []
    for number, one in sorted(longest, key=lambda pair: pair[0]):
        start_us = parse_rfc3339(one.started)
        end_us = start_us + int(one.lasted_s * 1e6)
        band = Band(
            from_us=max(start_us, period.since_us),
            until_us=min(max(end_us, start_us + 1), period.until_us),
            label=one.severity,
            tone="plain" if one.drill else _TONES.get(one.severity, "warn"),
        )
        lanes.append(Lane(label=f"{number}. {plain(one.title.removeprefix('drill: '), NAME)}", bands=[band]))
    return LaneChart(
        key="incidents",
        title="Incidents",
        about="When each was open. Trouble: an error or worse; restricted: a warning; neither: a rehearsal.",
        from_us=period.since_us,
        until_us=period.until_us,
        lanes=lanes,
        empty=None if lanes else "There was no incident in this time.",
    )


def costs_chart(costs: Costs) -> BarChart:
    """What was lost, by cause, the dearest first."""
    lost = [(part.name.replace("_", " "), part.ms) for part in costs.parts if part.lost]
    again: dict[str, float] = {}
    for miss in costs.misses:
        name = f"read again: {(miss.breaker or miss.reason).replace('_', ' ')}"
        again[name] = again.get(name, 0.0) + miss.ms
    bars = sorted((one for one in [*lost, *again.items()] if one[1] > 0), key=lambda one: (-one[1], one[0]))
    return BarChart(
        key="costs",
        title="What it cost, by cause",
        about="Time that requests waited or stood still, by what for, and time in which prompts were read again.",
        parts=["time of requests"],
        bars=[Bar(label=name, values=[value]) for name, value in bars[:_BARS]],
        empty=None if bars else "Nothing was lost in this time.",
    )


def all_of(
    period: Period,
    days: Sequence[Traffic],
    before: Sequence[Traffic] | None,
    levels: Mapping[str, float],
    told: Mapping[tuple[str, str], Told],
    incidents: Sequence[Incident],
    costs: Costs,
) -> list[Chart]:
    """Every figure."""
    return [
        budgets_chart(period, told),
        incidents_chart(period, incidents),
        costs_chart(costs),
        requests_chart(period, days, before),
        *latency_charts(period, days, before, levels),
    ]


def _points(times: Sequence[int], values: Sequence[float | None]) -> list[tuple[int, float | None]]:
    return [(at_us, None if value is None else float(value)) for at_us, value in zip(times, values, strict=True)]


def _shifted(period: Period, values: Sequence[float | None], at: int = 0) -> list[tuple[int, float | None]]:
    """Values of the days before, laid over the days now."""
    shift = period.until_us - period.since_us
    times = [day * DAY_US + at + shift for day in period.before.days]
    return _points([min(max(one, period.since_us), period.until_us) for one in times], values)
