"""When something began: the change-point of a series of numbers, one a second; pure.

CUSUM (Page, E. S., 1954, "Continuous inspection schemes", Biometrika 41): how far above its usual value a series has
been, added up. Where the sum becomes too much there is a change; where exactly, the likelihood of two means says,
of logarithms, for what is slow is so by a factor.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

_SLACK: Final = 1.0
"""In standard deviations: what is above the usual by less than this counts for nothing."""
_ENOUGH: Final = 6.0
"""... and a sum of so many is no chance."""
_MOST_SIGMAS: Final = 12.0
"""A single value counts for no more than so many."""
_LOOKED_AT: Final = 5
"""Of so many values from there on at least half have to be high: one that was slow once is no change."""
_HIGH: Final = 3.0
_AROUND: Final = 20
"""So many values before and behind the alarm are looked at for the exact place."""
_MAD_TO_SIGMA: Final = 1.4826


class Change(NamedTuple):
    """From that second (an index) on a series is higher. `before` is usual, `after` the mean from then on, `z` how far
    that is from usual in (robust) standard deviations.
    """

    at: int
    before: float
    after: float
    z: float


def usual(values: Sequence[float]) -> tuple[float, float]:
    """Median, and standard deviation by the median's absolute deviations, which a few outliers do not move."""
    if not values:
        return 0.0, 0.0
    middle = median(values)
    return middle, _MAD_TO_SIGMA * median(abs(value - middle) for value in values)


def rise(series: Sequence[float | None], quiet: int, *, least: float = 0.0) -> Change | None:
    """Where the series goes up to stay, if it does. None: nothing was to be seen in that second, which says nothing.

    What is usual is what it was in the first `quiet` seconds. A step of less than `least` is none.
    """
    middle, sigma = usual([value for value in series[:quiet] if value is not None])
    sigma = max(sigma, least / _HIGH, 0.1 * abs(middle), 1e-9)
    known = [(at, value) for at, value in enumerate(series) if value is not None]
    total, began = 0.0, 0
    for number, (_, value) in enumerate(known):
        if total <= 0.0:
            began = number
        total = max(total + min((value - middle) / sigma, _MOST_SIGMAS) - _SLACK, 0.0)
        if total < _ENOUGH:
            continue
        soon = [v for _, v in known[began : began + _LOOKED_AT]]
        if median(soon) >= middle + _HIGH * sigma and max(soon) - middle >= least:
            began = _split(known, max(began - _AROUND, 0), began + _AROUND)
            after = [v for _, v in known[began:]]
            mean = math.fsum(after) / len(after)
            return Change(known[began][0], middle, mean, (mean - middle) / sigma)
        total = 0.0
    return None


def _split(known: Sequence[tuple[int, float]], low: int, high: int) -> int:
    """Of the values between, the one from which on another mean explains them best (normal, of one deviation)."""
    values = [math.log1p(max(value, 0.0)) for _, value in known[low:high]]
    whole, before = math.fsum(values), 0.0
    best, place = -1.0, 0
    for count, value in enumerate(values[:-1], 1):
        before += value
        rest = len(values) - count
        step = (whole - before) / rest - before / count
        gain = count * rest * step * step if step > 0 else 0.0
        if gain > best:
            best, place = gain, count
    return low + place
