"""The guard of heat: whether it slows the machine, and since when it does not any more; pure functions.

`evolve` folds in what was observed and what was decided; `decide` says what to do about an observation. Heat is told
in three ways, each by itself: the GPU's clock is lower than it was under the same load when it was cool, the system
says that the pressure is heavy, or the GPU's driver says that heat slows it.
"""

import enum
from typing import NamedTuple, TypeAlias

from lmx_ledger.core.sensed import HeatReading, ThermalLevel, plausible


class Reason(enum.StrEnum):
    """What says that heat slows the machine. Of several the first one is named."""

    GPU_CLOCK = "gpu_clock"
    DRIVER = "driver"
    LEVEL = "level"


class Policy(NamedTuple):
    """The clock is slow at `drop` (a share) below its baseline, judged where the GPU is busy for `busy` of the time.

    What slows it must be seen for `slow_s` to be throttling, and nothing of it for `cool_s` to be over. Of a clock
    that is slow, moments with less work among the others are passed over for `within_s`. Behind a gap of more than
    `gap_s` the machine has slept: what was before it proves nothing.

    The baseline is the `quantile` of the last `learn_most` clocks under load, once there are `learn_least`.
    """

    drop: float = 0.15
    busy: float = 0.9
    # Heavy halves prefill: 253 to 263 tokens/s at nominal, 105 to 150 at heavy (tests/fixtures/README.md has whose
    # readings these are). Moderate alone is none: it was passed 27 s behind the start, on the way there, and nobody
    # has published that it slows anything.
    level: ThermalLevel = ThermalLevel.HEAVY
    slow_s: float = 5.0
    cool_s: float = 30.0
    within_s: float = 6.0
    gap_s: float = 15.0
    quantile: float = 0.9
    learn_least: int = 8
    learn_most: int = 32

    def read_every(self, every_s: float) -> "Policy":
        """This policy where there is a reading every so many seconds: no gap because of that."""
        return self._replace(gap_s=max(self.gap_s, 4 * every_s), within_s=max(self.within_s, 3 * every_s))


class Observed(NamedTuple):
    """A moment of wall time, as the ledger has it, and what all sensors say between them.

    `slept`: since the one before the machine has, however short that was.
    """

    at_us: int
    reading: HeatReading
    slept: bool = False


class Streak(NamedTuple):
    """It has been so since `since_us`, and was seen last at `last_us`."""

    since_us: int
    last_us: int


class State(NamedTuple):
    """`throttled` is why, while it is; `blamed` is all that said so since then.

    `slow` is what says so now and has for a while, `cool_us` since when nothing does. `loaded`: the reading before
    this one was of a busy GPU. `clocks` are its last ones under load, `baseline_mhz` what was learned of them.
    """

    throttled: Reason | None = None
    blamed: frozenset[Reason] = frozenset()
    low_power: bool = False
    baseline_mhz: float | None = None
    clocks: tuple[float, ...] = ()
    loaded: bool = False
    slow: tuple[tuple[Reason, Streak], ...] = ()
    cool_us: int | None = None
    seen_us: int | None = None

    def drop(self, mhz: float | None) -> float | None:
        """By which share that clock is below the baseline (above: negative); None where one of them is not known."""
        return None if mhz is None or self.baseline_mhz is None else 1 - mhz / self.baseline_mhz


class ThermalThrottled(NamedTuple):
    """Heat slows the machine, and has for a while. `drop` is a share of `baseline_mhz`, under load alone."""

    reason: Reason
    drop: float | None
    mhz: float | None
    baseline_mhz: float | None
    busy: float | None
    level: ThermalLevel | None


class ThermalRecovered(NamedTuple):
    """Nothing has for `cool_s`."""

    cool_s: float
    mhz: float | None
    level: ThermalLevel | None


class PowerModeChanged(NamedTuple):
    """Low Power Mode is on, or off."""

    low_power: bool


Decision: TypeAlias = ThermalThrottled | ThermalRecovered | PowerModeChanged


def decide(state: State, observed: Observed, policy: Policy) -> list[Decision]:
    """What follows from it; `state` has not folded it in yet."""
    before, state = state, evolve(state, observed, policy)
    reading = plausible(observed.reading)
    decisions: list[Decision] = []
    if reading.low_power is not None and reading.low_power != before.low_power:
        decisions.append(PowerModeChanged(reading.low_power))
    if state.throttled is None:
        lasting = [
            reason
            for reason, streak in state.slow
            if streak.last_us == observed.at_us and observed.at_us - streak.since_us >= policy.slow_s * 1e6
        ]
        if lasting:
            drop = state.drop(reading.gpu_mhz) if state.loaded else None
            drop = None if drop is None else max(drop, 0.0)
            baseline, mhz, busy = state.baseline_mhz, reading.gpu_mhz, reading.gpu_busy
            decisions.append(ThermalThrottled(min(lasting, key=_order), drop, mhz, baseline, busy, reading.level))
    elif state.cool_us is not None and observed.at_us - state.cool_us >= policy.cool_s * 1e6:
        cool_s = (observed.at_us - state.cool_us) / 1e6
        decisions.append(ThermalRecovered(cool_s, reading.gpu_mhz, reading.level))
    return decisions


