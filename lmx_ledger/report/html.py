"""A postmortem as one HTML file: nothing is fetched, nothing is run, every text of strangers is escaped."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from markupsafe import Markup

from lmx_ledger.report.figures import drawn
from lmx_ledger.report.model import Postmortem, Told
from lmx_ledger.report.pages_read import filled
from lmx_ledger.report.text import clock, figure, harmless, lasted, moment


def html(document: Postmortem) -> str:
    """The whole page; the same document gives the same bytes."""
    document = harmless(document)
    total = document.total
    return filled(
        "postmortem.html",
        d=document,
        h=document.header,
        tiles=[
            ("requests", total.requests, False),
            ("answered", total.answered, False),
            ("answered late", total.slow, True),
            ("refused", sum(total.refused.values()), True),
            ("failed", sum(total.failed.values()), True),
            ("resumed", total.resumed, True),
            ("tokens computed twice", total.recomputed_tokens, True),
        ],
        # What `drawn` gives is escaped already, element by element.
        figures=[(chart, Markup(drawn(chart))) for chart in document.figures],  # noqa: S704
        days=list(_days(document.timeline)),
        moment=moment,
        clock=clock,
        lasted=lasted,
        figure=figure,
        codes=codes,
        after=after,
    )


def _days(lines: list[Told]) -> Iterator[tuple[str, list[Told]]]:
    for day, of in groupby(lines, key=lambda one: one.time[:10]):
        yield day, list(of)


def codes(counts: Mapping[str, int]) -> str:
    """`429 queue_full`-like counts: `queue_full 12, backpressure 3`; 0 of nothing."""
    return ", ".join(f"{code} {count:,}" for code, count in counts.items()) or "0"


def after(seconds: float | None) -> str:
    """How long behind the start."""
    if seconds is None:
        return "before the start, by a clock that was set"
    return "at the start" if seconds == 0 else f"after {lasted(seconds)}"
