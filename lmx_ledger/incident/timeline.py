"""An incident as one line of events: what matters, what repeats told once, each with its seq; pure.

The same lines are for the terminal, for JSON and for reports.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.units import show_bytes, show_duration
from lmx_ledger.incident.series import REFUSALS
from lmx_ledger.incident.state import Incident
from lmx_ledger.ledger.log_lines import render

BEFORE_S: Final = 60.0
BEHIND_S: Final = 30.0
"""So long before an incident began and behind its end belongs to its timeline."""

_KINDS: Final = {
    "request": "request",
    "kv": "cache",
    "paging": "paging",
    "sensor": "sensor",
    "guard": "guard",
    "breaker": "guard",
    "engine": "worker",
    "model": "worker",
    "operator": "operator",
    "config": "config",
    "slo": "objective",
    "incident": "incident",
    "ledger": "ledger",
    "daemon": "daemon",
    "drill": "drill",
}
_LATENCY: Final = "latency"
_TOLD_ELSEWHERE: Final = frozenset({"guard.backpressure_on", "guard.backpressure_off", "ledger.archived"})
_NEVER: Final = frozenset(
    {
        "request.received",
        "request.queued",
        "request.admitted",
        "request.first_token",
        "request.finished",
        "request.cancelled",
        "kv.hit",
        "kv.saved",
        "kv.restored",
        "kv.reserved",
        "sensor.sampled",
        "slo.evaluated",
        "paging.planned",
        "paging.out_started",
        "paging.in_started",
        "engine.started",
        "engine.standby_ready",
        "ledger.sealed",
        *_TOLD_ELSEWHERE,
    }
)
_APART_US: Final = 30_000_000
"""What comes again within that is told in one line."""
_BUCKETS_US: Final = (10_000_000, 60_000_000)
_SHORT_US: Final = 600_000_000
_FACTOR: Final = 2.0
_LEAST_MS: Final = 100.0
_LEAST: Final = 3


class Line(msgspec.Struct, frozen=True):
    """`count` events of one kind, from `first_seq` at `time_us` to `last_seq` at `until_us`. `symptom`: it is one of
    the incident's.
    """

    first_seq: int
    last_seq: int
    time_us: int
    until_us: int
    severity: Severity
    kind: str
    text: str
    count: int = 1
    symptom: bool = False

    def public(self, onset_us: int) -> dict[str, Any]:
        """For a program; `offset_s` is from when the incident began."""
        return {
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "time": rfc3339(self.time_us),
            "until": rfc3339(self.until_us),
            "offset_s": round((self.time_us - onset_us) / 1e6, 3),
            "severity": self.severity.label,
            "kind": self.kind,
            "text": self.text,
            "count": self.count,
            "symptom": self.symptom,
        }


class _Group:
    """Events that say the same."""

    def __init__(self, first: Recorded) -> None:
        self.events = [first]

    def add(self, event: Recorded) -> None:
        self.events.append(event)


def bounds(incident: Incident, now_us: int) -> tuple[int, int]:
    """From when to when it goes."""
    end_us = now_us
    if incident.ended_us is not None:
        # That it was resolved is a part of it.
        end_us = min(max(incident.ended_us + int(BEHIND_S * 1e6), (incident.resolved_us or 0) + 1), now_us)
    since_us = incident.started_us - int(BEFORE_S * 1e6)
    return since_us, max(end_us, incident.detected_us, since_us)


def timeline(events: Iterable[Recorded], incident: Incident) -> list[Line]:
    """The lines, by time, of the events of its time, oldest first."""
    symptoms = set(incident.events)
    groups: dict[tuple[Any, ...], _Group] = {}
    done: list[_Group] = []
    tokens: list[Recorded] = []
    for event in events:
        if event.type == "request.first_token":
            tokens.append(event)
        if event.type in _NEVER or not _matters(event, incident):
            continue
        key = (event.type, event.seq) if event.seq in symptoms and event.type != "slo.burn_alerted" else _key(event)
        group = groups.get(key)
        if group is not None and event.time_us - group.events[-1].time_us <= _APART_US:
            group.add(event)
            continue
        if group is not None:
            done.append(group)
        groups[key] = _Group(event)
    lines = [_line(group, symptoms) for group in (*done, *groups.values())]
    return sorted((*lines, *_latency(tokens)), key=lambda line: (line.time_us, line.first_seq))


def _matters(event: Recorded, incident: Incident) -> bool:
    data = event.data
    match event.type:
        case "request.rejected":
            safe = str(data.get("message") or "").find("safe") >= 0 and data["code"] == "context_length_exceeded"
            return data["status"] in REFUSALS or data["status"] >= 500 or safe
        case "request.degraded":
            return event.severity >= Severity.WARNING
        case "kv.missed":
            return bool(data["lost_tokens"])
        case "kv.evicted":
            return bool(data["reason"] == "unwritable")
        case "engine.exited":
            return not data["expected"]
        case "guard.threshold_breached" | "guard.threshold_cleared":
            # A limit that follows what others use is no news; that it was reached is.
            return bool(data["name"] != "memory_limit") or event.severity >= Severity.WARNING
        case "ledger.verified":
            return not data["ok"]
        case "model.load_started":
            return bool(data["reason"] != "configured")
        case "incident.opened" | "incident.merged" | "incident.reopened" | "incident.mitigated":
            return event.incident == incident.id or event.incident in incident.merged
        case "incident.resolved" | "incident.closed" | "incident.acknowledged":
            return event.incident == incident.id
    return event.type.partition(".")[0] in _KINDS


def _key(event: Recorded) -> tuple[Any, ...]:
    """What says the same has the same."""
    data = event.data
    match event.type:
        case "request.rejected" | "request.failed":
            return event.type, data["status"], data["code"]
        case "request.resumed":
            return event.type, data["reason"]
        case "request.degraded":
            return event.type, data["reason"]
        case "kv.missed":
            return event.type, data["reason"], data["breaker"]
        case "paging.out_finished" | "paging.in_finished":
            return event.type, bool(data["error"])
        case "kv.corrupt" | "guard.model_shed":
            return event.type, event.model
        case "guard.threshold_breached" | "guard.threshold_cleared":
            return event.type, data["name"], event.model
        case "slo.burn_alerted" | "slo.burn_cleared" | "slo.budget_exhausted":
            return event.type, data["objective"]
    return event.type, event.seq


def _line(group: _Group, symptoms: set[int]) -> Line:
    first, last = group.events[0], group.events[-1]
    return Line(
        first_seq=first.seq,
        last_seq=last.seq,
        time_us=first.time_us,
        until_us=last.time_us,
        severity=max(event.severity for event in group.events),
        kind=_KINDS[first.type.partition(".")[0]],
        text=_text(group.events),
        count=len(group.events),
        symptom=any(event.seq in symptoms for event in group.events),
    )


def _text(events: Sequence[Recorded]) -> str:
    first, count = events[0], len(events)
    data = first.data
    several = "s" if count > 1 else ""
    match first.type:
        case "request.rejected":
            return f"{count:,} request{several} refused ({data['status']} {data['code']})"
        case "request.failed":
            return f"{count:,} request{several} failed ({data['status']} {data['code']})"
        case "request.resumed":
            gap = show_duration(max(event.data["gap_ms"] for event in events) / 1e3)
            after = f"after up to {gap}" if count > 1 else f"after {gap}"
            return f"{count:,} stream{several} went on {after} ({data['reason']})"
        case "kv.missed":
            tokens = sum(event.data["lost_tokens"] for event in events)
            why = f"{data['reason']}, {data['breaker']}" if data["breaker"] else data["reason"]
            return f"{count:,} prompt{several} computed again, {tokens:,} tokens ({why})"
        case "paging.out_finished" | "paging.in_finished":
            size = show_bytes(sum(event.data["bytes"] for event in events))
            models = ", ".join(sorted({event.model or "?" for event in events})[:4])
            way = "left memory" if first.type == "paging.out_finished" else "came back"
            often = f", {count:,} times" if count > 1 else ""
            wrong = f": {data['error']}" if data["error"] else ""
            return f"Weights of {models} {way} ({size}){often}{wrong}"
        case "slo.burn_alerted" | "slo.burn_cleared" | "slo.budget_exhausted":
            return said(first) + (f" and {count - 1} more of it" if count > 1 else "")
        case "config.loaded":
            return f"Configuration read ({data['source'] or 'the defaults'})"
        case "incident.opened":
            return f"Opened as {data['severity']}: {data['title']}"
        case "incident.merged":
            what = f"part of it: {data['merged']}" if data["merged"] else f"one more symptom ({data['symptom']})"
            return f"{what[0].upper()}{what[1:]}; now {data['severity']}: {data['title']}"
        case "incident.reopened":
            return f"Reopened by a symptom ({data['symptom']}), {data['severity']}: {data['title']}"
        case "incident.mitigated":
            return "Mitigated: none of its symptoms is there any more"
        case "incident.resolved":
            return f"Resolved, quiet for {show_duration(data['quiet_s'])}"
        case "incident.acknowledged":
            return f"Acknowledged ({data['via']})"
        case "incident.closed":
            return f"Closed ({data['reason']})"
    return said(first) + (f" ({count:,} times)" if count > 1 else "")


def said(event: Recorded) -> str:
    """Its log line, without who says it."""
    if event.type == "guard.stage_changed":
        why = ", ".join(map(str, event.data["reasons"]))
        return f"Stage {event.data['from']} -> {event.data['to']}" + (f" ({why})" if why else "")
    if event.type == "drill.started":
        return f"Drill: {event.data['kind']} for {show_duration(event.data['for_s'])}. What follows is a rehearsal"
    line = render(event).partition("] ")[2]
    return line.removesuffix(f" ({event.severity.label})").rstrip(".")


class _Bucket(NamedTuple):
    events: list[Recorded]
    p95_ms: float


def _latency(tokens: Sequence[Recorded]) -> list[Line]:
    """Where the time to the first token changed: ten seconds against those before, or minutes of a long incident."""
    if not tokens:
        return []
    width = _BUCKETS_US[tokens[-1].time_us - tokens[0].time_us > _SHORT_US]
    what = f"{width // 1_000_000} s" if width == _BUCKETS_US[0] else "minute"
    lines: list[Line] = []
    told: float | None = None
    for bucket in _buckets(tokens, width):
        if told is None:
            told = bucket.p95_ms
            continue
        low, high = sorted((told, bucket.p95_ms))
        if high < _FACTOR * low or high - low < _LEAST_MS:
            continue
        text = f"TTFT p95 of the {what} {show_duration(told / 1e3)} -> {show_duration(bucket.p95_ms / 1e3)}"
        severity = Severity.WARNING if bucket.p95_ms > told else Severity.INFO
        # Where it shows first, not where the seconds that are counted together begin.
        middle, up = (told + bucket.p95_ms) / 2, bucket.p95_ms > told
        first = next((one for one in bucket.events if (one.data["ttft_ms"] > middle) == up), bucket.events[0])
        last = bucket.events[-1]
        told = bucket.p95_ms
        lines.append(Line(first.seq, last.seq, first.time_us, last.time_us, severity, _LATENCY, text))
    return lines


def _buckets(tokens: Sequence[Recorded], width: int) -> Iterable[_Bucket]:
    start, mine = 0, list[Recorded]()
    for event in (*tokens, None):
        if event is not None and (not mine or event.time_us - start < width):
            start = start if mine else event.time_us
            mine.append(event)
            continue
        if len(mine) >= _LEAST:
            values = sorted(float(one.data["ttft_ms"]) for one in mine)
            yield _Bucket(mine, values[min(int(len(values) * 0.95), len(values) - 1)])
        if event is not None:
            start, mine = event.time_us, [event]
