"""What other settings would have done to an incident: a few candidates, replayed and estimated, in plain words."""

from collections.abc import Iterator, Sequence
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.candidates import candidates
from lmx_ledger.incident.estimate import estimator_in
from lmx_ledger.incident.outcome import Estimate, Figure, shown
from lmx_ledger.incident.replayed import Asked, Replayed, decided, read
from lmx_ledger.incident.rules import BadRule, show_value
from lmx_ledger.report.model import WhatIf
from lmx_ledger.report.text import counted

MOST_EVENTS: Final = 16_000
"""Of requests: a report is written while somebody waits for it."""
_TOLD: Final = ("answered", "refused", "ttft_p50_ms", "ttft_p95_ms", "waited_ms", "page_ins")


def what_if(
    ledger: Asked, kinds: Sequence[str], events: Sequence[Recorded], since_us: int, until_us: int
) -> list[WhatIf]:
    """A row for each candidate, of the incident's time; `kinds` are its hypotheses, `events` those of that time.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    estimator = estimator_in(ledger, since_us, until_us, MOST_EVENTS)
    wanted = candidates(kinds, events, estimator)
    if not wanted:
        return []
    stretch, rows = read(ledger, since_us, until_us), list[WhatIf]()
    for given in wanted:
        try:
            rows.append(_row(decided(stretch, given), estimator.estimate(given)))
        except BadRule:
            # It does not go with what else was configured then.
            continue
    return rows


def _row(replayed: Replayed, estimate: Estimate) -> WhatIf:
    setting = ", ".join(f"{key} = {show_value(key, value)}" for key, value in replayed.given.items())
    return WhatIf(
        setting=setting,
        recorded=_told(estimate, estimated=False),
        replayed=_told(estimate, estimated=True),
        difference=" ".join(_differences(replayed, estimate)),
    )


def _told(estimate: Estimate, *, estimated: bool) -> str:
    """An outcome in a line; what the rules do not change is as it was recorded."""

    def value(key: str) -> float | None:
        one = estimate.figure(key)
        return one.estimated if estimated and one.changes else one.recorded

    told = [f"{value('answered') or 0:,.0f} of {counted(estimate.recorded.requests, 'request')} answered"]
    told += [f"{value('refused'):,.0f} refused"] if estimate.figure("refused").told else []
    told += [f"first token p95 {shown(value('ttft_p95_ms'), 'ms')}"]
    told += [counted(round(value("page_ins") or 0), "page-in")] if estimate.figure("page_ins").told else []
    return ", ".join(told)


def _differences(replayed: Replayed, estimate: Estimate) -> Iterator[str]:
    if replayed.different:
        yield f"{replayed.different:,} of {counted(len(replayed.compared), 'decision')} would have been different."
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
    size, error = shown(abs(one.change), one.unit), shown(one.error, one.unit)
    return f"{one.name} {size} {way} (\N{PLUS-MINUS SIGN} {error})"