def evolve(state: State, event: Observed | Decision, policy: Policy) -> State:
    """After one more of them."""
    match event:
        case Observed():
            return _seen(state, event, policy)
        case PowerModeChanged(low_power):
            return state._replace(low_power=low_power)
        case ThermalThrottled():
            return state._replace(throttled=event.reason, blamed=frozenset(dict(state.slow)), cool_us=None)
        case ThermalRecovered():
            return state._replace(throttled=None, blamed=frozenset(), slow=(), cool_us=None)


def _seen(state: State, observed: Observed, policy: Policy) -> State:
    at_us, reading = observed.at_us, plausible(observed.reading)
    low_power = state.low_power if reading.low_power is None else reading.low_power
    gap = state.seen_us is not None and not 0 <= at_us - state.seen_us <= policy.gap_s * 1e6
    if gap or observed.slept or low_power != state.low_power:
        # A clock follows its load, or its mode, within a reading: the first one behind a change tells of neither.
        state = state._replace(slow=(), cool_us=None, loaded=False)
    busy = reading.gpu_busy is not None and reading.gpu_busy >= policy.busy
    under_load = busy and state.loaded
    verdicts = {
        Reason.GPU_CLOCK: _clock(state, reading, policy, under_load=under_load, low_power=low_power),
        Reason.DRIVER: reading.slowed,
        Reason.LEVEL: None if reading.level is None else reading.level.rank >= policy.level.rank,
    }
    idle = reading.gpu_busy is not None and not under_load and not low_power and reading.slowed is None
    state = state._replace(slow=_streaks(state, at_us, verdicts, policy, idle=idle), loaded=busy, seen_us=at_us)
    hot = frozenset(reason for reason, verdict in verdicts.items() if verdict)
    state = state._replace(blamed=state.blamed | hot if state.throttled else frozenset())
    # What said that it is hot has to say that it is not, also where its sensor fails for a while.
    cool = not hot and all(verdicts[reason] is False for reason in state.blamed)
    state = state._replace(cool_us=(at_us if state.cool_us is None else state.cool_us) if cool else None)
    if under_load and not hot and not low_power:
        state = _learn(state, reading, policy)
    return state


def _clock(state: State, reading: HeatReading, policy: Policy, *, under_load: bool, low_power: bool) -> bool | None:
    """Whether the GPU's clock says that heat slows it; None where it says nothing.

    A driver that tells why the clock is low is believed: a limit of power is no heat. In Low Power Mode a low clock is
    what was asked for. A GPU without work is slowed by nothing: were it not so, who waits for the end of throttling
    before giving it work would wait for ever.
    """
    if reading.gpu_busy is None:
        return None
    if reading.slowed is not None or low_power or not under_load:
        return False
    drop = state.drop(reading.gpu_mhz)
    if reading.gpu_mhz is None:
        return None
    return drop is not None and drop >= policy.drop


def _streaks(
    state: State, at_us: int, verdicts: dict[Reason, bool | None], policy: Policy, *, idle: bool
) -> tuple[tuple[Reason, Streak], ...]:
    """What goes on saying that it is hot. An idle clock contradicts nothing: the streak of the clock outlasts it."""
    before = dict(state.slow)
    after: list[tuple[Reason, Streak]] = []
    for reason, verdict in verdicts.items():
        streak = before.get(reason)
        if verdict:
            after.append((reason, Streak(streak.since_us if streak else at_us, at_us)))
        elif streak and reason is Reason.GPU_CLOCK and idle and at_us - streak.last_us <= policy.within_s * 1e6:
            after.append((reason, streak))
    return tuple(after)


def _learn(state: State, reading: HeatReading, policy: Policy) -> State:
    """What the clock is under load while nothing is hot: a high quantile, which one odd reading does not move.

    It goes up as soon as the quantile does, and within a run never down: heat that comes slowly would teach that the
    slow clock is the usual one, and the system's level is too coarse to say otherwise. A restart learns anew.
    """
    if reading.gpu_mhz is None or reading.level not in {None, ThermalLevel.NOMINAL}:
        return state
    clocks = (*state.clocks, reading.gpu_mhz)[-policy.learn_most :]
    if len(clocks) < policy.learn_least:
        return state._replace(clocks=clocks)
    high = sorted(clocks)[int(policy.quantile * (len(clocks) - 1))]
    return state._replace(clocks=clocks, baseline_mhz=max(high, state.baseline_mhz or 0.0))


def _order(reason: Reason) -> int:
    return list(Reason).index(reason)
