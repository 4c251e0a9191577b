"""From an incident and the ledger's events to its postmortem; pure: the same inputs give the same document."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.report.actions import actions_of
from lmx_ledger.report.acts import acts_of
from lmx_ledger.report.answers import Known, answers_to, summary_of
from lmx_ledger.report.chart import Bar, BarChart, Chart
from lmx_ledger.report.facts import facts_of
from lmx_ledger.report.impact import budgets_of, hit_by
from lmx_ledger.report.lanes import lanes_of
from lmx_ledger.report.model import (
    FORM,
    Header,
    Hypothesis,
    Incident,
    Integrity,
    Postmortem,
    Promises,
    Request,
    TimelineLine,
    Told,
    WhatIf,
)
from lmx_ledger.report.over_time import burn, latency, memory, queue
from lmx_ledger.report.requests import Seen, seen_in
from lmx_ledger.report.text import LONGEST, NAME, WORD, harmless, plain
from lmx_ledger.report.window import Window, during, guarded, notes_on, window_of
from lmx_ledger.report.worst import NOTHING, Reason, slowest_of, worst_of

TIMELINE: Final = 400
"""So many lines are told; where there are more, those that are least severe are left out."""
_LOUD: Final = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}
_DEFAULT: Final = Promises()


def assemble(
    incident: Incident,
    timeline: Sequence[TimelineLine],
    hypotheses: Sequence[Hypothesis],
    events: Sequence[Recorded],
    *,
    promises: Promises = _DEFAULT,
    what_if: Sequence[WhatIf] = (),
    reasons: Mapping[str, Reason] = NOTHING,
    integrity: Integrity | None = None,
) -> Postmortem:
    """The document. `events` are those of the incident's time and of some time around it, by ascending seq.

    They need not be all of the ledger's: whatever is missing is not told. `reasons` say of requests, by id, why they
    took as long as they did. No text in it can fool a terminal.
    """
    incident = _short(harmless(incident, LONGEST))
    timeline = [harmless(line, LONGEST) for line in timeline]
    hypotheses = [harmless(one, LONGEST) for one in hypotheses]
    window = window_of(incident, events)
    requests, inside = seen_in(events), during(incident, events, window)
    touched = _named_in(inside, requests)
    hit = harmless(hit_by(touched, promises), NAME)
    budgets = [harmless(one, NAME) for one in budgets_of(events, inside)]
    found, acts_left_out = acts_of(events, inside)
    acts = [harmless(act, LONGEST) for act in found]
    facts = facts_of(inside, touched, hit.total.slow)
    actions = [harmless(action, LONGEST) for action in actions_of(facts, incident)]
    header = _header(incident, window)
    openers = set(incident.opened_by)
    opened = [event for event in events if event.seq in openers]
    ranked = sorted(hypotheses, key=lambda one: (-one.score, one.title))
    known = Known(header, hit, budgets, acts, actions, ranked, opened, inside)
    worst = [harmless(one, LONGEST) for one in worst_of(touched, events, reasons)]
    told = _timeline(timeline)
    document = Postmortem(
        form=FORM,
        header=header,
        summary=summary_of(known),
        answers=answers_to(known),
        notes=notes_on(events),
        total=hit.total,
        by_model=hit.by_model,
        sessions=hit.sessions,
        others=hit.others,
        sessions_in_all=hit.sessions_in_all,
        sessions_affected=hit.sessions_affected,
        budgets=budgets,
        worst=worst,
        timeline=told,
        timeline_left_out=len(timeline) - len(told),
        figures=[harmless(one, NAME) for one in _figures(incident, events, requests, worst, window, promises)],
        hypotheses=ranked,
        acts=acts,
        acts_left_out=acts_left_out,
        what_if=list(what_if),
        actions=actions,
        integrity=integrity,
    )
    return harmless(document)


def slowest_in(incident: Incident, events: Sequence[Recorded]) -> list[str]:
    """The ids of those of which a report says why they took as long as they did."""
    inside = during(incident, events, window_of(incident, events))
    return [seen.id for seen in slowest_of(_named_in(inside, seen_in(events)))]


def _named_in(inside: Sequence[Recorded], requests: Sequence[Seen]) -> list[Seen]:
    """Those requests that had to do with the incident's time."""
    named = {event.request or f"#{event.seq}" for event in inside}
    return [seen for seen in requests if seen.id in named]


