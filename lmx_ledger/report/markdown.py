"""A postmortem as Markdown (GitHub's), for an issue, a wiki or a mail: no text of strangers becomes markup."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lmx_ledger.report.chart import BarChart, Chart, LaneChart, TimeChart
from lmx_ledger.report.html import after, codes
from lmx_ledger.report.model import Header, Impact, Postmortem
from lmx_ledger.report.text import LONGEST_OF_OURS, clock, figure, harmless, lasted, moment, plain
from lmx_ledger.report.ticks import DAY

_MARKUP: Final = re.compile(r"([\\`*_{}\[\]<>#|~!&@$])")
_LINK: Final = re.compile(r"(?i)(://|www\.|mailto:)")
_BLOCK: Final = re.compile(r"^(\s*)([-+](?=\s)|[-+](?=[-+\s]*$)|-(?=-)|=|\d+[.)](?=\s|$))")
_STATES: Final = 12
_BLANK: Final = "_________"


def escaped(text: str) -> str:
    """As text that means itself, wherever in a line it stands."""
    text = _MARKUP.sub(r"\\\1", plain(text, LONGEST_OF_OURS))
    # Bare addresses become links by themselves; a backslash before punctuation is not seen.
    text = _LINK.sub(lambda found: found.group(1).replace(":", r"\:").replace(".", r"\."), text)
    return _BLOCK.sub(lambda found: f"{found.group(1)}{found.group(2)[:-1]}\\{found.group(2)[-1]}", text)


def markdown(document: Postmortem) -> str:
    """The whole page; the same document gives the same bytes."""
    document = harmless(document)
    parts: list[Iterable[str]] = [
        _head(document),
        _questions(document),
        _impact(document),
        _objectives(document),
        figures(document.figures),
        _worst(document),
        _timeline(document),
        _guard(document),
        _hypotheses(document),
        _what_if(document),
        _actions(document),
        _integrity(document),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose cells mean themselves."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell if cell == '-' else escaped(cell) for cell in row)} |"
    yield ""


def _head(document: Postmortem) -> Iterator[str]:
    header = document.header
    yield f"# {'DRILL: ' if header.drill else ''}{escaped(header.title)}"
    yield ""
    if header.drill:
        yield "> **DRILL.** This was a rehearsal: the trouble was made on purpose, the answers to it are real."
        yield ""
    yield f"Postmortem of incident {escaped(header.incident)}. All times are UTC."
    yield ""
    yield from table(("what", "value"), _facts(header))
    for note in document.notes:
        yield f"> **Note.** {escaped(note)}"
        yield ""
    yield escaped(document.summary)
    yield ""


def _facts(header: Header) -> Iterator[tuple[str, str]]:
    again = f", reopened {header.reopened} times" if header.reopened > 1 else ", reopened once" * header.reopened
    yield "severity", header.severity
    yield "status", f"{header.status}{again}"
    yield "started", moment(header.started)
    yield "detected", f"{moment(header.detected)} ({after(header.to_detect_s)})"
    for name, at, seconds in (
        ("acknowledged", header.acknowledged, header.to_acknowledge_s),
        ("mitigated", header.mitigated, header.to_mitigate_s),
        ("resolved", header.resolved, header.to_resolve_s),
    ):
        yield name, "-" if at is None else f"{moment(at)} ({after(seconds)})"
    yield "lasted so far" if header.open else "lasted", lasted(header.duration_s)
    yield "models", ", ".join(header.models) or "-"
    yield "opened by events", ", ".join(map(str, header.opened_by[:6])) or "-"


def _questions(document: Postmortem) -> Iterator[str]:
    yield "## Ten questions"
    yield ""
    for answer in document.answers:
        yield f"- **{escaped(answer.question)}** {escaped(answer.text)}"
    yield ""


_COLUMNS: Final = (
    *("requests", "answered", "late", "refused", "failed", "cancelled", "resumed"),
    *("tokens computed twice", "first token p95", "whole p95"),
)


def _row(one: Impact) -> tuple[str, ...]:
    counts = (f"{one.requests:,}", f"{one.answered:,}", f"{one.slow:,}", codes(one.refused), codes(one.failed))
    more = (f"{one.cancelled:,}", f"{one.resumed:,}", f"{one.recomputed_tokens:,}")
    return one.name, *counts, *more, figure(one.ttft_p95_ms, "ms"), figure(one.wall_p95_ms, "ms")


def _impact(document: Postmortem) -> Iterator[str]:
    yield "## Impact"
    yield ""
    if not document.by_model:
        yield "No request came in that time."
        yield ""
        return
    yield from table(("model", *_COLUMNS), map(_row, [*document.by_model, document.total]))
    if not document.sessions:
        yield f"None of {document.sessions_in_all:,} sessions was affected."
        yield ""
        return
    yield (
        f"Those hit hardest of the {document.sessions_affected:,} sessions that were affected,"
        f" of {document.sessions_in_all:,} in all:"
    )
    yield ""
    others = [document.others] if document.others else []
    yield from table(("session", *_COLUMNS), map(_row, [*document.sessions, *others]))


def _objectives(document: Postmortem) -> Iterator[str]:
    yield "### Objectives"
    yield ""
    if not document.budgets:
        yield "No objective was judged in that time."
        yield ""
        return
    yield from table(
        ("objective", "model", "budget before", "after", "burned", "fastest burn", "alerts"),
        (
            (
                one.objective,
                one.model or "all",
                figure(one.before, "share"),
                f"{figure(one.after, 'share')}{', exhausted' if one.exhausted else ''}",
                figure(one.burned, "share"),
                f"{figure(one.fastest, 'x')}{f' over {one.window}' if one.window else ''}",
                str(one.alerts),
            )
            for one in document.budgets
        ),
    )


def figures(charts: Sequence[Chart]) -> Iterator[str]:
    """In words and numbers: the drawings are in the HTML."""
    yield "## Figures"
    yield ""
    for chart in charts:
        if isinstance(chart, BarChart):
            continue
        yield f"**{escaped(chart.title)}.** {escaped(chart.about)}"
        yield ""
        if chart.empty is not None:
            yield escaped(chart.empty)
            yield ""
        elif isinstance(chart, LaneChart):
            yield from table(("what", "states (UTC)"), _states(chart))
        else:
            yield from table(("line", "least", "highest", "when (UTC)", "at the end"), _extremes(chart))


def _states(chart: LaneChart) -> Iterator[tuple[str, str]]:
    for lane in chart.lanes:
        states = [f"{band.label} from {_at(band.from_us, chart)}" for band in lane.bands[:_STATES]]
        states += [f"{mark.label} at {_at(mark.at_us, chart)}" for mark in lane.marks[:_STATES]]
        left = len(lane.bands[_STATES:]) + len(lane.marks[_STATES:])
        yield lane.label, f"{', '.join(states)}{f' and {left} more' if left else ''}"


def _at(at_us: int, chart: LaneChart) -> str:
    """The time of day, with its date where there are several."""
    return moment(at_us)[5:19] if chart.until_us - chart.from_us > DAY else clock(at_us)


def _extremes(chart: TimeChart) -> Iterator[tuple[str, ...]]:
    for series in chart.series:
        known = [(value, at_us) for at_us, value in series.points if value is not None]
        if known:
            highest, at_us = max(known, key=lambda one: (one[0], -one[1]))
            values = figure(min(known)[0], chart.unit), figure(highest, chart.unit)
            yield series.label, *values, moment(at_us), figure(known[-1][0], chart.unit)
    for level in chart.levels:
        yield level.label, figure(level.value, chart.unit), figure(level.value, chart.unit), "all along", "-"


def _worst(document: Postmortem) -> Iterator[str]:
    if not document.worst:
        return
    yield "### The slowest requests"
    yield ""
    yield from table(
        ("request", "model", "session", "outcome", "whole", "first token", "mostly because", "events"),
        (
            (
                *(one.id, one.model or "-", one.session or "-", one.outcome),
                *(figure(one.wall_ms, "ms"), figure(one.ttft_ms, "ms")),
                *(one.reason, ", ".join(map(str, one.because))),
            )
            for one in document.worst
        ),
    )


def _timeline(document: Postmortem) -> Iterator[str]:
    yield "## Timeline"
    yield ""
    if not document.timeline:
        yield "The timeline has no lines."
        yield ""
        return
    rows = (
        (
            moment(one.time).removesuffix(" UTC"),
            str(one.seq) if one.seq == one.last_seq else f"{one.seq} to {one.last_seq}",
            one.severity,
            f"{one.text} ({one.count:,} times)" if one.count > 1 else one.text,
        )
        for one in document.timeline
    )
    yield from table(("UTC", "event", "severity", "what"), rows)
    if document.timeline_left_out:
        yield f"{document.timeline_left_out:,} lines of low severity are left out."
        yield ""


def _guard(document: Postmortem) -> Iterator[str]:
    yield "## What the guard did, and whether it helped"
    yield ""
    if not document.acts:
        yield "The guard did nothing."
        yield ""
        return
    yield "A figure that got better proves no cause."
    yield ""
    yield from table(
        ("UTC", "event", "act", "because of", "figure", "better?"),
        (
            (moment(one.time).removesuffix(" UTC"), str(one.seq), one.what, one.why, one.text, one.helped)
            for one in document.acts
        ),
    )
    if document.acts_left_out:
        yield f"{document.acts_left_out} more acts are in the ledger."
        yield ""


def _hypotheses(document: Postmortem) -> Iterator[str]:
    yield "## Hypotheses"
    yield ""
    if not document.hypotheses:
        yield "No hypothesis was put forward."
    for number, one in enumerate(document.hypotheses, 1):
        yield f"{number}. **{escaped(one.title)}** (score {one.score:.2f}). {escaped(one.sentence)}"
        for line in one.evidence:
            yield f"   - {escaped(line.text)}{because(line.seqs[:8])}"
    yield ""


def _what_if(document: Postmortem) -> Iterator[str]:
    if not document.what_if:
        return
    yield "## What if"
    yield ""
    yield (
        "Recorded decisions decided again under other settings, and the recorded requests served again by a model of"
        " that time. What is behind \N{PLUS-MINUS SIGN} is how far that model is off under the settings that were."
    )
    yield ""
    yield from table(
        ("setting", "recorded", "replayed", "difference"),
        ((one.setting, one.recorded, one.replayed, one.difference) for one in document.what_if),
    )


def _actions(document: Postmortem) -> Iterator[str]:
    yield "## Actions"
    yield ""
    if not document.actions:
        yield "No rule has an action for this. The hypotheses and the timeline are what there is to go by."
    for one in document.actions:
        yield f"- [ ] **{escaped(one.what)}** {escaped(one.why)}{because(one.because)}"
        if one.config:
            yield f"  Configuration: {escaped(one.config)}."
        yield f"  Owner: {escaped(one.owner or _BLANK)}"
    yield ""


def because(seqs: Sequence[int]) -> str:
    """Behind a sentence, the events that say so."""
    return f" (event{'s' if len(seqs) > 1 else ''} {', '.join(map(str, seqs))})" if seqs else ""


def _integrity(document: Postmortem) -> Iterator[str]:
    yield "## Integrity"
    yield ""
    found = document.integrity
    if found is None:
        yield "No stretch of the ledger was given with this report: it cannot be held against it."
        return
    yield (
        f"Written from the ledger's events {found.first_seq} to {found.last_seq}. The newest event then was"
        f" {found.head_seq}, with hash {escaped(found.head_hash)}; heads were signed up to event {found.signed_seq}."
        f" {'For its owner, to prove the bundle' if found.bundle else 'To hold the ledger against itself'}:"
        f" {escaped(found.verify)}"
    )
