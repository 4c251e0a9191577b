"""`lmx serve metrics`: what it makes of a daemon's answers, how that looks in any terminal, and the command itself."""

import io
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.cells import cell_len
from rich.console import Console

from lmx_ledger.cli.page import Away, Page
from lmx_ledger.cli.reading import EVENTS, Line, Reading, Signal, pick, read
from lmx_ledger.cli.rows import History, plain, rows, spark
from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.log_lines import render
from tests.cli.parts import document, lmx, nowhere, running, screen
from tests.conftest import RunningDaemon

FIXTURES = Path(__file__).parents[1] / "fixtures" / "metrics"
URL = "http://127.0.0.1:3456"
HOSTILE = "\x1b[2J[bold]\u202eevil\n\u05d0\u05d1\u05d2[/]" + "\u6a21" * 20 + "x" * 40
SIZES = [(80, 24), (140, 40), (40, 12), (20, 5), (1, 1)]


def answers(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def reading_of(found: Any) -> Reading:
    events = [Recorded.of_public(event) for event in pick(found)]
    lines = [
        Line(one.seq, rfc3339(one.time_us), one.severity.label, render(one), one.data.get("drill")) for one in events
    ]
    at_us = events[-1].time_us + 1_000_000 if events else parse_rfc3339(found[2]["since"]) + 1_000_000
    return read(URL, at_us, found, lines)


def of(name: str) -> Reading:
    return reading_of(answers(name))


def hostile() -> Reading:
    found = answers("idle")
    for model in found[0]["models"]:
        model["id"] = HOSTILE
    found[1]["waiting"] = {"model": HOSTILE, "for": "kv"}
    for event in found[4]["events"]:
        event["data"]["model"] = event["model"] = HOSTILE
    return reading_of(found)


def nothing() -> Reading:
    found = answers("idle")
    found[0]["models"], found[1]["accounts"], found[2]["thresholds"] = [], [], []
    found[4]["events"] = found[5]["events"] = []
    return reading_of(found)


def crowd() -> Reading:
    found = answers("flood")
    found[0]["models"] = [{**found[0]["models"][0], "id": f"model-{number}"} for number in range(50)]
    return reading_of(found)


READINGS: dict[str, Callable[[], Reading]] = {
    **{name: lambda name=name: of(name) for name in ("idle", "flood", "swap", "after")},  # type: ignore[misc]
    "hostile": hostile,
    "nothing": nothing,
    "crowd": crowd,
}


def drawn(
    reading: Reading, width: int = 80, height: int = 24, *, past: History | None = None, away: Away | None = None
) -> list[str]:
    """The lines of a live page, as a terminal without colours gets them."""
    console = Console(file=io.StringIO(), width=width, height=height, markup=False, emoji=False, highlight=False)
    page = Page(reading, past or History(), 2.0, away=away, whole=False)
    lines = console.render_lines(page, console.options.update(height=height), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def value(reading: Reading, name: str) -> str:
    return dict(rows(reading))[name]


def test_an_idle_daemon_reserves_more_than_it_holds_and_both_are_said() -> None:
    idle = of("idle")
    assert value(idle, "memory") == "27% reserved: 6.2 GB of 22.7 GB; 16.9 MB held"
    assert (value(idle, "drill"), value(idle, "reasons"), value(idle, "safe_mode")) == ("none", "none", "no")
    assert value(idle, "ttft_p95") == "-"
    assert value(idle, "queue") == "nobody is served"
    assert value(idle, "signal.memory_full") == "nobody waits"


def test_the_parts_of_memory_and_what_is_free_are_the_limit() -> None:
    for name in ("idle", "flood", "swap"):
        memory = of(name).memory
        parts = memory.weights_bytes + memory.kv_bytes + memory.kept_bytes + memory.working_bytes
        assert parts <= memory.used_bytes
        assert memory.free_bytes == max(memory.limit_bytes - memory.used_bytes, 0)


def test_a_flood_shows_its_stage_its_reason_and_who_waits() -> None:
    flood = of("flood")
    assert value(flood, "stage").startswith("backpressure for ")
    assert value(flood, "reasons") == "queue_wait"
    assert value(flood, "signal.queue_wait").endswith("/ 3.0 s, ON")
    assert value(flood, "drill").startswith("DRILL flood for 30.0 s, sessions 100, a rehearsal (event ")
    assert f"{flood.in_flight} in flight, {flood.queued} of them waiting; next waits " in value(flood, "queue")


def test_what_the_daemon_decided_stays_among_the_events_of_requests() -> None:
    found = answers("flood")
    assert {event["type"].split(".")[0] for event in found[4]["events"]} <= {"request", "kv"}
    shown = pick(found)
    assert [event["seq"] for event in shown] == sorted({event["seq"] for event in shown})
    assert len(shown) == EVENTS
    assert "guard.stage_changed" in {event["type"] for event in shown}


def test_safe_mode_has_its_ceiling_and_a_lowered_limit_is_said() -> None:
    swap = of("swap")
    assert (value(swap, "safe_mode"), value(swap, "context")) == ("yes", "up to 64,000 tokens")
    assert value(swap, "signal.swap") == "yes, ON"
    assert any("SAFE MODE" in line for line in drawn(swap))
    assert "(lowered from 22.7 GB)" in value(swap, "memory")


def test_what_a_rehearsal_has_set_off_is_labelled_behind_its_end() -> None:
    after = of("after")
    assert after.drill is not None
    assert after.drill.over
    assert drawn(after)[1].startswith(" DRILL  over, but what it has set off is not (event ")


def test_a_signal_that_nobody_knows_is_not_one_that_is_low() -> None:
    assert Signal("gpu", None, 0.98, 0.88, on=False).text == "not known"
    assert Signal("gpu", None, 0.98, 0.88, on=False).share == 0.0
    assert Signal("burn", 2.0, 1.0, 0.0, on=True).share == 1.0


def test_no_models_and_an_empty_ledger_are_said() -> None:
    lines = drawn(nothing())
    assert any("none is served" in line for line in lines)
    assert any("nothing in the ledger yet" in line for line in lines)


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize(("width", "height"), SIZES, ids=str)
def test_no_line_wraps_no_page_scrolls_and_nothing_of_strangers_gets_through(
    name: str, width: int, height: int
) -> None:
    past = History()
    for _ in range(200):
        past.add(READINGS[name]())
    for away in (None, Away(12.0, f"no daemon at {HOSTILE}")):
        lines = drawn(READINGS[name](), width, height, past=past, away=away)
        assert len(lines) <= height
        for line in lines:
            assert cell_len(line) <= width
            assert line.isprintable()


@pytest.mark.parametrize("name", READINGS)
def test_plain_rows_are_one_line_each_whatever_strangers_wrote(name: str) -> None:
    for line in plain(READINGS[name]()):
        assert line.isprintable()


def test_a_page_of_80_by_24_has_room_for_everything() -> None:
    for name in ("idle", "flood", "swap", "after"):
        page = "\n".join(drawn(of(name)))
        for word in (
            "guard ",
            "signals ",
            "burn",
            "memory ",
            "pages at 85%",
            "TTFT",
            "ITL",
            "decode",
            "queue ",
            "prio",
        ):
            assert word in page, f"{word!r} in {name}:\n{page}"
        assert "lmx-demo" in page
        assert page.count("[LMX-") >= 5


def test_models_that_find_no_room_are_counted() -> None:
    (line,) = [line for line in drawn(crowd()) if line.startswith("and ")]
    shown = [line for line in drawn(crowd()) if line.startswith("model-")]
    assert line.rstrip() == f"and {50 - len(shown)} more"


def test_two_names_that_begin_alike_are_told_apart_where_they_are_cut() -> None:
    found = answers("idle")
    for number, model in enumerate(found[0]["models"]):
        model["id"] = "mlx-community/a-family-of-models-with-long-names-" + f"{number}bit"
    names = [line.split()[0] for line in drawn(reading_of(found)) if line.startswith("mlx-")]
    assert len(names) == len(set(names)) == 2


def test_sparks_go_from_nothing_to_the_highest_with_gaps_where_nobody_answered() -> None:
    assert spark([0.0, None, 5.0, 10.0], "_-=#") == "_ =#"
    assert spark([], "_#") == ""
    assert spark([None, None], "_#") == "  "
    assert spark([0.0, 0.0], "_#") == "__"


def test_history_keeps_the_last_ones() -> None:
    past = History(most=3)
    for reading in (of("idle"), of("flood"), None, of("flood")):
        past.add(reading)
    flood = of("flood").decode_tps
    assert past.last(lambda one: one.decode_tps, 9) == [flood, None, flood]
    assert past.last(lambda one: one.decode_tps, 1) == [flood]


def test_a_daemon_without_an_answer_is_said_above_what_was_last_known() -> None:
    lines = drawn(of("idle"), away=Away(75.0, "no daemon at http://127.0.0.1:3456"))
    assert lines[0].startswith(" NO ANSWER for 1m 15s ")
    assert lines[1] == "no daemon at http://127.0.0.1:3456"
    assert any("lmx-demo" in line for line in lines)


def test_a_page_and_a_document_tell_the_same_of_a_real_daemon(daemon: RunningDaemon, tmp_path: Path) -> None:
    assert daemon.chat().status_code == 200
    found = document(lmx("serve", "metrics", "--json", "--url", daemon.url, home=tmp_path))
    assert found["url"] == daemon.url
    assert (found["state"], found["stage"], found["drill"]) == ("running", "normal", None)
    assert [model["id"] for model in found["models"]] == ["chain", "random"]
    assert found["ttft_p95_ms"] > 0
    assert found["wait_s"] == 0
    assert [signal["name"] for signal in found["signals"]] == [
        one["name"] for one in daemon.get("/lmx/guard")["thresholds"]
    ]
    assert found["memory"]["held_bytes"] > 0
    assert [event["seq"] for event in found["events"]] == sorted({event["seq"] for event in found["events"]})
    assert len(found["events"]) == EVENTS
    done = lmx("serve", "metrics", "--url", daemon.url, home=tmp_path)
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names[:3] == ["url", "version", "state"]
    assert {"stage", "signal.swap", "memory", "ttft_p95", "queue", "model", "event"} <= set(names)


def test_one_object_per_line_while_watching_and_ctrl_c_is_status_0(daemon: RunningDaemon, tmp_path: Path) -> None:
    with running("serve", "metrics", "--json", "--watch", "100ms", "--url", daemon.url, home=tmp_path) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    assert complaints == ""
    times = [one["time"] for one in found]
    assert times == sorted(set(times))
    assert {tuple(one) for one in found} == {tuple(found[0])}


def test_plain_pages_follow_each_other_where_nobody_looks(daemon: RunningDaemon, tmp_path: Path) -> None:
    with running("serve", "metrics", "--watch", "100ms", "--url", daemon.url, home=tmp_path) as process:
        assert process.stdout is not None
        lines: Iterator[str] = iter(process.stdout.readline, "")
        pages = [line for line in (next(lines) for _ in range(100)) if line.startswith("url ")]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(pages) > 1


def test_without_a_daemon_it_is_status_3_watching_or_not(tmp_path: Path) -> None:
    for more in ((), ("--watch", "1s"), ("--json",), ("--json", "--watch", "1s")):
        done = lmx("serve", "metrics", "--url", nowhere(), *more, home=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("every", ["soon", "0s", "2", "1ms", "2h"])
def test_an_interval_that_is_none_is_wrong_usage(tmp_path: Path, every: str) -> None:
    assert lmx("serve", "metrics", "--watch", every, "--url", nowhere(), home=tmp_path).returncode == 2


def test_a_watched_daemon_that_goes_away_is_said_in_place_and_its_return_seen(
    start_daemon: Callable[[str], RunningDaemon], model_config: str, tmp_path: Path
) -> None:
    own = start_daemon(model_config)
    with screen("serve", "metrics", "--watch", "200ms", "--url", own.url, home=tmp_path) as shown:
        shown.until(r"running, up")
        own.kill()
        shown.until(r"NO ANSWER for")
        shown.until(r"no daemon at")
        own.restart()
        shown.until(r"running, up")
        shown.process.send_signal(signal.SIGINT)
        assert shown.process.wait(60) == 0


def test_a_program_that_watches_is_told_of_a_daemon_that_went_away(
    start_daemon: Callable[[str], RunningDaemon], model_config: str, tmp_path: Path
) -> None:
    own = start_daemon(model_config)
    with running("serve", "metrics", "--json", "--watch", "100ms", "--url", own.url, home=tmp_path) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "running"
        own.kill()
        while "error" not in (found := json.loads(process.stdout.readline())):
            pass
        assert sorted(found) == ["error", "time", "url"]
        own.restart()
        while "error" in (found := json.loads(process.stdout.readline())):
            pass
        assert found["state"] in {"starting", "running"}


@pytest.mark.parametrize("how", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_terminals_without_colours_or_movement_get_none(
    daemon: RunningDaemon, tmp_path: Path, how: dict[str, str]
) -> None:
    with screen("serve", "metrics", "--watch", "200ms", "--url", daemon.url, home=tmp_path, **how) as shown:
        shown.until(r"(?s)running, up.*running, up")
        shown.process.send_signal(signal.SIGTERM if "NO_COLOR" in how else signal.SIGINT)
        assert shown.process.wait(60) == 0
        forbidden = r"\x1b\[[0-9;]*3[0-7]m" if "NO_COLOR" in how else r"\x1b"
        assert re.search(forbidden, shown.raw) is None


def test_status_says_what_the_guard_does_and_what_is_held(daemon: RunningDaemon, tmp_path: Path) -> None:
    status = daemon.get("/lmx/status")
    assert (status["reasons"], status["drill"], status["wait_s"]) == ([], None, 0.0)
    shown = lmx("serve", "status", "--url", daemon.url, home=tmp_path).stdout
    assert "running, stage normal" in shown
    assert "reserved" in shown
    assert "held by the workers" in shown


def test_a_rehearsal_is_in_the_status_and_on_the_page(
    start_daemon: Callable[[str], RunningDaemon], model_config: str, tmp_path: Path
) -> None:
    own = start_daemon(model_config + '[drills]\nenabled = true\n[sensors]\nevery = "200ms"\n')
    started = own.post("/lmx/drills", {"kind": "thermal", "gpu_drop": 0.21, "for_s": 600}).json()["running"]
    own.wait_event("guard.context_ceiling_changed")
    assert httpx.get(own.url + "/lmx/status").json()["drill"] == started
    shown = lmx("serve", "status", "--url", own.url, home=tmp_path).stdout
    assert "stage normal, safe mode (thermal)" in shown
    assert f"thermal for 10m 00s, event {started['event']}; what is shown is a rehearsal" in shown
    assert "up to 64,000 tokens" in shown
    page = lmx("serve", "metrics", "--url", own.url, home=tmp_path).stdout
    assert f"DRILL thermal for 10m 00s, gpu_drop 0.21, a rehearsal (event {started['event']})" in page
    assert "signal.thermal        yes, ON" in page
