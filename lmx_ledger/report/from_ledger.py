"""The postmortem of an incident, from the ledger: what was decided and seen in its time, timeline and hypotheses."""

from pathlib import Path
from typing import Final

from lmx_ledger.core.slo_section import SloSection
from lmx_ledger.incident import account, rank, state, timeline
from lmx_ledger.ledger import heads
from lmx_ledger.ledger.audit import head_of
from lmx_ledger.ledger.history import Whole
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.assemble import assemble
from lmx_ledger.report.html import html
from lmx_ledger.report.markdown import markdown
from lmx_ledger.report.model import Evidence, Hypothesis, Incident, Integrity, Postmortem, Promises, TimelineLine
from lmx_ledger.report.what_if import what_if
from lmx_ledger.report.write import json_of

FORMS: Final = {
    "md": "text/markdown; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
}
"""In which a report can be had, and their content types."""
_SHOWN: Final = 12
"""Figures of a hypothesis that are told."""


def postmortem(ledger: Path, reader: Reader, incident: state.Incident, slo: SloSection, now_us: int) -> Postmortem:
    """Of that incident as it stands. Of the same ledger it is the same, once the incident is over.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    found = account.window(ledger, reader, incident, now_us)
    guesses = account.hypotheses(found, incident)
    kinds = [one.kind for one in guesses]
    promises = Promises(ttft_ms=slo.ttft.threshold * 1e3, itl_ms=slo.itl.threshold * 1e3)
    return assemble(
        _incident(incident),
        [_line(line) for line in account.lines(found, incident)],
        [_hypothesis(one) for one in guesses],
        found.events,
        promises=promises,
        what_if=what_if(Whole(ledger, reader), kinds, found.events, found.since_us, found.until_us),
        integrity=_integrity(ledger, found),
    )


def as_form(document: Postmortem, form: str) -> bytes:
    """One of `FORMS`."""
    if form == "json":
        return json_of(document)
    return (html(document) if form == "html" else markdown(document)).encode()


def _incident(incident: state.Incident) -> Incident:
    return Incident(
        id=incident.id,
        title=incident.title,
        severity=incident.severity.label,
        status=incident.status,
        started_us=incident.started_us,
        detected_us=incident.detected_us,
        acknowledged_us=incident.acknowledged_us,
        mitigated_us=incident.mitigated_us,
        resolved_us=incident.resolved_us,
        closed_us=incident.left_us if incident.closed_us is None else incident.closed_us,
        reopened=incident.reopened,
        drill=incident.drill is not None,
        models=incident.models,
        opened_by=incident.events,
    )


def _line(line: timeline.Line) -> TimelineLine:
    return TimelineLine(
        at_us=line.time_us,
        seq=line.first_seq,
        last_seq=line.last_seq,
        kind=line.kind,
        severity=line.severity.label,
        text=line.text,
        count=line.count,
    )


def _hypothesis(one: rank.Hypothesis) -> Hypothesis:
    told = [f"{name.replace('_', ' ')}: {value}" for name, value in one.evidence.items() if value is not None]
    first = Evidence(text="first events of it", seqs=one.seqs)
    evidence = (*(Evidence(text=text) for text in told[:_SHOWN]), *((first,) if one.seqs else ()))
    return Hypothesis(title=one.name, score=one.score, sentence=one.text, evidence=evidence)


def _integrity(ledger: Path, found: account.Window) -> Integrity | None:
    if not found.events or (head := head_of(ledger)) is None:
        return None
    return Integrity(
        first_seq=found.events[0].seq,
        last_seq=found.events[-1].seq,
        head_seq=head[0],
        head_hash=head[1].hex(),
        signed_seq=max((seq for seq in heads.seqs(ledger) if seq <= head[0]), default=0),
    )
