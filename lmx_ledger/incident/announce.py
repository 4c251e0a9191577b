"""Decisions as the events that they are written down as; pure."""

from typing import Any

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Severity
from lmx_ledger.incident.dating import Began
from lmx_ledger.incident.lifecycle import (
    Absorbed,
    Closed,
    Decision,
    Merged,
    Mitigated,
    Opened,
    Policy,
    Reopened,
    Resolved,
    merged_title,
)
from lmx_ledger.incident.state import Incident
from lmx_ledger.incident.symptom import Symptom

REHEARSED = "drill: "
"""What the title of a rehearsal begins with."""


def opened(decision: Opened, id: str, began: Began) -> ev.Event:  # noqa: A002
    """`incident.opened`, of an incident of that id."""
    symptom = decision.symptom
    data = ev.IncidentOpened(
        title=_titled(symptom.title, symptom.drill),
        severity=symptom.severity.label,
        models=[symptom.model] if symptom.model else [],
        symptom=symptom.kind,
        events=[symptom.seq],
        started_at=rfc3339(began.at_us),
        how=began.how,
        rehearsal=symptom.drill,
    )
    return of_incident(id, data, symptom.seq, symptom.severity, symptom.model)


def announced(decision: Decision, policy: Policy) -> ev.Event:
    """The event of any other decision."""
    match decision:
        case Merged(incident, symptom):
            return of_incident(incident.id, ev.IncidentMerged(**_joined(incident, symptom), merged=None), symptom.seq)
        case Reopened(incident, symptom):
            again = ev.IncidentReopened(**_joined(incident, symptom))
            return of_incident(incident.id, again, symptom.seq, Severity.parse(again.severity))
        case Absorbed(incident, other):
            absorbed = ev.IncidentMerged(
                symptom=None,
                events=list(other.events),
                merged=other.id,
                title=other.title if incident.effects_only and not other.effects_only else incident.title,
                severity=max(incident.severity, other.severity).label,
                models=sorted({*incident.models, *other.models}),
            )
            return of_incident(incident.id, absorbed, other.opened_seq)
        case Mitigated(incident, at_us):
            return of_incident(incident.id, ev.IncidentMitigated(at=rfc3339(at_us)), incident.opened_seq)
        case Resolved(incident):
            return of_incident(incident.id, ev.IncidentResolved(quiet_s=policy.resolve_s), incident.opened_seq)
        case Closed(incident):
            return of_incident(incident.id, ev.IncidentClosed(reason="age"), incident.opened_seq)
        case Opened():
            raise TypeError("an incident that opens has no id yet: see `opened`")


def of_incident(
    id: str,  # noqa: A002
    data: ev.EventData,
    cause: ev.Cause,
    severity: Severity | None = None,
    model: str | None = None,
) -> ev.Event:
    """An event of that incident."""
    return ev.Event(data=data, stream=f"incident:{id}", incident=id, cause=cause, severity=severity, model=model)


def _joined(incident: Incident, symptom: Symptom) -> dict[str, Any]:
    """What a symptom makes of an incident."""
    return {
        "symptom": symptom.kind,
        "events": [symptom.seq],
        "title": _titled(merged_title(incident, symptom), incident.drill),
        "severity": max(incident.severity, symptom.severity).label,
        "models": sorted({*incident.models, *([symptom.model] if symptom.model else [])}),
    }


def _titled(title: str, drill: int | None) -> str:
    return title if drill is None or title.startswith(REHEARSED) else REHEARSED + title
