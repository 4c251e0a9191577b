"""How room is made: in which order, of whom, and that nothing in flight pays for it."""

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.memory import recorded
from lmx_ledger.memory.plan import (
    LEAST_TURN_S,
    Account,
    Act,
    Line,
    Need,
    Plan,
    Policy,
    Step,
    Verdict,
    ceiling,
    plan,
    short_of,
)
from tests.recorded import recorded as an_event

MB = 10**6
NOW_S = 1_000.0
HARD = Policy(page_at=1.0, page_to=1.0)


def line(model: str, layers: int = 4, **more: object) -> Line:
    return Line(model, (10 * MB,) * layers, **more)  # type: ignore[arg-type]


def asked(limit: int, *lines: Line, need: Need, policy: Policy = HARD, now_s: float = NOW_S) -> Plan:
    return plan(Account(limit * MB, 0, lines), need, policy, now_s)


def test_where_there_is_room_nothing_goes() -> None:
    found = asked(100, line("a"), need=Need("b", kv=60 * MB))
    assert found == Plan(Verdict.FITS, (), 0, breached=True)


def test_what_nobody_uses_goes_first_then_kv_at_rest_then_weights() -> None:
    idle = line("idle", spare=5 * MB, kept=5 * MB)
    found = asked(100, idle, need=Need("b", kv=65 * MB))
    assert found.steps == (
        Step(Act.SPARE, "idle", 5 * MB),
        Step(Act.KEPT, "idle", 5 * MB),
        Step(Act.PAGE_OUT, "idle", 10 * MB, 1),
    )
    assert found.verdict is Verdict.FITS


def test_of_weights_those_of_the_lowest_priority_and_longest_unused_go_first() -> None:
    lines = (line("high", priority=1), line("late", used_s=2.0), line("early", used_s=1.0))
    found = asked(130, *lines, need=Need("b", kv=75 * MB))
    assert [(step.model, step.layers) for step in found.steps] == [("early", 4), ("late", 3)]


def test_pins_hold_and_the_refusal_says_by_how_much() -> None:
    found = asked(100, line("a", 8, pinned=True), need=Need("b", weights=30 * MB))
    assert (found.verdict, found.short_by, found.steps) == (Verdict.NEVER, 10 * MB, ())


def test_work_in_flight_is_waited_for_and_its_model_admits_nobody_new() -> None:
    found = asked(100, line("a", 8, busy=True, kv=MB), need=Need("b", weights=60 * MB))
    assert found.verdict is Verdict.WAIT
    assert found.steps == (Step(Act.YIELD, "a", 81 * MB, 8),)
    patient = asked(100, line("a", 8, busy=True), need=Need("b", weights=60 * MB, patient=True))
    assert (patient.verdict, patient.steps) == (Verdict.WAIT, ())


def test_a_model_that_has_just_come_back_has_its_turn() -> None:
    came = line("a", 8, came_s=NOW_S - 0.1, took_s=1.0)
    early = asked(100, came, need=Need("b", weights=60 * MB))
    assert (early.verdict, early.steps, early.after_s) == (Verdict.WAIT, (), came.came_s + 4)
    late = asked(100, came, need=Need("b", weights=60 * MB), now_s=NOW_S + 4)
    assert (late.verdict, late.freed) == (Verdict.FITS, 40 * MB)
    busy = asked(100, came._replace(busy=True), need=Need("b", weights=60 * MB))
    assert busy.steps == ()


def test_a_higher_priority_has_a_longer_turn_against_those_below() -> None:
    came = line("a", 8, came_s=NOW_S, priority=2)
    found = asked(100, came, need=Need("b", weights=60 * MB))
    assert found.after_s == NOW_S + LEAST_TURN_S * 16


def test_over_the_threshold_what_is_idle_goes_until_it_is_well_below() -> None:
    found = asked(100, line("a", 5), line("b", 3), need=Need("b", kv=10 * MB), policy=Policy())
    assert found.breached
    assert found.steps == (Step(Act.PAGE_OUT, "a", 20 * MB, 2),)


def test_a_higher_priority_does_not_go_for_the_sake_of_distance_alone() -> None:
    found = asked(100, line("a", 5, priority=1), line("b", 3), need=Need("b", kv=10 * MB), policy=Policy())
    assert (found.verdict, found.steps, found.breached) == (Verdict.FITS, (), True)


def test_the_guides_scene_in_proportion() -> None:
    small, large = line("8b", 5), Line("32b", (10 * MB,) * 20, busy=True)
    found = plan(Account(320 * MB, 0, (small, large)), Need("32b", kv=80 * MB), Policy(), NOW_S)
    assert found.verdict is Verdict.FITS
    assert found.breached
    assert found.steps == (Step(Act.PAGE_OUT, "8b", 50 * MB, 5),)


