"""A digest as Markdown (GitHub's), for a mail, a wiki or a chat: no text of strangers becomes markup."""

from collections.abc import Iterable, Iterator
from typing import Final

from lmx_ledger.report.digest import words
from lmx_ledger.report.digest.model import Digest, Traffic
from lmx_ledger.report.html import codes
from lmx_ledger.report.markdown import because, escaped, figures, table
from lmx_ledger.report.text import figure, harmless, moment


def markdown(document: Digest) -> str:
    """The whole page; the same document gives the same bytes."""
    document = harmless(document)
    parts: list[Iterable[str]] = [
        _changes(document),
        _compared(document),
        _budgets(document),
        _incidents(document),
        _costs(document),
        _traffic(document),
        figures(document.figures),
    ]
    parts = [_head(document), *(parts if document.header.events else []), _made_of(document)]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _head(document: Digest) -> Iterator[str]:
    yield f"# {escaped(words.title(document.header))}"
    yield ""
    yield f"Digest of {escaped(words.dates(document.header))}. All times are UTC."
    yield ""
    for note in document.notes:
        yield f"> **Note.** {escaped(note)}"
        yield ""
    yield escaped(document.summary)
    yield ""


def _changes(document: Digest) -> Iterator[str]:
    yield "## What would have saved most"
    yield ""
    if not document.changes:
        yield "Nothing cost enough to be worth a change."
        yield ""
    for number, one in enumerate(document.changes, 1):
        yield f"{number}. **{escaped(one.what)}** {escaped(words.saves(one))}. {escaped(one.why)}{because(one.because)}"
        if one.config:
            yield f"   Configuration: {escaped(one.config)}."
        yield ""
        if one.what_if is not None:
            yield f"   {escaped(words.when(one.what_if))}"
            yield ""
            if rows := words.what_if(one.what_if):
                yield from table(words.WHAT_IF, rows)
        elif one.no_what_if:
            yield f"   {escaped(one.no_what_if)}"
            yield ""


def _compared(document: Digest) -> Iterator[str]:
    yield f"## Against {escaped(document.before)}"
    yield ""
    if not document.compared:
        yield "There is no time before to compare with."
        yield ""
        return
    yield from table(
        ("figure", "now", "before", "change"),
        (
            (
                one.name,
                figure(one.now, one.unit),
                figure(one.before, one.unit),
                words.change(one),
            )
            for one in document.compared
        ),
    )


def _budgets(document: Digest) -> Iterator[str]:
    yield "## Error budgets"
    yield ""
    if not document.budgets:
        yield "No objective was judged in this time."
        yield ""
        return
    yield "Burned is the share of what might have been bad in this time: at 100 % it was just all of it."
    yield "Left is of the budget of the objective's own period, at the end."
    yield ""
    yield from table(
        ("objective", "model", "good", "burned", "before", "left", "fastest burn", "alerts"),
        (
            (
                one.objective,
                one.model or "all",
                f"{one.good:,} of {one.total:,}",
                words.burned(one),
                figure(one.burned_before, "share"),
                words.left(one),
                words.fastest(one),
                str(one.alerts),
            )
            for one in document.budgets
        ),
    )


def _incidents(document: Digest) -> Iterator[str]:
    yield "## Incidents"
    yield ""
    if not document.incidents:
        yield "There was no incident in this time."
        yield ""
        return
    yield from table(
        ("no.", "started (UTC)", "severity", "what", "lasted", "from its start", "likely cause", "report"),
        (
            (
                str(number),
                moment(one.started)[:16],
                f"{one.severity}{', drill' if one.drill else ''}",
                f"{one.title} ({'; '.join(filter(None, (one.status, words.hit(one), one.id)))})",
                words.how_long(one),
                ", ".join(words.steps(one)) or "-",
                one.cause or "-",
                f"{one.report}.md" if one.report else "-",
            )
            for number, one in enumerate(document.incidents, 1)
        ),
    )
    if document.incidents_left_out:
        yield f"{document.incidents_left_out:,} more, less severe or shorter, are left out."
        yield ""


def _costs(document: Digest) -> Iterator[str]:
    costs = document.costs
    yield "## What it cost"
    yield ""
    yield (
        f"{costs.requests:,} requests took {escaped(figure(costs.wall_ms, 'ms'))} in all,"
        f" {escaped(figure(costs.lost_ms, 'ms'))} of it waiting or standing still."
        " Requests side by side have each their own time."
    )
    yield ""
    if costs.parts:
        yield from table(
            ("part of the time", "means", "requests", "now", "before"),
            (
                (
                    f"{one.name.replace('_', ' ')}{' (lost)' if one.lost else ''}",
                    one.means,
                    f"{one.requests:,}",
                    figure(one.ms, "ms"),
                    figure(one.before_ms, "ms"),
                )
                for one in costs.parts
            ),
        )
    if costs.misses:
        yield from table(
            ("KV that was missed", "what changed", "times", "tokens read again", "took"),
            (
                (
                    one.reason.replace("_", " "),
                    (one.breaker or "-").replace("_", " "),
                    f"{one.times:,}",
                    f"{one.lost_tokens:,}",
                    figure(one.ms, "ms"),
                )
                for one in costs.misses
            ),
        )
    if costs.page_ins:
        yield from table(
            ("weights that came back", "put out", "times", "bytes", "took"),
            (
                (one.model, one.why, f"{one.times:,}", figure(one.bytes, "bytes"), figure(one.ms, "ms"))
                for one in costs.page_ins
            ),
        )
    if costs.resumes:
        yield from table(
            ("streams that started over", "times", "tokens read again", "stood still"),
            (
                (one.reason.replace("_", " "), f"{one.times:,}", f"{one.reread_tokens:,}", figure(one.ms, "ms"))
                for one in costs.resumes
            ),
        )
    if costs.refusals:
        yield from table(
            ("refused with", "times", "told to stay away"),
            (
                (f"{one.status} {one.code}", f"{one.times:,}", figure(one.told_ms, "ms") if one.told_ms else "-")
                for one in costs.refusals
            ),
        )
    for name, rows in (("session", costs.sessions), ("client", costs.clients)):
        if rows:
            yield from table((f"{name} that lost most", "tokens read again", "lost"), map(words.asker, rows))


_COLUMNS: Final = ("requests", "answered", "refused", "failed", "cancelled", "first token, p95", "between tokens, p95")


def _row(one: Traffic) -> tuple[str, ...]:
    counts = f"{one.requests:,}", f"{one.answered:,}", codes(one.refused), codes(one.failed), f"{one.cancelled:,}"
    return one.name, *counts, figure(one.ttft_p95_ms, "ms"), figure(one.itl_p95_ms, "ms")


def _traffic(document: Digest) -> Iterator[str]:
    yield "## Traffic"
    yield ""
    if not document.total.requests:
        yield "No request ended in this time."
        yield ""
        return
    yield from table(("day", *_COLUMNS), map(_row, [*document.days, document.total]))
    yield from table(("model", *_COLUMNS), map(_row, document.models))
    yield from table(
        ("requests", *words.days(document)),
        ((one.model, *(f"{count:,}" for count in one.requests)) for one in document.model_days),
    )


def _made_of(document: Digest) -> Iterator[str]:
    header = document.header
    yield "## Made of"
    yield ""
    if not header.events:
        yield "Nothing: the ledger has no event of this time."
        return
    yield (
        f"{header.events:,} events of the ledger, from event {header.first_seq} to event {header.last_seq}"
        f" ({escaped(header.last_id)}). To hold the ledger against itself: lmx ledger verify."
    )
