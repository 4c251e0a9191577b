"""From when to when a report looks, and whether the clock was sound meanwhile; pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.chart import Band
from lmx_ledger.report.model import Incident
from lmx_ledger.report.requests import percentile
from lmx_ledger.report.text import figure, moment
from lmx_ledger.report.ticks import step_of

_BUCKETS: Final = 80
_MARGIN_US: Final = 600_000_000
_NOTICED_US: Final = 1_000_000
"""Threads write a little out of order; a step back of more than this is the clock's."""
Point = tuple[int, float | None]
_State = Callable[[dict[str, Any]], str]


class Window(NamedTuple):
    """Microseconds, UTC; figures have a value for each `step_us`."""

    from_us: int
    until_us: int
    step_us: int

    def bucket(self, at_us: int) -> int:
        """When the bucket of a moment begins."""
        return at_us // self.step_us * self.step_us

    def has(self, at_us: int) -> bool:
        """Whether it lies inside."""
        return self.from_us <= at_us <= self.until_us


def window_of(incident: Incident, events: Sequence[Recorded]) -> Window:
    """The incident, and what there is before and behind it: as much as it lasted, ten minutes at least.

    A time that lies further off is a clock that was set, and no reason to draw years.
    """
    known = [t for t in (incident.detected_us, incident.mitigated_us, incident.over_us) if t is not None]
    first, last = min([incident.started_us, *known]), max([incident.started_us, *known])
    if incident.over_us is None:
        # While it is open its end is what was written last.
        last = max(last, max((e.time_us for e in events[-100:]), default=last))
    margin = max(last - first, _MARGIN_US)
    times = [e.time_us for e in events if first - margin <= e.time_us <= last + margin]
    from_us, until_us = min([first, *times]), max([last, *times])
    until_us = max(until_us, from_us + _NOTICED_US)
    return Window(from_us, until_us, step_of(until_us - from_us, _BUCKETS))


def during(incident: Incident, events: Sequence[Recorded], window: Window) -> list[Recorded]:
    """Those of the incident itself, by their seqs: a clock that was set in between puts none of them outside."""
    until_us = window.until_us if incident.over_us is None else incident.over_us
    inside = [event.seq for event in events if incident.started_us <= event.time_us <= until_us]
    if not inside:
        return []
    first, last = min(inside), max(inside)
    return [event for event in events if first <= event.seq <= last]


def notes_on(events: Sequence[Recorded]) -> list[str]:
    """What a reader has to know: where the clock went back, and that events did not reach the ledger."""
    notes: list[str] = []
    steps = [(before, after) for before, after in pairwise(events) if before.time_us - after.time_us > _NOTICED_US]
    for before, after in steps[:3]:
        back = figure((before.time_us - after.time_us) / 1000, "ms")
        notes.append(
            f"The clock went back by {back} between events {before.seq} and {after.seq} ({moment(before.time_us)}):"
            " times around that are not in the order of the events."
        )
    if len(steps) > 3:
        notes.append(f"The clock went back {len(steps) - 3} more times.")
    lost = Counter[str]()
    for event in events:
        if event.type == "ledger.dropped":
            lost["late"] += event.data.get("late", 0)
            lost["lost"] += event.data.get("lost", 0)
        elif event.type == "daemon.crash_detected":
            notes.append(
                f"A run ended without a word at event {event.data['last_seq']}: what it did last may be missing."
            )
    if lost:
        notes.append(f"Events that did not reach the ledger: {lost['lost']:,}; that came late: {lost['late']:,}.")
    return notes


def by_bucket(values: Iterable[tuple[int, float]], window: Window, share: float) -> list[Point]:
    """The percentile of each bucket, in the middle of it; a gap where nothing was for a while."""
    buckets: dict[int, list[float]] = {}
    for at_us, value in values:
        if window.has(at_us):
            buckets.setdefault(window.bucket(at_us), []).append(value)
    points: list[Point] = []
    before: int | None = None
    for bucket in sorted(buckets):
        if before is not None and bucket - before > 4 * window.step_us:
            points.append((before + window.step_us, None))
        middle = min(max(bucket + window.step_us // 2, window.from_us), window.until_us)
        points.append((middle, percentile(buckets[bucket], share)))
        before = bucket
    return points


def count_by_bucket(times: Iterable[int], window: Window) -> list[Point]:
    """How many in each bucket, at its beginning; every bucket has a figure."""
    counts = Counter(window.bucket(at_us) for at_us in times if window.has(at_us))
    return [
        (bucket, float(counts[bucket]))
        for bucket in range(window.bucket(window.from_us), window.until_us + 1, window.step_us)
    ]


def guarded(events: Iterable[Recorded], window: Window) -> list[Band]:
    """When the guard was in another stage than normal, and when safe mode was on."""
    bands = [
        *spans(events, "guard.stage_changed", lambda data: str(data["from"]), lambda data: str(data["to"]), window),
        *spans(events, "guard.context_ceiling_changed", _was_safe, _is_safe, window),
    ]
    return [b for b in bands if b.label not in {"normal", "no safe mode"}]


def _was_safe(data: dict[str, Any]) -> str:
    return "safe mode" if data["reason"] == "recovered" else "no safe mode"


def _is_safe(data: dict[str, Any]) -> str:
    return "no safe mode" if data["reason"] == "recovered" else "safe mode"


STAGE_TONES: Final = {
    "normal": "calm",
    "no safe mode": "calm",
    "backpressure": "busy",
    "safe mode": "warn",
    "shedding": "warn",
    "restart": "bad",
}


def spans(events: Iterable[Recorded], kind: str, before: _State, after: _State, window: Window) -> list[Band]:
    """The states that events of one type lead through; the first one says what was before it."""
    bands: list[Band] = []
    at_us, state = window.from_us, ""
    for event in events:
        if event.type != kind:
            continue
        state = state or before(event.data)
        bands.append(Band(from_us=at_us, until_us=max(event.time_us, at_us), label=state, tone=_tone(state)))
        at_us, state = max(event.time_us, at_us), after(event.data)
    if state:
        bands.append(Band(from_us=at_us, until_us=max(window.until_us, at_us), label=state, tone=_tone(state)))
    return [band for band in bands if band.until_us > band.from_us]


def _tone(state: str) -> str:
    return STAGE_TONES.get(state, "plain")
