"""Any figure as SVG."""

from lmx_ledger.report.chart import BarChart, Chart, LaneChart
from lmx_ledger.report.plot import plotted
from lmx_ledger.report.rows import barred, laned


def drawn(chart: Chart) -> str:
    """An `<svg>` for the inside of a page: its colours are the page's variables, its texts are escaped."""
    if isinstance(chart, LaneChart):
        return laned(chart)
    return barred(chart) if isinstance(chart, BarChart) else plotted(chart)
