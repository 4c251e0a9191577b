"""What there was to serve with, read off a run's events: sizes, speeds, who was away, what came from outside."""

import math

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.guard.stages import Off, On
from lmx_ledger.incident.simulation.machine import Alert, Machine, Outage, machine, outages, page_ins
from lmx_ledger.memory.plan import Account, Line, Need, Policy
from lmx_ledger.memory.recorded import Asked, steps_of
from tests.incident.parts import BEGIN_US, recorded, scenario

LAYERS = (3_000, 3_000, 8_000)


def run_of(*told: tuple[float, ev.EventData, str | None]) -> list[Recorded]:
    return [
        recorded(seq, at_s, ev.Event(data=data, stream="s", model=model))
        for seq, (at_s, data, model) in enumerate(told, 1)
    ]


def loaded(ms: float = 500.0) -> ev.ModelLoaded:
    return ev.ModelLoaded(weights_bytes=sum(LAYERS), context=4_096, vocab=10, architecture="llama", ms=ms)


def planned(*lines: Line) -> ev.PagingPlanned:
    asked = Asked(Account(90_000, 0, lines, 7, 100_000), Need("m0", kv=10), Policy(), 5.0)
    found = asked.plan()
    return ev.PagingPlanned(need_bytes=10, victims=[], reason="kv", steps=steps_of(found), account=asked.told())


def of(events: list[Recorded], base_s: float = 0.0) -> Machine:
    return machine(events, BEGIN_US + int(base_s * 1e6), [])


def test_sizes_are_those_of_the_plans_and_the_limit_is_the_configured_one() -> None:
    busy = [Line("m0", LAYERS, kv=kv, working=2_000_000 + kv // 2, busy=True) for kv in (100, 200, 900)]
    idle = Line("m1", LAYERS[1:], working=40)
    found = of(run_of((1.0, loaded(), "m0"), *((2.0, planned(one, idle), "m0") for one in busy)))
    assert (found.limit, found.others) == (100_000, 7)
    assert found.models["m0"].layers == LAYERS
    # Without what a layer takes while its KV grows, and what is on its way to the disk.
    assert found.models["m0"].busy == found.models["m0"].most == 2_000_000 - (1 << 20)
    assert (found.models["m1"].idle, found.models["m1"].layers) == (40, LAYERS[1:])


def test_without_a_plan_a_model_is_one_piece_and_nobody_knows_the_limit() -> None:
    found = of(run_of((1.0, loaded(), "m0")))
    assert found.limit is None
    assert found.models["m0"].layers == (sum(LAYERS),)
    assert (found.models["m0"].load_s, found.models["m0"].context) == (0.5, 4_096)


def test_what_is_in_memory_at_the_beginning_is_what_came_and_went_before_it() -> None:
    gone = ev.PagingOutFinished(bytes=6_000, ms=1.0, layers=2, resident_bytes=8_000)
    back = ev.PagingInFinished(bytes=6_000, ms=1.0, layers=2)
    told = run_of(
        (0.0, loaded(), "m0"), (1.0, planned(Line("m0", LAYERS)), "m0"), (2.0, gone, "m0"), (4.0, back, "m0"),
        (6.0, ev.ModelUnloaded(reason="ttl"), "m0"),
    )  # fmt: skip
    there = {at_s: (one.there, one.out) for at_s in (-1, 1, 3, 5, 7) for one in [of(told, at_s).models["m0"]]}
    assert there == {-1: (False, 0), 1: (True, 0), 3: (True, 2), 5: (True, 0), 7: (False, 0)}
    assert (of(told, 5).gone, of(told, 7).gone) == ([(1.0, "m0")], [])


def test_a_worker_is_away_from_its_last_sign_of_life_until_its_model_is_loaded_again() -> None:
    hang = ev.GuardRestartRequested(reason="no_progress", silent_s=4.0)
    died = ev.EngineExited(
        pid=1, code=None, signal="SIGKILL", stderr_tail="", last_acts=[], expected=False, in_flight=[], hung=True
    )
    again = ev.ModelLoadStarted(path="m0", weights_bytes=1, reason="restart")
    events = run_of((10.0, hang, "m0"), (10.1, died, "m0"), (10.2, again, "m0"), (11.0, loaded(), "m0"))
    events[1] = recorded(2, 10.1, ev.Event(data=died, stream="s", model="m0", cause=1))
    assert outages(events, BEGIN_US) == [Outage("m0", 6.1, 10.1, 11.0)]
    assert outages(events[:2], BEGIN_US) == [Outage("m0", 6.1, 10.1, math.inf)]
    # One that was asked to go and comes back (its worker is replaced) is away from then on.
    assert outages(events[2:], BEGIN_US) == [Outage("m0", 10.2, 10.2, 11.0)]


def test_weights_move_as_fast_as_they_moved() -> None:
    started, finished = ev.PagingInStarted(bytes=1_000), ev.PagingInFinished(bytes=1_000, ms=20.0, layers=1)
    events = run_of(*((at_s, data, "m0") for n in range(3) for at_s, data in ((n, started), (n + 0.05, finished))))
    found = of(events)
    assert round(found.page_in.takes_s(1_000), 6) == 0.05
    assert round(found.page_in.takes_s(2_000), 6) == 0.07
    assert [round(one.at_s, 2) for one in page_ins(events, BEGIN_US)] == [0.05, 1.05, 2.05]


def test_what_comes_from_outside_is_kept_with_its_moment() -> None:
    events, _ = scenario("swap")
    base_us = events[0].time_us
    signals: list[tuple[int, On | Off]] = [
        (base_us + 1_000_000, On(base_us, "swap", 1.0)),
        (base_us + 2_000_000, Off(base_us, "queue_wait")),
    ]
    found = machine(events, base_us, signals)
    assert found.signals == [(1.0, On(base_us, "swap", 1.0))]
    # The limit went down because of swapping, and up again when that was over.
    assert found.lowered[0][1] > 0
    alert = ev.SloBurnAlerted(
        objective="ttft", severity="page", long="1h", short="5m", factor=14.4, long_burn=20.0, short_burn=20.0,
        budget_remaining=0.5, exhausts_in_s=None,
    )  # fmt: skip
    assert of(run_of((3.0, alert, "m0"))).alerts == [Alert(3.0, True, "ttft", "m0", "1h", 20.0, 14.4)]
