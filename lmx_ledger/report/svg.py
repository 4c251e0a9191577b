"""SVG by hand: elements whose text is escaped, coordinates with fixed decimals, and how wide a text is at most."""

import unicodedata
from typing import Final
from xml.sax.saxutils import escape, quoteattr

FONT: Final = 12.0
"""Size of all text, in units of the view box."""
_NARROW: Final = frozenset("ijl.,:;|!'()[]It fr-1/")
_BROAD: Final = frozenset("mwMW@%")


def number(value: float) -> str:
    """One decimal at most, the same on every machine: `12`, `12.5`."""
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")


def element(name: str, *children: str, text: str | None = None, **attributes: str | float | None) -> str:
    """One element; `text` is escaped, `children` are elements already. `class_` is class, `stroke_width` has a dash."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}={quoteattr(value if isinstance(value, str) else number(value))}"
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(children) + ("" if text is None else escape(text))
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def width_of(text: str, size: float = FONT) -> float:
    """Not less than it takes in any common sans-serif font."""
    total = 0.0
    for c in text:
        if c in _NARROW:
            total += 0.42
        elif c in _BROAD:
            total += 0.95
        elif unicodedata.combining(c):
            continue
        elif c.isascii():
            total += 0.73 if c.isupper() else 0.6
        else:
            total += 1.05
    return total * size


def fitted(text: str, room: float, size: float = FONT) -> str:
    """The text, or as much of it as has room, with an ellipsis; empty where not even four letters have."""
    if width_of(text, size) <= room:
        return text
    kept, used = "", width_of("\N{HORIZONTAL ELLIPSIS}", size)
    for c in text:
        used += width_of(c, size)
        if used > room:
            break
        kept += c
    return f"{kept.rstrip()}\N{HORIZONTAL ELLIPSIS}" if len(kept) > 3 else ""


def label(x: float, y: float, text: str, *, anchor: str = "start", class_: str = "t", room: float | None = None) -> str:
    """A line of text; cut where it has no more than `room`."""
    shown = text if room is None else fitted(text, room)
    return element("text", text=shown, x=x, y=y, class_=class_, text_anchor=anchor) if shown else ""


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str, *children: str, fill: str | None = None) -> str:
    """A rectangle."""
    return element(
        "rect", *children, x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), class_=class_, fill=fill
    )


def hint(text: str) -> str:
    """What a browser shows while the pointer rests there, and what is read out."""
    return element("title", text=text)


def patterns(key: str) -> str:
    """Fills that differ in grey as well, each named `KEY-name`: dense, hatch, dots, cross."""
    drawn = {
        "hatch": '<path d="M0 6L6 0M-1 1L1 -1M5 7L7 5" class="pl"/>',
        "dots": '<circle cx="1.5" cy="1.5" r="1" class="pd"/><circle cx="4.5" cy="4.5" r="1" class="pd"/>',
        "cross": '<path d="M0 0L6 6M6 0L0 6" class="pl"/>',
    }
    return element(
        "defs",
        *(
            f'<pattern id="{key}-{name}" width="6" height="6" patternUnits="userSpaceOnUse">{inside}</pattern>'
            for name, inside in drawn.items()
        ),
    )


def picture(key: str, title: str, about: str, width: float, height: float, *children: str) -> str:
    """The whole figure, with its title and description for those who do not see it. `key` is unique on its page."""
    return element(
        "svg",
        element("title", text=title, id=f"{key}-title"),
        element("desc", text=about, id=f"{key}-desc"),
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        class_="fig",
    )
