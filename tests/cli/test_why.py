"""`lmx why` without a daemon: pages for people, JSON for programs, and what is said of ledgers that are not whole."""

import os
import pty
import re
import select
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.ids import new_ulid
from tests.cli.parts import command, document, environment, lmx, nowhere, write_ledger

STEM = new_ulid()
REQUEST = f"req_{STEM}"
HOSTILE = "m\x1b[2J\u202eevil"


def of(data: ev.EventData, request: str = REQUEST, model: str = "m0", session: str = "agent") -> ev.Event:
    return ev.Event(data=data, stream=f"request:{request}", request=request, session=session, model=model)


def received() -> ev.RequestReceived:
    return ev.RequestReceived(
        route="/v1/chat/completions",
        stream=True,
        messages=3,
        tools=2,
        chars=900,
        prompt_sha256="0" * 64,
        client=None,
        client_request_id=None,
        sampling={},
    )


def admitted() -> ev.RequestAdmitted:
    return ev.RequestAdmitted(prompt_tokens=300, max_tokens=100, choices=1, queue_ms=1_000.0, sampling={})


def finished(parts: dict[str, float]) -> ev.RequestFinished:
    return ev.RequestFinished(
        status=200,
        finish_reason="stop",
        prompt_tokens=300,
        cached_tokens=0,
        completion_tokens=21,
        queue_ms=1_000.0,
        ttft_ms=1_200.0,
        itl_p95_ms=50.0,
        wall_ms=sum(parts.values()),
        parts_ms=parts,
    )


def missed() -> ev.KvMissed:
    return ev.KvMissed(
        reason="diverged",
        reused_tokens=20,
        recomputed_tokens=280,
        lost_tokens=200,
        diverged_at=20,
        message_index=0,
        role="system",
        breaker="date",
        cost_ms=150.0,
    )


PARTS = {"admission": 10.0, "queue": 990.0, "prefill": 200.0, "stalls": 40.0, "decode": 700.0, "client": 0.5}


def whole(request: str = REQUEST, model: str = "m0", parts: dict[str, float] = PARTS) -> list[ev.Event]:
    said = (received(), ev.RequestQueued(position=2, running=4), admitted(), missed(), finished(parts))
    return [of(data, request, model) for data in said]


def seen(home: Path, columns: int, *arguments: str) -> list[str]:
    """What a person sees on a terminal of so many columns, without colours."""
    here, there = pty.openpty()
    env = {**environment(home), "COLUMNS": str(columns), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command("why", *arguments, "--url", nowhere()), stdout=there, stderr=subprocess.DEVNULL, stdin=there, env=env
    )
    os.close(there)
    shown = b""
    while select.select([here], [], [], 60)[0]:
        try:
            shown += os.read(here, 65_536)
        except OSError:
            break
    os.close(here)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "").splitlines()


def test_programs_get_the_contracts_form_under_any_of_its_ids(tmp_path: Path) -> None:
    file = write_ledger(tmp_path, *whole())
    done = lmx("why", REQUEST, "--json", "--url", nowhere(), home=tmp_path)
    answer = document(done)
    assert str(file) in done.stderr
    assert (answer["request"], answer["state"], answer["wall_ms"]) == (REQUEST, "finished", 1_940.5)
    assert {part["name"]: part["ms"] for part in answer["parts"]} == PARTS
    assert answer["text"].startswith(
        "1.2 s to first token: it was number 2 in line for a slot of m0, of which 4 were taken"
    )
    for name in (f"chatcmpl-{STEM}", f"cmpl-{STEM}", f"resp_{STEM}", f"msg_{STEM}", STEM, "--last"):
        assert document(lmx("why", name, "--json", "--url", nowhere(), home=tmp_path)) == answer


@pytest.mark.parametrize("columns", [80, 120])
def test_a_person_sees_a_page_that_fits(tmp_path: Path, columns: int) -> None:
    write_ledger(tmp_path, *whole())
    lines = seen(tmp_path, columns, "--last")
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith(f"{REQUEST}  finished")
    (queue,) = [line for line in lines if line.startswith("queue ")]
    assert re.match(r"queue\s+990 ms\s+51%\s+█+", queue)
    told = " ".join(line.strip() for line in lines)
    assert "280 of 300 tokens re-computed: this prompt left what was known of its session at token 20" in told
    assert "[2]" in told
    assert not [line for line in lines if line != line.rstrip()]


