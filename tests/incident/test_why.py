"""Why a request took its time, from evidence by hand: the sentences, the order, and what is said of bad evidence."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.events import CATALOGUE, Recorded
from lmx_ledger.incident.costs import costs
from lmx_ledger.incident.evidence import Evidence, Stay
from lmx_ledger.incident.why import Part, Why, why
from tests.incident.by_hand import OTHER, REQUEST, own, told

HOSTILE = "\x1b[2J\u202eevil\n\x07"


def answered(parts: dict[str, float], *events: Recorded, wall_ms: float | None = None, **more: Any) -> Evidence:
    """A request that came, was admitted, answered and finished, with these parts; and other events of its own."""
    wall = sum(parts.values()) if wall_ms is None else wall_ms
    whole = [
        own(100, "request.received"),
        own(101, "request.admitted", 0.1, prompt_tokens=31_400, choices=1),
        own(110, "request.first_token", 4.2, ttft_ms=4_200.0),
        own(120, "request.finished", wall / 1e3, wall_ms=wall, parts_ms=parts, ttft_ms=4_200.0, completion_tokens=11),
    ]
    return Evidence(REQUEST, sorted([*whole, *events], key=lambda event: event.seq), **more)


def part(answer: Why, name: str) -> Part:
    return next(part for part in answer.parts if part.name == name)


def texts(answer: Why, name: str) -> str:
    return "\n".join(one.text for one in part(answer, name).because)


def test_a_slow_first_token_is_told_with_who_asked_for_what_took_its_kv() -> None:
    asked = told(8_810, "request.received", 9.0, request=OTHER, model="deepseek-r1-32b")
    plan = told(
        8_812, "paging.planned", 10.0, model="deepseek-r1-32b", cause=8_810, reason="load", victims=[],
        steps=[["kept", "m0", 10**9, 0]],
    )  # fmt: skip
    evicted = told(8_813, "kv.evicted", 11.0, cause=8_812, reason="room")
    missed = own(
        9_000, "kv.missed", 60.0, cause=8_813, reason="evicted", reused_tokens=196, recomputed_tokens=31_204,
        lost_tokens=31_000,
    )  # fmt: skip
    evidence = answered(
        {"admission": 2.0, "prefill": 4_190.0, "decode": 100.0}, missed, chains={9_000: [asked, plan, evicted]}
    )
    answer = why(evidence)
    assert answer.text == (
        "4.2 s to first token: 31,204 of 31,400 tokens re-computed because this session's KV was evicted at 14:02:11 "
        f"to load deepseek-r1-32b (plan 8812), which request {OTHER} asked for."
    )
    assert [one.seq for one in part(answer, "prefill").because] == [9_000, 8_813, 8_812, 8_810]


def test_kv_that_went_without_a_word_is_laid_to_the_plan_that_had_it_go() -> None:
    asked = told(50, "request.received", -60.0, request=OTHER, model="big")
    plan = told(60, "paging.planned", -50.0, model="big", cause=50, reason="load", victims=["m0"])
    missed = own(105, "kv.missed", 0.2, reason="evicted", reused_tokens=0, recomputed_tokens=10, lost_tokens=10)
    answer = why(answered({"prefill": 4_200.0}, missed, before=[plan], chains={60: [asked]}))
    assert f"evicted at 14:01:10 to load big (plan 60), which request {OTHER} asked for" in answer.text


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("new_session", "is new"),
        ("diverged", "at token 31, in message 0 (system): date"),
        ("paged", "memory of a worker that ended"),
        ("model_changed", "weights"),
        ("template_changed", "template"),
        ("format_changed", "form"),
        ("corrupt", "damaged"),
        ("too_short", "short"),
        ("busy", "another request"),
        ("something_new", "of something_new"),
    ],
)
def test_every_miss_has_its_reason(reason: str, words: str) -> None:
    answer = why(answered({"prefill": 4_200.0}, own(105, "kv.missed", reason=reason)))
    assert words in answer.text
    assert words in texts(answer, "prefill")


def test_parts_come_in_the_order_of_a_request_with_their_shares() -> None:
    answer = why(answered({"decode": 600.0, "queue": 300.0, "client": 100.0, "warp": 0.0}))
    assert [(one.name, one.share) for one in answer.parts] == [
        ("queue", 0.3), ("decode", 0.6), ("client", 0.1), ("warp", 0.0)
    ]  # fmt: skip
    assert answer.text.startswith("1.0 s in all, most of it (600 ms): 11 tokens were drawn, 60 ms each")
    public = answer.public()
    assert set(public) >= {"request", "wall_ms", "parts", "text"}
    assert set(public["parts"][0]) >= {"name", "ms", "share", "because"}
    assert set(public["parts"][0]["because"][0]) == {"seq", "text"}


def test_a_queue_names_who_held_the_slots_the_longest_first() -> None:
    stays = [
        Stay("req_short", 90, 10, 92, 108, 3, 50.0),
        Stay("req_long", 80, 9_000, 85, 119, 700, 90_000.0),
        Stay("req_gone", 10, 10, 11, 20, 1, 1.0),
        Stay("req_later", 118, 10),
    ]
    queued = own(100, "request.queued", position=2, running=4)
    admitted = own(117, "request.admitted")
    whole = answered({"queue": 4_000.0, "decode": 10.0})
    events = [queued, *(event for event in whole.own if event.type != "request.admitted"), admitted]
    answer = why(Evidence(REQUEST, sorted(events, key=lambda event: event.seq), others=stays))
    lines = part(answer, "queue").because
    assert lines[0].text.endswith("it was number 2 in line for a slot of m0, of which 4 were taken, behind 2 requests.")
    assert [line.text.split()[1] for line in lines[1:]] == ["req_long", "req_short"]
    assert "took 1m 30s, with 9,000 tokens of prompt and 700 tokens of answer" in lines[1].text
    assert answer.text.startswith("4.2 s to first token: it was number 2 in line for a slot of m0")


def test_a_long_queue_says_of_how_many_sessions_and_whose_program_it_was() -> None:
    stays = [Stay(f"req_{n}", 80 + n, 40, 90, 115, 3, 50.0, f"s{n % 5}", "bulk/1.0") for n in range(6)]
    queued = own(100, "request.queued", position=7, running=4)
    admitted = own(117, "request.admitted")
    whole = answered({"queue": 4_000.0, "decode": 10.0})
    events = [queued, *(event for event in whole.own if event.type != "request.admitted"), admitted]
    answer = why(Evidence(REQUEST, sorted(events, key=lambda event: event.seq), others=stays))
    lines = part(answer, "queue").because
    assert lines[0].text.endswith("behind 6 requests of 5 sessions, 6 of them from bulk/1.0.")
    assert lines[1].text.startswith("request req_0 of bulk/1.0 took")


def test_what_the_machine_suffered_from_and_the_incident_of_the_time_are_told() -> None:
    hot = told(90, "sensor.thermal_throttled", -5.0, model=None, gpu_drop=0.21)
    opened = told(91, "incident.opened", -4.0, title="Heat slows the machine")
    opened = msgspec.structs.replace(opened, incident="inc_01KD3YB2")
    answer = why(answered({"decode": 10.0}, suffered=[hot], incidents=[opened]))
    assert [(note.seq, note.text) for note in answer.notes] == [
        (90, "at 14:01:55 heat slowed this machine (its GPU's clock was 21% lower)."),
        (
            91,
            'it was in the time of an incident, "Heat slows the machine": lmx incidents show inc_01KD3YB2',
        ),
    ]


def test_a_refusal_because_of_a_burnt_budget_says_what_had_taken_the_time() -> None:
    alert = told(60, "slo.burn_alerted", -12.0, objective="ttft")
    stage = told(70, "guard.stage_changed", -9.0, model=None, cause=60, to="backpressure", reasons=["burn"])
    refused = own(102, "request.rejected", 0.1, status=429, code="backpressure", message="no new sessions", cause=70)
    evidence = Evidence(
        REQUEST,
        [own(100, "request.received"), refused],
        chains={102: [alert, stage]},
        burned={"page_in": 600.0, "decode": 100.0, "queue": 300.0, "prefill": 0.0},
        slowest=answered({"admission": 2.0, "client": 8_000.0}),
    )
    assert why(evidence).text.endswith(
        "What the requests before that took their time for: its weights came back from disk (60%), waiting for a free "
        f"slot (30%), its answer was drawn (10%). The slowest of them, {REQUEST}: 8.0 s in all, most of it (8.0 s): "
        "the engine was done with it; what was left was sent as fast as its client read."
    )


def test_a_refusal_by_rules_that_were_read_says_which() -> None:
    read = told(70, "config.changed", -9.0, model=None, changed={"queue.max_waiting": 0})
    refused = own(102, "request.rejected", 0.1, status=429, code="queue_full", message="full", cause=70)
    answer = why(Evidence(REQUEST, [own(100, "request.received"), refused], chains={102: [read]}))
    assert "At 14:01:51 a configuration was read that changed queue.max_waiting to 0 (event 70)." in answer.text


def test_a_death_is_told_with_the_signal_the_last_act_and_who_wanted_it() -> None:
    wanted = told(103, "guard.restart_requested", 1.0, reason="no_progress", silent_s=31.0)
    died = told(104, "engine.exited", 2.0, cause=103, signal="SIGKILL", hung=True, last_acts=["step 7: 3 rows"])
    resumed = own(106, "request.resumed", 5.0, cause=104, reason="worker_died", gap_ms=3_000.0)
    answer = why(answered({"resume": 3_000.0, "decode": 10.0}, resumed, chains={106: [wanted, died], 104: [wanted]}))
    said = texts(answer, "resume")
    assert "nothing came for 3.0 s" in said
    assert "ended by SIGKILL after it had given nothing for too long; the last thing that it did: step 7" in said
    assert "busy and gave nothing for 31.0 s" in said


def test_weights_that_came_back_are_told_with_who_put_them_out() -> None:
    order = told(50, "operator.commanded", -30.0, command="page-out", arguments={"model": "m0"}, via="http")
    plan = told(51, "paging.planned", -30.0, cause=50, reason="asked", victims=["m0"], steps=[])
    out = told(53, "paging.out_finished", -29.0, bytes=10**9)
    back = told(105, "paging.in_finished", 1.0, bytes=10**9, ms=900.0)
    answer = why(answered({"page_in": 1_000.0}, around=[back], outs=[out], chains={53: [order, plan]}))
    said = texts(answer, "page_in")
    assert "1 GB of m0's weights were back in memory, read in 900 ms" in said
    assert "plan 51 let weights of m0 go because an operator wanted it" in said
    assert "an operator ordered page-out for m0" in said


def test_a_refusal_says_what_is_so_since_when() -> None:
    ceiling = told(70, "guard.context_ceiling_changed", -9.0, model=None, to=512, reason="safe_mode_thermal")
    refused = own(
        102, "request.rejected", 0.1, status=400, code="context_length_exceeded", message="too long", cause=70
    )
    answer = why(Evidence(REQUEST, [own(100, "request.received"), refused], chains={102: [ceiling]}))
    assert answer.state == "rejected"
    assert answer.parts == []
    assert answer.text == (
        "It was refused with 400 context_length_exceeded: too long. At 14:01:51 safe mode began, because heat slowed "
        "this machine: at most 512 tokens (event 70)."
    )


def test_an_answer_that_was_held_short_says_so_on_top() -> None:
    ceiling = told(70, "guard.context_ceiling_changed", -9.0, model=None, to=512, reason="safe_mode_swap")
    clamped = own(102, "request.degraded", reason="max_tokens_clamped", asked=4_000, given=212)
    answer = why(answered({"decode": 10.0}, clamped, ceiling=ceiling))
    assert [note.text for note in answer.notes] == [
        "its answer was held to 212 tokens where 4,000 were asked for.",
        "at 14:01:51 safe mode began, because this machine swapped: at most 512 tokens.",
    ]


@pytest.mark.parametrize(("state", "words"), [("running", "still running"), ("lost", "has no end")])
def test_what_has_no_end_shows_what_is_known_and_says_so(state: str, words: str) -> None:
    events = [
        own(100, "request.received"),
        own(101, "request.admitted", 1.0, queue_ms=1_000.0),
        own(103, "request.first_token", 3.0, ttft_ms=3_000.0),
    ]
    answer = why(Evidence(REQUEST, events, state=state))
    assert answer.state == state
    assert words in answer.notes[0].text
    assert answer.reckoned
    assert {one.name: one.ms for one in answer.parts} == {"queue": 1_000.0, "prefill": 2_000.0}
    only = why(Evidence(REQUEST, events[:1], state=state))
    assert "nothing is known" in only.text


def test_events_of_before_there_were_parts_are_reckoned_and_that_is_said() -> None:
    answer = why(answered({}, wall_ms=5_000.0))
    assert answer.reckoned
    assert sum(one.ms for one in answer.parts) == pytest.approx(5_000.0)
    assert "reckoned" in answer.notes[0].text


@pytest.mark.parametrize("set_by_s", [-7_200.0, 7_200.0])
def test_a_clock_that_jumped_is_said_and_changes_no_duration(set_by_s: float) -> None:
    whole = answered({"prefill": 4_000.0})
    last = whole.own[-1]
    moved = own(120, "request.finished", 4.0 + set_by_s, **last.data)
    answer = why(whole._replace(own=[*whole.own[:-1], moved]))
    assert answer.wall_ms == 4_000.0
    assert "clock was set" in answer.notes[0].text


def test_a_broken_chain_stands_on_top() -> None:
    answer = why(answered({"decode": 1.0}, broken_at=99, state="ended"))
    assert answer.notes[0].seq == 99
    assert "may be wrong" in answer.notes[0].text


def test_what_strangers_wrote_is_harmless() -> None:
    parts = {"load": 1.0, "memory": 2.0, "page_in": 3.0, "queue": 4.0, "resume": 5.0, HOSTILE: 1.0}
    died = told(104, "engine.exited", model=HOSTILE, signal=HOSTILE, last_acts=[HOSTILE])
    evidence = answered(
        parts,
        own(103, "request.queued", model=HOSTILE),
        own(105, "kv.missed", reason=HOSTILE, model=HOSTILE),
        own(106, "request.resumed", reason=HOSTILE, error=HOSTILE, cause=104),
        own(107, "request.degraded", reason=HOSTILE, detail=HOSTILE),
        around=[told(102, "paging.planned", model=HOSTILE, victims=[HOSTILE]), died],
        others=[Stay(HOSTILE, 50, 1)],
        chains={106: [died]},
    )
    answer = why(evidence)
    assert answer.text.isprintable()
    for one in [*answer.notes, *(line for each in answer.parts for line in each.because)]:
        assert one.text.isprintable(), one
    failed = own(
        120, "request.failed", 5.0, message=HOSTILE, code=HOSTILE, parts_ms={"queue": 5_000.0}, wall_ms=5_000.0
    )
    assert why(evidence._replace(own=[*evidence.own[:-1], failed])).text.isprintable()


kinds = st.lists(st.sampled_from(sorted(CATALOGUE)), max_size=12)


@given(kinds, kinds, kinds, st.integers(0, 3))
def test_whatever_the_evidence_an_answer_comes_of_it(
    mine: list[str], around: list[str], before: list[str], state: int
) -> None:
    events = [own(100 + n, kind) for n, kind in enumerate(["request.received", *mine])]
    beside = [told(50 + n, kind, cause=n) for n, kind in enumerate(around)]
    earlier = [told(10 + n, kind) for n, kind in enumerate(before)]
    evidence = Evidence(
        REQUEST,
        events,
        chains={event.seq: earlier for event in [*events, *beside]},
        around=beside,
        before=earlier,
        outs=earlier[:2],
        ceiling=earlier[0] if earlier and earlier[0].type == "guard.context_ceiling_changed" else None,
        state=("ended", "running", "lost", "ended")[state],
    )
    answer = why(evidence)
    assert answer.text
    assert all(one.seq and one.text for each in answer.parts for one in each.because)


def test_costs_are_told_by_reason_by_who_asked_and_by_session() -> None:
    found = costs(
        [
            told(1, "kv.missed", reason="diverged", breaker="date", lost_tokens=100, cost_ms=50.0, session="a"),
            told(2, "kv.missed", reason="diverged", breaker="date", lost_tokens=50, cost_ms=25.0, session="a"),
            told(3, "kv.missed", reason="evicted", breaker=None, lost_tokens=9, cost_ms=900.0, session="b"),
            told(4, "paging.in_finished", model="m1", bytes=5, ms=7.0),
            told(5, "paging.planned", model="big", reason="load", victims=["m0", "m1"]),
            told(6, "paging.in_finished", model="m0", bytes=10, ms=70.0),
            told(7, "request.resumed", reason="worker_died", gap_ms=40.0, reread_tokens=3),
            told(8, "request.finished", session="a", wall_ms=100.0, parts_ms={"queue": 90.0, "decode": 10.0}),
            told(9, "request.cancelled", session="b", wall_ms=10.0, parts_ms={"decode": 10.0}),
        ]
    )
    assert (found["requests"], found["wall_ms"]) == (2, 110.0)
    assert [(one["reason"], one["breaker"], one["times"], one["ms"]) for one in found["misses"]] == [
        ("evicted", None, 1, 900.0), ("diverged", "date", 2, 75.0)
    ]  # fmt: skip
    assert [(one["model"], one["by"], one["why"], one["ms"]) for one in found["page_ins"]] == [
        ("m0", "big", "to load big", 70.0), ("m1", None, "before this time", 7.0)
    ]  # fmt: skip
    assert [(one["name"], one["requests"], one["ms"]) for one in found["parts"]] == [
        ("queue", 1, 90.0), ("decode", 2, 20.0)
    ]  # fmt: skip
    assert found["resumes"] == [{"reason": "worker_died", "times": 1, "reread_tokens": 3, "ms": 40.0}]
    assert [(one["session"], one["ms"]) for one in found["sessions"]] == [("b", 900.0), ("a", 165.0)]
    assert costs([])["requests"] == 0
