"""Figures over time, as data: latency, the queue, the memory account, and how fast budgets burned."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.chart import Band, Level, Mark, Series, TimeChart
from lmx_ledger.report.model import Promises
from lmx_ledger.report.requests import Seen
from lmx_ledger.report.text import figure, listed, spelled
from lmx_ledger.report.window import Point, Window, by_bucket, count_by_bucket

_WINDOWS: Final = 3
_MARKS: Final = 300
_OUT: Final = "paging.out_finished"


def latency(requests: Sequence[Seen], window: Window, bands: list[Band], promises: Promises) -> list[TimeChart]:
    """Time to the first token, and between tokens."""
    every = spelled(window.step_us)
    first = [(seen.first_token_us, seen.ttft_ms) for seen in requests if seen.ttft_ms is not None]
    gaps = [(seen.end_us, seen.itl_ms) for seen in requests if seen.itl_ms is not None]
    return [
        _latency("ttft", "Time to first token", every, first, promises.ttft_ms, window, bands),
        _latency("itl", "Time between tokens (p95 of each request)", every, gaps, promises.itl_ms, window, bands),
    ]


def _latency(
    key: str,
    title: str,
    every: str,
    values: Sequence[tuple[int | None, float | None]],
    objective_ms: float,
    window: Window,
    bands: list[Band],
) -> TimeChart:
    known = [(at_us, value) for at_us, value in values if at_us is not None and value is not None]
    return TimeChart(
        key=key,
        title=title,
        about=f"Median and 95th percentile of each {every}, with the objective and the guard's stages.",
        unit="ms",
        from_us=window.from_us,
        until_us=window.until_us,
        series=[
            Series(label="p95", points=by_bucket(known, window, 0.95)),
            Series(label="p50", points=by_bucket(known, window, 0.5)),
        ],
        levels=[Level(label=f"objective {figure(objective_ms, 'ms')}", value=objective_ms)],
        bands=bands,
        empty=None if known else "No request gave a token in this time.",
    )


def queue(requests: Sequence[Seen], events: Sequence[Recorded], window: Window, bands: list[Band]) -> TimeChart:
    """What came in, what was admitted, what was refused."""
    received = [seen.received_us for seen in requests if seen.received_us is not None]
    admitted = [seen.admitted_us for seen in requests if seen.admitted_us is not None]
    refused = [event.time_us for event in events if event.type == "request.rejected"]
    every = spelled(window.step_us)
    return TimeChart(
        key="queue",
        title=f"Requests in each {every}",
        about=f"How many were received, admitted and refused in each {every}.",
        unit="",
        from_us=window.from_us,
        until_us=window.until_us,
        series=[
            Series(label="received", points=count_by_bucket(received, window), step=True),
            Series(label="admitted", points=count_by_bucket(admitted, window)),
            Series(label="refused", points=count_by_bucket(refused, window)),
        ],
        bands=bands,
        columns=True,
        column_us=window.step_us,
        empty=None if received or admitted or refused else "No request came in this time.",
    )


def memory(events: Sequence[Recorded], window: Window, bands: list[Band]) -> TimeChart:
    """Weights, KV and working memory, all that is used, and the limit; with what was paged out."""
    found: dict[str, list[Point]] = defaultdict(list)
    weights: dict[str, int] = {}
    marks: list[Mark] = []
    for event in events:
        if not window.has(event.time_us):
            continue
        data, at = event.data, event.time_us
        if event.type == "paging.planned":
            lines = data.get("account", {}).get("lines", [])
            for line in lines:
                weights[str(line.get("model"))] = sum(line.get("layers", []))
            if lines:
                for name, keys in (("KV, reserved and kept", ("kv", "kept")), ("working memory", ("working",))):
                    found[name].append((at, float(sum(line.get(key, 0) for line in lines for key in keys))))
                found["weights"].append((at, float(sum(weights.values()))))
                found["limit"].append((at, float(data["account"].get("limit", 0))))
        elif event.model is not None and event.type in _WEIGHTS:
            size = _WEIGHTS[event.type](data, weights.get(event.model, 0))
            if size is not None:
                weights[event.model] = size
                found["weights"].append((at, float(sum(weights.values()))))
        if data.get("limit_bytes") and data.get("used_bytes") is not None:
            found["used"].append((at, float(data["used_bytes"])))
            found["limit"].append((at, float(data["limit_bytes"])))
        elif event.type == "sensor.sampled" and data.get("used_bytes") is not None:
            found["used"].append((at, float(data["used_bytes"])))
        if event.type == _OUT and not data.get("error") and len(marks) < _MARKS:
            text = f"{event.model}: {figure(data.get('bytes'), 'bytes')} of weights left memory"
            marks.append(Mark(at_us=at, label=text, seq=event.seq))
    order = ("used", "limit", "weights", "KV, reserved and kept", "working memory")
    share = _page_at(events)
    return TimeChart(
        key="memory",
        title="Memory",
        about="What is used of the memory limit, and by what; a mark for each time that weights were paged out.",
        unit="bytes",
        from_us=window.from_us,
        until_us=window.until_us,
        series=[Series(label=n, points=_thinned(found[n], window), step=True) for n in order if n in found],
        levels=[
            Level(label=f"page_at ({figure(share, 'share')} of the limit)", value=share * limit)
            for limit in {found["limit"][0][1] or 0.0}
            if share
        ]
        if found["limit"]
        else [],
        bands=bands,
        marks=marks,
        marks_are="weights paged out",
        empty=None if any(found.values()) else "No event of this time tells how much memory was used.",
    )


_WEIGHTS: Final[dict[str, Callable[[dict[str, Any], int], int | None]]] = {
    "model.loaded": lambda data, _: int(data.get("weights_bytes", 0)),
    "model.unloaded": lambda _, __: 0,
    _OUT: lambda data, _: int(data["resident_bytes"]) if data.get("resident_bytes") is not None else None,
    "paging.in_finished": lambda data, had: had + int(data.get("bytes", 0)),
}


def _page_at(events: Sequence[Recorded]) -> float | None:
    return next((e.data["page_at"] for e in events if e.type.startswith("guard.thr") and e.data.get("page_at")), None)


def _thinned(points: list[Point], window: Window) -> list[Point]:
    """The highest of each eighth of a bucket: a storm has more points than a figure has places."""
    cell = max(window.step_us // 8, 1)
    highest: dict[int, Point] = {}
    for at_us, value in sorted(points, key=lambda one: one[0]):
        place = at_us // cell
        if place not in highest or (value or 0.0) > (highest[place][1] or 0.0):
            highest[place] = at_us, value
    return list(highest.values())


def burn(events: Sequence[Recorded], window: Window) -> TimeChart:
    """How fast the budget burned that burned fastest, by window."""
    told = [e for e in events if e.type.startswith("slo.") and "objective" in e.data]
    by: dict[tuple[str, str], float] = {}
    for event in told:
        rates = [rate for rate in event.data.get("burn", {}).values() if rate is not None]
        key = event.data["objective"], event.model or ""
        by[key] = max([by.get(key, 0.0), event.data.get("short_burn", 0.0), *rates])
    worst = max(sorted(by), key=lambda one: by[one], default=("", ""))
    mine = [e for e in told if (e.data["objective"], e.model or "") == worst and window.has(e.time_us)]
    points: dict[str, list[Point]] = defaultdict(list)
    levels: dict[str, float] = {}
    marks: list[Mark] = []
    for event in sorted(mine, key=lambda e: e.time_us):
        data = event.data
        for name, rate in data.get("burn", {}).items():
            if rate is not None:
                points[name].append((event.time_us, rate))
        if event.type == "slo.burn_alerted":
            points[data["long"]].append((event.time_us, data["long_burn"]))
            points[data["short"]].append((event.time_us, data["short_burn"]))
            levels[f"{data['severity']} at {figure(data['factor'], 'x')}"] = data["factor"]
        if event.type != "slo.evaluated":
            marks.append(Mark(at_us=event.time_us, label=_SAID[event.type], seq=event.seq))
    alerted = [e.data[end] for e in mine if e.type == "slo.burn_alerted" for end in ("short", "long")]
    order = list(dict.fromkeys([*alerted, *sorted(points, key=_minutes)]))[: _WINDOWS + 1]
    of = f"{worst[0]} of {worst[1]}" if worst[1] else worst[0]
    return TimeChart(
        key="burn",
        title=f"Burn rate of {of}" if of else "Burn rate",
        about="How fast the error budget was used up, by window; at 1x it lasts just its period.",
        unit="x",
        from_us=window.from_us,
        until_us=window.until_us,
        series=[Series(label=f"over {name}", points=points[name], step=True) for name in order if name in points],
        levels=[Level(label=label, value=value) for label, value in sorted(levels.items())],
        marks=marks,
        marks_are=listed(sorted({mark.label for mark in marks})),
        empty=None if points else "No objective was judged in this time.",
    )


_SAID: Final = {
    "slo.burn_alerted": "alert begins",
    "slo.burn_cleared": "alert ends",
    "slo.budget_exhausted": "budget exhausted",
}


def _minutes(name: str) -> tuple[float, str]:
    units = {"m": 1.0, "h": 60.0, "d": 1440.0}
    digits = name[:-1]
    return (float(digits) * units.get(name[-1:], 0.0), name) if digits.isdigit() else (0.0, name)