def test_the_ceiling_is_what_one_stream_can_have_alone() -> None:
    account = Account(100 * MB, 2 * MB, (line("a", 4, kv=50 * MB), line("pinned", 2, pinned=True), line("idle", 3)))
    most = ceiling(account, "a", 40 * MB, lambda tokens: tokens * 1_000, 131_072)
    assert most == 38_000
    assert ceiling(account, "a", 90 * MB, lambda tokens: tokens, 131_072) == 0
    assert ceiling(account, "a", 0, lambda tokens: tokens, 64) == 64


lines = st.builds(
    lambda name, layers, kv, kept, working, spare, busy, pinned, priority, used, came, took: Line(
        f"m{name}", tuple(layers), kv, kept, working, spare, busy, pinned, priority, used, came, took
    ),
    st.integers(0, 5),
    st.lists(st.integers(0, 50 * MB), max_size=6),
    *(st.integers(0, 20 * MB) for _ in range(4)),
    st.booleans(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(0, 2_000),
    st.floats(0, 2_000) | st.just(-math.inf) | st.just(math.inf),
    st.floats(0, 10),
)
accounts = st.builds(
    Account,
    st.integers(0, 400 * MB),
    st.integers(0, 10 * MB),
    st.lists(lines, max_size=5, unique_by=lambda one: one.model).map(tuple),
    st.integers(0, 50 * MB),
    st.just(0) | st.integers(0, 500 * MB),
)
needs = st.builds(
    Need,
    st.sampled_from(["m0", "m1", "new"]),
    *(st.integers(0, 100 * MB) for _ in range(3)),
    st.integers(-2, 2),
    st.booleans(),
)
policies = st.floats(0.1, 1).flatmap(lambda at: st.builds(Policy, st.just(at), st.floats(0.05, at)))


@given(accounts, needs, policies, st.floats(0, 2_000))
def test_no_plan_touches_what_is_in_flight_or_pinned_or_frees_what_is_not_there(
    account: Account, need: Need, policy: Policy, now_s: float
) -> None:
    found = plan(account, need, policy, now_s)
    known = {one.model: one for one in account.lines}
    for step in found.steps:
        victim = known[step.model]
        match step.act:
            case Act.PAGE_OUT:
                assert not victim.busy
                assert not victim.pinned
                assert victim.model != need.model
                assert now_s >= victim.came_s
                assert step.bytes == sum(victim.layers[: step.layers])
            case Act.SPARE:
                assert 0 < step.bytes <= victim.spare
            case Act.KEPT:
                assert 0 < step.bytes <= victim.kept
            case Act.YIELD:
                assert victim.busy
                assert not victim.pinned
                assert not need.patient
                assert found.verdict is Verdict.WAIT
    used = account.used + need.total - found.freed
    if found.verdict is Verdict.FITS:
        assert used <= account.limit
        assert found.short_by == 0
    else:
        assert found.short_by > 0
    assert (found.verdict is Verdict.NEVER) <= (short_of(account, need) > 0)


@given(accounts, needs, policies, st.floats(0, 2_000))
def test_the_same_account_gives_the_same_plan_also_when_it_was_written_down(
    account: Account, need: Need, policy: Policy, now_s: float
) -> None:
    question = recorded.Asked(account, need, policy, now_s)
    written = msgspec.json.decode(msgspec.json.encode(question.told()))
    event = an_event("paging.planned", {"account": written})
    assert recorded.asked(event) == question
    assert question.plan() == plan(account, need, policy, now_s)


@given(accounts, needs)
def test_what_fits_when_all_work_has_ended_is_had_then(account: Account, need: Need) -> None:
    if short_of(account, need) > 0:
        return
    assert plan(account, need, Policy(), NOW_S).verdict is not Verdict.NEVER
    ended = [one._replace(busy=False, came_s=-math.inf, kv=0, working=0) for one in account.lines]
    # And when others have given back what was ours.
    limit = max(account.limit, account.configured)
    later = account._replace(lines=tuple(ended), limit=limit)
    assert plan(later, need, Policy(), NOW_S).verdict is Verdict.FITS


def test_what_does_not_fit_while_others_need_memory_waits_and_a_prompt_is_held_against_what_there_is() -> None:
    account = Account(30 * MB, 0, (line("a", 1),), configured=100 * MB)
    assert plan(account, Need("b", weights=60 * MB), Policy(), NOW_S).verdict is Verdict.WAIT
    assert plan(account, Need("b", weights=160 * MB), Policy(), NOW_S).verdict is Verdict.NEVER
    assert ceiling(account, "a", 10 * MB, lambda tokens: tokens * MB, 50) == 20
