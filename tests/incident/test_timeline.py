"""One line of events: what matters, what repeats told once, and what may be in it that nobody should trust."""

from typing import Any

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.account import affected, times
from lmx_ledger.incident.rank import rank
from lmx_ledger.incident.state import Incident
from lmx_ledger.incident.timeline import Line, bounds, timeline
from tests.incident.parts import BEGIN_US, SECOND_US, Replayed, story
from tests.incident.test_lifecycle import HOT, M0, alerted, exited, restarted, stage


def refused(code: str = "backpressure", status: int = 429) -> ev.RequestRejected:
    return ev.RequestRejected(status=status, code=code, message="no", route="/v1/chat/completions")


def first_token(ttft_ms: float) -> ev.RequestFirstToken:
    return ev.RequestFirstToken(ttft_ms=ttft_ms, prefill_ms=ttft_ms)


def shown(*moments: Any) -> tuple[list[Line], Incident]:
    events = list(story(*moments))
    (incident, *_) = Replayed().feed(events).state.all()
    return timeline(events, incident), incident


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_what_repeats_is_one_line_with_its_first_and_last_seq() -> None:
    moments: list[Any] = [(0, exited(), M0), *((1 + n / 10, refused()) for n in range(41))]
    lines, incident = shown(*moments, (100, refused()), (101, refused("queue_full")))
    many = next(line for line in lines if line.count == 41)
    assert many.text == "41 requests refused (429 backpressure)"
    assert (many.first_seq, many.last_seq, many.kind) == (2, 42, "request")
    assert texts(lines)[-2:] == ["1 request refused (429 backpressure)", "1 request refused (429 queue_full)"]
    told = many.public(incident.started_us)
    assert (told["offset_s"], told["count"], told["symptom"]) == (1.0, 41, False)
    assert lines[0].symptom


def test_requests_that_went_well_are_not_told_and_latency_is_told_where_it_changes() -> None:
    fast = [(n, first_token(400.0)) for n in range(30)]
    slow = [(30 + n, first_token(3_100.0)) for n in range(30)]
    lines, _ = shown(*fast, *slow, (61, exited(), M0))
    assert [line.text for line in lines if line.kind == "latency"] == ["TTFT p95 of the 10 s 400 ms -> 3.1 s"]
    (line,) = [line for line in lines if line.kind == "latency"]
    assert line.first_seq == 31
    assert len(lines) == 2


def test_cache_paging_sensors_guard_and_operators_are_on_one_line() -> None:
    missed = ev.KvMissed(
        reason="diverged", reused_tokens=0, recomputed_tokens=100, lost_tokens=90, diverged_at=1, message_index=0,
        role="system", breaker="nonce", cost_ms=None,
    )  # fmt: skip
    paged = ev.PagingOutFinished(bytes=1_000_000, ms=2.0, layers=3)
    ordered = ev.OperatorCommanded(command="load", arguments={"model": "m1"}, via="http")
    lines, _ = shown(
        (0, HOT),
        (1, missed, M0),
        (2, missed, M0),
        (3, paged, M0),
        (4, ordered),
        (5, stage("normal", "backpressure", "q")),
    )
    assert [line.kind for line in lines] == ["sensor", "cache", "paging", "operator", "guard"]
    assert lines[1].text == "2 prompts computed again, 180 tokens (diverged, nonce)"
    assert lines[2].text == "Weights of m0 left memory (1 MB)"


def test_alerts_of_one_objective_are_one_line() -> None:
    lines, _ = shown((0, alerted()), (0, alerted(long="6h")), (0, alerted(), M0))
    (line,) = lines
    assert line.text.endswith("and 2 more of it")


def test_what_others_wrote_stays_text_on_one_line() -> None:
    bad = "<script>alert(1)</script>\n# **head** \x1b[31mred\u202e"
    failed = ev.ModelLoadFailed(path="/x", error=bad)
    lines, incident = shown((0, failed, {"model": "m\x1b[2J<b>"}))
    assert all(line.text.isprintable() for line in lines)
    assert "<script>alert(1)</script>" in lines[0].text
    assert incident.title.startswith("m\x1b[2J<b> cannot be loaded")


def test_of_a_time_without_events_nothing_is_told() -> None:
    _, incident = shown((0, exited(), M0))
    assert timeline([], incident) == []
    assert rank([], incident, BEGIN_US, BEGIN_US + SECOND_US) == []
    assert affected([], incident).requests == 0


def test_an_incident_that_goes_on_ends_now_and_one_of_a_clock_set_back_has_no_negative_times() -> None:
    _, incident = shown((0, exited(), M0))
    now_us = incident.started_us + 90 * SECOND_US
    assert bounds(incident, now_us) == (incident.started_us - 60 * SECOND_US, now_us)
    assert bounds(incident, 0)[1] >= incident.detected_us
    run = Replayed().feed(story((4_000, exited(), M0), (10, restarted(), M0))).tick(70)
    (over,) = run.state.all()
    assert over.status == "resolved"
    assert all(value is None or value >= 0 for value in times(over).values())
    since_us, until_us = bounds(over, BEGIN_US + 5_000 * SECOND_US)
    assert since_us <= until_us


def test_that_it_was_resolved_is_in_its_time() -> None:
    run = Replayed().feed(story((0, exited(), M0), (2, restarted(), M0))).tick(6).tick(61)
    (over,) = run.state.all()
    since_us, until_us = bounds(over, BEGIN_US + 5_000 * SECOND_US)
    resolved = run.written[-1]
    assert resolved.type == "incident.resolved"
    assert since_us <= resolved.time_us < until_us


def test_requests_from_before_a_crash_do_not_wait_for_ever_to_be_slow() -> None:
    received = ev.RequestReceived(
        route="/v1/chat/completions", stream=False, messages=1, tools=0, chars=1, prompt_sha256="0", client=None,
        client_request_id=None, sampling={},
    )  # fmt: skip
    crashed = ev.DaemonCrashDetected(
        boot="b1", pid=1, last_seq=1, last_time="2026-03-14T09:20:05.000000Z", last_acts=[]
    )
    events: list[Recorded] = list(
        story((0, received, {"request": "req_1"}), (5, crashed, {"boot": "b2"}), (6, exited(), {**M0, "boot": "b2"}))
    )
    found = Replayed().feed(events).state.all()
    ranked = rank(events, found[-1], BEGIN_US, BEGIN_US + 10 * SECOND_US)
    assert [one.kind for one in ranked] == ["worker_crash"]


def test_a_start_with_other_rules_than_before_is_a_hypothesis_and_a_start_with_the_same_is_none() -> None:
    def loaded(tokens: int) -> ev.ConfigLoaded:
        return ev.ConfigLoaded(source="/c.toml", changed={"context": {"max_tokens": tokens}})

    def ranked(tokens: int) -> list[str]:
        moments = [(n / 5, refused("queue_full")) for n in range(50, 150)]
        events = list(
            story((0, loaded(100)), (9, loaded(tokens), {"boot": "b2"}), *moments, (30, alerted("admission")))
        )
        (incident,) = Replayed().feed(events).state.all()
        return [one.kind for one in rank(events, incident, BEGIN_US, BEGIN_US + 40 * SECOND_US)]

    assert ranked(16) == ["bad_configuration"]
    assert ranked(100) == []
