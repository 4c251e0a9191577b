"""The guard of memory: the threshold, and the limit in force while others need what was ours; pure functions.

`evolve` folds in what was observed and what was decided; `decide` says what to do about an observation. The limit goes
down at once, because others do not wait, and up only behind a while of readings that all allowed it.
"""

import enum
from typing import NamedTuple, TypeAlias

from lmx_ledger.core.sensed import MemoryReading, Pressure
from lmx_ledger.guard import swap
from lmx_ledger.guard.swap import SwapPolicy

_SHORT = (Pressure.WARN, Pressure.CRITICAL)


class Reason(enum.StrEnum):
    """Of a change of the limit in force."""

    OTHER_PROGRAMS = "other_programs"
    CGROUP = "cgroup"
    SWAP = "swap"
    PRESSURE = "pressure"
    RECOVERED = "recovered"


class Policy(NamedTuple):
    """The threshold is breached at `page_at` of the limit in force, and cleared at `page_to`.

    Of the machine's memory `headroom` is left to others: at least `headroom_least_bytes`, at most `headroom_most`.
    A lowering by less than `matters` of the configured limit is none. For swap or pressure it is not lowered beneath
    `least` of that: whoever holds so little is not who fills the machine. `dwell_s` lies between one lowering for swap
    or pressure and any change before it, because a page-out takes a while to be felt. Behind a gap of more than
    `gap_s` the machine has slept: what was before it proves nothing.
    """

    page_at: float = 0.85
    page_to: float = 0.75
    headroom: float = 0.02
    headroom_least_bytes: int = 256 * 10**6
    headroom_most: float = 0.1
    matters: float = 0.01
    critical_step: float = 0.05
    least: float = 0.1
    recover_s: float = 30.0
    dwell_s: float = 10.0
    gap_s: float = 15.0
    swap: SwapPolicy = SwapPolicy()

    def read_every(self, every_s: float) -> "Policy":
        """This policy where there is a reading every so many seconds: no gap, and no empty window, because of that."""
        window_s = max(self.swap.window_s, 4 * every_s)
        return self._replace(gap_s=max(self.gap_s, 4 * every_s), swap=self.swap._replace(window_s=window_s))


class Observed(NamedTuple):
    """A moment: what our processes use, what the operator allows, and what the limit must not be lowered beneath.

    `at_us` is wall time, as the ledger has it: it goes on while the machine sleeps. Without a reading (None) the
    limit stays as it is. `reserved_bytes` is what they may come to use: the threshold is about that. `spare_bytes` of
    a limit are nobody's: a limit of what is used now has them on top.
    """

    at_us: int
    used_bytes: int
    configured_bytes: int
    floor_bytes: int
    reading: MemoryReading | None
    reserved_bytes: int = 0
    spare_bytes: int = 0


class Good(NamedTuple):
    """A reading without pressure or swapping, and how high a limit it allows."""

    at_us: int
    allowed_bytes: int


class State(NamedTuple):
    """`lowered_bytes` is the limit in force where it is not the configured one, for that `reason`.

    `good` are the readings since the last that was not, oldest first, as far back as `recover_s`.
    """

    breached: bool = False
    thrashing: bool = False
    lowered_bytes: int | None = None
    reason: Reason | None = None
    changed_us: int | None = None
    seen_us: int | None = None
    good: tuple[Good, ...] = ()
    window: swap.Window = ()

    def limit_bytes(self, configured_bytes: int) -> int:
        """The limit in force."""
        return configured_bytes if self.lowered_bytes is None else min(self.lowered_bytes, configured_bytes)


class SwapThrash(NamedTuple):
    """The machine writes so many bytes per second to swap, and has for a while."""

    bytes_per_s: int


class SwapRecovered(NamedTuple):
    """It does not any longer."""

    bytes_per_s: int


class LimitChanged(NamedTuple):
    """The limit in force, from and to, and what that was taken from."""

    from_bytes: int
    to_bytes: int
    reason: Reason
    headroom_bytes: int
    observed: Observed


class Breached(NamedTuple):
    """`used_bytes` reach `page_at` of the limit; `reason`: why that limit is lowered, where it is."""

    used_bytes: int
    limit_bytes: int
    fraction: float
    reason: Reason | None


class Cleared(NamedTuple):
    """They are down to `page_to`."""

    used_bytes: int
    limit_bytes: int
    fraction: float
    reason: Reason | None


Decision: TypeAlias = SwapThrash | SwapRecovered | LimitChanged | Breached | Cleared


def decide(state: State, observed: Observed, policy: Policy) -> list[Decision]:
    """What follows from it, each decision seeing those before it; `state` has not folded it in yet."""
    state = evolve(state, observed, policy)
    decisions: list[Decision] = []
    for rule in (_swap, _limit, _threshold):
        if (decision := rule(state, observed, policy)) is not None:
            decisions.append(decision)
            state = evolve(state, decision, policy)
    return decisions


def judge(state: State, observed: Observed, policy: Policy) -> list[Decision]:
    """What follows for the threshold alone from what is about to be reserved: it is no observation of the machine."""
    decision = _threshold(state, observed, policy)
    return [decision] if decision is not None else []


