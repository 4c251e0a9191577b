"""The digest of a stretch of time, from the ledger alone, sealed or not: its events are read once, page by page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.week import Period
from lmx_ledger.incident import rules, savings, state
from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.incident.rules import BadRule
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.history import History, Whole
from lmx_ledger.ledger.projection import FILE
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.digest.assemble import Found, assemble
from lmx_ledger.report.digest.html import html
from lmx_ledger.report.digest.incidents import told, trouble_of, went_on
from lmx_ledger.report.digest.markdown import markdown
from lmx_ledger.report.digest.model import Change, Digest
from lmx_ledger.report.digest.sums import TYPES, Sums
from lmx_ledger.report.digest.what_if import WhatIfs
from lmx_ledger.report.text import moment
from lmx_ledger.report.write import json_of
from lmx_ledger.slo.objective import Objective, objectives_of

CHANGES: Final = 3
"""So many are told: those that would have saved most."""
_BEGINNING_US: Final = -(2**62)
_MOST: Final = 1_000
"""Times that a run's configuration was changed."""


class Force(NamedTuple):
    """The configuration at the end of a period, its objectives, and what is to be known of that."""

    config: Config
    objectives: Sequence[Objective]
    notes: Sequence[str]


def digest(ledger: Path, reader: Reader, period: Period) -> Digest:
    """Of that period, beside the one before it. Of the same ledger it is the same.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    history = History(ledger, reader)
    before = _summed(history, Sums(period.before))
    now = _summed(history, Sums(period, before))
    newest = next(iter(reader.events(EventFilter(order="desc", limit=1))), None)
    newest_us = period.since_us if newest is None else newest.time_us
    whole = newest_us >= period.until_us
    end_us = period.until_us if whole else max(newest_us, period.since_us) + 1
    force = in_force(history, reader, period)
    known = _incidents(ledger, history, now, period)
    incidents, left_out = told(ledger, reader, known, end_us)
    found = savings.changes(now.losses, force.config)[:CHANGES]
    what_ifs = WhatIfs(Whole(ledger, reader), period)
    return assemble(
        Found(
            period=period,
            now=now,
            before=before,
            objectives=force.objectives,
            incidents=incidents,
            left_out=left_out,
            trouble=trouble_of(known, period, end_us),
            trouble_before=trouble_of(
                _incidents(ledger, history, before, period.before), period.before, period.since_us
            ),
            changes=[_change(one, what_ifs) for one in found],
            whole=whole,
            idle=not now.events and next(history.within(("*",), *period), None) is not None,
            notes=[*_range(newest, now), *force.notes],
        )
    )


def as_form(document: Digest, form: str) -> bytes:
    """One of `report.from_ledger.FORMS`."""
    if form == "json":
        return json_of(document)
    return (html(document) if form == "html" else markdown(document)).encode()


def in_force(history: History, reader: Reader, period: Period) -> Force:
    """As the ledger has it: what the last run that began before the end was configured to.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    events = _configured(history, reader, period.until_us)
    try:
        config = rules.course(events, {}).at(period.until_us).config
        return Force(config, objectives_of(config.slo), [])
    except (ValidationError, BadRule, StartupError):
        config = Config()
        note = "What was configured then is not understood by this version: objectives and thresholds are the defaults."
        return Force(config, objectives_of(config.slo), [note])


def _configured(history: History, reader: Reader, until_us: int) -> list[Recorded]:
    last = reader.events(EventFilter(types=("config.loaded",), until_us=until_us, order="desc", limit=1))
    if last:
        of_run = EventFilter(types=rules.TYPES, boot=last[0].boot, until_us=until_us, limit=_MOST)
        return [event for event in reader.events(of_run) if event.seq >= last[0].seq]
    found: list[Recorded] = []
    for event in history.within(rules.TYPES, _BEGINNING_US, until_us):
        if event.type == "config.loaded":
            found = []
        found.append(event)
    return found


def _summed(history: History, sums: Sums) -> Sums:
    for event in history.within(TYPES, *sums.period):
        sums.add(event)
    return sums


def _incidents(ledger: Path, history: History, sums: Sums, period: Period) -> list[state.Incident]:
    """As they stood behind the last event of the period."""
    if not sums.last_seq:
        return []
    folded = state_at(IncidentsFold(), history, ledger.with_name(FILE), sums.last_seq)
    return went_on(folded.all(), period)


def _change(one: savings.Change, what_ifs: WhatIfs) -> Change:
    what_if, no_what_if = what_ifs.of(one)
    return Change(
        rule=one.rule,
        what=one.what,
        why=one.why,
        cost_ms=one.cost_ms,
        times=one.times,
        config=", ".join(_key(key) for key in one.keys) or None,
        because=list(one.seqs),
        what_if=what_if,
        no_what_if=no_what_if,
    )


def _key(name: str) -> str:
    """As in the configuration: `[queue] max_running`."""
    section, _, key = name.partition(".")
    return f"[[{section}]] {key}" if section == "models" else f"[{section}] {key}"


def _range(newest: Recorded | None, now: Sums) -> list[str]:
    """Where there is something, if there is nothing here."""
    if now.events:
        return []
    if newest is None:
        return ["The ledger is empty."]
    return [f"The ledger's newest event is of {moment(newest.time_us)}."]
