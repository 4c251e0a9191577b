"""From what a stretch of time adds up to, to its digest; pure: the same inputs give the same document."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.week import DAY_US, Period
from lmx_ledger.incident.costs import LOST
from lmx_ledger.report.digest import charts
from lmx_ledger.report.digest.model import (
    FORM,
    KIND,
    Change,
    Compared,
    Costs,
    Digest,
    Header,
    Incident,
    Traffic,
)
from lmx_ledger.report.digest.sums import Sums, Tables
from lmx_ledger.report.digest.traffic import budgets_of, models_of, traffic_of
from lmx_ledger.report.text import LONGEST, NAME, counted, figure, harmless, lasted, moment
from lmx_ledger.slo.objective import Objective
from lmx_ledger.slo.rollup import Rollup

ASKERS: Final = 10
"""Sessions and clients that are told, those that lost most."""
_ROWS: Final = 15
_SAME: Final = 0.05
"""A figure that moved by less than this share is as good as it was."""


class Trouble(NamedTuple):
    """Incidents that were no rehearsals: how many, and for how many seconds in all."""

    incidents: int
    lasted_s: float


class Found(NamedTuple):
    """What was read of one stretch of time, and of the one before it.

    `idle`: the ledger has events of it, none of which a digest tells of.
    """

    period: Period
    now: Sums
    before: Sums
    objectives: Sequence[Objective]
    incidents: Sequence[Incident]
    left_out: int
    trouble: Trouble
    trouble_before: Trouble
    changes: Sequence[Change]
    whole: bool
    idle: bool = False
    notes: Sequence[str] = ()


def assemble(found: Found) -> Digest:
    """The document. No text in it can fool a terminal."""
    period, now = found.period, found.now
    tables = now.tables()
    earlier = found.before.tables() if found.before.events else None
    total, days = traffic_of("all", tables.all), _days(period, tables)
    before = None if earlier is None else _days(period.before, earlier)
    models, model_days = models_of(tables, period.days)
    costs = _costs(now, found.before if earlier is not None else None)
    incidents = [harmless(one, 2 * NAME) for one in found.incidents]
    levels = {one.name: one.threshold * 1e3 for one in found.objectives if one.threshold is not None}
    header = Header(
        name=period.name,
        week=period.week,
        since=rfc3339(period.since_us),
        until=rfc3339(period.until_us),
        events=now.events,
        first_seq=now.first_seq,
        last_seq=now.last_seq,
        last_id=now.last_id,
        whole=found.whole,
        requests=total.requests,
        incidents=len(found.incidents) + found.left_out,
    )
    document = Digest(
        form=FORM,
        kind=KIND,
        header=header,
        summary=_summary(found, total, costs),
        notes=[*found.notes, *_notes(found, costs)],
        changes=[harmless(one, LONGEST) for one in found.changes],
        compared=[] if earlier is None else _compared(found, tables.all, earlier.all, costs),
        before=period.before.week or "as long a time before",
        budgets=budgets_of(found.objectives, now, tables, None if earlier is None else earlier.models),
        incidents=incidents,
        incidents_left_out=found.left_out,
        costs=costs,
        total=total,
        days=days,
        models=[harmless(one, NAME) for one in models],
        model_days=[harmless(one, NAME) for one in model_days],
        figures=[
            harmless(one, 2 * NAME) for one in charts.all_of(period, days, before, levels, now.told, incidents, costs)
        ],
    )
    return harmless(document)


def _days(period: Period, tables: Tables) -> list[Traffic]:
    return [traffic_of(rfc3339(day * DAY_US)[:10], tables.days.get(day, {})) for day in period.days]


def _costs(now: Sums, before: Sums | None) -> Costs:
    told = now.costs.told()
    earlier = {} if before is None else {part["name"]: part["ms"] for part in before.costs.told()["parts"]}
    values = {
        "requests": told["requests"],
        "wall_ms": told["wall_ms"],
        "lost_ms": _lost_ms(told),
        "reread_ms": _reread_ms(told),
        "parts": [
            {
                **part,
                "lost": part["name"] in LOST,
                "before_ms": None if before is None else earlier.get(part["name"], 0.0),
            }
            for part in told["parts"]
        ],
        "misses": told["misses"][:_ROWS],
        "page_ins": told["page_ins"][:_ROWS],
        "resumes": told["resumes"][:_ROWS],
        "refusals": [
            {"code": code, "status": status, "times": one.times, "told_ms": round(one.ms, 3)}
            for (code, status), one in sorted(now.refusals.items(), key=lambda pair: (-pair[1].times, pair[0]))
        ][:_ROWS],
        "sessions": [
            {"name": one["session"], "lost_tokens": one["lost_tokens"], "ms": one["ms"]} for one in told["sessions"]
        ],
        "clients": [
            {"name": name, "lost_tokens": one.tokens, "ms": round(one.ms, 3)}
            for name, one in now.clients.ranked()[:ASKERS]
            if one.ms or one.tokens
        ],
    }
    return harmless(msgspec.convert(values, Costs), NAME)


def _lost_ms(told: dict[str, Any]) -> float:
    return round(sum(float(part["ms"]) for part in told["parts"] if part["name"] in LOST), 3)


def _reread_ms(told: dict[str, Any]) -> float:
    return round(sum(float(miss["ms"]) for miss in told["misses"]), 3)


def _compared(found: Found, now: dict[str, Rollup], earlier: dict[str, Rollup], costs: Costs) -> list[Compared]:
    one, other = traffic_of("", now), traffic_of("", earlier)
    before = found.before.costs.told()
    requests = before["requests"]
    rows: list[tuple[str, str, float | None, float | None, int]] = [
        ("requests", "", one.requests, other.requests, 0),
        ("answered", "share", _share(one.answered, one.requests), _share(other.answered, other.requests), 1),
        ("refused", "", sum(one.refused.values()), sum(other.refused.values()), -1),
        ("failed", "", sum(one.failed.values()), sum(other.failed.values()), -1),
        ("time to first token, p95", "ms", one.ttft_p95_ms, other.ttft_p95_ms, -1),
        ("time between tokens, p95", "ms", one.itl_p95_ms, other.itl_p95_ms, -1),
        (
            "time lost, of each request",
            "ms",
            _share(costs.lost_ms, costs.requests),
            _share(_lost_ms(before), requests),
            -1,
        ),
        ("prompts read again", "ms", costs.reread_ms, _reread_ms(before), -1),
        ("incidents", "", found.trouble.incidents, found.trouble_before.incidents, -1),
        ("time in incidents", "ms", found.trouble.lasted_s * 1e3, found.trouble_before.lasted_s * 1e3, -1),
    ]
    return [
        Compared(name=name, unit=unit, now=value, before=was, better=_better(value, was, sign))
        for name, unit, value, was, sign in rows
    ]


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None


def _better(now: float | None, before: float | None, sign: int) -> str:
    """`sign` is 1 where more is better, -1 where less is, 0 where neither is."""
    if now is None or before is None or sign == 0 or abs(now - before) <= _SAME * max(abs(before), 1e-9):
        return ""
    return "yes" if (now > before) == (sign > 0) else "no"


def _summary(found: Found, total: Traffic, costs: Costs) -> str:
    if found.idle:
        return "A daemon ran, nobody asked it for anything, and nothing went wrong."
    if not found.now.events:
        return "The ledger has nothing of this time: no daemon of this home ran."
    told = [_asked(total), _went_wrong(found)]
    if costs.lost_ms:
        each = figure(costs.lost_ms / costs.requests, "ms")
        told.append(
            f"Requests lost {figure(costs.lost_ms, 'ms')} to waiting, page-ins, stalls and starting over ({each} each)."
        )
    if costs.reread_ms:
        told.append(f"Prompts that were known were read again for {figure(costs.reread_ms, 'ms')}.")
    if found.changes:
        dearest = found.changes[0]
        told.append(f"What would have saved most, {figure(dearest.cost_ms, 'ms')} at most: {_lowered(dearest.what)}")
    else:
        told.append("Nothing cost enough to be worth a change.")
    return " ".join(told)


def _asked(total: Traffic) -> str:
    if not total.requests:
        return "Nobody asked for anything."
    refused, failed = sum(total.refused.values()), sum(total.failed.values())
    others = [
        f"{count:,} {what}"
        for count, what in ((refused, "refused"), (failed, "failed"), (total.cancelled, "cancelled"))
        if count
    ]
    return f"{counted(total.requests, 'request')} ended: {', '.join([f'{total.answered:,} answered', *others])}."


def _went_wrong(found: Found) -> str:
    count, seconds = found.trouble
    drills = len(found.incidents) + found.left_out - count
    rehearsed = counted(drills, "rehearsal") if drills else ""
    if not count:
        return f"There was no incident{f' but {rehearsed}' if drills else ''}."
    return f"{counted(count, 'incident')} lasted {lasted(seconds)} in all{f', beside {rehearsed}' if drills else ''}."


def _lowered(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"


def _notes(found: Found, costs: Costs) -> list[str]:
    now, notes = found.now, list[str]()
    if now.events and not found.whole:
        notes.append(
            f"The ledger's newest event of this time is of {moment(now.last_us)}, and nothing is behind it yet:"
            " what comes later is not in here."
        )
    if now.drills or now.rehearsed:
        notes.append(
            f"{counted(now.drills, 'rehearsal')} began in this time. What ended meanwhile"
            f" ({counted(now.rehearsed, 'request')}) is in the traffic and in the budgets, but not in the costs."
        )
    if costs.requests and not costs.parts:
        notes.append("The requests of this time do not say where their time went: what they lost is not known.")
    return [*notes, *now.notes]
