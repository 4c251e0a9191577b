"""The guard of memory: when the limit moves and when it does not, one case at a time, and whatever the readings are."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.sensed import MemoryReading, Pressure
from lmx_ledger.guard.memory import (
    Breached,
    Cleared,
    Decision,
    LimitChanged,
    Observed,
    Policy,
    Reason,
    State,
    SwapRecovered,
    SwapThrash,
    decide,
    evolve,
    headroom_bytes,
)

GB = 10**9
TOTAL = 32 * GB
HEADROOM = 640 * 10**6
LIMIT = 24 * GB
POLICY = Policy()
EVERY_S = 2.0


class Step(NamedTuple):
    observed: Observed
    before: State
    decisions: list[Decision]
    after: State


def run(observations: Iterable[Observed], state: State | None = None, policy: Policy = POLICY) -> Iterator[Step]:
    """As the daemon does it."""
    now = state or State()
    for observed in observations:
        before, decisions = now, decide(now, observed, policy)
        now = evolve(now, observed, policy)
        for decision in decisions:
            now = evolve(now, decision, policy)
        yield Step(observed, before, decisions, now)


def reading(
    available: int = 28 * GB,
    *,
    cgroup: tuple[int, int] | None = None,
    out: int | None = None,
    pressure: Pressure | None = None,
) -> MemoryReading:
    limit, used = cgroup or (None, None)
    return MemoryReading(
        total_bytes=TOTAL,
        available_bytes=available,
        cgroup_limit_bytes=limit,
        cgroup_used_bytes=used,
        swap_out_bytes=out,
        pressure=pressure,
    )


def at(
    seconds: float,
    says: MemoryReading | None,
    *,
    used: int = 4 * GB,
    configured: int = LIMIT,
    floor: int = GB,
) -> Observed:
    return Observed(int(seconds * 1e6), used, configured, floor, says)


def every(readings: Iterable[MemoryReading | None], *, used: int = 4 * GB, begin_s: float = 0.0) -> list[Observed]:
    return [at(begin_s + number * EVERY_S, says, used=used) for number, says in enumerate(readings)]


def limits(steps: Iterable[Step]) -> list[LimitChanged]:
    return [decision for step in steps for decision in step.decisions if isinstance(decision, LimitChanged)]


def moves(steps: Iterable[Step]) -> list[tuple[float, int, int, Reason]]:
    found = limits(steps)
    return [(move.observed.at_us / 1e6, move.from_bytes, move.to_bytes, move.reason) for move in found]


def last(steps: Iterable[Step]) -> State:
    return list(steps)[-1].after


# --- the threshold --------------------------------------------------------------------------------------------------


def test_the_threshold_is_breached_at_85_percent_and_cleared_at_75() -> None:
    used = [20.3, 20.4, 21, 18.1, 18.0, 20.3, 20.4]
    steps = run(at(n, reading(), used=int(u * GB)) for n, u in enumerate(used))
    assert [step.decisions for step in steps] == [
        [],
        [Breached(20_400_000_000, LIMIT, 0.85, None)],
        [],
        [],
        [Cleared(18 * GB, LIMIT, 0.75, None)],
        [],
        [Breached(20_400_000_000, LIMIT, 0.85, None)],
    ]


def test_the_threshold_holds_without_a_sensor() -> None:
    (step,) = run([at(0, None, used=23 * GB)])
    assert [type(decision) for decision in step.decisions] == [Breached]


def test_a_limit_that_is_lowered_beneath_what_is_used_breaches_the_threshold_at_once_and_says_why() -> None:
    (step,) = run([at(0, reading(2 * GB), used=12 * GB)])
    lowered, breached = step.decisions
    assert isinstance(lowered, LimitChanged)
    assert isinstance(breached, Breached)
    assert (breached.limit_bytes, breached.reason) == (lowered.to_bytes, Reason.OTHER_PROGRAMS)


def test_of_a_limit_of_nothing_all_is_used_as_soon_as_anything_is() -> None:
    idle = at(0, reading(0), used=0, floor=0)
    (step,) = run([idle])
    assert [type(decision) for decision in step.decisions] == [LimitChanged]
    (step,) = run([idle._replace(used_bytes=1)], step.after)
    assert [type(decision) for decision in step.decisions] == [Breached]


# --- what others leave ----------------------------------------------------------------------------------------------


def test_the_headroom_is_a_share_of_the_machine_within_bounds() -> None:
    assert headroom_bytes(TOTAL, POLICY) == HEADROOM
    assert headroom_bytes(8 * GB, POLICY) == 256 * 10**6
    assert headroom_bytes(1 * GB, POLICY) == 10**8


def test_other_programs_lower_the_limit_at_once_to_what_they_leave() -> None:
    steps = run(every([reading(), reading(10 * GB)]))
    assert moves(steps) == [(2.0, LIMIT, 14 * GB - HEADROOM, Reason.OTHER_PROGRAMS)]


def test_a_cgroup_lowers_it_to_what_is_left_in_it() -> None:
    (step,) = run([at(0, reading(cgroup=(16 * GB, 6 * GB)))])
    assert moves([step]) == [(0.0, LIMIT, 14 * GB - HEADROOM, Reason.CGROUP)]
    (move,) = limits([step])
    assert (move.headroom_bytes, move.observed) == (HEADROOM, step.observed)


def test_little_less_than_the_limit_is_no_reason_to_move_it() -> None:
    enough = LIMIT - 4 * GB + HEADROOM
    assert moves(run(every([reading(enough - LIMIT // 100)]))) == []
    assert len(moves(run(every([reading(enough - LIMIT // 100 - 1)])))) == 1


def test_it_is_not_lowered_beneath_the_floor_nor_is_that_above_what_is_configured() -> None:
    (step,) = run([at(0, reading(0), floor=9 * GB)])
    assert limits([step])[0].to_bytes == 9 * GB
    assert moves(run([at(0, reading(0), floor=99 * GB)])) == []


def test_what_others_take_more_of_lowers_it_further_without_a_pause() -> None:
    steps = run(every(reading((12 - number) * GB) for number in range(4)))
    assert [move[2] for move in moves(steps)] == [(16 - number) * GB - HEADROOM for number in range(4)]


# --- and back -------------------------------------------------------------------------------------------------------


def test_it_goes_up_behind_30_seconds_of_readings_that_allow_it() -> None:
    steps = run(every([reading(8 * GB), *[reading()] * 20]))
    assert moves(steps)[1:] == [(32.0, 12 * GB - HEADROOM, LIMIT, Reason.RECOVERED)]


def test_it_goes_up_to_what_all_of_them_allowed() -> None:
    steps = list(run(every([reading(8 * GB), *[reading(14 * GB), reading(12 * GB)] * 9])))
    assert moves(steps)[1:] == [(32.0, 12 * GB - HEADROOM, 16 * GB - HEADROOM, Reason.RECOVERED)]
    assert steps[-1].after.reason is Reason.OTHER_PROGRAMS


def test_it_goes_up_step_by_step_where_what_others_leave_grows_slowly() -> None:
    steps = list(run(every([reading((8 + number) * GB) for number in range(30)])))
    climb = [move for move in moves(steps) if move[3] is Reason.RECOVERED]
    assert climb[0] == (32.0, 12 * GB - HEADROOM, 13 * GB - HEADROOM, Reason.RECOVERED)
    assert all(move[2] - move[1] > LIMIT // 100 for move in climb)
    assert steps[-1].after.limit_bytes(LIMIT) == LIMIT


def test_one_bad_reading_begins_the_wait_anew() -> None:
    steps = run(every([reading(8 * GB), *[reading()] * 14, reading(8 * GB), *[reading()] * 16]))
    assert moves(steps)[1:] == [(62.0, 12 * GB - HEADROOM, LIMIT, Reason.RECOVERED)]


def test_neither_an_outage_nor_a_night_asleep_nor_a_clock_set_back_counts_as_good() -> None:
    lowered = last(run([at(0, reading(8 * GB))]))
    good = [reading()] * 14
    for between in (at(30, None), at(60, reading()), at(3.0, reading())):
        steps = [*every(good, begin_s=2.0), between, *every(good, begin_s=between.at_us / 1e6 + 2)]
        assert moves(run(steps, lowered)) == []


def test_a_limit_configured_lower_is_in_force_at_once_and_the_old_one_is_not_lost() -> None:
    state = last(run([at(0, reading(8 * GB))]))
    assert state.limit_bytes(5 * GB) == 5 * GB
    steps = [at(2 + 2 * n, reading(), configured=5 * GB) for n in range(20)]
    state = last(run(steps, state))
    assert (state.limit_bytes(5 * GB), state.limit_bytes(LIMIT)) == (5 * GB, 12 * GB - HEADROOM)
    assert moves(run([at(42, reading())], state)) == [(42.0, 12 * GB - HEADROOM, LIMIT, Reason.RECOVERED)]


# --- swap and pressure ----------------------------------------------------------------------------------------------


def test_pressure_lowers_it_to_what_is_used_and_critical_pressure_a_twentieth_beneath() -> None:
    for pressure, to in ((Pressure.WARN, 4 * GB), (Pressure.CRITICAL, 3_800_000_000)):
        assert moves(run(every([reading(pressure=pressure)]))) == [(0.0, LIMIT, to, Reason.PRESSURE)]


def test_steps_are_a_while_apart_for_a_page_out_takes_one_to_be_felt() -> None:
    used = [8 * GB, 6 * GB, 6 * GB, 6 * GB, 6 * GB, 6 * GB]
    warned = [at(number * 2, reading(pressure=Pressure.WARN), used=u) for number, u in enumerate(used)]
    assert [(move[0], move[2]) for move in moves(run(warned))] == [(0.0, 8 * GB), (10.0, 6 * GB)]


def test_a_clock_set_back_does_not_put_the_next_step_off() -> None:
    warned = reading(pressure=Pressure.WARN)
    state = last(run([at(9_000, warned, used=8 * GB)]))
    steps = run([at(2.0 * number, warned, used=6 * GB) for number in range(6)], state)
    assert moves(steps) == [(10.0, 8 * GB, 6 * GB, Reason.PRESSURE)]


def test_under_pressure_it_does_not_go_up() -> None:
    steps = run(every([reading(pressure=Pressure.WARN)] * 60))
    assert len(moves(steps)) == 1


def test_sustained_swap_lowers_it_and_it_comes_back_when_that_has_been_over_for_a_while() -> None:
    thrash = [reading(out=number * 200 * 10**6) for number in range(10)]
    calm = [reading(out=2 * GB)] * 30
    steps = list(run(every(thrash + calm)))
    told = [
        (step.observed.at_us / 1e6, d)
        for step in steps
        for d in step.decisions
        if not isinstance(d, Breached | Cleared)
    ]
    assert [(seconds, type(decision)) for seconds, decision in told] == [
        (10.0, SwapThrash),
        (10.0, LimitChanged),
        (30.0, SwapRecovered),
        (62.0, LimitChanged),
    ]
    assert told[0][1] == SwapThrash(100 * 10**6)
    assert moves(steps)[0][2:] == (4 * GB, Reason.SWAP)


def test_a_limit_on_its_way_up_stops_when_swapping_begins() -> None:
    out = [0] * 17 + [number * 200 * 10**6 for number in range(13)]
    steps = list(run(every(reading((8 + number) * GB, out=each) for number, each in enumerate(out))))
    began = next(step for step in steps if step.after.thrashing)
    rising = [step.observed.at_us for step in steps if any(move.reason is Reason.RECOVERED for move in limits([step]))]
    assert rising[-1] == began.observed.at_us - EVERY_S * 1e6


def test_a_full_swap_file_a_burst_and_a_night_asleep_do_not() -> None:
    burst = [reading(out=0)] * 6 + [reading(out=5 * GB)] * 9
    asleep = [at(0, reading(out=0))]
    asleep += every((reading(out=500 * GB + min(number, 4) * 100 * 10**6) for number in range(9)), begin_s=3_600)
    for observations in (every([reading(out=10**13)] * 9), every(burst), asleep):
        assert all(step.decisions == [] for step in run(observations))


def test_readings_that_are_far_apart_are_a_window_too() -> None:
    policy = POLICY.read_every(60.0)
    thrash = [at(number * 60, reading(out=number * 9 * GB)) for number in range(5)]
    steps = list(run(thrash, policy=policy))
    assert moves(steps) == [(240.0, LIMIT, 4 * GB, Reason.SWAP)]
    calm = [at(300 + number * 60, reading(out=36 * GB)) for number in range(8)]
    assert last(run(calm, steps[-1].after, policy)).limit_bytes(LIMIT) == LIMIT


# --- whatever the readings are --------------------------------------------------------------------------------------

AMOUNT = st.integers(0, TOTAL) | st.sampled_from([0, 8 * GB, 12 * GB, TOTAL])
READING = st.builds(
    reading,
    AMOUNT,
    cgroup=st.none() | st.tuples(AMOUNT, AMOUNT),
    out=st.none() | st.integers(0, 10**13),
    pressure=st.none() | st.sampled_from(Pressure),
)
WAIT_S = st.sampled_from([EVERY_S] * 12 + [0.0, 0.001, 9.0, 14.9, 15.1, 3_600.0, -5.0, -3_600.0])


@st.composite
def observations(draw: st.DrawFn, *, configured: st.SearchStrategy[int], floor: int = GB) -> list[Observed]:
    """Runs of like readings among others: without them nothing would ever recover."""
    found: list[Observed] = []
    now_s = 10_000.0
    for _ in range(draw(st.integers(1, 6))):
        says, used, limit = draw(st.none() | READING), draw(AMOUNT), draw(configured)
        growing = draw(st.sampled_from([0, 0, 10**6, 10**9]))
        for number in range(draw(st.sampled_from([1, 2, 7, 20]))):
            now_s += draw(WAIT_S) if number == 0 else EVERY_S
            if says is not None and says.swap_out_bytes is not None:
                says = reading_with_swap(says, says.swap_out_bytes + growing)
            found.append(at(now_s, says, used=used, configured=limit, floor=floor))
    return found


def reading_with_swap(says: MemoryReading, out: int) -> MemoryReading:
    return reading(
        says.available_bytes,
        cgroup=None
        if says.cgroup_limit_bytes is None or says.cgroup_used_bytes is None
        else (says.cgroup_limit_bytes, says.cgroup_used_bytes),
        out=out,
        pressure=says.pressure,
    )


def leaves(observed: Observed) -> int:
    """What the machine and the cgroup leave to us."""
    says = observed.reading
    assert says is not None
    left = says.available_bytes
    if says.cgroup_limit_bytes is not None and says.cgroup_used_bytes is not None:
        left = min(left, says.cgroup_limit_bytes - says.cgroup_used_bytes)
    return observed.used_bytes + left - HEADROOM


ALWAYS_24 = observations(configured=st.just(LIMIT))
ANY = observations(configured=st.sampled_from([LIMIT, 5 * GB, GB // 2]))


@given(ANY)
def test_the_limit_is_never_above_what_is_configured_nor_above_what_others_leave(seen: list[Observed]) -> None:
    for step in run(seen):
        configured, limit = step.observed.configured_bytes, step.after.limit_bytes(step.observed.configured_bytes)
        assert 0 <= limit <= configured
        if step.observed.reading is not None:
            allowed = max(leaves(step.observed), min(step.observed.floor_bytes, configured))
            assert limit <= allowed + configured // 100


@given(ALWAYS_24)
def test_the_limit_is_never_beneath_the_floor(seen: list[Observed]) -> None:
    for step in run(seen):
        assert step.after.limit_bytes(LIMIT) >= GB


@given(ANY)
def test_it_goes_up_only_behind_30_good_seconds_without_a_gap(seen: list[Observed]) -> None:
    steps = list(run(seen))
    for number, step in enumerate(steps):
        for move in limits([step]):
            if move.reason is not Reason.RECOVERED:
                assert move.to_bytes < move.from_bytes
                continue
            assert move.to_bytes > move.from_bytes
            streak = [step.observed]
            for earlier in reversed(steps[:number]):
                if streak[-1].at_us - earlier.observed.at_us > 15e6 or streak[0].at_us - streak[-1].at_us >= 30e6:
                    break
                streak.append(earlier.observed)
            assert streak[0].at_us - streak[-1].at_us >= 30e6
            for observed in streak:
                assert observed.reading is not None
                assert observed.reading.pressure in {None, Pressure.NORMAL}
                assert leaves(observed) >= move.to_bytes
            assert not step.before.thrashing
            assert not step.after.thrashing


@given(ANY)
def test_it_is_not_kept_down_behind_good_readings(seen: list[Observed]) -> None:
    begin_s = seen[-1].at_us / 1e6 + EVERY_S
    state = last(run(seen))
    swapped = seen[-1].reading.swap_out_bytes if seen[-1].reading else None
    # Ten seconds of calm end what there was of swapping, thirty bring the limit back; and a tick each.
    steps = list(run(every([reading(TOTAL, out=swapped)] * 23, begin_s=begin_s), state))
    assert steps[-1].after.limit_bytes(LIMIT) == LIMIT
    assert not steps[-1].after.breached
    assert not steps[-1].after.thrashing


@given(ANY)
def test_what_begins_ends_before_it_begins_again(seen: list[Observed]) -> None:
    told = [type(decision) for step in run(seen) for decision in step.decisions]
    for begins, ends in ((Breached, Cleared), (SwapThrash, SwapRecovered)):
        alternating = [kind for kind in told if kind in {begins, ends}]
        assert alternating[::2] == [begins] * len(alternating[::2])
        assert alternating[1::2] == [ends] * len(alternating[1::2])


@given(ANY)
def test_a_step_for_pressure_or_swap_keeps_its_distance_to_any_change_before_it(seen: list[Observed]) -> None:
    for one, other in pairwise(limits(run(seen))):
        if other.reason in {Reason.PRESSURE, Reason.SWAP} and other.observed.at_us >= one.observed.at_us:
            assert other.observed.at_us - one.observed.at_us >= 10e6
