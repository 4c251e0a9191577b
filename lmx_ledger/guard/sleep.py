"""Whether the machine slept between two looks, as pure functions.

It is told by the time that the machine says it has slept since its start (`sensor.sleep`), not by a jump of the wall
clock: that one is also set, by hand and by NTP, and a daemon that was stopped or starved has not slept.
"""

from typing import NamedTuple, TypeAlias


class Observed(NamedTuple):
    """A look, at that wall time; `slept_s` grows from the machine's start."""

    at_us: int
    slept_s: float


class State(NamedTuple):
    """The last look, from which the next one is told."""

    seen: Observed | None = None


class Slept(NamedTuple):
    """It went to sleep behind `from_us`, when it was last seen awake."""

    from_us: int


class Woke(NamedTuple):
    """It is awake again, and slept for so long."""

    slept_s: float


Decision: TypeAlias = Slept | Woke


def decide(state: State, observed: Observed, least_s: float = 2.0) -> list[Decision]:
    """What follows from it: sleep and waking, or nothing. Less than `least_s` is not worth a word."""
    if state.seen is None or not (slept_s := observed.slept_s - state.seen.slept_s) >= least_s:
        return []
    # A wall clock that was set back meanwhile: no later than its length says.
    return [Slept(min(state.seen.at_us, observed.at_us - int(slept_s * 1e6))), Woke(slept_s)]


def evolve(state: State, observed: Observed) -> State:
    """After one more look. A figure that is no number is not one; one that is smaller begins anew."""
    return State(observed) if observed.slept_s == observed.slept_s else state
