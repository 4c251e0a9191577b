"""The postmortem of an incident, from the ledger: what was decided and seen in its time, timeline and hypotheses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from lmx_ledger.core.slo_section import SloSection
from lmx_ledger.incident import account, rank, state, timeline
from lmx_ledger.incident.announce import REHEARSED
from lmx_ledger.incident.bundle.form import Manifest
from lmx_ledger.incident.bundle.opened import Opened
from lmx_ledger.incident.evidence import gather
from lmx_ledger.incident.rules import course
from lmx_ledger.incident.why import main_part, why
from lmx_ledger.ledger import heads
from lmx_ledger.ledger.audit import head_of
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.history import Whole
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.assemble import assemble, slowest_in
from lmx_ledger.report.html import html
from lmx_ledger.report.markdown import markdown
from lmx_ledger.report.model import (
    VERIFY_BUNDLE,
    Evidence,
    Hypothesis,
    Incident,
    Integrity,
    Postmortem,
    Promises,
    TimelineLine,
)
from lmx_ledger.report.text import NAME, plain
from lmx_ledger.report.what_if import what_if
from lmx_ledger.report.worst import Reason
from lmx_ledger.report.write import json_of

FORMS: Final = {
    "md": "text/markdown; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
}
"""In which a report can be had, and their content types."""
_AT_ONCE_S: Final = 0.5
_NOTEWORTHY: Final = 0.1
"""A correlation that is less than this is none."""
_SHOWN_SEQS: Final = 5
_RUNS: Final = 100_000


def postmortem(
    ledger: Path, reader: Reader, incident: state.Incident, now_us: int, promises: Promises | None = None
) -> Postmortem:
    """Of that incident as it stands. Of the same ledger it is the same, once the incident is over.

    `promises` are the objectives, where the ledger does not have those that were in force then.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    found = account.window(ledger, reader, incident, now_us)
    guesses = account.hypotheses(found, incident)
    kinds = [one.kind for one in guesses]
    told = _incident(incident)
    return assemble(
        told,
        [_line(line) for line in account.lines(found, incident)],
        [_hypothesis(one) for one in guesses],
        found.events,
        promises=promises or _promises(Whole(ledger, reader), incident),
        reasons=_reasons(reader, slowest_in(told, found.events)),
        what_if=what_if(Whole(ledger, reader), kinds, found.events, found.since_us, found.until_us),
        integrity=_integrity(ledger, found),
    )


def postmortem_of_bundle(opened: Opened) -> Postmortem:
    """The same from a bundle of it, by the objectives that it says were in force; the same on every machine.

    Raises:
        LedgerError: it cannot be read any more.
    """
    manifest = opened.manifest
    promised = Promises(ttft_ms=manifest.objectives.ttft_s * 1e3, itl_ms=manifest.objectives.itl_s * 1e3)
    document = postmortem(opened.ledger, opened.reader, opened.incident, manifest.until_us, promised)
    found = document.integrity and msgspec.structs.replace(
        document.integrity,
        head_seq=manifest.head_seq,
        head_hash=plain(manifest.head_hash, NAME),
        signed_seq=manifest.signed_seq,
        verify=VERIFY_BUNDLE,
        bundle=True,
    )
    return msgspec.structs.replace(document, notes=[*_notes_on(manifest), *document.notes], integrity=found)


def _notes_on(manifest: Manifest) -> list[str]:
    notes = [
        "This was written from a redacted bundle: names of sessions, clients and files are made up, free text is left"
        f" out. It is as of event {manifest.head_seq} of its ledger."
    ]
    if manifest.broken_from is not None:
        notes.insert(
            0,
            f"The ledger that the bundle was made from is not as it was written from event {manifest.broken_from} on:"
            " what follows may be wrong.",
        )
    return notes


def as_form(document: Postmortem, form: str) -> bytes:
    """One of `FORMS`."""
    if form == "json":
        return json_of(document)
    return (html(document) if form == "html" else markdown(document)).encode()


def _promises(ledger: Whole, incident: state.Incident) -> Promises:
    """As the daemon had them that was running then."""
    until_us = max(incident.started_us, incident.detected_us) + 1
    loaded = ledger.events(EventFilter(types=("config.loaded",), until_us=until_us, limit=_RUNS))
    try:
        slo = course(loaded[-1:], {}).first.config.slo
    except ValidationError:
        # Of a later program, or with something left out of it.
        slo = SloSection()
    return Promises(ttft_ms=slo.ttft.threshold * 1e3, itl_ms=slo.itl.threshold * 1e3)


def _incident(incident: state.Incident) -> Incident:
    return Incident(
        id=incident.id,
        # A report of a rehearsal says so itself, everywhere.
        title=incident.title.removeprefix(REHEARSED),
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


def _reasons(reader: Reader, requests: Sequence[str]) -> dict[str, Reason]:
    """As `lmx why` has them; of those whose events are sealed away there is none."""
    found = {}
    for request in requests:
        evidence = gather(reader, request, lambda _: False, walk=False)
        if evidence is not None:
            answer = why(evidence)
            main = main_part(answer.parts)
            seqs = dict.fromkeys(one.seq for one in main.because) if main is not None else {}
            found[request] = Reason(answer.text, list(seqs)[:_SHOWN_SEQS])
    return found


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
    evidence = [Evidence(text=text) for text in _evidence(one.evidence)]
    if one.seqs:
        evidence.append(Evidence(text="first events of it", seqs=one.seqs))
    return Hypothesis(title=one.name, score=one.score, sentence=one.text, evidence=tuple(evidence))


def _evidence(found: Mapping[str, Any]) -> list[str]:
    """The numbers that a rank is made of, each as a reader can take it."""
    began, unit = found["began_s"], found["unit"]
    when = "as the trouble did" if abs(began) < _AT_ONCE_S else f"{abs(began):.1f} s {_side(began)} the trouble"
    lag = f", {found['lag_s']} s behind" if found["lag_s"] else ""
    told = [f"it began {when}", f"{found['before']:g} {unit} before, {found['after']:g} {unit} then"]
    if found["correlation"] >= _NOTEWORTHY:
        told.append(f"the trouble follows it{lag} (correlation {found['correlation']:.2f})")
    if found["in_chain"]:
        told.append(f"the chain of causes of {found['in_chain']:.0%} of the symptoms or refusals leads to it")
    return told


def _side(began_s: float) -> str:
    return "before" if began_s < 0 else "behind"


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
