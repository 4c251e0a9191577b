"""Time that the machine slept: nobody asked for anything and nobody was let down, so that no window has it."""

from collections.abc import Sequence
from typing import NamedTuple

_MINUTE_US = 60_000_000


class Slept(NamedTuple):
    """From and until when, in microseconds since the epoch."""

    from_us: int
    until_us: int


def first_minute(last: int, count: int, slept: Sequence[Slept]) -> int:
    """The first of the `count` minutes up to `last` (included) of which none was slept through as a whole.

    `slept` is in order and does not overlap.
    """
    first = last - count + 1
    for one in reversed(slept):
        begin, behind = -(-one.from_us // _MINUTE_US), one.until_us // _MINUTE_US
        missed = min(behind, last + 1) - begin
        if behind > first and missed > 0:
            first -= missed
    return first


def awake_s(since_us: int, until_us: int, slept: Sequence[Slept]) -> float:
    """Seconds between two moments, without those that were slept."""
    lost = sum(max(0, min(one.until_us, until_us) - max(one.from_us, since_us)) for one in slept)
    return max(0, until_us - since_us - lost) / 1e6


def with_sleep(slept: Sequence[Slept], more: Slept) -> tuple[Slept, ...]:
    """In order, with one more; what overlaps (two daemons saw the machine wake) becomes one."""
    found: list[Slept] = []
    for one in sorted((*slept, more)):
        if found and one.from_us <= found[-1].until_us:
            found[-1] = Slept(found[-1].from_us, max(found[-1].until_us, one.until_us))
        else:
            found.append(one)
    return tuple(found)
