"""An incident is a fault, not a symptom: what opens, joins, ends and reopens one."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.examples import example_of
from lmx_ledger.incident.announce import of_incident
from lmx_ledger.incident.lifecycle import Policy, decide
from lmx_ledger.incident.state import State
from tests.incident.parts import FOLD, Replayed, recorded, story

M0: dict[str, Any] = {"model": "m0"}
M1: dict[str, Any] = {"model": "m1"}


def exited(*, hung: bool = False, expected: bool = False) -> ev.EngineExited:
    return ev.EngineExited(
        pid=1, code=None, signal="SIGSEGV", stderr_tail="", last_acts=[], expected=expected, in_flight=[], hung=hung
    )


def restarted() -> ev.EngineRestarted:
    return ev.EngineRestarted(pid=2, attempt=1, ms=900.0)


def stage(before: str, after: str, *reasons: str) -> ev.GuardStageChanged:
    return ev.GuardStageChanged(from_=before, to=after, reasons=list(reasons), readings={}, at_us=0)


def alerted(objective: str = "ttft", long: str = "1h", severity: str = "page") -> ev.SloBurnAlerted:
    return ev.SloBurnAlerted(
        objective=objective,
        severity=severity,
        long=long,
        short="5m",
        factor=14.4,
        long_burn=20.0,
        short_burn=20.0,
        budget_remaining=0.5,
        exhausts_in_s=None,
    )


def cleared(objective: str = "ttft", long: str = "1h") -> ev.SloBurnCleared:
    return ev.SloBurnCleared(objective=objective, severity="page", long=long, short="5m", factor=14.4, lasted_s=1.0)


HOT = ev.SensorThermalThrottled(
    reason="gpu_clock", gpu_drop=0.21, gpu_mhz=1_093.0, baseline_mhz=1_384.0, gpu_busy=0.98, level=None
)
COOL = ev.SensorThermalRecovered(cool_s=30.0, gpu_mhz=1_380.0, level=None)
THRASH = ev.SensorSwapThrash(bytes_per_s=182_000_000, window_s=10.0)


def lowered(to: int = 64_000) -> ev.GuardContextCeilingChanged:
    return ev.GuardContextCeilingChanged(from_=131_072, to=to, reason="safe_mode_thermal", at_us=0)


def test_a_worker_that_dies_and_comes_back_is_one_incident_that_resolves() -> None:
    run = Replayed().feed(story((0, exited(), M0), (1, restarted(), M0)))
    assert run.types == ["opened"]
    run.tick(4.9)
    assert run.types == ["opened"]
    run.tick(5.0)
    (incident,) = run.state.all()
    assert (incident.status, incident.title, incident.severity) == (
        "mitigated", "The worker of m0 died (SIGSEGV)", Severity.ERROR
    )  # fmt: skip
    assert incident.mitigated_us is not None
    assert incident.mitigated_us - incident.started_us == 1_000_000
    run.tick(54.0)
    assert run.state.all()[0].status == "mitigated"
    run.tick(55.0)
    assert run.types == ["opened", "mitigated", "resolved"]
    run.tick(86_500.0)
    assert run.state.all()[0].status == "closed"
    assert run.written[-1].data["reason"] == "age"


def test_a_crash_loop_is_one_incident_and_becomes_critical_with_the_breaker() -> None:
    loop = [(float(at), data, M0) for n in range(4) for at, data in ((3 * n, exited()), (3 * n + 1, restarted()))]
    opened = ev.BreakerOpened(name="engine", failures=4, for_s=2.0, reason="it died")
    run = Replayed().feed(story(*loop, (12, exited(), M0), (12.1, opened, M0)))
    assert run.types == ["opened", "merged"]
    (incident,) = run.state.all()
    assert incident.severity is Severity.CRITICAL
    assert incident.title == "m0 is in a crash loop: 4 failures in a row"
    run.feed(story((14, ev.BreakerClosed(name="engine"), M0), (14, restarted(), M0))).tick(70)
    assert run.types == ["opened", "merged", "mitigated", "resolved"]


def test_what_the_guard_does_because_of_heat_belongs_to_the_heat() -> None:
    breached = ev.GuardThresholdBreached(name="thermal", reason="reached")
    run = Replayed().feed(
        story((0, HOT), (1, breached, {"cause": 1}), (1, lowered(), {"cause": 2}), (30, COOL), (31, lowered(131_073)))
    )
    run.tick(10)
    (incident,) = run.state.all()
    assert (incident.symptoms, incident.status, incident.title) == (
        ("heat", "ceiling"), "mitigated", "Heat slows the machine"
    )  # fmt: skip
    assert run.state.all()[0].started_us < incident.detected_us


def test_faults_of_two_models_are_two_incidents() -> None:
    run = Replayed().feed(story((0, exited(), M0), (1, exited(), M1)))
    assert sorted(one.models for one in run.state.all()) == [("m0",), ("m1",)]


def test_what_is_of_the_whole_machine_at_one_time_is_one_and_later_it_is_another() -> None:
    together = Replayed().feed(story((0, THRASH), (5, HOT)))
    assert [one.symptoms for one in together.state.all()] == [("swap", "heat")]
    recovered = ev.SensorSwapRecovered(bytes_per_s=0, window_s=10.0)
    apart = Replayed().feed(story((0, THRASH), (5, recovered), (60, HOT)))
    assert [one.symptoms for one in apart.state.all()] == [("heat",), ("swap",)]


def test_what_was_noticed_before_the_fault_was_known_takes_its_name() -> None:
    run = Replayed().feed(story((0, stage("normal", "backpressure", "queue_wait")), (3, exited(hung=True), M0)))
    (incident,) = run.state.all()
    assert (incident.title, incident.symptoms) == ("The worker of m0 hung", ("stage", "worker"))
    assert incident.models == ("m0",)


def test_alerts_of_one_objective_are_one_symptom_and_all_of_them_have_to_clear() -> None:
    run = Replayed().feed(
        story((0, alerted()), (0, alerted(), M0), (0, alerted(long="6h")), (0, alerted("itl")), (60, cleared()))
    )
    assert run.types == ["opened", "merged"]
    run.feed(story((61, cleared(), M0), (62, cleared(long="6h")), (63, cleared("itl")))).tick(10)
    assert run.types == ["opened", "merged", "mitigated"]


def test_an_alert_that_comes_late_belongs_to_the_fault_before() -> None:
    run = Replayed().feed(story((0, exited(), M0), (1, restarted(), M0))).tick(65)
    run.feed(story((80, alerted())))
    assert run.types == ["opened", "mitigated", "resolved", "reopened"]
    assert run.state.all()[0].title == "The worker of m0 died (SIGSEGV)"


@pytest.mark.parametrize(("later_s", "types"), [(500, "reopened"), (700, "opened")])
def test_what_comes_back_in_time_reopens_and_later_it_is_another(later_s: int, types: str) -> None:
    run = Replayed().feed(story((0, exited(), M0), (1, restarted(), M0))).tick(61)
    later = [recorded(3, later_s, ev.Event(data=exited(), stream="s", model="m0"))]
    run.feed(later)
    assert run.types[-1] == types
    assert len(run.state.all()) == (1 if types == "reopened" else 2)


def test_a_rehearsal_is_labelled_and_never_mixed_with_what_is_real() -> None:
    drill = {**M0, "drill": 7}
    run = Replayed().feed(story((0, exited(), drill), (1, restarted(), drill), (8, exited(), M0)))
    real, rehearsed = run.state.all()
    assert (rehearsed.public()["drill"], rehearsed.title) == (True, "drill: The worker of m0 died (SIGSEGV)")
    assert (real.public()["drill"], real.title) == (False, "The worker of m0 died (SIGSEGV)")


def test_two_incidents_that_turn_out_to_be_one_fault_become_one() -> None:
    run = Replayed().feed(story((0, exited(), M0), (40, exited(), M1)))
    first, second = sorted(run.state.all(), key=lambda one: one.id)
    # One more symptom that has both of their roots: of m1, caused by what happened to m0.
    both = recorded(3, 41, ev.Event(data=example_of("breaker.opened"), stream="s", model="m1", cause=1))
    run.feed([both])
    survivor = run.state.find(first.id)
    other = run.state.find(second.id)
    assert survivor is not None
    assert other is not None
    assert (other.status, other.into, survivor.merged) == ("merged", first.id, (second.id,))
    assert survivor.models == ("m0", "m1")
    assert run.state.find("last") == survivor
    assert other.ended_us == run.written[-2].time_us


def test_of_three_that_become_one_nothing_is_forgotten() -> None:
    run = Replayed().feed(
        story((0, alerted(severity="ticket"), {"model": "m2"}), (200, exited(), M1), (300, exited(), M0))
    )
    assert len(run.state.all()) == 3
    # Of the objective of the first, of the model of the second, and caused by the third.
    run.feed([recorded(4, 301, ev.Event(data=alerted(long="6h"), stream="s", model="m1", cause=3))])
    *merged, survivor = run.state.all()
    assert [(one.status, one.into) for one in merged] == [("merged", survivor.id)] * 2
    assert survivor.models == ("m0", "m1", "m2")
    assert survivor.severity is Severity.ERROR
    assert set(survivor.merged) == {one.id for one in merged}
    assert survivor.title == "The worker of m1 died (SIGSEGV)"


def test_a_run_that_crashed_takes_its_symptoms_along_and_the_next_one_is_ready() -> None:
    crashed = ev.DaemonCrashDetected(
        boot="b1", pid=1, last_seq=1, last_time="2026-03-14T09:20:05.000000Z", last_acts=[]
    )
    ready = ev.DaemonReady(url="http://x", models=["m0"], startup_ms=1.0)
    run = Replayed().feed(story((0, stage("normal", "backpressure", "queue_wait")), (100, crashed, {"boot": "b2"})))
    run.feed(story((103, ready, {"boot": "b2"}))).tick(10)
    assert {(one.title, one.status) for one in run.state.all()} == {
        ("New sessions are refused (queue_wait)", "mitigated"),
        ("The run before ended without a word", "mitigated"),
    }


def test_events_that_were_lost_are_told_of_once() -> None:
    run = Replayed().feed(story((0, ev.LedgerDropped(late=0, lost=3, reason="full")))).tick(61)
    assert run.types == ["opened", "mitigated", "resolved"]
    assert run.state.all()[0].title == "3 events are lost"
    late = Replayed().feed(story((0, ev.LedgerDropped(late=7, lost=0, reason="late")))).tick(61)
    assert late.types == []


def test_a_clock_that_was_set_back_ends_nothing_and_delays_nothing() -> None:
    moments = story((4_000, exited(), M0), (4_001, restarted(), M0), (401, ev.BreakerClosed(name="engine"), M0))
    run = Replayed().feed(moments)
    assert run.types == ["opened"]
    run.tick(6)
    assert run.types == ["opened", "mitigated"]
    run.tick(61)
    assert run.types == ["opened", "mitigated", "resolved"]


def test_of_a_ledger_that_is_older_than_incidents_only_what_is_or_was_just_now_becomes_one() -> None:
    run = Replayed()
    moments = story(
        (0, exited(), M0), (1, restarted(), M0), (5_000, exited(), M1), (5_001, restarted(), M1), (5_002, HOT)
    )
    for event in moments:
        run.state = FOLD.evolve(run.state, event)
    assert {symptom.model for symptom in run.state.symptoms.values()} == {"m1", None}
    late = decide(run.state, run.state.at_us + 3_600 * 1_000_000, Policy())
    assert [type(one).__name__ for one in late] == ["Opened"]
    assert late[0].symptom.kind == "heat"  # type: ignore[union-attr]


def test_what_an_operator_closed_stays_closed_and_the_next_one_is_new() -> None:
    run = Replayed().feed(story((0, stage("normal", "backpressure", "queue_wait"))))
    (incident,) = run.state.all()
    closing = of_incident(incident.id, ev.IncidentClosed(reason="operator"), None)
    run.state = FOLD.evolve(run.state, recorded(50, 2, closing))
    run.tick(100)
    (closed,) = run.state.all()
    assert closed.status == "closed"
    # Nobody looks any more whether that is still so.
    assert closed.closed_us is not None
    assert closed.ended_us == closed.closed_us
    assert closed.matches(["closed"], closed.closed_us)
    assert not closed.matches([], closed.closed_us + 1)
    run.feed([recorded(51, 5, ev.Event(data=stage("normal", "backpressure", "queue_wait"), stream="guard"))])
    assert len(run.state.all()) == 2


def test_an_incident_is_found_by_a_beginning_of_its_id() -> None:
    run = Replayed().feed(story((0, exited(), M0), (2_000, exited(), M1)))
    newest, oldest = run.state.all()
    assert run.state.find(newest.id) == newest
    assert run.state.find(oldest.id.removeprefix("inc_").lower()) == oldest
    assert run.state.find("last") == newest
    assert run.state.find("inc_ZZ") is None
    with pytest.raises(LookupError, match=newest.id):
        run.state.find("inc_0")


GUARDED = (stage("normal", "backpressure", "queue_wait"), stage("backpressure", "normal"), lowered(), lowered(200_000))
KINDS = st.sampled_from([exited(), restarted(), HOT, COOL, THRASH, alerted(), cleared(), *GUARDED])
MOMENT = st.tuples(st.integers(-300, 900), KINDS, st.sampled_from([{}, M0, M1, {"drill": 3}, {"boot": "b2"}]))


@settings(max_examples=50, deadline=None)
@given(st.lists(MOMENT, max_size=30))
def test_whatever_happens_every_symptom_has_an_incident_and_in_the_end_the_state_is_what_the_ledger_says(
    moments: list[Any],
) -> None:
    at, told = 0.0, []
    for step, data, more in moments:
        at += step / 10
        told.append((at, data, dict(more)))
    events = list(story(*told))
    run = Replayed().feed(events)
    assert all(symptom.incident for symptom in run.state.symptoms.values())
    known = {one.id for one in run.state.all()}
    assert {symptom.incident for symptom in run.state.symptoms.values()} <= known
    for incident in run.state.all():
        mine = [one for one in run.state.symptoms.values() if one.incident == incident.id]
        if incident.status in {"mitigated", "resolved"}:
            assert all(one.ended_us is not None for one in mine)
    run.tick(90_000)
    assert all(one.status in {"open", "closed", "merged"} for one in run.state.all())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(run.state), type=State) == run.state


@settings(max_examples=50, deadline=None)
@given(st.lists(MOMENT, max_size=20))
def test_a_daemon_that_comes_later_decides_nothing_again(moments: list[Any]) -> None:
    run, ledger = Replayed(), list[Recorded]()
    for event in story(*((float(n), data, dict(more)) for n, (_, data, more) in enumerate(moments))):
        known = len(run.written)
        run.feed([event])
        ledger += [event, *run.written[known:]]
    # What it knows is from the ledger alone: symptoms and decisions in the order in which they were written.
    state = FOLD.initial()
    for event in ledger:
        state = FOLD.evolve(state, event)
    assert state == run.state
    assert decide(state, state.at_us, Policy()) == []
