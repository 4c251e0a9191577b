"""A digest from a ledger: what it says of a week, the same bytes each time, whatever is sealed or comes later."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from lmx_ledger.core.week import DAY_US, WEEK_US, Period, week_before
from lmx_ledger.incident import account, savings
from lmx_ledger.incident.costs import costs
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.projection import FILE, Projections
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import seal_through
from lmx_ledger.report.digest.from_ledger import as_form
from lmx_ledger.report.digest.model import Digest, Incident
from lmx_ledger.slo.rollup import RollupProjection, rollups
from tests.incident.parts import Replayed, load, scenario
from tests.report.digest import parts
from tests.report.digest.parts import WEEK


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts.write(tmp_path_factory.mktemp("home"), parts.two_weeks())


@pytest.fixture(scope="module")
def document(ledger: Path) -> Digest:
    return parts.made(ledger)


def forms(document: Digest) -> list[bytes]:
    return [as_form(document, form) for form in ("json", "md", "html")]


def test_it_says_what_was_asked_and_what_became_of_it(document: Digest) -> None:
    assert document.header.week == "2026-W11"
    assert (document.total.requests, document.total.answered, document.total.refused) == (74, 70, {"backpressure": 4})
    assert [day.requests for day in document.days] == [11, 11, 11, 11, 10, 10, 10]
    assert {one.model: sum(one.requests) for one in document.model_days} == {"m0": 50, "m1": 24}
    assert document.summary.startswith("74 requests ended: 70 answered, 4 refused. 1 incident lasted 14m 10s in all, ")


def test_traffic_is_what_the_minute_rollups_have(ledger: Path, document: Digest, tmp_path: Path) -> None:
    reader = Reader.open(ledger)
    folding = Projections(tmp_path / FILE, [RollupProjection()], reader)
    while folding.advance():
        pass
    folding.close()
    for number, day in enumerate(document.days):
        since_us = WEEK.since_us + number * DAY_US
        found = rollups(tmp_path / FILE, since_us, since_us + DAY_US, None, "ttft_ms")
        assert (day.ttft_p95_ms, day.answered) == (round(found.quantile(0.95) or 0.0, 3), found.count)
        assert rollups(tmp_path / FILE, since_us, since_us + DAY_US, None, "outcome.*").count == day.requests
    reader.close()


def test_costs_are_those_of_lmx_why_without_what_was_rehearsed(ledger: Path, document: Digest) -> None:
    reader = Reader.open(ledger)
    wanted = EventFilter(since_us=WEEK.since_us, until_us=WEEK.until_us, limit=5_000)
    events = [event for event in reader.events(wanted) if "drill" not in event.data]
    reader.close()
    kinds = ("kv.missed", "paging.planned", "paging.in_finished", "request.resumed", "request.finished")
    told = costs(event for event in events if event.type in kinds)
    assert msgspec.to_builtins(document.costs.misses) == told["misses"]
    assert msgspec.to_builtins(document.costs.page_ins) == told["page_ins"]
    assert [(one.name, one.ms) for one in document.costs.parts] == [(one["name"], one["ms"]) for one in told["parts"]]
    assert document.costs.resumes == []
    assert [(one.name, one.ms) for one in document.costs.clients] == [("claude-cli/2.0", 70 * 170.0)]
    assert document.costs.sessions[0].ms == 70 * 170.0 + 10 * 2_000.0
    assert any("1 rehearsal began in this time" in note for note in document.notes)


def test_a_rehearsal_asks_for_no_change_and_the_dearest_comes_first(document: Digest) -> None:
    assert [(one.rule, one.cost_ms) for one in document.changes] == [
        ("refuse_later", 20_000.0),
        ("stable_prefix", 20_000.0),
        ("make_room", 12_000.0),
    ]
    assert all(one.because for one in document.changes)
    assert document.changes[-1].cost_ms >= savings.LEAST_MS


def test_budgets_have_what_was_burned_what_is_left_and_the_fastest_burn(document: Digest) -> None:
    ttft = next(one for one in document.budgets if (one.objective, one.model) == ("ttft", None))
    assert (ttft.good, ttft.total, ttft.burned, ttft.burned_before) == (70, 70, 0.0, 0.0)
    assert ttft.left_before == 0.9
    assert ttft.left == pytest.approx(0.738)
    assert (ttft.fastest, ttft.window) == (2.5, "1h")
    admission = next(one for one in document.budgets if (one.objective, one.model) == ("admission", None))
    assert admission.burned == pytest.approx(4 / 74 / 0.05)
    assert [one.model for one in document.budgets if one.objective == "admission"] == [None, "m0"]


def test_objectives_are_those_that_the_ledger_says_were_configured(document: Digest) -> None:
    chart = next(one for one in document.figures if one.key == "ttft")
    assert [level.label for level in chart.levels] == ["objective 1 s"]  # type: ignore[union-attr]


def test_a_configuration_that_this_version_does_not_know_is_said(tmp_path: Path) -> None:
    events = [parts.at(-8, "config.loaded", changed={"slo": {"ttft": {"thresh": 1.0}}}), *parts.a_week()]
    assert any("not understood" in note for note in parts.made(parts.write(tmp_path, events)).notes)


def one_of(document: Digest, name: str) -> Incident:
    return next(one for one in document.incidents if one.id == name)


def test_incidents_have_their_steps_and_rehearsals_are_told_from_them(document: Digest) -> None:
    one = one_of(document, parts.INCIDENT)
    assert (one.severity, one.status, one.open, one.drill) == ("error", "resolved", False, False)
    assert one.detect_s == pytest.approx(30.864, abs=0.01)
    assert one.acknowledge_s == pytest.approx(116.4, abs=0.01)
    assert one.lasted_s == one.mitigate_s == pytest.approx(850.8, abs=0.01)
    assert one_of(document, parts.DRILLED).drill
    assert [one.id for one in document.incidents] == [parts.INCIDENT, parts.DRILLED]


def test_the_likely_cause_is_what_the_incident_itself_is_told_with(tmp_path: Path) -> None:
    events, _ = scenario("engine-hang")
    run = Replayed().follow(events).tick(70)
    behind = msgspec.structs.replace(events[-1], time_us=events[-1].time_us + WEEK_US)
    load(tmp_path / "ledger.db", [*events, *run.written, behind])
    reader = Reader.open(tmp_path / "ledger.db")
    rows = {
        one.id: one for one in parts.made(tmp_path / "ledger.db", week_before(events[-1].time_us + WEEK_US)).incidents
    }
    over = [one for one in run.state.all() if one.into is None and one.ended_us is not None]
    assert over
    for incident in over:
        window = account.window(tmp_path / "ledger.db", reader, incident, events[-1].time_us + 10**9)
        likeliest = account.hypotheses(window, incident)[0]
        assert (rows[incident.id].cause, rows[incident.id].score) == (likeliest.text, likeliest.score)
    reader.close()


def test_an_incident_that_goes_on_is_in_both_weeks_as_it_stood_then(tmp_path: Path) -> None:
    opened = {"title": "t", "severity": "warning", "models": ["m0"], "symptom": "heat", "events": [1]}
    start = "2026-03-15T12:00:00.000000Z"
    events = [
        *parts.a_week(),
        parts.at(6.5, "incident.opened", incident=parts.INCIDENT, **opened, started_at=start),
        *parts.a_week(7.0),
        parts.at(7.5, "incident.mitigated", incident=parts.INCIDENT, at="2026-03-16T11:00:00.000000Z"),
    ]
    path = parts.write(tmp_path, events)
    first, second = parts.made(path), parts.made(path, Period(WEEK.until_us, 2 * WEEK.until_us - WEEK.since_us))
    assert (first.incidents[0].open, first.incidents[0].lasted_s) == (True, 43_200.0)
    assert (second.incidents[0].open, second.incidents[0].lasted_s) == (False, 82_800.0)
    time_in = next(one for one in second.compared if one.name == "time in incidents")
    assert (time_in.now, time_in.before) == (39_600_000.0, 43_200_000.0)


def test_the_week_before_stands_beside_it(document: Digest, tmp_path: Path) -> None:
    rows = {one.name: one for one in document.compared}
    assert (rows["requests"].now, rows["requests"].before, rows["requests"].better) == (74, 74, "")
    assert (rows["incidents"].now, rows["incidents"].before, rows["incidents"].better) == (1, 0, "no")
    alone = parts.made(parts.write(tmp_path, parts.a_week()))
    assert alone.compared == []
    assert "There is no time before to compare with." in as_form(alone, "md").decode()


def test_the_same_week_of_the_same_ledger_gives_the_same_bytes(ledger: Path) -> None:
    assert forms(parts.made(ledger)) == forms(parts.made(ledger))


def test_what_comes_later_changes_nothing_of_a_week_that_is_over(
    ledger: Path, document: Digest, tmp_path: Path
) -> None:
    later = parts.write(tmp_path, [*parts.two_weeks(), *parts.a_week(8.0)])
    assert forms(parts.made(later)) == forms(document)


def test_the_projections_file_changes_nothing(ledger: Path, document: Digest, tmp_path: Path) -> None:
    from lmx_ledger.daemon.main import projections  # noqa: PLC0415

    path = parts.write(tmp_path, parts.two_weeks())
    reader = Reader.open(path)
    folding = Projections(path.with_name(FILE), projections(), reader)
    while folding.advance():
        pass
    folding.close()
    reader.close()
    assert forms(parts.made(path)) == forms(document)


def test_what_is_sealed_counts_as_it_did_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # More events, so that whole blocks can be sealed.
    crowd = [event for number in range(700) for event in parts.answered(number / 100, 10_000 + number)]
    path = parts.write(tmp_path, [*parts.two_weeks(), *crowd])
    before = forms(parts.made(path))
    monkeypatch.setattr(sealing, "KEPT", 100)
    assert list(seal_through(path, 3 * BLOCK))
    with closing(sqlite3.connect(path)) as connection:
        (first,) = connection.execute("SELECT min(seq) FROM event").fetchone()
    assert first == 3 * BLOCK
    assert forms(parts.made(path)) == before


def test_a_week_without_events_is_a_page_that_says_so(ledger: Path, tmp_path: Path) -> None:
    early = parts.made(ledger, Period(WEEK.since_us - 60 * DAY_US, WEEK.since_us - 53 * DAY_US))
    assert early.header.events == 0
    text = as_form(early, "md").decode()
    assert "The ledger has nothing of this time" in text
    assert "newest event is of 2026-03-16" in text
    assert "## Error budgets" not in text
    assert "The ledger has nothing of this time" in as_form(early, "html").decode()
    assert "The ledger is empty." in parts.made(parts.write(tmp_path, [])).notes


def test_a_week_in_which_a_daemon_idled_is_told_from_one_without_a_daemon(tmp_path: Path) -> None:
    path = parts.write(tmp_path, [parts.at(1.0, "daemon.ready"), parts.at(8.0, "daemon.stopped")])
    assert "nobody asked it for anything, and nothing went wrong" in parts.made(path).summary


def test_a_week_that_the_ledger_does_not_reach_the_end_of_is_not_whole(tmp_path: Path) -> None:
    document = parts.made(parts.write(tmp_path, parts.a_week(-0.5)))
    assert not document.header.whole
    assert "what comes later is not in here" in document.notes[0]


def test_a_clock_that_was_set_back_is_said_and_takes_nothing_away(tmp_path: Path) -> None:
    ordered = parts.in_order([*parts.a_week(), parts.at(7.5, "daemon.stopped")])
    shifted = [
        msgspec.structs.replace(event, time_us=event.time_us - 3_600_000_000) if 100 <= event.seq < 200 else event
        for event in ordered
    ]
    tmp_path.mkdir(exist_ok=True)
    load(tmp_path / "ledger.db", shifted)
    document = parts.made(tmp_path / "ledger.db")
    assert document.total.requests == 74
    assert any("The clock went back by" in note for note in document.notes)


def test_a_jump_of_the_clock_into_the_future_puts_events_where_their_times_say(tmp_path: Path) -> None:
    events = [*parts.a_week(), *parts.answered(400.0, 5)]
    document = parts.made(parts.write(tmp_path, events))
    assert document.total.requests == 74
    assert document.header.whole


def test_ten_thousand_sessions_and_many_models_make_no_longer_page(tmp_path: Path) -> None:
    events = [
        event
        for number in range(10_000)
        for event in parts.answered(
            number / 2_000, number, session=f"s-{number}", model=f"m{number % 300}", queue=float(number % 5_000)
        )
    ]
    document = parts.made(parts.write(tmp_path, events))
    assert document.total.requests == 10_000
    assert (len(document.costs.sessions), len(document.models), len(document.model_days)) == (10, 20, 21)
    assert document.costs.sessions[0].ms == 4_999.0
    assert sum(sum(one.requests) for one in document.model_days) == 10_000
    assert len(as_form(document, "html")) < 300_000


def test_days_that_are_no_week_have_their_own_bounds(ledger: Path) -> None:
    document = parts.made(ledger, Period(WEEK.since_us + DAY_US // 2, WEEK.since_us + 2 * DAY_US))
    assert [day.name for day in document.days] == ["2026-03-09", "2026-03-10"]
    assert document.header.week is None
    assert "# 2026-03-09 12:00 to 2026-03-11 00:00 UTC" in as_form(document, "md").decode().replace("\\", "")
