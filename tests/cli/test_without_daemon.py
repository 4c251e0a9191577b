"""No daemon: the ledger file answers where it can, and everything else says so with status 3."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.parts import command, document, environment, lmx, nowhere, queued, rejected, write_ledger

ESCAPES = "\x1b[2J\u202eevil\nline"


@pytest.mark.parametrize(
    "arguments", [("serve", "status"), ("models", "list"), ("chat",), ("events",), ("serve", "logs")], ids=" ".join
)
def test_no_daemon_and_no_ledger_is_status_3_and_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = lmx(*arguments, "--url", nowhere(), home=tmp_path, stdin="hi")
    assert done.returncode == 3
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "lmx serve start" in done.stderr


def test_stopping_what_does_not_run_is_status_3(tmp_path: Path) -> None:
    assert lmx("serve", "stop", home=tmp_path).returncode == 3
    assert lmx("serve", "stop", "--port", "1", home=tmp_path).returncode == 3


def test_events_come_from_the_file_and_stderr_says_so(tmp_path: Path) -> None:
    file = write_ledger(tmp_path, queued(1), rejected("no"), queued(2))
    done = lmx("events", "--json", "--url", nowhere(), home=tmp_path)
    answer = document(done)
    assert str(file) in done.stderr
    assert [event["seq"] for event in answer["events"]] == [1, 2, 3]
    assert answer["events"][1]["data"]["message"] == "no"
    assert answer["complete"] is True


def test_filters_and_orders_work_on_the_file(tmp_path: Path) -> None:
    write_ledger(tmp_path, *(queued(n) for n in range(1, 6)), rejected("no", request="req_9", model="m9"))
    url = nowhere()

    def seqs(*arguments: str) -> list[int]:
        answer = document(lmx("events", "--json", "--url", url, *arguments, home=tmp_path))
        return [event["seq"] for event in answer["events"]]

    assert seqs("--type", "request.q*") == [1, 2, 3, 4, 5]
    assert seqs("--type", "request.queued", "--type", "request.rejected", "--order", "desc", "--limit", "2") == [6, 5]
    assert seqs("--limit", "2") == [5, 6]
    assert seqs("--order", "asc", "--limit", "2") == [1, 2]
    assert seqs("--model", "m9") == seqs("--request", "req_9") == seqs("--severity", "warning") == [6]
    assert seqs("--since", "1h") == [1, 2, 3, 4, 5, 6]
    assert seqs("--until", "2020-01-01T00:00:00Z") == []


def test_a_cut_answer_says_that_it_is_cut(tmp_path: Path) -> None:
    write_ledger(tmp_path, queued(1), queued(2), queued(3))
    done = lmx("events", "--json", "--order", "asc", "--limit", "2", "--url", nowhere(), home=tmp_path)
    answer = document(done)
    assert (answer["complete"], answer["next"]) == (False, 2)
    assert "there are more" in done.stderr


def test_more_events_than_a_page_are_all_shown_when_asked_for(tmp_path: Path) -> None:
    write_ledger(tmp_path, *(queued(n) for n in range(1, 2502)))
    done = lmx("events", "--limit", "5000", "--url", nowhere(), home=tmp_path)
    assert [int(line.split("\t")[0]) for line in done.stdout.splitlines()] == list(range(1, 2502))


def test_piped_output_is_plain_uncut_and_without_what_strangers_slip_in(tmp_path: Path) -> None:
    write_ledger(tmp_path, rejected(ESCAPES + "x" * 3000))
    for arguments in (("events",), ("serve", "logs")):
        done = lmx(*arguments, "--url", nowhere(), home=tmp_path)
        (line,) = done.stdout.splitlines()
        assert line.isprintable() or "\t" in line
        assert "\x1b" not in line
        assert "\u202e" not in line
    assert "x" * 3000 in lmx("events", "--url", nowhere(), home=tmp_path).stdout


def test_logs_are_the_ledger_as_lines(tmp_path: Path) -> None:
    write_ledger(tmp_path, queued(3), rejected("no such role"))
    url = nowhere()
    done = lmx("serve", "logs", "--url", url, home=tmp_path)
    assert done.stdout.splitlines()[0] == "[LMX-Core] req_2 queued at position 3 behind 1 running."
    (warning,) = lmx("serve", "logs", "--level", "warning", "--url", url, home=tmp_path).stdout.splitlines()
    assert "no such role" in warning
    timed = lmx("serve", "logs", "--time", "--since", "1h", "--url", url, home=tmp_path).stdout.splitlines()
    assert all(line[:2] == "20" and "Z [LMX-Core]" in line for line in timed)
    lines = document(lmx("serve", "logs", "--json", "--url", url, home=tmp_path))["lines"]
    assert [(line["seq"], line["severity"]) for line in lines] == [(1, "info"), (2, "warning")]


def test_a_file_that_is_no_ledger_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but quite long enough to be taken for one" * 50)
    for arguments in (("events",), ("serve", "logs")):
        done = lmx(*arguments, "--url", nowhere(), home=tmp_path)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "cannot be used as a ledger" in line


def test_a_daemon_elsewhere_is_not_replaced_by_the_file_here(tmp_path: Path) -> None:
    write_ledger(tmp_path, queued(1))
    done = lmx("events", "--url", "http://no-such-host.invalid:3456", home=tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""


def test_a_reader_that_has_seen_enough_is_no_trouble(tmp_path: Path) -> None:
    write_ledger(tmp_path, *(queued(n) for n in range(2000)))
    events = command("events", "--limit", "5000", "--url", nowhere())
    shown = subprocess.Popen(events, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path))
    assert shown.stdout is not None
    assert shown.stdout.readline().startswith(b"1\t")
    shown.stdout.close()
    assert shown.stderr is not None
    complaints = shown.stderr.read().decode()
    shown.stderr.close()
    assert shown.wait() == 0
    assert "Traceback" not in complaints
    assert "Broken pipe" not in complaints


def test_one_object_per_line_is_what_a_following_program_gets(tmp_path: Path) -> None:
    write_ledger(tmp_path, queued(1), queued(2))
    arguments = command("events", "-f", "--json", "--url", nowhere())
    following = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    )
    assert following.stdout is not None
    assert [json.loads(following.stdout.readline())["seq"] for _ in range(2)] == [1, 2]
    write_ledger(tmp_path, queued(3))
    assert json.loads(following.stdout.readline())["seq"] == 3
    following.send_signal(2)
    _, complaints = following.communicate()
    assert following.returncode == 0, complaints
    assert "Traceback" not in complaints
