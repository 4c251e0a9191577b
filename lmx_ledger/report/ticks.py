"""Where the axes have their ticks, for values and for UTC times from seconds to years; pure."""

import math
from typing import Final, NamedTuple

from lmx_ledger.core.clock import rfc3339

SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND
_STEPS: Final = tuple(
    step * SECOND
    for step in (
        *(1, 2, 5, 10, 15, 30),
        *(60, 120, 300, 600, 900, 1_800),
        *(3_600, 7_200, 10_800, 21_600, 43_200),
        *(86_400, 172_800, 432_000, 864_000, 2_592_000, 8_640_000, 31_536_000),
    )
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LEAST: Final = 1e-6
"""A highest value below this is nothing."""
_KILO: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B"))


class TimeTick(NamedTuple):
    """One tick: its time, what stands at it, and the date below where one is due."""

    at_us: int
    label: str
    date: str


def step_of(span_us: int, most: int) -> int:
    """The smallest round step, in microseconds, of which at most so many fit into the span."""
    return next((step for step in _STEPS if span_us <= step * most), -(-span_us // most))


def time_ticks(from_us: int, until_us: int, most: int = 8) -> list[TimeTick]:
    """At round times; the date stands at the first one and wherever it changes."""
    step = step_of(max(until_us - from_us, SECOND), most)
    found, last = list[TimeTick](), ""
    for at_us in range(-(-from_us // step) * step, until_us + 1, step):
        text = rfc3339(at_us)
        date = f"{int(text[8:10])} {_MONTHS[int(text[5:7]) - 1]}"
        if step >= DAY:
            label, date = date, text[:4]
        else:
            label = text[11:19] if step < 60 * SECOND else text[11:16]
        found.append(TimeTick(at_us, label, date if date != last else ""))
        last = date
    # A date that changes at once behind the first tick would be written over the first one.
    if len(found) > 1 and found[1].date:
        found[0] = found[0]._replace(date="")
    return found


class Scale(NamedTuple):
    """An axis from 0 to `top`, with a label at each of `ticks`; `unit` is written beside it."""

    top: float
    ticks: list[tuple[float, str]]
    unit: str


def scale_of(highest: float, unit: str, most: int = 5) -> Scale:
    """A round axis that has room for the highest value. `unit` is ms, bytes, x or empty."""
    highest = highest if math.isfinite(highest) and highest > _LEAST else 1.0
    if unit == "ms":
        divisor, shown = (
            (3_600_000.0, "h")
            if highest > 10_800_000
            else (60_000.0, "min")
            if highest > 300_000
            else ((1000.0, "s") if highest > 2_000 else (1.0, "ms"))
        )
    elif unit == "bytes":
        divisor, shown = next(((d, name) for d, name in _KILO if highest >= d), (1.0, "B"))
    else:
        divisor, shown = 1.0, unit
    step = _round_step(highest / divisor / most)
    if unit == "":
        step = max(step, 1.0)
    count = max(1, math.ceil(highest / divisor / step - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [(number * step * divisor, f"{number * step:,.{digits}f}") for number in range(count + 1)]
    return Scale(count * step * divisor, ticks, shown)


def _round_step(step: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(base * power for base in (1, 2, 5, 10) if step <= base * power * (1 + 1e-9))
