"""A `LaneChart` and a `BarChart` as SVG: what lies in rows, one below the other."""

from typing import Final

from lmx_ledger.report.chart import BarChart, LaneChart
from lmx_ledger.report.frame import AXIS, RIGHT, WIDTH, Across, Key, legend, said, time_axis, triangle
from lmx_ledger.report.plot import FILLS, OVER
from lmx_ledger.report.svg import box, hint, label, line, patterns, picture
from lmx_ledger.report.text import figure, moment
from lmx_ledger.report.ticks import scale_of

_LANE: Final = 26.0
_LANE_LEFT: Final = 150.0
_BAR: Final = 24.0
_BAR_LEFT: Final = 246.0
_BAR_RIGHT: Final = 70.0
TONES: Final = {
    "calm": "as it should be",
    "busy": "under way",
    "warn": "restricted",
    "bad": "trouble",
    "plain": "neither",
}
TONE_OVER: Final = {"busy": "dots", "warn": "hatch"}


def laned(chart: LaneChart) -> str:
    """Who was in which state when."""
    if chart.empty is not None:
        return picture(chart.key, chart.title, f"{chart.about} {chart.empty}", WIDTH, 80, *said(chart.empty, 2, 76))
    across = Across(chart.from_us, chart.until_us, _LANE_LEFT)
    used = {band.tone for lane in chart.lanes for band in lane.bands}
    keys = [
        Key("fill", f"bd {tone}", text, f"url(#{chart.key}-{TONE_OVER[tone]})" if tone in TONE_OVER else None)
        for tone, text in TONES.items()
        if tone in used
    ]
    keys += [Key("mark", "", "a single event")] if any(lane.marks for lane in chart.lanes) else []
    drawn, top = legend(keys, 0.0)
    floor = top + len(chart.lanes) * _LANE + 4
    drawn += time_axis(across, top, floor)
    for index, lane in enumerate(chart.lanes):
        y = top + index * _LANE
        drawn.append(line(0, y + _LANE, WIDTH - RIGHT, y + _LANE, "gr"))
        drawn.append(label(0, y + 17, lane.label, room=_LANE_LEFT - 10))
        for band in lane.bands:
            x, end = across.x(band.from_us), across.x(band.until_us)
            width = max(end - x, 1.5)
            told = hint(f"{lane.label}: {band.label}, {moment(band.from_us)} to {moment(band.until_us)}")
            drawn.append(box(x, y + 4, width, _LANE - 8, f"bd {band.tone}", told))
            if band.tone in TONE_OVER:
                drawn.append(box(x, y + 4, width, _LANE - 8, "ov", fill=f"url(#{chart.key}-{TONE_OVER[band.tone]})"))
            drawn.append(label(x + 4, y + 17, band.label, room=width - 7, class_=f"t in {band.tone}"))
        places: dict[int, list[str]] = {}
        for mark in lane.marks:
            places.setdefault(round(across.x(mark.at_us) / 3), []).append(f"{moment(mark.at_us)}: {mark.label}")
        for place, texts in sorted(places.items()):
            more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
            drawn.append(triangle(place * 3.0, y + 21, hint(f"{texts[0]}{more}")))
    return picture(chart.key, chart.title, chart.about, WIDTH, floor + AXIS, patterns(chart.key), *drawn)


def barred(chart: BarChart) -> str:
    """Bars of parts, with what they add up to at their ends."""
    if chart.empty is not None:
        return picture(chart.key, chart.title, f"{chart.about} {chart.empty}", WIDTH, 80, *said(chart.empty, 2, 76))
    overs = [OVER[index % 3] for index in range(len(chart.parts))]
    fills = [over and f"url(#{chart.key}-{over})" for over in overs]
    keys = [Key("fill", FILLS[index % 3], part, fills[index]) for index, part in enumerate(chart.parts)]
    drawn, top = legend(keys, 0.0)
    floor = top + len(chart.bars) * _BAR + 6
    scale = scale_of(max((sum(bar.values) for bar in chart.bars), default=0.0), "ms")
    wide = WIDTH - _BAR_LEFT - _BAR_RIGHT
    for value, text in scale.ticks:
        x = _BAR_LEFT + value / scale.top * wide
        drawn += [line(x, top, x, floor, "gr"), label(x, floor + 16, text, anchor="middle")]
    drawn.append(label(WIDTH, floor + 16, scale.unit, anchor="end", class_="t m"))
    drawn.append(line(_BAR_LEFT, top, _BAR_LEFT, floor, "ax"))
    for index, bar in enumerate(chart.bars):
        y, x = top + index * _BAR + 4, _BAR_LEFT
        drawn.append(label(_BAR_LEFT - 8, y + 13, bar.label, anchor="end", room=_BAR_LEFT - 12))
        for part, value in enumerate(bar.values):
            width = value / scale.top * wide
            if width <= 0:
                continue
            drawn.append(
                box(x, y, width, _BAR - 7, FILLS[part % 3], hint(f"{chart.parts[part]}: {figure(value, 'ms')}"))
            )
            if (fill := fills[part]) is not None:
                drawn.append(box(x, y, width, _BAR - 7, "ov", fill=fill))
            x += width
        drawn.append(label(x + 5, y + 13, figure(sum(bar.values), "ms"), class_="t m", room=WIDTH - x - 5))
    return picture(chart.key, chart.title, chart.about, WIDTH, floor + 24, patterns(chart.key), *drawn)
