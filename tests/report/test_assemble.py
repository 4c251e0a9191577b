"""What a postmortem says of a paging storm, of a flood, of nothing, and of incidents that are not over."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmx_ledger.core.events import CATALOGUE, Event, Recorded
from lmx_ledger.core.examples import EXAMPLES
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.answers import QUESTIONS
from lmx_ledger.report.assemble import assemble
from lmx_ledger.report.chart import TimeChart
from lmx_ledger.report.html import html
from lmx_ledger.report.markdown import escaped, markdown
from lmx_ledger.report.model import Postmortem, Promises
from lmx_ledger.report.write import json_of, read_json
from tests.ledger.parts import write
from tests.report import parts
from tests.report.parts import CHAT, CODER, SECOND, START_US
from tests.report.reading import Page, text_of


def storm(events: list[Recorded] | None = None, **changed: Any) -> Postmortem:
    events = parts.paging_storm() if events is None else events
    opened = tuple(e.seq for e in parts.named_events(events, "guard.stage_changed"))[:1]
    return assemble(
        parts.incident(**{"opened_by": opened, **changed}),
        parts.timeline(events),
        parts.hypotheses(),
        events,
        what_if=parts.what_if(),
        integrity=parts.integrity(events) if events else None,
    )


def flood(**changed: Any) -> Postmortem:
    events = parts.flood()
    changed = {"resolved_us": START_US + 330 * SECOND, "mitigated_us": None, **changed}
    return assemble(parts.incident(title="A flood", models=(CHAT,), **changed), parts.timeline(events), [], events)


def test_the_same_inputs_give_the_same_bytes() -> None:
    once, again = storm(), storm()
    assert json_of(once) == json_of(again)
    assert markdown(once) == markdown(again)
    assert html(once) == html(again)


def test_the_json_is_all_that_the_other_forms_are_written_from() -> None:
    document = storm()
    back = read_json(json_of(document))
    assert json_of(back) == json_of(document)
    assert (markdown(back), html(back)) == (markdown(document), html(document))


def test_a_storm_has_its_times_and_how_long_each_took() -> None:
    header = storm().header
    assert header.started == "2026-03-14T09:26:00.000000Z"
    assert (header.to_detect_s, header.to_acknowledge_s, header.to_mitigate_s) == (61.0, 200.0, 640.0)
    assert (header.to_resolve_s, header.duration_s, header.open) == (900.0, 900.0, False)


def test_impact_counts_the_requests_of_the_incident_alone() -> None:
    document = storm()
    events = parts.paging_storm()
    refused = len(list(parts.named_events(events, "request.rejected")))
    assert document.total.refused == {"backpressure": refused}
    assert document.total.failed == {"engine_failed": 4}
    assert (document.total.resumed, document.total.recomputed_tokens) == (4, 4 * (4_800 + 1_731))
    assert sum(one.requests for one in document.by_model) == document.total.requests
    assert document.total.requests < len({event.request for event in events if event.request})
    assert {one.name for one in document.by_model} == {CHAT, CODER}


def test_what_is_late_goes_by_the_objectives_in_force() -> None:
    events = parts.paging_storm()
    strict = assemble(parts.incident(), [], [], events, promises=Promises(ttft_ms=100.0, itl_ms=5.0))
    assert strict.total.slow == strict.total.answered


def test_a_budget_has_what_it_was_before_and_after() -> None:
    (budget,) = storm().budgets
    assert (budget.objective, budget.before, budget.after, budget.burned) == ("ttft", 0.85, 0.58, 0.27)
    assert (budget.fastest, budget.window, budget.alerts, budget.exhausted) == (19.0, "5m", 1, False)


def test_the_guards_acts_are_held_against_their_symptoms() -> None:
    acts = {act.what.partition(" (")[0]: act for act in storm().acts}
    assert set(acts) == {"Paging", "Backpressure", "Shedding"}
    assert (acts["Backpressure"].figure, acts["Backpressure"].why) == ("wait in line, p95", "queue_wait")
    assert acts["Backpressure"].after is not None
    assert acts["Backpressure"].helped == "unclear", "the wait was longer while it lasted, and shorter only behind it"
    assert acts["Shedding"].helped == "no"


def test_a_storm_of_page_outs_has_the_action_that_makes_room() -> None:
    action = next(action for action in storm().actions if action.rule == "paging_storm")
    assert "[memory] limit, page_at" in (action.config or "")
    assert action.because
    assert action.owner == ""


def test_a_flood_has_the_action_for_the_queue_and_names_who_sent_most() -> None:
    document = flood()
    action = next(action for action in document.actions if action.rule == "flood")
    assert "[queue]" in (action.config or "")
    assert "flooding alone sent" in action.why
    assert document.sessions[0].name == "flooding"
    assert document.sessions_affected == 1


def test_a_prefix_that_breaks_is_named() -> None:
    book = parts.Book()
    for at in range(20):
        named: dict[str, Any] = {"request": parts.request_id(at), "session": "s", "model": CHAT}
        missed = {"reason": "diverged", "lost_tokens": 900, "breaker": "date", "role": "system", "cost_ms": 700.0}
        book.add("kv.missed", at, **named, **missed, reused_tokens=31, recomputed_tokens=950)
    document = assemble(parts.incident(), [], [], book.sorted())
    action = next(action for action in document.actions if action.rule == "broken_prefix")
    assert "date changes it" in action.what
    assert action.config is None


@pytest.mark.parametrize(("signal", "says"), [("SIGKILL", "short of memory"), ("SIGSEGV", "Find out why")])
def test_a_worker_that_dies_has_an_action_by_how_it_died(signal: str, says: str) -> None:
    book = parts.Book()
    for at in range(3):
        book.add("engine.exited", at, model=CHAT, expected=False, signal=signal, last_acts=["step 812"], hung=False)
    action = next(a for a in assemble(parts.incident(), [], [], book.events).actions if a.rule == "worker_crashes")
    assert says in action.what
    assert "step 812" in action.why


def test_the_slowest_requests_say_what_they_mostly_waited_for() -> None:
    worst = storm().worst
    assert len(worst) == 10
    assert [one.wall_ms for one in worst] == sorted((one.wall_ms for one in worst), reverse=True)
    for one in worst:
        assert one.queue_ms + one.prefill_ms + one.decode_ms == pytest.approx(one.wall_ms, abs=0.2)
        assert one.reason
        assert one.because


def test_no_events_at_all_still_make_a_report_that_says_so() -> None:
    document = assemble(parts.incident(), [], [], [])
    assert document.total.requests == 0
    assert all(chart.empty for chart in document.figures if chart.key != "lanes")
    text = text_of(html(document))
    for words in ("No request came in", "The guard did nothing", "No hypothesis", "timeline has no lines"):
        assert words in text
        assert words in markdown(document)
    assert "No objective was judged" in text
    assert "cannot be held against it" in text


def test_an_incident_that_is_open_lasts_up_to_the_last_event() -> None:
    events = parts.paging_storm()
    document = storm(events, resolved_us=None, mitigated_us=None, status="open")
    assert document.header.open
    assert document.header.resolved is None
    assert document.header.duration_s == pytest.approx((events[-1].time_us - START_US) / 1e6)
    assert "not over when this was written" in document.answer("long")
    assert "not yet" in text_of(html(document))


def test_an_incident_that_came_back_says_how_often() -> None:
    document = storm(reopened=2)
    assert "came back 2 times" in document.answer("long")
    assert "reopened 2 times" in text_of(html(document))
    assert "reopened 2 times" in markdown(document)


def test_a_drill_is_labelled_in_the_title_and_on_top() -> None:
    document = storm(drill=True)
    page, text = html(document), markdown(document)
    assert page.index("<title>DRILL: ") < page.index("<body>")
    assert text.startswith("# DRILL: ")
    assert text_of(page).split("Postmortem of incident")[0].count("DRILL") >= 2
    assert document.answer("what").startswith("This was a drill.")
    assert any(action.rule == "drill" for action in document.actions)


def test_a_clock_that_went_back_is_told_and_loses_nobody() -> None:
    steady = parts.paging_storm()
    middle = next(n for n, e in enumerate(steady) if e.time_us > START_US + 300 * SECOND)
    set_back = [
        msgspec.structs.replace(e, time_us=e.time_us - 7_200 * SECOND) if middle <= n < middle + 300 else e
        for n, e in enumerate(steady)
    ]
    document = storm(set_back)
    assert document.total.requests == storm(steady).total.requests
    assert any("clock went back by 1h 59m" in note for note in document.notes)
    assert "clock went back" in text_of(html(document))
    drawn = next(one for one in document.figures if isinstance(one, TimeChart))
    assert drawn.until_us - drawn.from_us < 3_600 * SECOND


def test_a_time_before_the_start_is_no_negative_duration() -> None:
    document = storm(detected_us=START_US - 5 * SECOND, acknowledged_us=START_US - SECOND)
    assert document.header.to_detect_s is None
    assert "by a clock that was set" in document.answer("noticed")


def test_ten_thousand_sessions_are_summed_up() -> None:
    book = parts.Book()
    for number in range(10_000):
        parts.request(book, number, number * 0.08, session=f"s{number}", model=CHAT, queue_s=40 if number < 50 else 0)
    document = assemble(parts.incident(), [], [], book.sorted())
    assert document.sessions_in_all == 10_000
    assert document.sessions_affected == 50
    assert len(document.sessions) == 15
    assert document.others is not None
    assert document.others.requests + sum(one.requests for one in document.sessions) == 10_000
    assert len(html(document)) < 300_000


def test_a_long_timeline_leaves_out_what_is_least_severe() -> None:
    line = parts.timeline(parts.paging_storm())[0]
    fields = {f: getattr(line, f) for f in line.__struct_fields__}
    lines = [type(line)(**{**fields, "seq": n, "severity": "debug" if n % 2 else "error"}) for n in range(1_000)]
    document = assemble(parts.incident(), lines, [], [])
    assert len(document.timeline) + document.timeline_left_out == 1_000
    assert {one.severity for one in document.timeline} == {"error"}


@pytest.mark.parametrize("key", QUESTIONS)
@pytest.mark.parametrize("document", [storm(), flood()], ids=["storm", "flood"])
def test_each_of_the_ten_questions_is_answered_in_every_form(document: Postmortem, key: str) -> None:
    answer = document.answer(key)
    assert len(answer) > 10
    assert QUESTIONS[key] in text_of(html(document))
    assert " ".join(answer.split()) in text_of(html(document))
    assert escaped(answer) in markdown(document)


def test_the_answers_are_those_of_the_events() -> None:
    document = storm()
    assert "30 refused, 4 failed" in document.answer("what")
    assert "2026-03-14 09:26:00 UTC" in document.answer("when")
    assert "guard.stage_changed" in document.answer("noticed")
    assert "13 of 13 sessions" in document.answer("who")
    assert "15m 00s" in document.answer("long")
    assert "ttft used 27 % of its budget (58 % are left)" in document.answer("cost")
    assert "models.pin and models.unload" in document.answer("done")
    assert "do not fit together" in document.answer("cause")
    assert "raise the memory limit" in document.answer("change")


def test_events_of_a_newer_program_are_no_obstacle() -> None:
    events = parts.paging_storm()
    strange = msgspec.structs.replace(events[0], seq=events[-1].seq + 1, type="guard.something_new", data={"a": [1]})
    assert storm([*events, strange]).total == storm(events).total


def test_every_type_of_event_that_a_real_ledger_has_is_taken(tmp_path: Path) -> None:
    named: dict[str, Any] = {"request": parts.request_id(1), "session": "s", "model": CHAT}
    ledger = tmp_path / "ledger.db"
    write(ledger, *(Event(data=data, stream="daemon", **named) for data in EXAMPLES))
    events = Reader.open(ledger).events(EventFilter(limit=1_000))
    around = {"started_us": events[0].time_us, "detected_us": events[0].time_us, "resolved_us": events[-1].time_us}
    document = storm(events, acknowledged_us=None, mitigated_us=None, **around)
    assert document.total.requests == 1
    assert {action.rule for action in document.actions} >= {"worker_crashes", "heat", "swapping", "disk", "load_failed"}
    assert not Page(html(document)).open
    assert markdown(document)


def test_each_event_alone_is_enough_for_a_report() -> None:
    book = parts.Book()
    for data in EXAMPLES:
        kind = next(name for name, row in CATALOGUE.items() if row.data is type(data))
        book.add(kind, 10, **msgspec.to_builtins(data))
    for event in book.events:
        assert html(storm([event]))
