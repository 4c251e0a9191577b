"""The guard's stages: one case at a time, and whatever signals come, at any rate, with any clock."""

import ast
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmx_ledger.guard
from lmx_ledger.guard.recorded import replayed
from lmx_ledger.guard.signals import BURN, GPU, MEMORY_FULL, QUEUE_WAIT, SIGNALS, SWAP, THERMAL
from lmx_ledger.guard.stages import (
    CeilingChanged,
    Decision,
    Observed,
    Off,
    On,
    Policy,
    Stage,
    StageChanged,
    State,
    Tick,
    admits,
    advance,
)

S = 1_000_000
POLICY = Policy()
MINUTE = 60 * S
RAISING = frozenset({QUEUE_WAIT, MEMORY_FULL, GPU, BURN, SWAP})


def run(
    observed: Iterable[Observed], state: State | None = None, policy: Policy = POLICY
) -> tuple[State, list[Decision]]:
    now, found = state or State(), list[Decision]()
    for one in observed:
        now, decided = advance(now, one, policy)
        found += decided
    return now, found


def ticks(until_s: int, since_s: int = 0) -> list[Observed]:
    return [Tick(second * S) for second in range(since_s, until_s)]


def told(decisions: Iterable[Decision]) -> list[tuple[str, float]]:
    return [
        (one.after.label if isinstance(one, StageChanged) else f"{one.reason} {one.after}", one.at_us / S)
        for one in decisions
    ]


def test_a_long_line_is_backpressure_and_nothing_more() -> None:
    _, found = run([On(1 * S, QUEUE_WAIT, 20.0), *ticks(600, 2), Off(600 * S, QUEUE_WAIT), *ticks(700, 601)])
    assert told(found) == [("backpressure", 1), ("normal", 610)]
    first = found[0]
    assert isinstance(first, StageChanged)
    assert first.reasons == ((QUEUE_WAIT, 20.0),)


def test_want_of_memory_goes_through_all_stages_and_down_again_one_by_one() -> None:
    _, found = run([On(0, MEMORY_FULL, 0.99), *ticks(200, 1), Off(200 * S, MEMORY_FULL), *ticks(300, 201)])
    assert told(found) == [
        ("backpressure", 0),
        ("shedding", 30),
        ("restart", 150),
        ("shedding", 210),
        ("backpressure", 215),
        ("normal", 220),
    ]


def test_models_come_back_while_the_line_is_still_long() -> None:
    _, found = run([On(0, QUEUE_WAIT, 20.0), On(1 * S, BURN, 1.0), *ticks(60, 2), Off(60 * S, BURN), *ticks(100, 61)])
    assert told(found) == [("backpressure", 0), ("shedding", 31), ("backpressure", 70)]


def test_a_restart_that_did_not_help_is_not_tried_again_soon() -> None:
    _, found = run(
        [
            On(0, SWAP, 1.0),
            *ticks(160, 1),
            Off(160 * S, SWAP),
            *ticks(200, 161),
            On(200 * S, SWAP, 1.0),
            *ticks(900, 201),
        ]
    )
    restarts = [at for label, at in told(found) if label == "restart"]
    assert restarts == [150, 750]


def test_heat_lowers_the_ceiling_and_its_end_gives_it_back() -> None:
    _, found = run([On(3 * S, THERMAL, 1.0), *ticks(60, 4), Off(60 * S, THERMAL), *ticks(90, 61)])
    assert found == [
        CeilingChanged(3 * S, 131_072, 64_000, THERMAL),
        CeilingChanged(60 * S, 64_000, 131_072, None),
    ]


