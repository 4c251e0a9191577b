"""A model of a run, whatever is asked of it: nobody is lost, memory holds, more slots never cost, the same twice."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.guard.stages import Off, On
from lmx_ledger.incident.simulation.demand import ANSWERED, FAILED, LEFT, QUEUE_FULL, Demand, Job, Speed
from lmx_ledger.incident.simulation.machine import Alert, Machine, Outage
from lmx_ledger.incident.simulation.run import Result, Simulation
from tests.incident.simulation.parts import MB, MODELS, job, jobs, outages, rules, serve, storm, weights


def ends(result: Result) -> list[str | None]:
    return [run.ended for run in result.runs]


@settings(max_examples=150)
@given(jobs(), outages, st.integers(1, 4), st.integers(0, 5), st.sampled_from([None, 9 * MB, 14 * MB, 40 * MB]))
def test_every_request_has_one_end_and_none_is_before_its_time(
    asked: list[Job], away: list[Outage], running: int, waiting: int, limit: int | None
) -> None:
    machine = storm(limit) if limit is not None else Machine()
    machine.outages = away
    result = serve(asked, machine, company=0.5, queue__max_running=running, queue__max_waiting=waiting)
    assert len(result.runs) == len(asked)
    for run in result.runs:
        assert run.ended in {ANSWERED, FAILED, LEFT, *CODES}
        assert run.waited_ms >= 0
        if run.ended == ANSWERED:
            assert run.joined_s is not None
            assert run.admitted_s is not None
            assert run.first_s is not None
            assert run.ended_s is not None
            assert run.job.came_s <= run.joined_s <= run.admitted_s <= run.first_s <= run.ended_s
            # Nobody is served faster than alone.
            assert run.ended_s - run.admitted_s >= run.job.read_s + run.job.drawn_s - 1e-6


CODES = ("backpressure", "queue_full", "context_length_exceeded", "insufficient_memory", "invalid_request")


class Watched(Simulation):
    """One whose memory is looked at behind each event."""

    def _goes_on(self) -> bool:
        room = self._room
        # The reserve is for who would wait for ever without it.
        assert room.used - room.reserve <= room.limit
        for tenant in room.tenants.values():
            assert tenant.granted >= 0
            assert tenant.kept >= 0
            assert 0 <= tenant.out <= len(tenant.weights.layers)
            assert tenant.there or not tenant.total
        return super()._goes_on()


@settings(max_examples=150)
@given(jobs(), st.integers(1, 4), st.integers(12, 60), st.sampled_from([(0.85, 0.75), (1.0, 0.5), (0.6, 0.6)]))
def test_no_more_memory_is_held_than_the_limit_allows(
    asked: list[Job], running: int, megabytes: int, thresholds: tuple[float, float]
) -> None:
    at, to = thresholds
    course = rules(queue__max_running=running, memory__page_at=at, memory__page_to=to)
    demand = Demand(sorted(asked, key=lambda one: one.came_s), dict.fromkeys(MODELS, Speed(0.5, 10.0, 0.3)))
    Watched(demand, storm(megabytes * MB), course, 0).run()


@settings(max_examples=100)
@given(jobs(), outages, st.sampled_from([None, 14 * MB, 40 * MB]))
def test_the_same_twice_is_the_same(asked: list[Job], away: list[Outage], limit: int | None) -> None:
    def once() -> list[tuple[object, ...]]:
        machine = storm(limit) if limit is not None else Machine()
        machine.outages = away
        result = serve(asked, machine, company=0.5, queue__max_running=2)
        return [(run.job.id, run.ended, run.first_s, run.waited_ms) for run in result.runs]

    assert once() == once()


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 3)), min_size=1, max_size=30),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_more_slots_never_make_requests_wait_longer_where_nothing_else_binds(
    asked: list[tuple[float, float]], few: int, more: int
) -> None:
    # The worker draws any number of answers as fast as one, and reads nothing.
    asking = [job(n, came_s, read_s=0.0, drawn_s=drawn_s) for n, (came_s, drawn_s) in enumerate(asked)]

    def waited_ms(slots: int) -> float:
        # So patient a guard refuses nobody.
        result = serve(asking, queue__max_running=slots, guard__queue_wait="7d")
        assert set(ends(result)) == {ANSWERED}
        return math.fsum(run.waited_ms for run in result.runs)

    assert waited_ms(few + more) <= waited_ms(few) + 1e-6


def test_with_one_slot_each_waits_for_all_before_it() -> None:
    result = serve([job(n, 0.0, read_s=0.1, drawn_s=0.2) for n in range(4)], queue__max_running=1)
    assert [round(run.waited_ms) for run in result.runs] == [0, 300, 600, 900]
    assert [round((run.first_s or 0) - 0.001, 6) for run in result.runs] == [0.1, 0.4, 0.7, 1.0]


def test_a_full_line_refuses_and_a_line_of_none_lets_in_whom_there_is_a_slot_for() -> None:
    asking = [job(n, 0.01 * n) for n in range(4)]
    result = serve(asking, queue__max_running=1, queue__max_waiting=1)
    assert ends(result) == [ANSWERED, ANSWERED, QUEUE_FULL, QUEUE_FULL]
    assert ends(serve(asking, queue__max_running=1, queue__max_waiting=0)) == [ANSWERED, *[QUEUE_FULL] * 3]


def test_higher_priority_goes_first() -> None:
    result = serve([job(n, 0.01 * n, priority=n) for n in range(3)], queue__max_running=1)
    order = sorted(result.runs, key=lambda run: run.admitted_s or 0.0)
    assert [run.job.id for run in order] == ["r0000", "r0002", "r0001"]


def test_a_long_line_raises_backpressure_for_new_conversations_only() -> None:
    asking = [job(n, 0.01 * n, drawn_s=2.0) for n in range(12)]
    late = [job(20, 3.0, session="s0"), job(21, 3.0, session="new"), job(22, 60.0, session="later")]
    result = serve([*asking, *late], queue__max_running=1, guard__queue_wait="10s")
    by_id = {run.job.id: run.ended for run in result.runs}
    assert by_id["r0020"] == ANSWERED
    assert by_id["r0021"] == "backpressure"
    # By then the line is short, and has been for longer than it takes to leave the stage.
    assert by_id["r0022"] == ANSWERED


def test_a_stage_for_something_outside_refuses_whatever_the_line_is_like() -> None:
    machine = Machine(signals=[(1.0, On(1_000_000, "swap", 1.0)), (4.0, Off(4_000_000, "swap"))])
    result = serve([job(n, float(at)) for n, at in enumerate((0, 2, 8, 30))], machine)
    assert ends(result) == [ANSWERED, "backpressure", "backpressure", ANSWERED]
    assert ends(serve([job(1, 2.0)], Machine(signals=machine.signals), guard__exit_after="1h")) == ["backpressure"]


@pytest.mark.parametrize(("read_s", "end"), [(40.0, "backpressure"), (0.1, ANSWERED)])
def test_an_alert_raises_a_stage_where_first_tokens_are_late_here_too(read_s: float, end: str) -> None:
    # Recorded was one that came after 40 seconds, where 30 are promised.
    late = job(1, 0.0, read_s=read_s, ttft_ms=40_000.0)
    alert = Alert(45.0, True, "ttft", None, "1h", burn=20.0, factor=14.4)
    assert ends(serve([late, job(2, 50.0)], Machine(alerts=[alert]))) == [ANSWERED, end]
    # As many came late as recorded, or it is no alert here.
    others = [job(n, 0.0, model="b", ttft_ms=40_000.0) for n in range(3, 6)]
    assert ends(serve([late, *others, job(2, 50.0)], Machine(alerts=[alert])))[-1] == ANSWERED
    # What was late long ago burns nothing now.
    assert ends(serve([late, job(2, 400.0)], Machine(alerts=[alert]))) == [ANSWERED, ANSWERED]
    # It ends, and so does what it raised.
    over = alert._replace(at_s=60.0, on=False)
    assert ends(serve([late, job(2, 90.0)], Machine(alerts=[alert, over]))) == [ANSWERED, ANSWERED]


def test_who_asks_behind_an_answer_asks_as_long_behind_it_whenever_that_comes() -> None:
    first = job(1, 0.0, session="s", read_s=1.0, drawn_s=1.0)
    second = job(2, 5.0, session="s", behind="r0001", think_s=0.5)
    sooner, late = serve([first, second]).runs, serve([job(0, 0.0, drawn_s=9.0), first, second], queue__max_running=1)
    assert sooner[1].came_s == pytest.approx(2.501)
    assert late.runs[2].came_s == pytest.approx((late.runs[1].ended_s or 0.0) + 0.5)
    # Behind one that is refused, too; and behind one that is not there it comes when it came.
    refused = serve([job(1, 0.0, prompt=2_000), second], context__max_tokens=1_000).runs
    assert (refused[0].ended, refused[1].ended) == ("context_length_exceeded", ANSWERED)
    assert refused[1].came_s == pytest.approx(0.501)
    assert serve([second]).runs[0].came_s == 5.0


def test_kept_kv_is_fetched_beside_what_the_worker_computes() -> None:
    fetched, read = serve([job(1, 0.0, fetch_s=3.0, read_s=0.1), job(2, 0.0, read_s=1.0, drawn_s=0.0)]).runs
    assert read.first_s == pytest.approx(1.001)
    assert fetched.first_s == pytest.approx(3.101)
    assert fetched.waited_ms == 0.0


@pytest.mark.parametrize(("tokens", "end"), [(900, ANSWERED), (1_000, "context_length_exceeded")])
def test_a_prompt_at_the_ceiling_is_refused(tokens: int, end: str) -> None:
    assert ends(serve([job(1, 0.0, prompt=tokens)], context__max_tokens=1_000)) == [end]


def test_a_worker_that_is_away_serves_nobody_and_goes_on_where_it_was() -> None:
    machine = Machine(outages=[Outage("a", 0.05, 0.2, 1.2)])
    first, second = serve([job(1, 0.0), job(2, 0.5)], machine).runs
    # Of its prompt half is read before, and half behind.
    assert first.first_s == pytest.approx(1.2 + 0.051, abs=1e-6)
    assert (first.waited_ms, round(second.waited_ms)) == (0.0, 699)


def test_models_that_do_not_fit_together_page_and_with_room_they_do_not() -> None:
    asking = [job(n, 0.7 * n, model=MODELS[n % 3]) for n in range(30)]
    tight, roomy = (serve(asking, storm(limit)) for limit in (20 * MB, 60 * MB))
    assert set(ends(tight)) == set(ends(roomy)) == {ANSWERED}
    assert len(tight.page_ins) > 15
    assert roomy.page_ins == []
    assert sum(run.waited_ms for run in tight.runs) > sum(run.waited_ms for run in roomy.runs)
    assert 24 * MB < roomy.peak < 60 * MB


def test_what_can_never_fit_is_refused_and_a_pinned_model_stays() -> None:
    assert ends(serve([job(1, 0.0, model="a")], storm(5 * MB))) == ["insufficient_memory"]
    machine = Machine(models={"a": weights("a", pinned=True), "b": weights("b", there=False)}, limit=12 * MB)
    assert ends(serve([job(1, 0.0, model="b"), job(2, 1.0, model="a")], machine)) == ["insufficient_memory", ANSWERED]
