"""Incidents as the ledger has them: the fold of `incident.*`, and of the symptoms that are there or were just now."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.incident.state import CLOSED, MERGED, MITIGATED, OPEN, RESOLVED, Incident, State
from lmx_ledger.incident.symptom import BEGINS, CHAIN, ENDS, Symptom, begun, ended

_KEPT_ENDED: Final = 500
_KEPT_ROOTS: Final = 512
_PAST_US: Final = 600_000_000
_KEPT_SYMPTOMS: Final = 256


class IncidentsFold:
    """See `ledger.fold.Fold`."""

    name: Final = "incidents"
    version: Final = 4
    types: Final = ("incident.*", *BEGINS, *ENDS, *CHAIN)
    state: Final[Any] = State

    def initial(self) -> State:
        """Nothing was ever wrong."""
        return State()

    def evolve(self, state: State, event: Recorded) -> State:
        """After one more."""
        # A clock that was set back has no time pass.
        at_us = state.at_us + max(event.time_us - state.time_us, 0) if state.time_us else event.time_us
        state = msgspec.structs.replace(state, at_us=at_us, time_us=event.time_us)
        if event.type.startswith("incident."):
            return _of_incident(state, event)
        root = _root(state, event)
        roots = {**state.roots, event.seq: root}
        if len(roots) > _KEPT_ROOTS:
            del roots[next(iter(roots))]
        symptoms = dict(state.symptoms)
        for key in ended(symptoms, event):
            known = symptoms.get(key)
            if known is not None and known.ended_us is None:
                symptoms[key] = msgspec.structs.replace(known, ended_us=at_us, over_us=event.time_us)
        if (new := begun(event, at_us, root)) is not None:
            symptoms[new.key] = _again(state, symptoms.pop(new.key, None), new)
        return msgspec.structs.replace(state, symptoms=_kept(symptoms, at_us), roots=roots)


def _again(state: State, known: Symptom | None, new: Symptom) -> Symptom:
    """A symptom that is there already, of an incident that is open, is no news, unless it has become worse.

    Nor is one that says the same of another model, or over another window.
    """
    if known is None:
        alike = [one for one in state.symptoms.values() if one.sign == new.sign and one.drill == new.drill]
        for other in alike:
            incident = state.incidents.get(other.incident)
            if incident is not None and incident.status == OPEN and incident.severity >= new.severity:
                return msgspec.structs.replace(new, incident=incident.id)
        return new
    incident = state.incidents.get(known.incident)
    if known.incident and (incident is None or incident.status != OPEN):
        return new
    if known.drill != new.drill:
        return new
    if known.severity >= new.severity:
        return msgspec.structs.replace(known, ended_us=new.ended_us, over_us=new.over_us)
    return new


def is_past(symptom: Symptom, at_us: int) -> bool:
    """Whether it was over so long ago that nothing is decided about it any more (of a ledger older than incidents)."""
    return not symptom.incident and symptom.ended_us is not None and symptom.ended_us < at_us - _PAST_US


def _kept(symptoms: dict[str, Symptom], at_us: int) -> dict[str, Symptom]:
    """Those that last, and the newest of those that are over."""
    symptoms = {key: one for key, one in symptoms.items() if not is_past(one, at_us)}
    over = [one.key for one in symptoms.values() if one.ended_us is not None and one.incident]
    for key in over[: max(len(symptoms) - _KEPT_SYMPTOMS, 0)]:
        del symptoms[key]
    return symptoms


def _root(state: State, event: Recorded) -> int:
    return event.seq if event.cause is None else state.roots.get(event.cause, event.seq)


def _of_incident(state: State, event: Recorded) -> State:
    id, data = event.incident or "", event.data  # noqa: A001
    if event.type == "incident.opened":
        return _opened(state, event, id) if id not in state.incidents else state
    incident = state.incidents.get(id) or state.ended.get(id)
    if incident is None:
        return state
    match event.type:
        case "incident.merged" | "incident.reopened":
            return _joined(state, event, incident)
        case "incident.acknowledged":
            at_us = incident.acknowledged_us or event.time_us
            return _with(state, msgspec.structs.replace(incident, acknowledged_us=at_us))
        case "incident.mitigated":
            changed = msgspec.structs.replace(
                incident, status=MITIGATED, mitigated_us=parse_rfc3339(data["at"]), changed_us=state.at_us
            )
            return _with(state, msgspec.structs.replace(changed, calm_us=_calm_us(state, incident)))
        case "incident.resolved":
            return _with(
                state,
                msgspec.structs.replace(incident, status=RESOLVED, resolved_us=event.time_us, changed_us=state.at_us),
            )
        case "incident.closed":
            closed = msgspec.structs.replace(
                incident,
                status=CLOSED,
                closed_us=event.time_us,
                left_us=event.time_us if incident.status == OPEN else incident.left_us,
                changed_us=state.at_us,
            )
            return _with(state, closed)
        case "incident.report_written":
            page = next((name for name in data["files"] if name.endswith(".html")), data["files"][0])
            path = f"{data['folder']}/{page}"
            return _with(state, msgspec.structs.replace(incident, reported_us=event.time_us, report=path))
    return state


def _opened(state: State, event: Recorded, id: str) -> State:  # noqa: A002
    data = event.data
    incident = Incident(
        id=id,
        title=data["title"],
        severity=Severity.parse(data["severity"]),
        status=OPEN,
        models=tuple(data["models"]),
        events=tuple(data["events"]),
        symptoms=(data["symptom"],),
        started_us=parse_rfc3339(data["started_at"]),
        detected_us=event.time_us,
        at_us=state.at_us,
        changed_us=state.at_us,
        opened_seq=event.seq,
        how=data["how"],
        drill=data["rehearsal"],
    )
    return _with(*_assigned(state, incident, data["events"]))


def _joined(state: State, event: Recorded, incident: Incident) -> State:
    data = event.data
    again = event.type == "incident.reopened"
    symptom = data.get("symptom")
    incident = msgspec.structs.replace(
        incident,
        title=data["title"],
        severity=Severity.parse(data["severity"]),
        models=tuple(data["models"]),
        events=tuple(dict.fromkeys((*incident.events, *data["events"]))),
        symptoms=tuple(dict.fromkeys((*incident.symptoms, *([symptom] if symptom else [])))),
        status=OPEN if again else incident.status,
        reopened=incident.reopened + again,
        reopened_us=event.time_us if again else incident.reopened_us,
        resolved_us=None if again else incident.resolved_us,
        closed_us=None if again else incident.closed_us,
        left_us=None if again else incident.left_us,
        changed_us=state.at_us if again else incident.changed_us,
        reported_us=None,
    )
    state, incident = _assigned(state, incident, data["events"])
    other = state.incidents.get(data.get("merged") or "")
    if other is None:
        return _with(state, incident)
    incident = msgspec.structs.replace(
        incident,
        started_us=min(incident.started_us, other.started_us),
        symptoms=tuple(dict.fromkeys((*incident.symptoms, *other.symptoms))),
        merged=(*incident.merged, *other.merged, other.id),
        signs=tuple(dict.fromkeys((*incident.signs, *other.signs))),
        roots=tuple(dict.fromkeys((*incident.roots, *other.roots))),
        machine_wide=incident.machine_wide or other.machine_wide,
        status=OPEN if other.status == OPEN else incident.status,
    )
    symptoms = {
        key: msgspec.structs.replace(one, incident=incident.id) if one.incident == other.id else one
        for key, one in state.symptoms.items()
    }
    state = msgspec.structs.replace(state, symptoms=symptoms)
    over = msgspec.structs.replace(
        other,
        status=MERGED,
        into=incident.id,
        left_us=event.time_us if other.status == OPEN else other.left_us,
        changed_us=state.at_us,
    )
    return _with(_with(state, over), incident)


def _assigned(state: State, incident: Incident, seqs: Sequence[int]) -> tuple[State, Incident]:
    """Its symptoms know whose they are, and it what it is known again by."""
    mine = [one for one in state.symptoms.values() if one.seq in seqs]
    alike = {(one.sign, one.drill) for one in mine}
    symptoms = {
        key: msgspec.structs.replace(one, incident=incident.id)
        if one.seq in seqs
        or (not one.incident and (one.sign, one.drill) in alike and one.severity <= incident.severity)
        else one
        for key, one in state.symptoms.items()
    }
    return msgspec.structs.replace(state, symptoms=symptoms), msgspec.structs.replace(
        incident,
        signs=tuple(dict.fromkeys((*incident.signs, *(one.sign for one in mine)))),
        roots=tuple(dict.fromkeys((*incident.roots, *(one.root for one in mine)))),
        machine_wide=incident.machine_wide or any(one.model is None and not one.is_effect for one in mine),
    )


def _calm_us(state: State, incident: Incident) -> int:
    ends = [one.ended_us for one in state.symptoms.values() if one.incident == incident.id and one.ended_us is not None]
    return max(ends, default=state.at_us)


def _with(state: State, incident: Incident) -> State:
    incidents, ended_ones = dict(state.incidents), dict(state.ended)
    incidents.pop(incident.id, None)
    ended_ones.pop(incident.id, None)
    if incident.status in {CLOSED, MERGED}:
        ended_ones[incident.id] = incident
        if len(ended_ones) > _KEPT_ENDED:
            del ended_ones[min(ended_ones)]
    else:
        incidents[incident.id] = incident
    return msgspec.structs.replace(state, incidents=incidents, ended=ended_ones)
