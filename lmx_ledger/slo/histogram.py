"""Histograms in fixed log-spaced buckets: they merge by adding, so any window is the sum of its minutes."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

_PER_DOUBLING: Final = 16
_SMALLEST: Final = -10
_LARGEST: Final = 30
BOUNDS: Final = tuple(2 ** (n / _PER_DOUBLING) for n in range(_SMALLEST * _PER_DOUBLING, _LARGEST * _PER_DOUBLING + 1))
"""Upper bounds, from 2**-10 (a microsecond in ms) to 2**30 (twelve days), each 4.4 % above the one before. A value
equal to a bound is below it. Bucket 0 is everything up to the first, zero included; the last has no bound."""

Buckets = Mapping[int, int]
"""How many values each bucket holds; those that hold none are left out."""


def bucket_of(value: float) -> int:
    """The number of the bucket that a value falls into."""
    return bisect_left(BOUNDS, value)


def count_up_to(buckets: Buckets, threshold: float) -> float:
    """About how many values are at or below the threshold: exact where it is a bound, else a share of its bucket."""
    inside = bucket_of(threshold)
    below = float(sum(count for bucket, count in buckets.items() if bucket < inside))
    return below + buckets.get(inside, 0) * _place(inside, threshold)


def quantile(buckets: Buckets, share: float) -> float | None:
    """The value that this share (0 to 1) of them does not exceed, within 4.4 %; None of nothing."""
    rank, seen = share * sum(buckets.values()), 0
    for bucket in sorted(buckets):
        count = buckets[bucket]
        if count and seen + count >= rank:
            low, high = _ends(bucket)
            return low + (high - low) * (rank - seen) / count
        seen += count
    return None


def _ends(bucket: int) -> tuple[float, float]:
    low = BOUNDS[bucket - 1] if bucket else 0.0
    return low, BOUNDS[bucket] if bucket < len(BOUNDS) else low


def _place(bucket: int, value: float) -> float:
    low, high = _ends(bucket)
    return (value - low) / (high - low) if high > low else 1.0
