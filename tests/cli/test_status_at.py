"""`lmx serve status --at`: the status of any moment, from the ledger alone."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.ids import new_request_id
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place
from tests.cli.parts import document, lmx, nowhere
from tests.conftest import RunningDaemon

BEGIN_US = 1_780_000_000_000_000
SECOND_US = 1_000_000
ONE, TWO, THREE = (new_request_id() for _ in range(3))


def of_daemon(data: ev.EventData) -> ev.Event:
    return ev.Event(data=data, stream="daemon")


def model(data: ev.EventData) -> ev.Event:
    return ev.Event(data=data, stream="model:m0", model="m0")


def request(data: ev.EventData, name: str) -> ev.Event:
    return ev.Event(data=data, stream=f"request:{name}", request=name, model="m0")


def started(port: int) -> ev.Event:
    return of_daemon(ev.DaemonStarted(version="9.9", pid=7, host="127.0.0.1", port=port, platform="p", python="3"))


def received(name: str) -> ev.Event:
    data = ev.RequestReceived(
        route="r",
        stream=True,
        messages=1,
        tools=0,
        chars=1,
        prompt_sha256="",
        client=None,
        client_request_id=None,
        sampling={},
    )
    return request(data, name)


def write(home: Path, boot: str, history: list[tuple[float, ev.Event]]) -> None:
    home.mkdir(exist_ok=True)
    path = home / "ledger.db"
    migrate(path)
    file = LedgerFile(path, "NORMAL", boot)
    file.append([draft(Place(), event, BEGIN_US + int(at * SECOND_US)) for at, event in history])
    file.close()


def moment(seconds: float) -> str:
    return rfc3339(BEGIN_US + int(seconds * SECOND_US))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A run of half a minute, and one on another port that was never ended."""
    home = tmp_path / "home"
    write(
        home,
        "boot-a",
        [
            (0, started(4001)),
            (1, model(ev.ModelLoadStarted(path="/m", weights_bytes=5, reason="configured"))),
            (2, model(ev.ModelLoaded(weights_bytes=3_000_000, context=64, vocab=9, architecture="a", ms=1.0))),
            (3, of_daemon(ev.DaemonReady(url="", models=["m0"], startup_ms=3.0))),
            (4, received(ONE)),
            (5, request(ev.RequestAdmitted(prompt_tokens=50, max_tokens=9, choices=2, queue_ms=0.1, sampling={}), ONE)),
            (6, received(TWO)),
            (7, request(ev.RequestQueued(position=1, running=2), TWO)),
            (8, request(ev.RequestFirstToken(ttft_ms=40.0, prefill_ms=25.0), ONE)),
            (9, request(ev.RequestFailed(status=500, code="c", message="", prompt_tokens=1, completion_tokens=1,
                                         wall_ms=1.0), ONE)),
            (10, received(THREE)),
            (11, request(ev.RequestRejected(status=400, code="c", message="", route=""), THREE)),
            (30, of_daemon(ev.DaemonStopped(reason="SIGTERM", uptime_s=30.0))),
        ],
    )  # fmt: skip
    write(home, "boot-b", [(20, started(4002)), (21, of_daemon(ev.DaemonReady(url="", models=[], startup_ms=1.0)))])
    return home


def at(home: Path, seconds: float, *more: str) -> dict[str, Any]:
    url = () if "--port" in more else ("--url", nowhere())
    found: dict[str, Any] = document(lmx("serve", "status", "--json", "--at", moment(seconds), *url, *more, home=home))
    return found


def test_every_moment_has_its_own_status(home: Path) -> None:
    assert (at(home, 0.5)["state"], at(home, 0.5)["models"]) == ("starting", [])
    (loading,) = at(home, 1.5)["models"]
    assert loading["state"] == "loading"
    busy = at(home, 8)
    assert (busy["state"], busy["in_flight"], busy["queued"], busy["uptime_s"]) == ("running", 2, 1, 8.0)
    assert (busy["ttft_p95_ms"], busy["prefill_tps"], busy["decode_tps"]) == (40.0, 2000.0, None)
    (resident,) = busy["models"]
    assert (resident["state"], resident["resident_bytes"], resident["in_flight"]) == ("resident", 3_000_000, 2)
    assert (busy["as_of"], busy["event"]) == (moment(8), {"seq": 9, "time": moment(8)})
    assert at(home, 7.9)["event"] == {"seq": 8, "time": moment(7)}
    assert (at(home, 10.5)["in_flight"], at(home, 11.5)["in_flight"]) == (2, 1)


