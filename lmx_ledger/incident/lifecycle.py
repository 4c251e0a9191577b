"""The life of an incident, as pure functions: what opens, joins, ends and reopens one.

An incident is a fault, not a symptom: symptoms that have a cause in common, are of one model at one time, or are all of
the whole machine within a short time, are one. What others notice of a fault (a stage of the guard, a lower ceiling,
an alert) belongs to the fault that there is just then. A rehearsal's symptoms are never mixed with real ones.

Nothing is decided by an event as such, but by what the events add up to: a decision that was not written down
before the daemon died is taken by the next one, and one that another daemon has written down is not taken again.
"""

from typing import NamedTuple, TypeAlias

from lmx_ledger.incident.fold import is_past
from lmx_ledger.incident.state import MITIGATED, OPEN, RESOLVED, Incident, State
from lmx_ledger.incident.symptom import ALERT, Symptom


class Policy(NamedTuple):
    """`settle_s`: symptoms that are gone for so long are gone. `near_s`: what is together within that is one fault.

    An alert is told of by the minute, so of it that is `alert_s`.
    """

    resolve_s: float = 60.0
    reopen_s: float = 600.0
    close_s: float = 86_400.0
    settle_s: float = 5.0
    near_s: float = 30.0
    alert_s: float = 150.0


class Opened(NamedTuple):
    """An incident begins."""

    symptom: Symptom


class Merged(NamedTuple):
    """A symptom is one more of an incident."""

    incident: Incident
    symptom: Symptom


class Reopened(NamedTuple):
    """A symptom of an incident that was over."""

    incident: Incident
    symptom: Symptom


class Absorbed(NamedTuple):
    """`other` turns out to be of the same fault as `incident`."""

    incident: Incident
    other: Incident


class Mitigated(NamedTuple):
    """Its symptoms have gone, at `at_us` of the ledger's time."""

    incident: Incident
    at_us: int


class Resolved(NamedTuple):
    """It has been quiet for long enough."""

    incident: Incident


class Closed(NamedTuple):
    """It was resolved long ago."""

    incident: Incident


Decision: TypeAlias = Opened | Merged | Reopened | Absorbed | Mitigated | Resolved | Closed


def decide(state: State, now_us: int, policy: Policy) -> list[Decision]:
    """What is due at `now_us` of the state's clock.

    Of symptoms that belong to no incident yet the first one only: what becomes of it decides on the others.
    """
    waiting = [one for one in state.symptoms.values() if not one.incident and not is_past(one, now_us)]
    if waiting:
        return _place(state, min(waiting, key=lambda one: one.seq), now_us, policy)
    decisions: list[Decision] = []
    for incident in state.incidents.values():
        gap_s = gap(state, incident, now_us)
        if incident.status == OPEN and gap_s >= policy.settle_s:
            decisions.append(Mitigated(incident, _over_us(state, incident)))
        elif incident.status == MITIGATED and gap_s >= policy.resolve_s:
            decisions.append(Resolved(incident))
        elif incident.status == RESOLVED and (now_us - incident.changed_us) / 1e6 >= policy.close_s:
            decisions.append(Closed(incident))
    return decisions


def gap(state: State, incident: Incident, now_us: int) -> float:
    """Seconds since its last symptom ended; 0 while one is there."""
    mine = [one.ended_us for one in state.symptoms.values() if one.incident == incident.id]
    if None in mine:
        return 0.0
    ends = [ended_us for ended_us in mine if ended_us is not None]
    return max((now_us - max(ends, default=incident.calm_us or incident.at_us)) / 1e6, 0.0)


def merged_title(incident: Incident, symptom: Symptom) -> str:
    """What it is called from now on: after a fault rather than after what is noticed of one, then by severity."""
    faults = (not symptom.is_effect, symptom.severity)
    return symptom.title if faults > (not incident.effects_only, incident.severity) else incident.title


def _over_us(state: State, incident: Incident) -> int:
    over = [one.over_us for one in state.symptoms.values() if one.incident == incident.id and one.over_us is not None]
    return max(over, default=incident.detected_us)


def _place(state: State, symptom: Symptom, now_us: int, policy: Policy) -> list[Decision]:
    found = _matching(state, symptom, now_us, policy)
    if not found:
        return [Opened(symptom)]
    first, *others = sorted(found, key=lambda one: (one.drill != symptom.drill, one.id))
    if others := [other for other in others if other.drill == first.drill]:
        # One at a time: of the next it is decided with what this one makes of the first.
        return [Absorbed(first, others[0])]
    return [Merged(first, symptom) if first.status == OPEN else Reopened(first, symptom)]


def _matching(state: State, symptom: Symptom, now_us: int, policy: Policy) -> list[Incident]:
    """The incidents that it is a symptom of: several, where it shows that they are one."""
    near_s = policy.alert_s if symptom.kind == ALERT else policy.near_s
    alive = [(one, gap(state, one, now_us)) for one in state.incidents.values() if _may_join(one, symptom)]
    same = [
        incident
        for incident, gap_s in alive
        if (symptom.sign in incident.signs and gap_s < policy.reopen_s)
        or (symptom.root in incident.roots and gap_s < policy.reopen_s)
        or (gap_s <= near_s and _of_one_thing(incident, symptom))
    ]
    # Two that are over are not made one because of a third.
    together = [one for one in same if one.status in {OPEN, MITIGATED}]
    if together or same:
        return together or [max(same, key=lambda one: one.id)]
    loose = [
        incident
        for incident, gap_s in alive
        if gap_s <= near_s
        and (symptom.is_effect or (incident.effects_only and now_us - incident.at_us <= policy.near_s * 2e6))
    ]
    return [max(loose, key=lambda one: one.id)] if loose else []


def _may_join(incident: Incident, symptom: Symptom) -> bool:
    """A rehearsal is an incident of its own; what is noticed of it may be noticed when it is over."""
    return symptom.drill == incident.drill or (symptom.is_effect and symptom.drill is None)


def _of_one_thing(incident: Incident, symptom: Symptom) -> bool:
    if symptom.model is None:
        return incident.machine_wide
    return symptom.model in incident.models
