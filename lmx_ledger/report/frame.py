"""What all figures share: their width, the axis of time, the legend."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from lmx_ledger.report.svg import box, element, label, line, number, width_of
from lmx_ledger.report.ticks import Scale, time_ticks

WIDTH: Final = 760.0
RIGHT: Final = 34.0
ROW: Final = 18.0
AXIS: Final = 40.0
"""Height of the axis of time: ticks, their labels, the dates."""


class Key(NamedTuple):
    """One entry of a legend: `kind` is line, fill or mark; `class_` is how it is drawn."""

    kind: str
    class_: str
    text: str
    fill: str | None = None


class Across(NamedTuple):
    """Time from left to right."""

    from_us: int
    until_us: int
    left: float

    def x(self, at_us: int) -> float:
        """Where a moment is; what lies outside is at the edge."""
        share = (at_us - self.from_us) / max(self.until_us - self.from_us, 1)
        return self.left + min(max(share, 0.0), 1.0) * (WIDTH - RIGHT - self.left)


def time_axis(across: Across, top: float, bottom: float) -> list[str]:
    """Grid lines from top to bottom, and below them times and dates, none over another."""
    drawn = [line(across.left, bottom, WIDTH - RIGHT, bottom, "ax")]
    written_to = 0.0
    dated_to = 0.0
    for tick in time_ticks(across.from_us, across.until_us):
        x = across.x(tick.at_us)
        drawn.append(line(x, top, x, bottom, "gr"))
        drawn.append(line(x, bottom, x, bottom + 4, "ax"))
        half = width_of(tick.label) / 2
        if x - half >= written_to and x + half <= WIDTH:
            drawn.append(label(x, bottom + 16, tick.label, anchor="middle"))
            written_to = x + half + 4
        half = width_of(tick.date) / 2
        if tick.date and x - half >= dated_to and x + half <= WIDTH - 40:
            drawn.append(label(x, bottom + 31, tick.date, anchor="middle", class_="t m"))
            dated_to = x + half + 4
    drawn.append(label(WIDTH, bottom + 31, "UTC", anchor="end", class_="t m"))
    return drawn


def values_axis(scale: Scale, left: float, top: float, floor: float) -> list[str]:
    """Ticks of the values at the left, a grid line at each, and their unit above."""
    drawn = [label(left - 8, top - 8, scale.unit, anchor="end", class_="t m")] if scale.unit else []
    for value, text in scale.ticks:
        y = floor - value / scale.top * (floor - top)
        drawn += [line(left, y, WIDTH - RIGHT, y, "gr"), label(left - 8, y + 4, text, anchor="end")]
    return drawn


def legend(keys: Sequence[Key], top: float) -> tuple[list[str], float]:
    """The entries in lines as wide as the figure, and the height that they take."""
    drawn, x, y = list[str](), 0.0, top + 12
    for key in keys:
        room = min(width_of(key.text), WIDTH - 30)
        if x > 0 and x + 26 + room > WIDTH:
            x, y = 0.0, y + ROW
        if key.kind == "line":
            drawn.append(line(x, y - 4, x + 22, y - 4, key.class_))
        elif key.kind == "fill":
            drawn.append(box(x, y - 10, 22, 11, key.class_))
            if key.fill:
                drawn.append(box(x, y - 10, 22, 11, "ov", fill=key.fill))
        else:
            drawn.append(triangle(x + 11, y))
        drawn.append(label(x + 27, y, key.text, room=room + 1))
        x += 27 + room + 16
    return drawn, (y - top + 8 if keys else 0.0)


def triangle(x: float, y: float, *children: str) -> str:
    """A mark that points at a moment from below."""
    points = f"{number(x - 4)},{number(y)} {number(x + 4)},{number(y)} {number(x)},{number(y - 7)}"
    return element("polygon", *children, points=points, class_="mk")


def said(text: str, top: float, height: float) -> list[str]:
    """A figure without data says so."""
    return [
        box(0.5, top, WIDTH - 1, height, "no"),
        label(WIDTH / 2, top + height / 2 + 4, text, anchor="middle", room=WIDTH - 40),
    ]