def _short(incident: Incident) -> Incident:
    """What stands in every table, no longer than that has room for."""
    return msgspec.structs.replace(
        incident,
        id=plain(incident.id, NAME),
        title=plain(incident.title, 2 * NAME),
        severity=plain(incident.severity, WORD),
        status=plain(incident.status, WORD),
        models=tuple(plain(model, NAME) for model in incident.models),
    )


def _header(incident: Incident, window: Window) -> Header:
    until_us = incident.over_us if incident.over_us is not None else max(window.until_us, incident.started_us)
    return Header(
        incident=incident.id,
        title=incident.title,
        severity=incident.severity,
        status=incident.status,
        open=incident.over_us is None,
        drill=incident.drill,
        reopened=incident.reopened,
        models=list(incident.models),
        opened_by=list(incident.opened_by),
        started=rfc3339(incident.started_us),
        detected=rfc3339(incident.detected_us),
        acknowledged=_time(incident.acknowledged_us),
        mitigated=_time(incident.mitigated_us),
        resolved=_time(incident.resolved_us),
        until=rfc3339(until_us),
        duration_s=max(round((until_us - incident.started_us) / 1e6, 3), 0.0),
        to_detect_s=_since(incident, incident.detected_us),
        to_acknowledge_s=_since(incident, incident.acknowledged_us),
        to_mitigate_s=_since(incident, incident.mitigated_us),
        to_resolve_s=_since(incident, incident.resolved_us),
    )


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(at_us)


def _since(incident: Incident, at_us: int | None) -> float | None:
    if at_us is None or at_us < incident.started_us:
        return None
    return round((at_us - incident.started_us) / 1e6, 3)


def _timeline(lines: Sequence[TimelineLine]) -> list[Told]:
    """By seq, which no clock can turn round."""
    loudest = sorted(lines, key=lambda one: (-_LOUD.get(one.severity, 1), one.seq))[:TIMELINE]
    return [
        Told(
            time=rfc3339(line.at_us),
            seq=line.seq,
            last_seq=line.last_seq,
            kind=line.kind,
            severity=line.severity,
            text=line.text,
            count=line.count,
        )
        for line in sorted(loudest, key=lambda one: (one.seq, one.last_seq, one.text))
    ]


def _figures(
    incident: Incident,
    events: Sequence[Recorded],
    requests: Sequence[Seen],
    worst: Sequence[Request],
    window: Window,
    promises: Promises,
) -> list[Chart]:
    bands = guarded(events, window)
    return [
        *latency(requests, window, bands, promises),
        queue(requests, events, window, bands),
        memory(events, window, bands),
        burn(events, window),
        lanes_of(incident, events, window),
        _bars(worst),
    ]


def _bars(worst: Sequence[Request]) -> BarChart:
    return BarChart(
        key="worst",
        title="The slowest requests",
        about="Where the time of the ten slowest requests went: in the line, until the first token, and behind it.",
        parts=["queue", "prefill", "decode"],
        bars=[
            Bar(
                label=f"{one.id[:4]}\N{HORIZONTAL ELLIPSIS}{one.id[-6:]}  {one.model or '-'}"
                if len(one.id) > 14
                else f"{one.id}  {one.model or '-'}",
                values=[one.queue_ms, one.prefill_ms, one.decode_ms],
            )
            for one in worst
        ],
        empty=None if worst else "No request ended in this time.",
    )
