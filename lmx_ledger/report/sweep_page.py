"""A sweep as a page or a picture of its own: what each value of a setting would have done, in three figures."""

from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from lmx_ledger.incident.rules import show_value
from lmx_ledger.report.chart import Point, ValueChart
from lmx_ledger.report.figures import drawn
from lmx_ledger.report.frame import WIDTH
from lmx_ledger.report.pages_read import filled, style
from lmx_ledger.report.svg import element, label, number
from lmx_ledger.report.text import NAME, figure, moment, plain

_SHOWN: Final = (
    ("page_ins", "Page-ins", "How often weights came back from the disk."),
    ("refused", "Requests refused", "Whatever the reason."),
    ("ttft_p95_ms", "Time to the first token, 95th percentile", "Of the requests that were answered."),
    ("waited_ms", "Time spent waiting", "Of all requests: for a slot, for memory, for their model."),
)
_GAP: Final = 34.0


def charts_of(sweep: Mapping[str, Any]) -> list[ValueChart]:
    """The figures of a sweep in the form of `/lmx/replay`."""
    key, rows = sweep["key"], sweep["rows"]
    return [
        ValueChart(
            key=f"sweep-{figure_key.replace('_', '-')}",
            title=title,
            about=about,
            unit="ms" if figure_key.endswith("_ms") else "",
            setting=key,
            points=[
                Point(
                    x=float(row["value"]),
                    label=show_value(key, row["value"]),
                    value=figure_of(row["estimate"], figure_key)["estimated"],
                )
                for row in sorted(rows, key=lambda row: float(row["value"]))
            ],
            error=max((figure_of(row["estimate"], figure_key)["error"] for row in rows), default=0.0),
            recorded=next((figure_of(row["estimate"], figure_key)["recorded"] for row in rows), None),
            in_force=sweep["in_force"],
        )
        for figure_key, title, about in _SHOWN
    ]


def figure_of(estimate: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """One figure of an estimate in its public form; `KeyError` where there is none."""
    for one in estimate["figures"]:
        if one["key"] == key:
            found: Mapping[str, Any] = one
            return found
    raise KeyError(key)


def page_of(answer: Mapping[str, Any]) -> str:
    """One HTML file; the same answer gives the same bytes."""
    sweep = answer["sweep"]
    return filled(
        "sweep.html",
        a=answer,
        key=sweep["key"],
        rows=[
            {
                "value": show_value(sweep["key"], row["value"]),
                "different": row["different"],
                "decisions": row["decisions"],
                "cells": [figure_of(row["estimate"], name) for name, _, _ in _SHOWN],
            }
            for row in sweep["rows"]
        ],
        heads=[title for _, title, _ in _SHOWN],
        # What `drawn` gives is escaped already, element by element.
        figures=[(chart, Markup(drawn(chart))) for chart in charts_of(sweep)],  # noqa: S704
        others={name: show_value(name, value) for name, value in answer["set"].items()},
        in_force=None if sweep["in_force"] is None else show_value(sweep["key"], sweep["in_force"]),
        moment=moment,
        figure=figure,
    )


def picture_of(answer: Mapping[str, Any]) -> str:
    """The figures one below the other as one SVG file, with its colours in it."""
    charts = charts_of(answer["sweep"])
    pieces, top = list[str](), 0.0
    for chart in charts:
        svg = drawn(chart)
        height = _height_of(svg)
        pieces.append(label(0, top + 16, plain(chart.title, NAME)))
        pieces.append(
            svg.replace("<svg ", f'<svg y="{number(top + 24)}" width="{number(WIDTH)}" height="{number(height)}" ', 1)
        )
        top += height + _GAP + 24
    sheet = element("style", str(style()), "svg { background: var(--bg); } svg svg { min-width: 0; }")
    back = element("rect", x=-12, y=-12, width=WIDTH + 24, height=top + 24, style="fill: var(--bg)")
    return element(
        "svg",
        sheet,
        back,
        *pieces,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"-12 -12 {number(WIDTH + 24)} {number(top + 24)}",
    )


def _height_of(svg: str) -> float:
    return float(svg.partition('viewBox="')[2].partition('"')[0].split()[3])