def evolve(state: State, event: Observed | Decision, policy: Policy) -> State:
    """After one more of them."""
    match event:
        case Observed():
            return _seen(state, event, policy)
        case SwapThrash():
            return state._replace(thrashing=True, good=())
        case SwapRecovered():
            return state._replace(thrashing=False)
        case LimitChanged():
            state = state._replace(changed_us=event.observed.at_us)
            if event.to_bytes >= event.observed.configured_bytes:
                return state._replace(lowered_bytes=None, reason=None)
            reason = state.reason if event.reason is Reason.RECOVERED else event.reason
            return state._replace(lowered_bytes=event.to_bytes, reason=reason)
        case Breached():
            return state._replace(breached=True)
        case Cleared():
            return state._replace(breached=False)


def headroom_bytes(total_bytes: int, policy: Policy) -> int:
    """What is left to others, of a machine of that size."""
    wanted = max(int(total_bytes * policy.headroom), policy.headroom_least_bytes)
    return min(wanted, int(total_bytes * policy.headroom_most))


def fraction(used_bytes: int, limit_bytes: int) -> float:
    """How much of the limit is used; of nothing, all as soon as anything is."""
    return used_bytes / limit_bytes if limit_bytes else float(used_bytes > 0)


def _seen(state: State, observed: Observed, policy: Policy) -> State:
    at_us, reading = observed.at_us, observed.reading
    if state.seen_us is not None and not 0 <= at_us - state.seen_us <= policy.gap_s * 1e6:
        state = state._replace(window=(), good=())
    if state.changed_us is not None and at_us < state.changed_us:
        state = state._replace(changed_us=at_us)
    state = state._replace(seen_us=at_us)
    if reading is None:
        return state._replace(good=())
    window = swap.noted(state.window, at_us, reading, policy.swap)
    return state._replace(window=window, good=_good(state, observed, reading, policy))


def _good(state: State, observed: Observed, reading: MemoryReading, policy: Policy) -> tuple[Good, ...]:
    if state.thrashing or reading.pressure in _SHORT:
        return ()
    allowed, _ = _allowed(observed, reading, policy)
    begin_us = observed.at_us - int(policy.recover_s * 1e6)
    old = sum(good.at_us <= begin_us for good in state.good)
    return (*state.good[max(old - 1, 0) :], Good(observed.at_us, allowed))


def _swap(state: State, observed: Observed, policy: Policy) -> SwapThrash | SwapRecovered | None:
    if observed.reading is None or (rate := swap.rate(state.window, policy.swap)) is None:
        return None
    if not state.thrashing and rate.sustained >= policy.swap.thrash_at:
        return SwapThrash(int(rate.sustained))
    if state.thrashing and rate.whole <= policy.swap.calm_at:
        return SwapRecovered(int(rate.whole))
    return None


def _limit(state: State, observed: Observed, policy: Policy) -> LimitChanged | None:
    reading, configured = observed.reading, observed.configured_bytes
    if reading is None:
        return None
    now = state.limit_bytes(configured)
    to, reason = min([_allowed(observed, reading, policy), *_steps(state, observed, reading, policy)])
    to = max(to, min(observed.floor_bytes, configured), 0)
    if now - to <= configured * policy.matters:
        to, reason = _recovered(state, observed, policy), Reason.RECOVERED
        if to <= now or (to < configured and to - now <= configured * policy.matters):
            return None
    return LimitChanged(now, to, reason, headroom_bytes(reading.total_bytes, policy), observed)


def _recovered(state: State, observed: Observed, policy: Policy) -> int:
    """How much of what is configured all readings of the last `recover_s` allowed; 0 while there are too few."""
    if not state.good or observed.at_us - state.good[0].at_us < policy.recover_s * 1e6:
        return 0
    return min(observed.configured_bytes, *(good.allowed_bytes for good in state.good))


def _allowed(observed: Observed, reading: MemoryReading, policy: Policy) -> tuple[int, Reason]:
    """What is ours already and what nobody has, less the headroom: of the machine, or of the cgroup."""
    ours = observed.used_bytes - headroom_bytes(reading.total_bytes, policy)
    allowed = (ours + reading.available_bytes, Reason.OTHER_PROGRAMS)
    if reading.cgroup_limit_bytes is None or reading.cgroup_used_bytes is None:
        return allowed
    return min(allowed, (ours + reading.cgroup_limit_bytes - reading.cgroup_used_bytes, Reason.CGROUP))


def _steps(state: State, observed: Observed, reading: MemoryReading, policy: Policy) -> list[tuple[int, Reason]]:
    """Where nobody says how much is wanted: no more than is used now, and less than that when it is critical."""
    if state.changed_us is not None and observed.at_us - state.changed_us < policy.dwell_s * 1e6:
        return []
    used = max(observed.used_bytes + observed.spare_bytes, int(observed.configured_bytes * policy.least))
    steps = [(used, Reason.SWAP)] if state.thrashing else []
    if reading.pressure is Pressure.CRITICAL:
        steps.append((used - int(used * policy.critical_step), Reason.PRESSURE))
    elif reading.pressure is Pressure.WARN:
        steps.append((used, Reason.PRESSURE))
    return steps


def _threshold(state: State, observed: Observed, policy: Policy) -> Breached | Cleared | None:
    used = max(observed.used_bytes, observed.reserved_bytes)
    limit = state.limit_bytes(observed.configured_bytes)
    reason = state.reason if limit < observed.configured_bytes else None
    share = fraction(used, limit)
    if not state.breached and share >= policy.page_at:
        return Breached(used, limit, share, reason)
    if state.breached and share <= policy.page_to:
        return Cleared(used, limit, share, reason)
    return None