def test_of_two_runs_the_newest_that_goes_on_is_shown_or_the_one_of_the_port(home: Path) -> None:
    write(home, "boot-a", [(40, ev.Event(data=ev.LedgerDropped(late=1, lost=0, reason="r"), stream="ledger"))])
    later = at(home, 31)
    assert (later["port"], later["others"]) == (4002, [])
    port_a, port_b = at(home, 31, "--port", "4001"), at(home, 31, "--port", "4002")
    assert (port_a["state"], port_a["ended"], port_a["uptime_s"]) == ("stopped", moment(30), 30.0)
    assert (port_b["state"], port_b["boot"]) == ("running", "boot-b")


def test_a_run_that_crashed_ended_with_its_last_event(home: Path) -> None:
    crashed = ev.DaemonCrashDetected(boot="boot-b", pid=7, last_seq=15, last_time=moment(21), last_acts=[])
    write(home, "boot-c", [(50, of_daemon(crashed)), (51, started(4003))])
    then = at(home, 50.5)
    assert (then["boot"], then["state"], then["ended"], then["uptime_s"]) == ("boot-b", "crashed", moment(21), 1.0)
    assert (at(home, 51)["port"], at(home, 51)["state"]) == (4003, "starting")


def test_a_person_sees_the_same_table_and_of_when_it_is(home: Path) -> None:
    done = lmx("serve", "status", "--at", moment(8), "--url", nowhere(), home=home)
    first, *rest = done.stdout.splitlines()
    assert first == f"as of     {moment(8)}, event 9 ({moment(8)})"
    assert "requests  2 in flight, 1 queued" in rest
    assert "memory    3 MB of weights resident" in rest
    assert "model     m0 resident, 2 in flight" in rest
    assert "reading" in done.stderr


def test_moments_that_the_ledger_tells_nothing_of_are_one_plain_line(home: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    migrate(empty / "ledger.db")
    cases = [
        (home, "2019-01-01", f"before the first event: 1, at {moment(0)}"),
        (home, "9999999d", "before the first event"),
        (home, rfc3339(time.time_ns() // 1_000 + 60 * SECOND_US), "in the future"),
        (empty, "1m", "the ledger is empty"),
    ]
    for where, when, said in cases:
        done = lmx("serve", "status", "--at", when, "--url", nowhere(), home=where)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr.splitlines()[-1]
    assert lmx("serve", "status", "--at", "noon", home=home).returncode == 2
    nobody = lmx("serve", "status", "--at", moment(8), "--port", "4003", home=home)
    assert (nobody.returncode, "on port 4003" in nobody.stderr) == (1, True)


def test_a_daemon_tells_of_its_past_and_agrees_with_the_file(daemon: RunningDaemon) -> None:
    assert daemon.chat(model="chain").status_code == 200
    (end,) = daemon.events(type="request.finished", order="desc", limit=1)
    then = ("serve", "status", "--json", "--at", end["time"])
    there = document(lmx(*then, "--url", daemon.url, home=daemon.home))
    assert (there["boot"], there["in_flight"], there["event"]["seq"]) == (end["boot"], 0, end["seq"])
    assert {model["id"]: model["state"] for model in there["models"]} == {"chain": "resident", "random": "resident"}
    assert document(lmx(*then, "--url", nowhere(), home=daemon.home)) == there
    refused = lmx("serve", "status", "--at", "2019-01-01", "--url", daemon.url, home=daemon.home)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert re.fullmatch(r"lmx: .*before the first event: 1, at .*", line)
