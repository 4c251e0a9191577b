"""Any figure as SVG."""

from lmx_ledger.report.chart import BarChart, Chart, LaneChart, ValueChart
from lmx_ledger.report.over_values import valued
from lmx_ledger.report.plot import plotted
from lmx_ledger.report.rows import barred, laned


def drawn(chart: Chart | ValueChart) -> str:
    """An `<svg>` for the inside of a page: its colours are the page's variables, its texts are escaped."""
    if isinstance(chart, LaneChart):
        return laned(chart)
    if isinstance(chart, ValueChart):
        return valued(chart)
    return barred(chart) if isinstance(chart, BarChart) else plotted(chart)
