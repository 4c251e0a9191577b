"""A `TimeChart` as SVG: lines or columns over time, with levels, bands and marks."""

from typing import Final

from lmx_ledger.report.chart import Band, Series, TimeChart
from lmx_ledger.report.frame import AXIS, RIGHT, ROW, WIDTH, Across, Key, legend, said, time_axis, triangle, values_axis
from lmx_ledger.report.svg import box, element, hint, label, line, number, patterns, picture
from lmx_ledger.report.text import figure, moment
from lmx_ledger.report.ticks import Scale, scale_of

_LEFT: Final = 58.0
_HEIGHT: Final = 190.0
_FAR: Final = 3.0
"""A level so many times above all values is said, not drawn: it would press them against the floor."""
FILLS: Final = ("f0", "f1", "f2")
OVER: Final = (None, "hatch", "dots")


def plotted(chart: TimeChart) -> str:
    """The figure."""
    highest = max((value for one in chart.series for _, value in one.points if value is not None), default=0.0)
    if chart.columns:
        highest = max(highest, _tallest(chart.series[1:]))
    near = [level for level in chart.levels if highest == 0 or level.value <= highest * _FAR]
    scale = scale_of(max([highest, *(level.value for level in near)]), chart.unit)
    across = Across(chart.from_us, chart.until_us, _LEFT)
    far = [f"{level.label} (above this figure)" for level in chart.levels if level not in near]
    keys = _keys(chart, [*(level.label for level in near), *far])
    drawn, top = legend(keys, 0.0)
    if chart.empty is not None:
        return picture(chart.key, chart.title, f"{chart.about} {chart.empty}", WIDTH, 80, *said(chart.empty, 2, 76))
    strips, height = _strips(chart.bands, across, top)
    floor = top + height + 20 + _HEIGHT
    plot_top = floor - _HEIGHT
    shades = [
        box(across.x(b.from_us), plot_top, across.x(b.until_us) - across.x(b.from_us), _HEIGHT, f"sh {b.tone}")
        for b in chart.bands
    ]
    drawn += [*shades, *strips, *values_axis(scale, _LEFT, plot_top, floor), *time_axis(across, plot_top, floor)]
    if chart.columns:
        drawn += _columns(chart, across, scale, floor)
    for index, series in enumerate(chart.series[:1] if chart.columns else chart.series):
        drawn += _line(series, f"s{index % 6}", across, scale, floor)
    for level in near:
        y = floor - level.value / scale.top * _HEIGHT
        drawn.append(line(_LEFT, y, WIDTH - RIGHT, y, "lv"))
    drawn += _marks(chart, across, floor)
    return picture(chart.key, chart.title, chart.about, WIDTH, floor + AXIS, patterns(chart.key), *drawn)


def _keys(chart: TimeChart, levels: list[str]) -> list[Key]:
    keys: list[Key] = []
    for index, series in enumerate(chart.series):
        if chart.columns and index:
            over = OVER[(index - 1) % 3]
            keys.append(Key("fill", FILLS[(index - 1) % 3], series.label, over and f"url(#{chart.key}-{over})"))
        else:
            keys.append(Key("line", f"s{index % 6}", series.label))
    keys += [Key("line", "lv", text) for text in levels]
    keys += [Key("fill", f"bd {tone}", text) for text, tone in dict.fromkeys((b.label, b.tone) for b in chart.bands)]
    if chart.marks:
        keys.append(Key("mark", "", chart.marks_are))
    return keys


def _strips(bands: list[Band], across: Across, top: float) -> tuple[list[str], float]:
    """The bands' names above the plot, those that overlap in rows of their own."""
    drawn, ends = list[str](), list[float]()
    for band in bands:
        x, end = across.x(band.from_us), across.x(band.until_us)
        row = next((number for number, used in enumerate(ends) if used <= x), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = max(end, x + 2)
        y = top + 4 + row * ROW
        told = f"{band.label}, {moment(band.from_us)} to {moment(band.until_us)}"
        drawn.append(box(x, y, max(end - x, 2.0), ROW - 3, f"bd {band.tone}", hint(told)))
        drawn.append(label(x + 4, y + 11.5, band.label, room=end - x - 6, class_=f"t in {band.tone}"))
    return drawn, len(ends) * ROW + (6 if ends else 0)


def _line(series: Series, class_: str, across: Across, scale: Scale, floor: float) -> list[str]:
    path, drawn, alone, before = "", list[str](), True, None
    last: tuple[float, float] | None = None
    for at_us, value in series.points:
        if value is None:
            drawn += _dot(last, alone, class_)
            last, alone = None, True
            continue
        x, y = across.x(at_us), floor - min(max(value / scale.top, 0.0), 1.0) * _HEIGHT
        if last is None:
            path += f"M{number(x)} {number(y)}"
        else:
            alone = False
            path += f"H{number(x)}V{number(y)}" if series.step else f"L{number(x)} {number(y)}"
        last, before = (x, y), value
    drawn += _dot(last, alone, class_)
    if series.step and last is not None and before is not None:
        path += f"H{number(WIDTH - RIGHT)}"
    return [element("path", d=path, class_=f"ln {class_}"), *drawn] if path else drawn


def _dot(at: tuple[float, float] | None, alone: bool, class_: str) -> list[str]:
    """A value without neighbours is no line."""
    return [element("circle", cx=at[0], cy=at[1], r=2.5, class_=f"dt {class_}")] if at is not None and alone else []


def _columns(chart: TimeChart, across: Across, scale: Scale, floor: float) -> list[str]:
    drawn: list[str] = []
    heights: dict[int, float] = {}
    for index, series in enumerate(chart.series[1:]):
        over = OVER[index % 3]
        for at_us, value in series.points:
            if not value:
                continue
            x, end = across.x(at_us), across.x(at_us + chart.column_us)
            size = value / scale.top * _HEIGHT
            below = heights.get(at_us, 0.0)
            heights[at_us] = below + size
            width = max(end - x - (1.0 if end - x > 4 else 0.0), 0.8)
            told = hint(f"{moment(at_us)}: {series.label} {figure(value, chart.unit)}")
            drawn.append(box(x, floor - below - size, width, size, FILLS[index % 3], told))
            if over:
                drawn.append(box(x, floor - below - size, width, size, "ov", fill=f"url(#{chart.key}-{over})"))
    return drawn


def _tallest(series: list[Series]) -> float:
    heights: dict[int, float] = {}
    for one in series:
        for at_us, value in one.points:
            heights[at_us] = heights.get(at_us, 0.0) + (value or 0.0)
    return max(heights.values(), default=0.0)


def _marks(chart: TimeChart, across: Across, floor: float) -> list[str]:
    """One for each place; those that would lie on each other are counted."""
    places: dict[int, list[str]] = {}
    for mark in chart.marks:
        places.setdefault(round(across.x(mark.at_us) / 3), []).append(f"{moment(mark.at_us)}: {mark.label}")
    return [
        triangle(place * 3.0, floor, hint(texts[0] if len(texts) == 1 else f"{texts[0]} (and {len(texts) - 1} more)"))
        for place, texts in sorted(places.items())
    ]
