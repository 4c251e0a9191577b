"""A bundle made of a ledger: the same incident, as of the same newest event, gives the same bytes."""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from lmx_ledger import __version__
from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.config import Config
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import account, rules
from lmx_ledger.incident.bundle.fields import KEPT, Rule
from lmx_ledger.incident.bundle.form import Manifest, Objectives, line_of, written
from lmx_ledger.incident.bundle.gather import Gathered, NoIncident, gather
from lmx_ledger.incident.bundle.redact import Redactor, titles_of
from lmx_ledger.ledger import heads
from lmx_ledger.ledger.audit import head_of
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader


class Made(NamedTuple):
    """What a bundle consists of: its manifest, and its events as lines, each with its seq."""

    manifest: Manifest
    lines: dict[int, bytes]


def bundle(ledger: Path, reader: Reader, incident: str, key: bytes) -> bytes:
    """The bundle of the incident of that id, as the ledger has it now.

    Raises:
        NoIncident: there is none of that id.
        BadBundle: it would be too large.
        LedgerError: the ledger cannot be read.
    """
    head = head_of(ledger)
    if head is None:
        raise NoIncident("there is no event in the ledger yet, and no incident")
    made = make(ledger, reader, incident, key, head)
    return written(made.manifest, list(made.lines.values()), key)


def make(ledger: Path, reader: Reader, incident: str, key: bytes, head: tuple[int, bytes]) -> Made:
    """What is in it, from the ledger as it was when that was its newest event (seq and hash).

    Raises:
        As `bundle`.
    """
    head_seq, head_hash = head
    found = gather(ledger, reader, incident, head_seq)
    titles = titles_of(found.events, Redactor(key, incident))
    redactor = Redactor(key, incident, titles)
    lines = {event.seq: line_of(redactor.event(event)) for event in found.events}
    manifest = Manifest(
        version=__version__,
        incident=found.incident.id,
        status=found.incident.status,
        since=rfc3339(found.since_us),
        until=rfc3339(found.until_us),
        cut=found.cut,
        events=len(lines),
        first_seq=found.events[0].seq,
        last_seq=found.events[-1].seq,
        head_seq=head_seq,
        head_hash=head_hash.hex(),
        signed_seq=max((seq for seq in heads.seqs(ledger) if seq <= head_seq), default=0),
        broken_from=_broken_from(reader, found, head_seq),
        objectives=_objectives(found.events, found.incident.detected_us),
        kept=sorted(rule.value for rule in (*KEPT, Rule.CONFIG, Rule.TITLE)),
        redacted=dict(sorted(redactor.counts.items())),
    )
    return Made(manifest, lines)


def _objectives(events: list[Recorded], at_us: int) -> Objectives:
    """In force when the incident was noticed, as its run was configured."""
    told = [event for event in events if event.type in rules.TYPES and event.time_us <= at_us]
    boot = told[-1].boot if told else None
    try:
        slo = rules.course((event for event in told if event.boot == boot), {}).at(at_us).config.slo
    except ValidationError:
        # Keys of another version of this program: the report says what it says by the defaults.
        slo = Config().slo
    return Objectives(ttft_s=slo.ttft.threshold, itl_s=slo.itl.threshold)


def _broken_from(reader: Reader, found: Gathered, head_seq: int) -> int | None:
    """The first event that is not as it was written: of the whole ledger, or of a large one by its last verification.

    That one, or any of the incident's own time, which is looked at in any case.
    """
    if head_seq <= account.WALKED:
        return reader.broken_in(1, head_seq)
    last = reader.events(EventFilter(types=("ledger.verified",), order="desc", after=head_seq + 1, limit=1))
    told = [last[0].data["bad_seq"]] if last and not last[0].data["ok"] else []
    inside = [event.seq for event in found.events if found.since_us <= event.time_us < found.until_us]
    if inside and (wrong := reader.broken_in(inside[0], inside[-1])) is not None:
        told.append(wrong)
    return min(told, default=None)