def test_the_slowest_come_first_with_their_reasons(tmp_path: Path) -> None:
    slow = {"prefill": 9_000.0, "decode": 10.0}
    other = f"req_{new_ulid()}"
    write_ledger(tmp_path, *whole(), *whole(other, parts=slow))
    rows = document(lmx("why", "--slowest", "5", "--json", "--url", nowhere(), home=tmp_path))["slowest"]
    assert [(row["request"], row["part"]) for row in rows] == [(other, "prefill"), (REQUEST, "queue")]
    assert "date" in rows[0]["reason"]
    only = document(lmx("why", "--slowest", "1", "--by", "ttft", "--json", "--url", nowhere(), home=tmp_path))
    assert len(only["slowest"]) == 1
    for columns in (80, 120):
        lines = seen(tmp_path, columns, "--slowest", "5")
        assert max(map(len, lines)) <= columns
        assert lines[-1] == f"All of one: lmx why {other}"


def test_costs_are_tables(tmp_path: Path) -> None:
    write_ledger(tmp_path, *whole())
    answer = document(lmx("why", "--costs", "--json", "--url", nowhere(), home=tmp_path))
    assert answer["misses"] == [{"reason": "diverged", "breaker": "date", "times": 1, "lost_tokens": 200, "ms": 150.0}]
    assert answer["sessions"] == [{"session": "agent", "lost_tokens": 200, "ms": 1_180.0}]
    for columns in (80, 120):
        lines = seen(tmp_path, columns, "--costs")
        assert max(map(len, lines)) <= columns
        assert any(re.match(r"diverged, date\s+1\s+200\s+150 ms", line) for line in lines)


def test_a_window_without_data_says_so(tmp_path: Path) -> None:
    write_ledger(tmp_path)
    for arguments, words in ((("--slowest", "3"), "--since 7d"), (("--costs",), "--since 30d")):
        done = lmx("why", *arguments, "--url", nowhere(), home=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        assert words in done.stderr
    done = lmx("why", "--last", "--url", nowhere(), home=tmp_path)
    assert done.returncode == 1
    assert "no request has ended yet" in done.stderr


def test_an_unknown_id_is_one_line_and_status_1(tmp_path: Path) -> None:
    write_ledger(tmp_path, *whole())
    for name in ("req_unknown", f"req_{new_ulid()}", HOSTILE):
        done = lmx("why", name, "--url", nowhere(), home=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        (*_, line) = done.stderr.splitlines()
        assert "there is no request" in line
        assert line.isprintable()


def test_neither_daemon_nor_ledger_is_status_3(tmp_path: Path) -> None:
    assert lmx("why", "--last", "--url", nowhere(), home=tmp_path).returncode == 3


def test_one_that_a_crash_cut_off_shows_what_is_known(tmp_path: Path) -> None:
    # Its daemon's process: none has so high a number.
    started = ev.DaemonStarted(version="0", pid=2**22 + 5, host="h", port=1, platform="p", python="3")
    write_ledger(tmp_path, ev.Event(data=started, stream="daemon"), *whole()[:-1])
    answer = document(lmx("why", REQUEST, "--json", "--url", nowhere(), home=tmp_path))
    assert answer["state"] == "lost"
    assert "it has no end" in answer["notes"][0]["text"]
    assert answer["reckoned"]
    assert seen(tmp_path, 80, REQUEST)[0].startswith("! it has no end")


def test_one_whose_daemon_still_runs_is_running(tmp_path: Path) -> None:
    started = ev.DaemonStarted(version="0", pid=os.getpid(), host="h", port=1, platform="p", python="3")
    write_ledger(tmp_path, ev.Event(data=started, stream="daemon"), *whole()[:-1])
    answer = document(lmx("why", REQUEST, "--json", "--url", nowhere(), home=tmp_path))
    assert answer["state"] == "running"
    assert "so far" in answer["text"]


def test_a_ledger_that_was_altered_is_said_on_top(tmp_path: Path) -> None:
    file = write_ledger(tmp_path, *whole())
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET data = replace(data, '\"position\":2', '\"position\":1') WHERE seq = 2")
    answer = document(lmx("why", REQUEST, "--json", "--url", nowhere(), home=tmp_path))
    assert answer["notes"][0]["seq"] == 2
    assert "not as it was written from event 2 on" in answer["notes"][0]["text"]


def test_nothing_that_strangers_wrote_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    write_ledger(tmp_path, *whole(model=HOSTILE))
    for arguments in (("--last",), ("--slowest", "1"), ("--costs",)):
        for line in seen(tmp_path, 80, *arguments):
            assert line.isprintable(), line
