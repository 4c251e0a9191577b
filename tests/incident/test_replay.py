"""How long the stages of a run were raised, as they were and as they would have been; rules and clocks that change."""

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.guard.stages import On
from lmx_ledger.incident.replay import Compared, compare, held_s, signals_under
from lmx_ledger.incident.rules import course
from tests.incident.parts import BEGIN_US, recorded

S = 1_000_000


def stage(at_s: int, recorded: str | None, replayed: str | None) -> Compared:
    return Compared(None, at_s * S, "stage", recorded, replayed)


UP, DOWN = "stage normal -> backpressure (queue_wait)", "stage backpressure -> normal"


def test_a_stage_counts_from_its_beginning_to_its_end_in_the_time_that_is_asked_about() -> None:
    run = [stage(10, UP, UP), stage(40, DOWN, None), stage(70, None, DOWN)]
    assert held_s(run, 0, 100 * S, as_replayed=False) == {"backpressure": 30.0}
    assert held_s(run, 0, 100 * S, as_replayed=True) == {"backpressure": 60.0}
    assert held_s(run, 30 * S, 100 * S, as_replayed=False) == {"backpressure": 10.0}
    assert held_s(run, 50 * S, 100 * S, as_replayed=False) == {}


def test_a_stage_that_has_not_ended_counts_to_the_end_of_the_run() -> None:
    assert held_s([stage(10, UP, None)], 0, 25 * S, as_replayed=False) == {"backpressure": 15.0}
    assert held_s([stage(10, UP, None)], 0, 25 * S, as_replayed=True) == {}


def test_a_rule_that_changed_while_it_ran_counts_from_then_on() -> None:
    before, after = 131_072, 100_000
    events = run_of(
        (0.0, ev.ConfigLoaded(source=None, changed={"guard": {"safe_dwell": 1.0}})),
        (10.0, on("thermal", 10.0)),
        (10.1, ceiling(10.0, before, 64_000)),
        (20.0, off("thermal", 20.0)),
        (20.1, ceiling(20.0, 64_000, before, "recovered")),
        (30.0, ev.ConfigChanged(source=None, changed={"context.max_tokens": after}, needs_restart=[])),
        (40.0, on("thermal", 40.0)),
        (40.1, ceiling(40.0, after, 64_000)),
        (50.0, off("thermal", 50.0)),
        (50.1, ceiling(50.0, 64_000, after, "recovered")),
    )
    rules = course(events, {})
    assert [found.same for found in compare(events, rules)] == [True] * 4
    assert rules.first.config.context.max_tokens == before
    assert rules.at(BEGIN_US + 31 * S).config.context.max_tokens == after
    # What is set counts all the time.
    changed = [found for found in compare(events, course(events, {"context.max_tokens": "100000"})) if not found.same]
    assert [found.at_us - BEGIN_US for found in changed] == [10 * S, 10 * S, 20 * S, 20 * S]


def test_figures_between_two_changes_are_of_the_guards_clock_which_stands_still_in_sleep() -> None:
    slept_s = 3_600.0
    events = run_of(
        (0.0, ev.ConfigLoaded(source=None, changed={})),
        (slept_s + 10.0, ev.SensorSampled(sensor="guard", figures={"queue_wait": 5.0}, at_us=BEGIN_US + 10 * S)),
        (slept_s + 20.0, on("swap", 20.0)),
    )
    found = list(signals_under(events, course(events, {"guard.queue_wait": "4s"})))
    assert found == [On(BEGIN_US + 10 * S, "queue_wait", 5.0), On(BEGIN_US + 20 * S, "swap", 1.0)]


def run_of(*told: tuple[float, ev.EventData]) -> list[Recorded]:
    return [recorded(seq, at_s, ev.Event(data=data, stream="guard")) for seq, (at_s, data) in enumerate(told, 1)]


def on(name: str, at_s: float) -> ev.GuardThresholdBreached:
    return ev.GuardThresholdBreached(name=name, reason="reached", value=1.0, at_us=BEGIN_US + int(at_s * S))


def off(name: str, at_s: float) -> ev.GuardThresholdCleared:
    return ev.GuardThresholdCleared(name=name, reason="cleared", value=0.0, at_us=BEGIN_US + int(at_s * S))


def ceiling(at_s: float, before: int, after: int, why: str = "safe_mode_thermal") -> ev.GuardContextCeilingChanged:
    return ev.GuardContextCeilingChanged(from_=before, to=after, reason=why, at_us=BEGIN_US + int(at_s * S))
