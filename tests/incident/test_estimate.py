"""Recorded faults under the rules that were and under others: what the model says, held against what is recorded."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.candidates import candidates
from lmx_ledger.incident.estimate import Estimator, estimate, estimate_in
from lmx_ledger.incident.outcome import Estimate, Outcome
from lmx_ledger.incident.replayed import TYPES, Stretch, decided
from lmx_ledger.incident.rules import BEARS_ON, ESTIMATED, EXACT, BadRule
from lmx_ledger.ledger.query import Reader
from tests.incident.parts import BEGIN_US, NAMES, SECOND_US, load, recorded, scenario

EVER = 2**60


def all_of(name: str) -> Estimator:
    return Estimator(scenario(name)[0], 0, EVER)


def different(events: list[Recorded], **given: str) -> int:
    wanted = [event for event in events if event.type in TYPES]
    return decided(
        Stretch(0, EVER, [wanted]), {name.replace("__", "."): value for name, value in given.items()}
    ).different


@pytest.mark.parametrize("name", NAMES)
def test_under_the_rules_that_were_no_decision_differs_and_the_model_says_how_far_it_is_off(name: str) -> None:
    events, _ = scenario(name)
    assert different(events) == 0
    found = Estimator(events, 0, EVER).estimate({})
    assert found.given == {}
    assert found.estimated == found.modelled
    received = {event.request for event in events if event.type == "request.received"}
    over = {event.request for event in events if event.type in ENDS}
    assert found.recorded.requests == found.modelled.requests == len(received & over)
    refused = Counter(event.data["code"] for event in events if event.type == "request.rejected")
    assert found.recorded.refused == dict(refused)
    # A model of what was recorded, not of anything: nine requests in ten end as they did.
    for outcome in (found.recorded, found.modelled):
        assert outcome.answered + outcome.refused_all + outcome.failed == outcome.requests
    assert abs(found.modelled.answered - found.recorded.answered) <= found.recorded.requests / 10
    told = found.text()
    assert told
    assert all(" by the model (off by " in line for line in told)


ENDS = ("request.finished", "request.failed", "request.cancelled", "request.rejected")


def test_a_limit_under_which_all_models_fit_would_have_prevented_the_paging_storm() -> None:
    estimator = all_of("paging-storm")
    limit = estimator.limit_for_all()
    assert limit is not None
    assert limit > estimator.in_force("memory.limit") == 100_000_000
    found = estimator.estimate({"memory.limit": str(limit)})
    moved = found.figure("page_ins")
    assert found.recorded.page_ins > 10
    assert moved.error <= found.recorded.page_ins / 4
    assert found.estimated.page_ins <= 1
    assert not moved.too_rough
    assert found.estimated.waited_ms < found.modelled.waited_ms / 4
    # What would not have: thresholds under the same limit.
    later = estimator.estimate({"memory.page_at": "0.95", "memory.page_to": "0.9"})
    assert later.estimated.page_ins > found.recorded.page_ins / 2
    events, _ = scenario("paging-storm")
    assert different(events, memory__limit=str(limit)) > different(events, memory__page_at="0.95") > 0
    named, _ = candidates(["paging_storm"], events, estimator)
    assert limit <= int(named["memory.limit"]) < 1.1 * limit


def test_a_configuration_counts_from_when_it_was_changed_and_what_undoes_it_refuses_nobody() -> None:
    events, told = scenario("bad-config")
    estimator = Estimator(events, 0, EVER)
    assert estimator.in_force("queue.max_waiting") == 64
    assert estimator.at("queue.max_waiting", told["injected_us"] + 5 * SECOND_US) == 0
    # Before it was read nobody is refused, and behind it about as many as were.
    before = Estimator(events, 0, told["injected_us"]).estimate({})
    assert before.modelled.refused == before.recorded.refused == {}
    behind = Estimator(events, told["injected_us"], EVER).estimate({})
    assert set(behind.modelled.refused) == {"queue_full"}
    assert behind.figure("refused").error <= behind.recorded.refused_all / 4
    (undone,) = candidates(["bad_configuration"], events, estimator)
    assert undone == {"queue.max_waiting": "64"}
    found = estimator.estimate(undone)
    # The line is long enough again; who is refused is refused because it is long.
    assert set(found.estimated.refused) <= {"backpressure"}
    assert found.estimated.refused_all < found.recorded.refused_all
    told_of = f"requests refused: {found.recorded.refused_all} recorded, about {found.estimated.refused_all} with these"
    assert any(line.startswith(told_of) for line in found.text())


def test_more_slots_in_a_flood_have_room_for_more_and_more_patience_lengthens_the_line() -> None:
    estimator = all_of("flood")
    usual = estimator.estimate({}).modelled
    more = estimator.estimate({"queue.max_running": "8"}).estimated
    patient = estimator.estimate({"guard.queue_wait": "1h"}).estimated
    assert more.refused_all < usual.refused_all
    assert more.answered > usual.answered
    # Who is not refused stands in line, until that is full.
    assert "backpressure" not in patient.refused
    assert patient.waited_ms > usual.waited_ms


def test_a_stage_that_was_raised_for_swap_is_left_sooner_with_a_shorter_exit() -> None:
    estimator = all_of("swap")
    usual, sooner = estimator.estimate({}).modelled, estimator.estimate({"guard.exit_after": "1s"}).estimated
    assert 0 < sooner.refused["backpressure"] < usual.refused["backpressure"]


def test_a_ceiling_refuses_whoever_is_over_it_and_the_others_are_served_sooner() -> None:
    events, _ = scenario("long-prompts")
    estimator = Estimator(events, 0, EVER)
    (ceiling,) = candidates(["long_prompts"], events, estimator)
    found = estimator.estimate(ceiling).estimated
    longer = [
        event
        for event in events
        if event.type == "request.finished" and event.data["prompt_tokens"] >= int(ceiling["context.max_tokens"])
    ]
    # Some that were refused for something else are too long as well.
    assert set(found.refused) == {"context_length_exceeded"}
    assert len(longer) <= found.refused_all < found.requests
    usual = estimator.estimate({}).modelled
    assert usual.ttft_p95_ms is not None
    assert found.ttft_p95_ms is not None
    assert found.ttft_p95_ms < usual.ttft_p95_ms / 2


def test_a_worker_that_was_away_is_away_under_any_rules() -> None:
    found = all_of("engine-hang").estimate({"queue.max_running": "64"})
    assert found.estimated.answered == found.modelled.answered == found.recorded.answered
    assert max(run for run in (found.estimated.ttft_p95_ms, found.modelled.ttft_p95_ms) if run) < 4_000


@pytest.mark.parametrize("key", sorted(BEARS_ON))
def test_each_rule_bears_on_what_it_is_said_to_bear_on(key: str) -> None:
    """Of a rule that only one part knows, the other one says the same as ever."""
    events, _ = scenario("flood")
    odd = {"memory.limit": "20MB", "memory.page_at": "0.76", "memory.page_to": "0.01", "queue.max_running": "1",
           "queue.max_waiting": "1", "context.max_tokens": "16", "context.safe_mode_tokens": "16"}  # fmt: skip
    given = {key: odd.get(key, "0.5")}
    found = Estimator(events, 0, EVER).estimate(given)
    if EXACT not in BEARS_ON[key]:
        assert different(events, **{key.replace(".", "__"): given[key]}) == 0
    if ESTIMATED not in BEARS_ON[key]:
        assert found.estimated == found.modelled


def test_what_cannot_be_set_is_said() -> None:
    estimator = Estimator([], 0, EVER)
    for key, value in (
        ("kv.ram", "1GB"),
        ("memory.page_at", "2"),
        ("queue.max_running", "0"),
        ("queue.max_waiting", "x"),
    ):
        with pytest.raises(BadRule, match=key.replace(".", r"\.")):
            estimator.estimate({key: value})
    # Fewer slots than choices are allowed: the choices go down with them.
    assert estimator.estimate({"queue.max_running": "1"}).recorded == Outcome()


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_time_is_asked_about_with_what_came_before_it_in_the_run(tmp_path: Path) -> None:
    events, told = scenario("paging-storm")
    path = tmp_path / "ledger.db"
    load(path, events)
    reader = Reader.open(path)
    since_us = told["injected_us"]
    found = estimate_in(reader, since_us, events[-1].time_us + 1, {"memory.limit": "190MB"})
    reader.close()
    came = {e.request for e in events if e.type == "request.received" and e.time_us >= since_us}
    assert found.recorded.requests == len(came & {e.request for e in events if e.type in ENDS})
    assert found.recorded.page_ins == sum(e.type == "paging.in_finished" and e.time_us >= since_us for e in events)
    assert found.estimated.page_ins <= 1
    assert found == estimate(events, since_us, events[-1].time_us + 1, {"memory.limit": "190MB"})
    json.dumps(found.public())


def test_two_runs_are_served_again_each_by_itself() -> None:
    events, _ = scenario("thermal")
    behind_us = events[-1].time_us - events[0].time_us + 3600 * SECOND_US
    other = [
        msgspec.structs.replace(
            event,
            seq=event.seq + len(events),
            time_us=event.time_us + behind_us,
            boot="another",
            request=event.request and event.request[:-1] + ("A" if event.request[-1] != "A" else "B"),
        )
        for event in events
    ]
    once, twice = (Estimator(one, 0, EVER).estimate({}) for one in (events, [*events, *other]))
    assert twice.modelled.requests == 2 * once.modelled.requests
    assert twice.modelled.ttft_p95_ms == pytest.approx(once.modelled.ttft_p95_ms, rel=0.05)


def test_nothing_was_asked_and_nothing_is_said() -> None:
    found = estimate([], 0, EVER, {"memory.page_at": "0.8"})
    assert (found.recorded, found.modelled, found.estimated) == (Outcome(), Outcome(), Outcome())
    assert found.text() == []
    assert all(not figure.too_rough for figure in found.figures())


# --- what it says ----------------------------------------------------------------------------------------------------


def of(recorded_: Outcome, modelled: Outcome, estimated: Outcome, off: Iterable[float] = ()) -> Estimate:
    return Estimate({"queue.max_running": 4}, recorded_, modelled, estimated, list(off))


def test_a_change_no_larger_than_the_error_is_too_rough_to_tell() -> None:
    found = of(Outcome(page_ins=20), Outcome(page_ins=16), Outcome(page_ins=13)).figure("page_ins")
    assert (found.error, found.change, found.too_rough) == (4, -3, True)
    assert found.text() == ("page-ins: 20 recorded; too rough to tell what these rules change (the model is off by 4)")
    clear = of(Outcome(page_ins=20), Outcome(page_ins=16), Outcome(page_ins=2)).figure("page_ins")
    assert not clear.too_rough
    assert clear.text() == "page-ins: 20 recorded, about 2 with these rules (the model is off by 4)"
    same = of(Outcome(page_ins=20), Outcome(page_ins=20), Outcome(page_ins=20)).figure("page_ins")
    assert same.text() == "page-ins: 20 recorded, unchanged with these rules (the model is off by 0)"


def test_a_percentile_is_no_better_than_the_requests_that_it_is_made_of() -> None:
    lucky = Outcome(requests=3, answered=3, ttft_p50_ms=100.0, ttft_p95_ms=300.0)
    other = Outcome(requests=3, answered=3, ttft_p50_ms=60.0, ttft_p95_ms=290.0)
    found = of(lucky, lucky, other, [10.0, 50.0, 80.0])
    assert [found.figure(key).error for key in ("ttft_p50_ms", "ttft_p95_ms")] == [50.0, 50.0]
    assert found.figure("ttft_p50_ms").too_rough


# --- a story ---------------------------------------------------------------------------------------------------------


def test_a_ledger_without_parts_goes_by_its_queue_and_first_token() -> None:
    events = list(
        of_request(
            (1.0, received()),
            (1.5, admitted()),
            (1.8, ev.RequestFirstToken(ttft_ms=800.0, prefill_ms=300.0)),
            (2.0, finished()),
        )
    )
    found = estimate(events, BEGIN_US, EVER, {}).modelled
    assert (found.requests, found.answered) == (1, 1)
    # Alone it need not wait: what is left is the reading of its prompt.
    assert (found.waited_ms, found.ttft_p50_ms) == (0.0, 300.0)


def of_request(*told: tuple[float, ev.EventData]) -> Iterator[Recorded]:
    for seq, (at_s, data) in enumerate(told, 1):
        yield recorded(seq, at_s, ev.Event(data=data, stream="s", request="req_1", session="s", model="m0"))


def received() -> ev.RequestReceived:
    return ev.RequestReceived(
        route="/v1/chat/completions", stream=False, messages=1, tools=0, chars=400, prompt_sha256="0", client=None,
        client_request_id=None, sampling={"n": 1, "max_tokens": 12},
    )  # fmt: skip


def admitted() -> ev.RequestAdmitted:
    return ev.RequestAdmitted(prompt_tokens=100, max_tokens=12, choices=1, queue_ms=500.0, sampling={})


def finished() -> ev.RequestFinished:
    return ev.RequestFinished(
        status=200, finish_reason="length", prompt_tokens=100, cached_tokens=0, completion_tokens=12, queue_ms=500.0,
        ttft_ms=800.0, itl_p95_ms=10.0, wall_ms=1_000.0,
    )  # fmt: skip
