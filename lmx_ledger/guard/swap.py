"""Whether the machine swaps without end: how fast it writes, over a window, as pure functions.

What lies in swap says nothing: it stays there long after the trouble is over. A moment says nothing either: a burst is
how a program goes to sleep. Trouble is where both halves of the window are busy.
"""

from typing import NamedTuple

from lmx_ledger.core.sensed import MemoryReading


class SwapPolicy(NamedTuple):
    """Thrash begins at `thrash_at` bytes written per second and ends at `calm_at`, both over `window_s`."""

    thrash_at: int = 32 * 1024**2
    calm_at: int = 4 * 1024**2
    window_s: float = 10.0


class Sample(NamedTuple):
    """Figures of one reading, and what was written since the window began, as far as they tell."""

    at_us: int
    out_bytes: int | None
    used_bytes: int | None
    written_bytes: int


class Rate(NamedTuple):
    """Bytes written per second: in each half of the window, and in all of it."""

    first: float
    second: float
    whole: float

    @property
    def sustained(self) -> float:
        """What both halves reach."""
        return min(self.first, self.second)


Window = tuple[Sample, ...]
"""Oldest first; the first one is as old as the window, or all that there is."""


def noted(window: Window, at_us: int, reading: MemoryReading, policy: SwapPolicy) -> Window:
    """With one reading more, which is not older than the last one."""
    written = window[-1].written_bytes + _written(window[-1], reading) if window else 0
    sample = Sample(at_us, reading.swap_out_bytes, reading.swap_used_bytes, written)
    if window and at_us == window[-1].at_us:
        return (*window[:-1], sample)
    begin_us = at_us - int(policy.window_s * 1e6)
    old = sum(s.at_us <= begin_us for s in window)
    return (*window[max(old - 1, 0) :], sample)


def rate(window: Window, policy: SwapPolicy) -> Rate | None:
    """None until the window is full, or has too few readings to be halved."""
    if not window:
        return None
    first, last = window[0], window[-1]
    half_us = int(policy.window_s * 1e6) // 2
    middle = [s for s in window if s.at_us <= last.at_us - half_us][-1:]
    if last.at_us - first.at_us < 2 * half_us or not middle or middle[0] is first:
        return None
    return Rate(_between(first, middle[0]), _between(middle[0], last), _between(first, last))


def _written(before: Sample, now: MemoryReading) -> int:
    """By the counter where there is one, else by how much more lies there; a counter that was reset says nothing."""
    if before.out_bytes is not None and now.swap_out_bytes is not None:
        return max(now.swap_out_bytes - before.out_bytes, 0)
    if before.used_bytes is not None and now.swap_used_bytes is not None:
        return max(now.swap_used_bytes - before.used_bytes, 0)
    return 0


def _between(one: Sample, other: Sample) -> float:
    return (other.written_bytes - one.written_bytes) / (other.at_us - one.at_us) * 1e6
