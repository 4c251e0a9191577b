"""A `ValueChart` as SVG: a figure over the values of a setting, with how far off it may be."""

from typing import Final

from lmx_ledger.report.chart import Point, ValueChart
from lmx_ledger.report.frame import RIGHT, WIDTH, Key, legend, said, triangle, values_axis
from lmx_ledger.report.svg import box, element, hint, label, line, number, picture, width_of
from lmx_ledger.report.text import figure
from lmx_ledger.report.ticks import Scale, scale_of

_LEFT: Final = 58.0
_HEIGHT: Final = 150.0
_AXIS: Final = 42.0


def valued(chart: ValueChart) -> str:
    """The figure."""
    known = [one.value for one in chart.points if one.value is not None]
    if chart.empty is not None or not known:
        text = chart.empty or "Nothing was estimated."
        return picture(chart.key, chart.title, f"{chart.about} {text}", WIDTH, 80, *said(text, 2, 76))
    drawn, top = legend(_keys(chart), 0.0)
    floor = top + 20 + _HEIGHT
    scale = scale_of(max([*known, chart.recorded or 0.0]) + chart.error, chart.unit)
    ends = [one.x for one in chart.points] + ([chart.in_force] if chart.in_force is not None else [])
    across = _Across(min(ends), max(ends))
    drawn += [*_band(chart, across, scale, floor), *values_axis(scale, _LEFT, floor - _HEIGHT, floor)]
    drawn += [line(_LEFT, floor, WIDTH - RIGHT, floor, "ax"), *_ticks(chart, across, floor)]
    if chart.recorded is not None:
        y = _y(chart.recorded, scale, floor)
        drawn.append(line(_LEFT, y, WIDTH - RIGHT, y, "lv"))
    drawn += _line(chart, across, scale, floor)
    if chart.in_force is not None:
        drawn.append(triangle(across.x(chart.in_force), floor, hint("the value that was in force")))
    return picture(chart.key, chart.title, chart.about, WIDTH, floor + _AXIS, *drawn)


class _Across:
    """Values from left to right; where there is but one, it is in the middle."""

    def __init__(self, first: float, last: float) -> None:
        self.first, self.last = first, last

    def x(self, value: float) -> float:
        """Where a value is."""
        share = (value - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        # A little room at both ends: a point on the axis is half a point.
        return _LEFT + 14 + share * (WIDTH - RIGHT - _LEFT - 28)


def _keys(chart: ValueChart) -> list[Key]:
    keys = [Key("line", "s0", "estimated")]
    if chart.error > 0:
        keys.append(Key("fill", "sh busy", f"how far the model is off: {figure(round(chart.error, 1), chart.unit)}"))
    if chart.recorded is not None:
        keys.append(Key("line", "lv", f"recorded: {figure(chart.recorded, chart.unit)}"))
    if chart.in_force is not None:
        keys.append(Key("mark", "", "in force then"))
    return keys


def _y(value: float, scale: Scale, floor: float) -> float:
    return floor - min(max(value / scale.top, 0.0), 1.0) * _HEIGHT


def _band(chart: ValueChart, across: _Across, scale: Scale, floor: float) -> list[str]:
    known = [(across.x(one.x), one.value) for one in chart.points if one.value is not None]
    if not chart.error:
        return []
    if len(known) == 1:
        x, value = known[0]
        above, below = _y(value + chart.error, scale, floor), _y(value - chart.error, scale, floor)
        return [box(x - 6, above, 12, below - above, "sh busy")]
    over = [f"{number(x)},{number(_y(value + chart.error, scale, floor))}" for x, value in known]
    under = [f"{number(x)},{number(_y(value - chart.error, scale, floor))}" for x, value in reversed(known)]
    return [element("polygon", points=" ".join([*over, *under]), class_="sh busy")]


def _ticks(chart: ValueChart, across: _Across, floor: float) -> list[str]:
    drawn, written_to = list[str](), 0.0
    for one in sorted(chart.points, key=lambda point: point.x):
        x, half = across.x(one.x), width_of(one.label) / 2
        drawn.append(line(x, floor, x, floor + 4, "ax"))
        if x - half >= written_to and x + half <= WIDTH:
            drawn.append(label(x, floor + 17, one.label, anchor="middle"))
            written_to = x + half + 6
    drawn.append(label(WIDTH - RIGHT, floor + 34, chart.setting, anchor="end", class_="t m"))
    return drawn


def _line(chart: ValueChart, across: _Across, scale: Scale, floor: float) -> list[str]:
    def told(one: Point) -> str:
        return hint(f"{chart.setting} = {one.label}: {figure(one.value, chart.unit)}")

    known = [(across.x(one.x), _y(one.value, scale, floor), one) for one in chart.points if one.value is not None]
    path = "".join(f"{'L' if place else 'M'}{number(x)} {number(y)}" for place, (x, y, _) in enumerate(known))
    dots = [element("circle", told(one), cx=x, cy=y, r=3.5, class_="dt s0") for x, y, one in known]
    return [element("path", d=path, class_="ln s0"), *dots]
