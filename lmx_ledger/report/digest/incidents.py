"""Which incidents went on in a stretch of time, as they stood at its end, and what each was most likely caused by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.week import DAY_US, Period
from lmx_ledger.incident import account, state
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.digest.assemble import Trouble
from lmx_ledger.report.digest.model import Incident
from lmx_ledger.report.text import LONGEST, NAME, WORD, plain

SHOWN: Final = 50
"""So many are listed, the severest and longest ones."""
EXPLAINED: Final = 20
"""Of so many of them it is looked for what caused them: each costs a walk over its events."""
_LOOKED_US: Final = DAY_US
"""Of one that lasted longer its first day is looked at: what began it is there, and a week would take a minute."""


def went_on(known: Sequence[state.Incident], period: Period) -> list[state.Incident]:
    """Those that began before its end and were not over before its beginning, and are no part of another one."""
    return [
        one
        for one in known
        if one.into is None
        and one.started_us < period.until_us
        and (one.ended_us is None or one.ended_us >= period.since_us)
    ]


def lasted_s(incident: state.Incident, end_us: int) -> float:
    """Up to its end, or while it goes on up to then."""
    until_us = end_us if incident.ended_us is None else incident.ended_us
    return max(round((until_us - incident.started_us) / 1e6, 3), 0.0)


def trouble_of(found: Sequence[state.Incident], period: Period, end_us: int) -> Trouble:
    """Of those that were no rehearsals, as far as they lie in the period; `end_us` is where what is open ends."""
    real = [one for one in found if one.drill is None]
    spans = [
        min(end_us if one.ended_us is None else one.ended_us, period.until_us) - max(one.started_us, period.since_us)
        for one in real
    ]
    return Trouble(len(real), round(sum(max(span, 0) for span in spans) / 1e6, 3))


def told(ledger: Path, reader: Reader, found: Sequence[state.Incident], end_us: int) -> tuple[list[Incident], int]:
    """At most `SHOWN` of them, by their start, and how many are left out.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    ranked = sorted(found, key=lambda one: (-one.severity, -lasted_s(one, end_us), one.id))
    rows = [
        _told(ledger, reader, one, end_us, explained=number < EXPLAINED) for number, one in enumerate(ranked[:SHOWN])
    ]
    return sorted(rows, key=lambda row: (row.started, row.id)), len(ranked) - len(rows)


def _told(ledger: Path, reader: Reader, incident: state.Incident, end_us: int, *, explained: bool) -> Incident:
    times = account.times(incident)
    affected, likeliest = None, None
    if explained:
        looked_us = min(end_us, incident.started_us + _LOOKED_US)
        window = account.window(ledger, reader, incident, looked_us)
        if looked_us == end_us or (incident.ended_us is not None and incident.ended_us <= looked_us):
            affected = account.affected(window.events, incident)
        likeliest = next(iter(account.hypotheses(window, incident)), None)
    return Incident(
        id=plain(incident.id, NAME),
        title=plain(incident.title, 2 * NAME),
        severity=plain(incident.severity.label, WORD),
        status=plain(incident.status, WORD),
        drill=incident.drill is not None,
        models=[plain(model, NAME) for model in incident.models],
        started=rfc3339(incident.started_us),
        open=incident.ended_us is None,
        lasted_s=lasted_s(incident, end_us),
        detect_s=times["detect_s"],
        acknowledge_s=times["acknowledge_s"],
        mitigate_s=times["mitigate_s"],
        resolve_s=times["resolve_s"],
        refused=None if affected is None else affected.refused,
        failed=None if affected is None else affected.failed,
        slow=None if affected is None else affected.slow,
        cause=None if likeliest is None else plain(likeliest.text, LONGEST),
        score=None if likeliest is None else likeliest.score,
    )
