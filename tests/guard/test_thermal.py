"""The guard of heat: what is throttling and what is not, one case at a time, and whatever the readings are."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.sensed import HeatReading, ThermalLevel
from lmx_ledger.guard.thermal import (
    Decision,
    Observed,
    Policy,
    PowerModeChanged,
    Reason,
    State,
    ThermalRecovered,
    ThermalThrottled,
    decide,
    evolve,
)

POLICY = Policy()
EVERY_S = 2.0
NOMINAL, MODERATE, HEAVY = ThermalLevel.NOMINAL, ThermalLevel.MODERATE, ThermalLevel.HEAVY
FULL = 1_384.0


class Step(NamedTuple):
    observed: Observed
    decisions: list[Decision]
    after: State


def run(observations: Iterable[Observed], state: State | None = None, policy: Policy = POLICY) -> Iterator[Step]:
    """As the daemon does it."""
    now = state or State()
    for observed in observations:
        decisions = decide(now, observed, policy)
        now = evolve(now, observed, policy)
        for decision in decisions:
            now = evolve(now, decision, policy)
        yield Step(observed, decisions, now)


def at(seconds: float, reading: HeatReading, *, slept: bool = False) -> Observed:
    return Observed(int(seconds * 1e6), reading, slept)


def every(readings: Iterable[HeatReading], begin_s: float = 0.0) -> list[Observed]:
    return [at(begin_s + number * EVERY_S, reading) for number, reading in enumerate(readings)]


def gpu(
    mhz: float | None = FULL,
    busy: float | None = 0.98,
    *,
    level: ThermalLevel | None = NOMINAL,
    low_power: bool | None = False,
) -> HeatReading:
    return HeatReading(gpu_mhz=mhz, gpu_busy=busy, level=level, low_power=low_power)


def told(steps: Iterable[Step]) -> list[tuple[float, Decision]]:
    return [(step.observed.at_us / 1e6, decision) for step in steps for decision in step.decisions]


def kinds(steps: Iterable[Step]) -> list[tuple[float, type]]:
    return [(seconds, type(decision)) for seconds, decision in told(steps)]


def last(steps: Iterable[Step]) -> State:
    return list(steps)[-1].after


LEARNED = last(run(every([gpu()] * 12, begin_s=-24.0)))
IDLE = gpu(338.0, 0.02)


# --- the clock ------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_lower_than_when_it_was_cool_is_throttling_once_it_has_lasted() -> None:
    steps = list(run(every([gpu(1_093.0)] * 6), LEARNED))
    drop = 1 - 1_093.0 / FULL
    assert told(steps) == [(6.0, ThermalThrottled(Reason.GPU_CLOCK, drop, 1_093.0, FULL, 0.98, NOMINAL))]


@pytest.mark.parametrize(("mhz", "throttles"), [(1_384 * 0.86, False), (1_384 * 0.84, True)])
def test_fifteen_percent_are_the_line(mhz: float, throttles: bool) -> None:
    assert (kinds(run(every([gpu(mhz)] * 30), LEARNED)) == [(6.0, ThermalThrottled)]) is throttles


def test_an_idle_clock_is_no_throttling_nor_is_that_of_little_work() -> None:
    assert told(run(every([IDLE, gpu(500.0, 0.89)] * 40), LEARNED)) == []


def test_the_first_reading_of_a_gpu_that_begins_to_work_still_has_the_idle_clock() -> None:
    assert told(run(every([IDLE, gpu(338.0), gpu(), IDLE] * 20), LEARNED)) == []


def test_a_moment_with_less_work_is_passed_over_and_a_long_one_begins_anew() -> None:
    slow = gpu(1_000.0)
    brief = [slow, slow, gpu(900.0, 0.5), slow, slow]
    assert kinds(run(every(brief), LEARNED)) == [(8.0, ThermalThrottled)]
    long = [slow, slow, IDLE, IDLE, IDLE, IDLE, slow, slow, slow]
    assert told(run(every(long), LEARNED)) == []
    assert kinds(run(every([*long, slow, slow]), LEARNED)) == [(20.0, ThermalThrottled)]


def test_a_dip_that_is_over_before_it_has_lasted_is_none() -> None:
    assert told(run(every([gpu(900.0)] * 3 + [gpu()] + [gpu(900.0)] * 3), LEARNED)) == []


def test_the_clock_is_not_judged_before_it_was_learned() -> None:
    assert told(run(every([gpu(1_000.0)] * 60))) == []
    assert LEARNED.baseline_mhz == FULL


def test_in_low_power_mode_a_low_clock_is_what_was_asked_for_and_teaches_nothing() -> None:
    saving = [gpu(700.0, low_power=True)] * 60
    steps = list(run(every(saving), LEARNED))
    assert told(steps) == [(0.0, PowerModeChanged(True))]
    assert steps[-1].after.baseline_mhz == FULL
    assert last(run(every(saving))).baseline_mhz is None


def test_a_power_mode_that_is_not_known_for_a_while_is_the_last_one() -> None:
    saving = [gpu(700.0, low_power=True), *[gpu(700.0, low_power=None)] * 20]
    steps = list(run(every(saving), LEARNED))
    assert told(steps) == [(0.0, PowerModeChanged(True))]
    back = run(every([gpu(low_power=False)], begin_s=42), steps[-1].after)
    assert told(back) == [(42.0, PowerModeChanged(False))]


def test_a_driver_that_says_why_the_clock_is_low_is_believed() -> None:
    capped = HeatReading(gpu_mhz=1_000.0, gpu_busy=1.0, slowed=False)
    assert told(run(every([capped] * 60), LEARNED)) == []


# --- what the clock is when it is cool --------------------------------------------------------------------------------


def learned(readings: Iterable[HeatReading], state: State | None = None) -> float | None:
    return last(run(every(readings), state)).baseline_mhz


def test_it_is_learned_from_eight_readings_under_load_and_outlasts_an_idle_night() -> None:
    assert learned([gpu()] * 8) is None
    assert learned([gpu()] * 9) == FULL
    assert learned([*[gpu()] * 9, *[IDLE] * 500]) == FULL
    assert last(run([*every([gpu()] * 9), at(40_000, gpu(), slept=True)])).baseline_mhz == FULL


def test_one_odd_reading_does_not_move_it() -> None:
    assert learned([*[gpu()] * 20, gpu(2_800.0), *[gpu()] * 20]) == FULL


def test_it_goes_up_soon_and_within_a_run_never_down() -> None:
    assert learned([gpu(1_500.0)] * 12, LEARNED) == 1_500.0
    assert learned([gpu(1_200.0)] * 500, LEARNED) == FULL


def test_heat_that_comes_slowly_does_not_teach_that_the_slow_clock_is_the_usual_one() -> None:
    creeping = [gpu(FULL * (1 - number / 1_000)) for number in range(200)]
    steps = list(run(every(creeping), LEARNED))
    assert [type(decision) for _, decision in told(steps)] == [ThermalThrottled]
    assert steps[-1].after.baseline_mhz == FULL


@pytest.mark.parametrize("level", [MODERATE, HEAVY])
def test_a_machine_that_says_that_it_is_warm_teaches_nothing(level: ThermalLevel) -> None:
    assert learned([gpu(level=level)] * 60) is None


def test_where_nothing_says_how_warm_it_is_it_is_learned_all_the_same() -> None:
    assert learned([gpu(level=None, low_power=None)] * 9) == FULL


# --- the level, and the driver --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [HEAVY, ThermalLevel.TRAPPING, ThermalLevel.SLEEPING])
def test_heavy_pressure_is_throttling_whatever_the_clock_is(level: ThermalLevel) -> None:
    steps = run(every([HeatReading(level=level)] * 4))
    assert told(steps) == [(6.0, ThermalThrottled(Reason.LEVEL, None, None, None, None, level))]


def test_moderate_pressure_alone_is_none() -> None:
    assert told(run(every([gpu(level=MODERATE)] * 500), LEARNED)) == []


def test_what_a_driver_says_is_throttling() -> None:
    said = HeatReading(gpu_busy=0.4, gpu_mhz=900.0, celsius=91.0, slowed=True)
    assert told(run(every([said] * 4))) == [(6.0, ThermalThrottled(Reason.DRIVER, None, 900.0, None, 0.4, None))]


def test_of_several_reasons_the_one_with_a_figure_is_named() -> None:
    (decision,) = [d for _, d in told(run(every([gpu(1_000.0, level=HEAVY)] * 4), LEARNED))]
    assert isinstance(decision, ThermalThrottled)
    assert decision.reason is Reason.GPU_CLOCK


# --- and back -------------------------------------------------------------------------------------------------------


def test_it_is_over_behind_30_cool_seconds() -> None:
    steps = run(every([*[gpu(level=HEAVY)] * 4, *[gpu(level=MODERATE)] * 20]))
    assert told(steps)[1:] == [(38.0, ThermalRecovered(30.0, FULL, MODERATE))]


def test_one_hot_reading_begins_the_wait_anew() -> None:
    hot, cool = gpu(level=HEAVY), gpu()
    steps = run(every([*[hot] * 4, *[cool] * 14, hot, *[cool] * 20]))
    assert kinds(steps) == [(6.0, ThermalThrottled), (68.0, ThermalRecovered)]


def test_a_gpu_without_work_is_slowed_by_nothing_so_who_holds_work_back_does_not_wait_for_ever() -> None:
    slow = HeatReading(gpu_mhz=1_000.0, gpu_busy=1.0)
    idle = HeatReading(gpu_mhz=338.0, gpu_busy=0.0)
    assert kinds(run(every([*[slow] * 4, *[idle] * 20]), LEARNED)) == [
        (6.0, ThermalThrottled),
        (38.0, ThermalRecovered),
    ]


def test_low_power_mode_ends_what_the_clock_alone_said() -> None:
    steps = run(every([*[gpu(1_000.0)] * 4, *[gpu(700.0, low_power=True)] * 20]), LEARNED)
    assert kinds(steps) == [(6.0, ThermalThrottled), (8.0, PowerModeChanged), (38.0, ThermalRecovered)]


@pytest.mark.parametrize("hot", [HeatReading(level=HEAVY), HeatReading(slowed=True)])
def test_what_said_that_it_is_hot_has_to_say_that_it_is_not(hot: HeatReading) -> None:
    silent = [HeatReading(gpu_busy=0.1, low_power=False)] * 60
    assert kinds(run(every([*[hot] * 4, *silent]))) == [(6.0, ThermalThrottled)]


def test_what_said_nothing_of_it_need_not() -> None:
    without_level = [gpu(level=None)] * 20
    steps = run(every([*[gpu(1_000.0)] * 4, *without_level]), LEARNED)
    assert kinds(steps) == [(6.0, ThermalThrottled), (38.0, ThermalRecovered)]


# --- gaps -----------------------------------------------------------------------------------------------------------


GAPS = {
    "an outage": (28.0, None, False),
    "a gap": (428.0, NOMINAL, False),
    "sleep": (28.0, NOMINAL, True),
    "a clock set back": (20.0, NOMINAL, False),
}


@pytest.mark.parametrize(("at_s", "level", "slept"), GAPS.values(), ids=GAPS)
def test_neither_heat_nor_cool_is_proved_across_a_gap(at_s: float, level: ThermalLevel | None, slept: bool) -> None:
    cool, heavy = HeatReading(level=NOMINAL), HeatReading(level=HEAVY)
    between = at(at_s, HeatReading(level=level), slept=slept)
    throttled = last(run(every([heavy] * 4, begin_s=-8)))
    assert told(run([*every([cool] * 14), between, *every([cool] * 14, at_s + 2)], throttled)) == []
    between = at(at_s, HeatReading(level=level and HEAVY), slept=slept)
    assert told(run([*every([heavy] * 2, begin_s=24), between, *every([heavy] * 2, at_s + 2)])) == []


def test_readings_that_are_far_apart_are_no_gap() -> None:
    policy = POLICY.read_every(60.0)
    heavy, cool = HeatReading(level=HEAVY), HeatReading(level=NOMINAL)
    steps = run((at(n * 60, r) for n, r in enumerate([heavy, heavy, cool, cool])), policy=policy)
    assert kinds(steps) == [(60.0, ThermalThrottled), (180.0, ThermalRecovered)]


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -1.0, 1e7])
def test_absurd_figures_are_no_readings(absurd: float) -> None:
    wrong = [gpu(absurd), gpu(900.0, absurd)]
    assert told(run(every(wrong * 30), LEARNED)) == []
    assert last(run(every([gpu(absurd)] * 60))).baseline_mhz is None


# --- whatever the readings are --------------------------------------------------------------------------------------

FIGURE = st.none() | st.floats() | st.sampled_from([0.0, 0.5, 0.95, 1.0, 338.0, 1_000.0, 1_384.0])
READING = st.builds(
    HeatReading,
    level=st.none() | st.sampled_from(ThermalLevel),
    celsius=FIGURE,
    gpu_busy=FIGURE,
    gpu_mhz=FIGURE,
    low_power=st.none() | st.booleans(),
    slowed=st.none() | st.booleans(),
)
LIKELY = st.builds(
    gpu,
    st.sampled_from([FULL, 1_000.0, None]),
    st.sampled_from([0.98, 0.98, 0.1, None]),
    level=st.sampled_from([NOMINAL, NOMINAL, MODERATE, HEAVY, None]),
    low_power=st.sampled_from([False, False, False, True, None]),
)
WAIT_S = st.sampled_from([EVERY_S] * 12 + [0.0, 0.001, 9.0, 14.9, 15.1, 3_600.0, -5.0, -3_600.0])


@st.composite
def anything(draw: st.DrawFn) -> list[Observed]:
    """Runs of like readings among others: without them nothing would ever last."""
    found: list[Observed] = []
    now_s = 10_000.0
    for _ in range(draw(st.integers(1, 8))):
        reading = draw(LIKELY | READING)
        for number in range(draw(st.sampled_from([1, 2, 4, 9, 20]))):
            now_s += draw(WAIT_S) if number == 0 else EVERY_S
            found.append(at(now_s, reading, slept=number == 0 and draw(st.sampled_from([False] * 9 + [True]))))
    return found


def streak_before(steps: list[Step], number: int) -> list[Step]:
    """That step and those before it, back to the last gap, sleep or change of the mode."""
    found = [steps[number]]
    for earlier in reversed(steps[:number]):
        after = found[-1].observed
        if after.slept or not 0 <= after.at_us - earlier.observed.at_us <= POLICY.gap_s * 1e6:
            break
        found.append(earlier)
    return found


@given(anything())
def test_what_begins_ends_before_it_begins_again(seen: list[Observed]) -> None:
    moves = [kind for _, kind in kinds(run(seen)) if kind is not PowerModeChanged]
    assert moves[::2] == [ThermalThrottled] * len(moves[::2])
    assert moves[1::2] == [ThermalRecovered] * len(moves[1::2])


@given(anything())
def test_it_never_changes_faster_than_it_has_to_last(seen: list[Observed]) -> None:
    steps = list(run(seen))
    changed: int | None = None
    for number, step in enumerate(steps):
        for decision in step.decisions:
            if isinstance(decision, PowerModeChanged):
                continue
            needed_s = POLICY.slow_s if isinstance(decision, ThermalThrottled) else POLICY.cool_s
            whole = streak_before(steps, number)
            since = whole if changed is None else whole[: number - changed]
            assert (since[0].observed.at_us - since[-1].observed.at_us) / 1e6 >= needed_s
            changed = number


@given(anything())
def test_it_is_over_only_behind_cool_seconds_without_a_gap(seen: list[Observed]) -> None:
    steps = list(run(seen))
    for number, step in enumerate(steps):
        if not any(isinstance(decision, ThermalRecovered) for decision in step.decisions):
            continue
        for one in streak_before(steps, number):
            assert one.observed.reading.slowed is not True
            level = one.observed.reading.level
            assert level is None or level.rank < HEAVY.rank
            assert one.observed.reading != HeatReading()
            if step.observed.at_us - one.observed.at_us >= POLICY.cool_s * 1e6:
                break


@given(anything())
def test_it_is_not_kept_behind_readings_that_are_cool(seen: list[Observed]) -> None:
    begin_s = seen[-1].at_us / 1e6 + EVERY_S
    cool = HeatReading(level=NOMINAL, gpu_busy=0.1, gpu_mhz=338.0, low_power=False, slowed=False)
    steps = list(run(every([cool] * 17, begin_s), last(run(seen))))
    assert steps[-1].after.throttled is None
    assert ThermalThrottled not in [kind for _, kind in kinds(steps)]


@given(anything())
def test_the_baseline_is_a_clock_that_was_read_and_never_goes_down(seen: list[Observed]) -> None:
    before, read = 0.0, set()
    for step in run(seen):
        read.add(step.observed.reading.gpu_mhz)
        baseline = step.after.baseline_mhz
        if baseline is not None:
            assert baseline in read
            assert before <= baseline <= 10_000
            before = baseline


@given(anything(), st.integers(-(10**15), 10**15))
def test_only_differences_of_time_mean_anything(seen: list[Observed], offset_us: int) -> None:
    moved = [observed._replace(at_us=observed.at_us + offset_us) for observed in seen]
    assert [step.decisions for step in run(seen)] == [step.decisions for step in run(moved)]


@given(anything())
def test_a_change_of_the_power_mode_is_told_once(seen: list[Observed]) -> None:
    now = False
    for step in run(seen):
        said = step.observed.reading.low_power
        changes = [decision for decision in step.decisions if isinstance(decision, PowerModeChanged)]
        assert changes == ([PowerModeChanged(said)] if said is not None and said != now else [])
        now = now if said is None else said
