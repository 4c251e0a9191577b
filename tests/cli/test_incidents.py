"""`lmx incidents`, without a daemon, for pipes, programs and people; and against a daemon."""

import os
import pty
import re
import select
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lmx_ledger.core import events as ev
from tests.cli.parts import command, document, environment, lmx, nowhere, write_ledger
from tests.conftest import RunningDaemon
from tests.incident.parts import Replayed, load, scenario


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a recorded fault, as a daemon that has this program leaves it."""
    folder = tmp_path_factory.mktemp("home")
    events, _ = scenario("engine-hang")
    run = Replayed().follow(events).tick(70)
    load(folder / "ledger.db", [*events, *run.written])
    return folder


def seen(home: Path, columns: int, *arguments: str) -> list[str]:
    """What a person sees on a terminal of so many columns, without colours."""
    here, there = pty.openpty()
    env = {**environment(home), "COLUMNS": str(columns), "TERM": "xterm-256color", "TZ": "UTC"}
    process = subprocess.Popen(
        command("incidents", *arguments, "--url", nowhere()), stdout=there, stderr=there, stdin=there, env=env
    )
    os.close(there)
    shown = b""
    while select.select([here], [], [], 60)[0]:
        try:
            shown += os.read(here, 65_536)
        except OSError:
            break
    os.close(here)
    assert process.wait() == 0, shown
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "").splitlines()
    return [line.rstrip() for line in lines]


def test_without_a_daemon_the_ledger_is_read_and_stderr_says_so(home: Path) -> None:
    done = lmx("incidents", "list", "--json", "--url", nowhere(), home=home)
    assert "reading" in done.stderr
    (one,) = document(done)["incidents"]
    assert (one["title"], one["status"], one["drill"]) == ("drill: The worker of m0 hung", "resolved", True)
    assert one["models"] == ["m0"]
    assert document(lmx("incidents", "list", "--status", "open", "--json", "--url", nowhere(), home=home)) == {
        "incidents": []
    }
    assert lmx("incidents", "list", "--status", "loud", "--url", nowhere(), home=home).returncode == 2
    fields = lmx("incidents", "list", "--url", nowhere(), home=home).stdout.split("\t")
    assert fields[0] == one["id"]
    assert fields[5:] == ["drill", "m0", "drill: The worker of m0 hung\n"]


def test_one_is_shown_with_its_times_whom_it_hit_and_hypotheses(home: Path) -> None:
    answer = document(lmx("incidents", "show", "last", "--json", "--url", nowhere(), home=home))
    # A standby may have taken over before anybody decided that this is an incident.
    assert 0 < answer["times"]["mitigate_s"] < answer["times"]["resolve_s"] > answer["times"]["detect_s"] > 0
    assert answer["times"]["acknowledge_s"] is None
    assert answer["hypotheses"][0]["kind"] == "engine_hang"
    assert answer["hypotheses"][0]["seqs"] == [event["seq"] for event in answer["opened_by"]] == answer["events"]
    assert answer["affected"]["slow"] >= 1
    assert answer["ledger_distrusted"] is None
    again = document(lmx("incidents", "show", answer["id"][:20].lower(), "--json", "--url", nowhere(), home=home))
    assert again["id"] == answer["id"]


def test_the_timeline_is_the_same_for_programs_and_for_pipes(home: Path) -> None:
    answer = document(lmx("incidents", "timeline", "last", "--json", "--url", nowhere(), home=home))
    piped = lmx("incidents", "timeline", "last", "--url", nowhere(), home=home).stdout.splitlines()
    assert [line.split("\t")[-1] for line in piped] == [line["text"] for line in answer["lines"]]
    assert {"worker", "guard", "operator", "drill", "latency"} <= {line["kind"] for line in answer["lines"]}


@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_person_sees_fits(home: Path, columns: int) -> None:
    listed = seen(home, columns, "list")
    assert any("drill: The worker of m0 hung" in line for line in listed)
    one = seen(home, columns, "show", "last")
    assert "Hypotheses (by evidence; none is proved)" in one
    assert any(line.startswith("  1. engine hang") for line in one)
    assert any(line.startswith("One by one: lmx incidents timeline inc_") for line in one)
    timeline = seen(home, columns, "timeline", "last")
    assert any(re.match(r" +\+4\.\d s \* worker +Worker for m0 ended", line) for line in timeline)
    # The first line says where the ledger is, whatever the length of that.
    for lines in (listed, one, timeline):
        assert max(map(len, lines[1:])) <= columns


def test_an_unknown_one_is_told_and_to_acknowledge_takes_a_daemon(home: Path) -> None:
    done = lmx("incidents", "show", "inc_NOTHING\x1b[2J", "--url", nowhere(), home=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert "lmx incidents list" in done.stderr
    assert "\x1b" not in done.stderr
    assert lmx("incidents", "ack", "last", "--url", nowhere(), home=home).returncode == 3
    assert lmx("incidents", "close", "last", "--url", nowhere(), home=home).returncode == 3


def test_where_there_was_none_that_is_said(tmp_path: Path) -> None:
    write_ledger(tmp_path)
    done = lmx("incidents", "list", "--url", nowhere(), home=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "there was no incident" in done.stderr
    assert lmx("incidents", "show", "last", "--url", nowhere(), home=tmp_path).returncode == 1


def test_a_ledger_that_was_altered_is_shown_with_a_warning_on_top(tmp_path: Path) -> None:
    events, _ = scenario("engine-hang")
    load(tmp_path / "ledger.db", events)
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET severity = 50 WHERE seq = 7")
    answer = document(lmx("incidents", "show", "last", "--json", "--url", nowhere(), home=tmp_path))
    assert "from event 7 on" in answer["ledger_distrusted"]
    lines = seen(tmp_path, 100, "timeline", "last")
    assert lines[1].startswith("The ledger cannot be relied on")


def test_what_strangers_wrote_cannot_fool_a_terminal(tmp_path: Path) -> None:
    bad = "\x1b]0;owned\x07<img src=x onerror=alert(1)> **bold** \u202egnp.exe"
    failed = ev.Event(data=ev.ModelLoadFailed(path="/x", error=bad), stream="s", model="m\x1b[31m")
    file = write_ledger(tmp_path, failed)
    from lmx_ledger.ledger.filter import EventFilter  # noqa: PLC0415
    from lmx_ledger.ledger.query import Reader  # noqa: PLC0415

    reader = Reader.open(file)
    events = reader.events(EventFilter())
    reader.close()
    other = tmp_path / "other"
    other.mkdir()
    load(other / "ledger.db", [*events, *Replayed().feed(events).written])
    for name in ("list", "show", "timeline"):
        done = lmx("incidents", name, *(["last"] if name != "list" else []), "--url", nowhere(), home=other)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert "\u202e" not in done.stdout


def test_a_daemon_tells_of_incidents_and_takes_orders(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    running = start_daemon(model_config + "[drills]\nenabled = true\n")
    assert running.get("/lmx/incidents") == {"incidents": []}
    running.chat()
    running.post("/lmx/drills", {"kind": "engine-crash", "for_s": 1, "model": "chain"}).raise_for_status()
    opened = running.wait_event("incident.opened")
    name = opened["incident"]
    told = document(lmx("incidents", "show", "last", "--json", "--url", running.url, home=running.home))
    assert told["id"] == name
    assert told["hypotheses"][0]["kind"] == "worker_crash"
    assert running.get(f"/lmx/incidents/{name}/timeline")["lines"]
    assert lmx("incidents", "ack", name[:12], "--url", running.url, home=running.home).stdout.startswith("Acknowledged")
    closed = running.post(f"/lmx/incidents/{name}/close", {}).json()
    assert closed["status"] == "closed"
    orders = running.events(type="operator.commanded", incident=name)
    assert [order["data"]["command"] for order in orders] == ["incidents.ack", "incidents.close"]
    assert running.events(type="incident.closed")[0]["cause"] == orders[1]["seq"]
    assert running.post(f"/lmx/incidents/{name}/ack", {}).status_code == 409
    for path in ("/lmx/incidents/inc_NOTHING", "/lmx/incidents/inc_NOTHING/timeline"):
        with pytest.raises(Exception, match="404"):
            running.get(path)
    with pytest.raises(Exception, match="400"):
        running.get("/lmx/incidents", params={"status": "loud"})
    assert len(running.get("/lmx/incidents", params={"status": "closed", "since": "1h"})["incidents"]) == 1


@pytest.mark.parametrize("form", ["md", "html", "json"])
def test_its_postmortem_is_written_the_same_twice(home: Path, tmp_path: Path, form: str) -> None:
    written = []
    for name in ("one", "two"):
        file = tmp_path / name
        done = lmx(
            *("incidents", "report", "last", "--format", form, "--out", str(file), "--url", nowhere()), home=home
        )
        assert done.returncode == 0, done.stderr
        written.append(file.read_bytes())
    assert written[0] == written[1]
    text = written[0].decode()
    assert "The worker of m0 hung" in text
    assert "lmx ledger verify" in text
    # What a page would fetch or run.
    assert not re.search(r"<script|<link|src=|@import", text)


def test_reports_have_a_folder_with_an_index(home: Path, tmp_path: Path) -> None:
    done = lmx(
        "incidents", "report", "last", "--into", str(tmp_path / "reports"), "--json", "--url", nowhere(), home=home
    )
    files = document(done)
    assert {Path(file).suffix for file in files.values()} == {".json", ".md", ".html"}
    assert all(Path(file).stat().st_size > 2_000 for file in files.values())
    assert "The worker of m0 hung" in (tmp_path / "reports" / "index.html").read_text()


def test_a_report_that_cannot_be_written_says_why(home: Path, tmp_path: Path) -> None:
    done = lmx("incidents", "report", "last", "--out", str(tmp_path / "no" / "x"), "--url", nowhere(), home=home)
    assert (done.returncode, "cannot be written: No such file or directory" in done.stderr) == (1, True)
    assert lmx("incidents", "report", "inc_none", "--url", nowhere(), home=home).returncode == 1
