"""What both pages of a digest say in the same words."""

from typing import Final

from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.week import DAY_US
from lmx_ledger.report.digest.model import Asker, Budget, Change, Compared, Digest, Figure, Header, Incident, WhatIf
from lmx_ledger.report.text import figure, lasted, moment

WHAT_IF: Final = ("figure", "as it was", "then", "the model is off by")
_BETTER: Final = {"yes": ", better", "no": ", worse"}


def title(header: Header) -> str:
    """`Week 2026-W47`, or from when to when it goes."""
    return f"Week {header.week}" if header.week else f"{moment(header.since)[:16]} to {moment(header.until)[:16]} UTC"


def dates(header: Header) -> str:
    """The days of a whole week, the last one with it: `2026-11-16 to 2026-11-22 (UTC)`."""
    last = rfc3339(parse_rfc3339(header.until) - 1)
    return f"{header.since[:10]} to {last[:10]} (UTC)"


def change(one: Compared) -> str:
    """From the time before to now, and whether that is better: `+12 %, worse`."""
    if one.now is None or one.before is None:
        return "-"
    if one.before:
        moved = (one.now - one.before) / abs(one.before)
        told = "the same" if abs(moved) < 0.005 else f"{moved:+,.0%}".replace("%", " %")
    else:
        told = "new" if one.now else "the same"
    return f"{told}{_BETTER.get(one.better, '')}"


def burned(budget: Budget) -> str:
    """Of what might have been bad in that time."""
    return figure(budget.burned, "share")


def left(budget: Budget) -> str:
    """Of the period's budget, at the end."""
    if budget.left is None:
        return "-"
    return f"{figure(budget.left, 'share')} of {budget.period}{', exhausted' if budget.exhausted else ''}"


def fastest(budget: Budget) -> str:
    """The highest burn rate that was told."""
    return f"{figure(budget.fastest, 'x')}{f' over {budget.window}' if budget.window else ''}"


def steps(incident: Incident) -> list[str]:
    """The time from the start to each step that was taken."""
    known = (
        ("detected", incident.detect_s),
        ("acknowledged", incident.acknowledge_s),
        ("mitigated", incident.mitigate_s),
        ("resolved", incident.resolve_s),
    )
    return [f"{name} after {lasted(seconds)}" for name, seconds in known if seconds is not None]


def hit(incident: Incident) -> str:
    """Whom it hit, as far as that was looked for."""
    counts = ((incident.refused, "refused"), (incident.failed, "failed"), (incident.slow, "slow"))
    told = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    return f"requests hit: {told}" if told else ""


def how_long(incident: Incident) -> str:
    """While it goes on that is said."""
    return f"{lasted(incident.lasted_s)}{' so far' if incident.open else ''}"


def asker(one: Asker) -> tuple[str, str, str]:
    """A row of who lost."""
    return one.name, f"{one.lost_tokens:,}", figure(one.ms, "ms")


def when(one: WhatIf) -> str:
    """What the estimate is of; where it can tell nothing, that, and by how much the model is off."""
    hour = f"{moment(one.since)[:16]} to {moment(one.until)[11:16]} UTC"
    share = f", {figure(one.share, 'share')} of it" if one.share < 1 else ""
    told = f"With {one.setting}, by a model of the requests of the hour in which it cost most ({hour}{share}):"
    if what_if(one):
        return told
    off = ", ".join(f"{row.name} by {figure(row.error, row.unit)}" for row in one.figures)
    changed = "too rough to tell" if any(row.too_rough for row in one.figures) else "nothing would have changed"
    return f"{told} {changed} (the model is off: {off})."


def what_if(one: WhatIf) -> list[tuple[str, ...]]:
    """A row for each figure: as it was, as it would have been, and by how much the model is off under the old rules.

    None where no figure changes by more than the model is off.
    """
    if all(row.too_rough or row.estimated == row.modelled for row in one.figures):
        return []
    return [
        (row.name, figure(row.recorded, row.unit), _estimated(row), figure(row.error, row.unit)) for row in one.figures
    ]


def _estimated(one: Figure) -> str:
    if one.too_rough:
        return "too rough to tell"
    if one.estimated == one.modelled:
        return "the same"
    return f"about {figure(one.estimated, one.unit)}"


def saves(one: Change) -> str:
    """What a change can save at most."""
    return f"{figure(one.cost_ms, 'ms')} at most"


def days(document: Digest) -> list[str]:
    """`Mon 16`, for the heads of columns."""
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    first = parse_rfc3339(document.header.since) // DAY_US
    # The day of the epoch was a Thursday.
    return [f"{names[(first + number + 3) % 7]} {day.name[8:]}" for number, day in enumerate(document.days)]
