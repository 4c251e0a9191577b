"""Which figures are over their thresholds: hysteresis between a reading and the guard's stages, as pure functions.

A figure of a moment becomes a signal that is on or off. Only the changes are events, and only by them the stages go,
so that the ledger has everything that a stage was decided from.
"""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

QUEUE_WAIT: Final = "queue_wait"
MEMORY_FULL: Final = "memory_full"
SWAP: Final = "swap"
THERMAL: Final = "thermal"
GPU: Final = "gpu"
BURN: Final = "burn"
SIGNALS: Final = (QUEUE_WAIT, MEMORY_FULL, SWAP, THERMAL, GPU, BURN)
"""Seconds that who comes now would wait; share of the memory that is taken while somebody waits for it; whether the
machine swaps, and heat slows it (1 or 0); share of the GPU that is busy while somebody waits; page alerts that are on.
"""


class Threshold(NamedTuple):
    """A signal comes on at `at` (once that has been so for `for_s`) and goes off at `clears_at` or below."""

    at: float
    clears_at: float
    for_s: float = 0.0


Policy: TypeAlias = Mapping[str, Threshold]
"""By the name of the signal; one that is not in it is never on."""


class Observed(NamedTuple):
    """The figures of a moment on the guard's clock, in microseconds; None is what nobody knows just now."""

    at_us: int
    values: Mapping[str, float | None]


class Breached(NamedTuple):
    """A signal has come on."""

    at_us: int
    name: str
    value: float
    threshold: Threshold


class Cleared(NamedTuple):
    """It has gone off."""

    at_us: int
    name: str
    value: float
    threshold: Threshold


Decision: TypeAlias = Breached | Cleared


class State(NamedTuple):
    """Which signals are `on`; since when others have been over their thresholds, for those that must be so a while."""

    on: frozenset[str] = frozenset()
    over_us: tuple[tuple[str, int], ...] = ()
    seen_us: int = 0


def decide(state: State, observed: Observed, policy: Policy) -> list[Decision]:
    """What has changed; `state` has not folded the observation in yet."""
    state = evolve(state, observed, policy)
    over, decisions = dict(state.over_us), list[Decision]()
    for name in SIGNALS:
        value, threshold = _known(observed.values.get(name)), policy.get(name)
        if value is None or threshold is None:
            continue
        if name in state.on:
            if value <= threshold.clears_at:
                decisions.append(Cleared(state.seen_us, name, value, threshold))
        elif name in over and state.seen_us - over[name] >= threshold.for_s * 1e6:
            decisions.append(Breached(state.seen_us, name, value, threshold))
    return decisions


def evolve(state: State, event: Observed | Decision, policy: Policy) -> State:
    """After one more."""
    match event:
        case Observed():
            now = max(event.at_us, state.seen_us)
            before, over = dict(state.over_us), dict[str, int]()
            for name, threshold in policy.items():
                value = _known(event.values.get(name))
                # What is not known proves nothing: a figure has to be over its threshold all the while.
                if value is not None and value >= threshold.at:
                    over[name] = before.get(name, now)
            return state._replace(over_us=tuple(sorted(over.items())), seen_us=now)
        case Breached():
            return state._replace(on=state.on | {event.name})
        case Cleared():
            return state._replace(on=state.on - {event.name})


def _known(value: float | None) -> float | None:
    """The figure, if it is one."""
    return value if value is not None and math.isfinite(value) and value >= 0 else None
