"""When an incident began: what its first symptom says of that itself, or the first series that changed before it; pure.

A symptom is told of when it has lasted, been added up or been waited for; what made it began earlier.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import series as s
from lmx_ledger.incident.onset import Change, rise
from lmx_ledger.incident.series import SECOND_US, Seconds

LOOK_BACK_S: Final = 600
"""How far before a symptom its beginning is looked for."""
EVENT: Final = "event"

_WATCHED: Final = {
    s.TTFT: 100.0,
    s.REFUSED: 2.0,
    s.FAILED: 1.0,
    s.NEW: 6.0,
    s.PAGING: 3.0,
    s.LOST_PREFIX: 256.0,
    s.DISK: 50.0,
}
"""The series in which a fault shows, and the least step that is one (of counts: within `series.AHEAD_S`)."""
_QUIET_SHARE: Final = 3
"""The first third of what is looked at says what is usual."""
_LASTS: Final = 0.25
"""What began has to be there, behind that, in this share of the seconds in which it could be seen."""
_JUMP: Final = 3.0
"""... and its mean so many standard deviations above what is usual."""


class Began(NamedTuple):
    """At `at_us`; `how` is `event`, or the series that changed first."""

    at_us: int
    how: str = EVENT


def told(event: Recorded, cause: Recorded | None) -> Began | None:
    """What the symptom says itself, with the event that made it happen; None: it is noticed of something else."""
    data = event.data
    match event.type:
        case "sensor.thermal_throttled":
            return Began(event.time_us - s.HEAT_LASTS_US)
        case "sensor.swap_thrash":
            return Began(event.time_us - s.swapped_for_us(event))
        case "daemon.crash_detected":
            return Began(min(parse_rfc3339(data["last_time"]), event.time_us))
        case "engine.exited" if data.get("hung") and cause is not None and cause.data.get("silent_s") is not None:
            return Began(cause.time_us - int(cause.data["silent_s"] * 1e6))
        case "guard.stage_changed" | "slo.burn_alerted" | "guard.context_ceiling_changed":
            return None
    return Began(event.time_us)


def changed(events: Sequence[Recorded], since_us: int, until_us: int) -> list[tuple[str, int, Change]]:
    """Which series went up between the two moments and stayed so: name, when, and by how much; the first one first."""
    first = next((event.time_us for event in events if event.type == "request.received"), None)
    if first is None:
        return []
    since_us = max(since_us, first)
    seconds = Seconds(events, since_us, until_us)
    quiet = max(seconds.count // _QUIET_SHARE, 1)
    found = []
    for name, least in _WATCHED.items():
        values = seconds.series(name)
        change = rise(values, quiet, least=least)
        if change is not None and change.z >= _JUMP and _lasts(values, change, least):
            found.append((name, _exactly(events, name, seconds, change), change))
    return sorted(found, key=lambda one: one[1])


def began(event: Recorded, cause: Recorded | None, events: Sequence[Recorded]) -> Began:
    """When the incident of that symptom began; `events` are those before it, oldest first."""
    by_itself = told(event, cause)
    if by_itself is not None:
        return by_itself
    since_us = max(events[0].time_us if events else event.time_us, event.time_us - LOOK_BACK_S * SECOND_US)
    found = changed(events, since_us, event.time_us)
    if not found:
        return Began(event.time_us)
    name, at_us, _ = found[0]
    return Began(min(at_us, event.time_us), name)


def _lasts(values: Sequence[float | None], change: Change, least: float) -> bool:
    bound = change.before + max(least / 2, (change.after - change.before) / 4)
    behind = [value for value in values[change.at :] if value is not None]
    return sum(value >= bound for value in behind) >= max(_LASTS * len(behind), 1)


def _exactly(events: Sequence[Recorded], name: str, seconds: Seconds, change: Change) -> int:
    """To the event rather than to the second, where the series counts events."""
    if name in {s.TTFT, s.DISK}:
        return seconds.time_us(change.at)
    begin, wanted = seconds.time_us(seconds.first(name, change.at)), set(seconds.seqs[name])
    return next((e.time_us for e in events if e.seq in wanted and e.time_us >= begin), begin)
