"""A digest as one HTML file: nothing is fetched, nothing is run, every text of strangers is escaped."""

from markupsafe import Markup

from lmx_ledger.report.digest import words
from lmx_ledger.report.digest.model import Digest
from lmx_ledger.report.figures import drawn
from lmx_ledger.report.index import href
from lmx_ledger.report.pages_read import filled
from lmx_ledger.report.text import figure, harmless, lasted, moment


def html(document: Digest) -> str:
    """The whole page; the same document gives the same bytes."""
    document = harmless(document)
    total, costs = document.total, document.costs
    real = [one for one in document.incidents if not one.drill]
    return filled(
        "digest.html",
        d=document,
        h=document.header,
        w=words,
        tiles=[
            ("requests", f"{total.requests:,}", False),
            ("answered", f"{total.answered:,}", False),
            ("refused", f"{sum(total.refused.values()):,}", bool(total.refused)),
            ("failed", f"{sum(total.failed.values()):,}", bool(total.failed)),
            ("incidents", f"{len(real):,}", bool(real)),
            ("time lost", figure(costs.lost_ms, "ms"), False),
            ("read again", figure(costs.reread_ms, "ms"), False),
        ],
        # What `drawn` gives is escaped already, element by element.
        svg={chart.key: (chart, Markup(drawn(chart))) for chart in document.figures},  # noqa: S704
        moment=moment,
        lasted=lasted,
        figure=figure,
        href=href,
    )
