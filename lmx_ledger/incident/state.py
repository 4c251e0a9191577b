"""What is known of incidents: each with its times, and all of them with the symptoms that there are."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Severity
from lmx_ledger.incident.symptom import EFFECTS, Symptom

OPEN: Final = "open"
MITIGATED: Final = "mitigated"
RESOLVED: Final = "resolved"
CLOSED: Final = "closed"
MERGED: Final = "merged"
STATUSES: Final = (OPEN, MITIGATED, RESOLVED, CLOSED, MERGED)


class Incident(msgspec.Struct, frozen=True):
    """One fault. Times are the ledger's, but for `at_us`, `changed_us` and `calm_us`, which are the fold's own clock.

    `events` are the seqs of its symptoms, `signs` and `roots` what it is known again by. `into` is the incident that it
    is a part of, `merged` are those that are a part of it. `machine_wide`: one of its faults is no model's. `left_us`:
    when it was closed or merged although a symptom was still there. `report` is the page of its postmortem, which was
    written at `reported_us`; None: what there is of it is older than the incident's last turn.
    """

    id: str
    title: str
    severity: Severity
    status: str
    models: tuple[str, ...]
    events: tuple[int, ...]
    symptoms: tuple[str, ...]
    started_us: int
    detected_us: int
    at_us: int
    changed_us: int
    opened_seq: int
    how: str = "event"
    calm_us: int = 0
    acknowledged_us: int | None = None
    mitigated_us: int | None = None
    resolved_us: int | None = None
    closed_us: int | None = None
    left_us: int | None = None
    reopened: int = 0
    reopened_us: int | None = None
    drill: int | None = None
    merged: tuple[str, ...] = ()
    into: str | None = None
    signs: tuple[str, ...] = ()
    roots: tuple[int, ...] = ()
    machine_wide: bool = False
    reported_us: int | None = None
    report: str | None = None

    @property
    def effects_only(self) -> bool:
        """Whether nothing but what others notice of a fault is known of it."""
        return all(kind in EFFECTS for kind in self.symptoms)

    @property
    def ended_us(self) -> int | None:
        """When its symptoms had gone for the last time, or nobody asked for them any more; None while there is one."""
        if self.status == OPEN:
            return None
        return self.mitigated_us if self.left_us is None else self.left_us

    @property
    def lacks_report(self) -> bool:
        """Whether it is over, and what became of it is not written down."""
        return self.status in {RESOLVED, CLOSED} and self.into is None and self.reported_us is None

    def matches(self, statuses: Sequence[str], since_us: int) -> bool:
        """Whether it has one of those (of none: any), and went on then or later."""
        ended_us = self.ended_us
        return (not statuses or self.status in statuses) and (ended_us is None or ended_us >= since_us)

    def public(self) -> dict[str, Any]:
        """As `/lmx/incidents` has it."""
        return {
            "id": self.id,
            "title": self.title,
            "severity": self.severity.label,
            "status": self.status,
            "drill": self.drill is not None,
            "models": list(self.models),
            "symptoms": list(self.symptoms),
            "events": list(self.events),
            "started_at": rfc3339(self.started_us),
            "started_by": self.how,
            "detected_at": rfc3339(self.detected_us),
            "acknowledged_at": _time(self.acknowledged_us),
            "mitigated_at": _time(self.mitigated_us),
            "resolved_at": _time(self.resolved_us),
            "closed_at": _time(self.closed_us),
            "reopened": self.reopened,
            "reopened_at": _time(self.reopened_us),
            "merged": list(self.merged),
            "merged_into": self.into,
            "event": self.opened_seq,
            "report": self.report,
            "reported_at": _time(self.reported_us),
        }


class State(msgspec.Struct, frozen=True):
    """Incidents by id: `incidents` may still change by themselves, `ended` are closed or part of another one.

    `at_us` is a clock that goes as the ledger's times do, and never back: where the machine's was set back, it stands.
    """

    incidents: dict[str, Incident] = {}
    ended: dict[str, Incident] = {}
    symptoms: dict[str, Symptom] = {}
    roots: dict[int, int] = {}
    at_us: int = 0
    time_us: int = 0

    def all(self) -> list[Incident]:
        """The newest first."""
        return sorted((*self.incidents.values(), *self.ended.values()), key=lambda one: one.id, reverse=True)

    def find(self, name: str) -> Incident | None:
        """See `find`."""
        return find(self.all(), name)


def find(known: Sequence[Incident], name: str) -> Incident | None:
    """Of those, the newest first: by id, by a beginning of an id that only one has, or `last`; with or without `inc_`.

    Raises:
        LookupError: several begin so; the message names some.
    """
    if name == "last":
        return next((one for one in known if one.into is None), None)
    wanted = f"inc_{name.removeprefix('inc_').upper()}"
    found = [one for one in known if one.id == wanted] or [one for one in known if one.id.startswith(wanted)]
    if len(found) > 1:
        raise LookupError(f"several incidents begin so: {', '.join(one.id for one in found[:4])}")
    return found[0] if found else None


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)
