"""What other settings would have done to an incident: a few candidates, replayed and estimated, in plain words."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import replayed
from lmx_ledger.incident.candidates import candidates
from lmx_ledger.incident.estimate import Estimator
from lmx_ledger.incident.outcome import Estimate, Figure, shown
from lmx_ledger.incident.replayed import MOST, Asked, Replayed, Stretch, decided
from lmx_ledger.incident.rules import BadRule, show_value
from lmx_ledger.incident.simulation import machine
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.report.model import WhatIf
from lmx_ledger.report.text import counted

MOST_EVENTS: Final = 5_000
"""Of requests: a report is written while somebody waits for it."""
_TYPES: Final = tuple(dict.fromkeys((*replayed.TYPES, *machine.TYPES)))
_TOLD: Final = ("answered", "refused", "ttft_p50_ms", "ttft_p95_ms", "waited_ms", "page_ins")


def what_if(
    ledger: Asked, kinds: Sequence[str], events: Sequence[Recorded], since_us: int, until_us: int
) -> list[WhatIf]:
    """A row for each candidate, of the incident's time; `kinds` are its hypotheses, `events` all of that time.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    asked = [event.time_us for event in events if event.type.startswith(_REQUEST)]
    cut_us = asked[MOST_EVENTS] if len(asked) > MOST_EVENTS else None
    until_us = until_us if cut_us is None else cut_us
    boots = dict.fromkeys(event.boot for event in events)
    # What a run was like when the time began is told by what came before in it.
    runs = {
        boot: list(ledger.events(EventFilter(types=_TYPES, boot=boot, until_us=since_us, limit=MOST))) for boot in boots
    }
    for event in events:
        if event.time_us < until_us:
            runs[event.boot].append(event)
    estimator = Estimator((event for run in runs.values() for event in run), since_us, until_us, cut_us=cut_us)
    stretch, rows = Stretch(since_us, until_us, list(runs.values())), list[WhatIf]()
    for given in candidates(kinds, events, estimator):
        # One that does not go with what else was configured then says nothing.
        with contextlib.suppress(BadRule):
            rows.append(_row(decided(stretch, given), estimator.estimate(given)))
    return rows


_REQUEST: Final = "request."


def _row(again: Replayed, estimate: Estimate) -> WhatIf:
    setting = ", ".join(f"{key} = {show_value(key, value)}" for key, value in again.given.items())
    return WhatIf(
        setting=setting,
        recorded=_told(estimate, estimated=False),
        replayed=_told(estimate, estimated=True),
        difference=" ".join(_differences(again, estimate)),
    )


def _told(estimate: Estimate, *, estimated: bool) -> str:
    """An outcome in a line; what the rules do not change is as it was recorded, what nobody can tell is left out."""

    def value(key: str) -> float | None:
        one = estimate.figure(key)
        return one.estimated if estimated and one.changes else one.recorded

    told = [f"{value('answered') or 0:,.0f} of {counted(estimate.recorded.requests, 'request')} answered"]
    told += [f"{value('refused'):,.0f} refused"] if estimate.figure("refused").told else []
    if not (estimated and estimate.figure("ttft_p95_ms").too_rough):
        told.append(f"first token p95 {shown(value('ttft_p95_ms'), 'ms')}")
    told += [counted(round(value("page_ins") or 0), "page-in")] if estimate.figure("page_ins").told else []
    return ", ".join(told)


def _differences(again: Replayed, estimate: Estimate) -> Iterator[str]:
    if again.different:
        yield f"{again.different:,} of {counted(len(again.compared), 'decision')} would have been different."
    figures = [estimate.figure(key) for key in _TOLD]
    clear = [one for one in figures if one.changes and not one.too_rough]
    rough = [one.name for one in figures if one.too_rough]
    if clear:
        yield f"Estimated: {'; '.join(map(_change, clear))}."
    if rough:
        yield f"Too rough to tell: {'; '.join(rough)}."
    if not clear and not rough:
        off = shown(estimate.figure("ttft_p95_ms").error, "ms")
        yield f"For the requests nothing would have changed (first token p95 \N{PLUS-MINUS SIGN} {off})."
    if estimate.cut_us is not None:
        yield "Of the first requests only: there were more than a report is made from."


def _change(one: Figure) -> str:
    way = "less" if one.unit and one.change < 0 else "fewer" if one.change < 0 else "more"
    # Of what was recorded no more can go than there was, whatever the model began from.
    most = one.recorded if one.change < 0 and one.recorded is not None else math.inf
    size, error = shown(min(abs(one.change), most), one.unit), shown(one.error, one.unit)
    return f"{one.name} {size} {way} (\N{PLUS-MINUS SIGN} {error})"