def test_safe_mode_outlasts_a_short_end_of_its_cause() -> None:
    events = [
        On(0, SWAP, 1.0),
        Off(1 * S, SWAP),
        On(2 * S, SWAP, 1.0),
        *ticks(30, 3),
        Off(30 * S, SWAP),
        *ticks(40, 31),
    ]
    _, found = run(events)
    assert [one.at_us // S for one in found if isinstance(one, CeilingChanged)] == [0, 30]


def test_a_ceiling_below_safe_modes_stays_where_it_is() -> None:
    _, found = run([On(0, THERMAL, 1.0)], policy=Policy(max_tokens=8_000))
    assert found == [CeilingChanged(0, 8_000, 8_000, THERMAL)]


@pytest.mark.parametrize("stage", Stage)
def test_known_sessions_are_let_in_at_any_stage(stage: Stage) -> None:
    assert admits(stage, known=True)
    assert admits(stage, known=False) is (stage is Stage.NORMAL)


signals = st.sampled_from(SIGNALS)
events = st.one_of(
    st.builds(On, st.just(0), signals, st.floats(allow_nan=True)),
    st.builds(Off, st.just(0), signals),
    st.builds(Tick, st.just(0)),
)
steps_us = st.one_of(st.integers(0, 3 * S), st.integers(-60 * S, 400 * S))
"""Flapping at any rate, gaps, and a clock that jumps both ways."""
histories = st.lists(st.tuples(events, steps_us), max_size=120)


def dated(history: Sequence[tuple[Observed, int]]) -> list[Observed]:
    at_us, found = 1_000 * S, list[Observed]()
    for event, step in history:
        at_us += step
        found.append(event._replace(at_us=at_us))
    return found


@given(histories)
def test_no_stage_is_left_before_its_dwell_and_none_is_skipped(history: list[tuple[Observed, int]]) -> None:
    _, found = run(dated(history))
    stages = [one for one in found if isinstance(one, StageChanged)]
    assert all(abs(one.after - one.before) == 1 for one in stages)
    assert all(before.after is after.before for before, after in pairwise(stages))
    assert all(after.at_us - before.at_us >= POLICY.dwell_s * S for before, after in pairwise(stages))
    ceilings = [one for one in found if isinstance(one, CeilingChanged)]
    assert all(after.at_us - before.at_us >= POLICY.safe_dwell_s * S for before, after in pairwise(ceilings))
    assert all((one.reason is None) is bool(number % 2) for number, one in enumerate(ceilings))


@given(histories)
def test_what_was_good_for_the_exit_time_is_normal_again(history: list[tuple[Observed, int]]) -> None:
    observed = dated(history)
    state, _ = run(observed)
    end = state.now_us
    quiet = [Off(end, name) for name in SIGNALS]
    # A stage below it has its own dwell.
    until = end + int((POLICY.exit_s + 3 * POLICY.dwell_s + POLICY.safe_dwell_s) * S)
    state, _ = run([*quiet, Tick(until)], state)
    assert (state.stage, state.safe) == (Stage.NORMAL, None)


@given(histories)
def test_nothing_is_raised_without_its_cause(history: list[tuple[Observed, int]]) -> None:
    state, on = State(), set[str]()
    for event in dated(history):
        before = set(on)
        on = (on | {event.name}) if isinstance(event, On) else on - {event.name} if isinstance(event, Off) else on
        state, found = advance(state, event, POLICY)
        for one in found:
            if isinstance(one, StageChanged) and one.after > one.before:
                assert (on | before) & RAISING
            if isinstance(one, CeilingChanged) and one.reason is not None:
                assert one.reason in on | before


@given(histories, st.lists(st.integers(0, 60 * S), max_size=40))
def test_decisions_do_not_depend_on_when_somebody_looked(history: list[tuple[Observed, int]], looks: list[int]) -> None:
    changes = [one for one in dated(history) if not isinstance(one, Tick)]
    state, _ = run(changes)
    end = state.now_us + 60 * S
    looked = sorted([*changes, *(Tick(1_000 * S + at) for at in looks)], key=lambda one: one.at_us)
    forward = sorted(changes, key=lambda one: one.at_us)
    _, found = run([*looked, Tick(end)])
    assert found == list(replayed(forward, POLICY, end))


PURE = sorted(Path(lmx_ledger.guard.__file__).parent.glob("*.py"))
ALLOWED = {"collections", "enum", "itertools", "math", "typing", "msgspec"}


@pytest.mark.parametrize("file", PURE, ids=lambda file: file.stem)
def test_the_guard_imports_nothing_outside_core_and_no_clock_and_no_io(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] == "lmx_ledger":
                assert name.split(".")[1] in {"core", "guard"}, name
                assert name not in {"lmx_ledger.core.clock", "lmx_ledger.core.config"}, name
            else:
                assert name.split(".")[0] in ALLOWED, name
