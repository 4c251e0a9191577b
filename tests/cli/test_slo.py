"""`lmx slo`, without a daemon, for pipes, programs and people."""

import os
import pty
import re
import select
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lmx_ledger.core import events as ev
from tests.cli.parts import command, document, environment, lmx, nowhere, write_ledger
from tests.conftest import free_port


def answered(model: str, ttft_ms: float) -> ev.Event:
    data = ev.RequestFinished(
        status=200,
        finish_reason="stop",
        prompt_tokens=10,
        cached_tokens=0,
        completion_tokens=1,
        queue_ms=0.0,
        ttft_ms=ttft_ms,
        itl_p95_ms=None,
        wall_ms=ttft_ms,
    )
    return ev.Event(data=data, stream="s", model=model)


def refused() -> ev.Event:
    data = ev.RequestRejected(status=429, code="queue_full", message="", route="/v1/chat/completions")
    return ev.Event(data=data, stream="s")


def alerted(model: str | None = None) -> ev.Event:
    data = ev.SloBurnAlerted(
        objective="ttft",
        severity="page",
        long="1h",
        short="5m",
        factor=14.4,
        long_burn=20.0,
        short_burn=20.0,
        budget_remaining=-19.0,
        exhausts_in_s=0.0,
    )
    return ev.Event(data=data, stream="slo:ttft", model=model)


def seen(home: Path, columns: int) -> list[str]:
    """What a person sees on a terminal of so many columns, without colours."""
    here, there = pty.openpty()
    env = {**environment(home), "COLUMNS": str(columns), "TERM": "xterm-256color"}
    process = subprocess.Popen(command("slo", "--url", nowhere()), stdout=there, stderr=there, stdin=there, env=env)
    os.close(there)
    shown = b""
    while select.select([here], [], [], 60)[0]:
        try:
            shown += os.read(here, 65_536)
        except OSError:
            break
    os.close(here)
    assert process.wait() == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "").splitlines()
    return [line.rstrip() for line in lines]


def rows(home: Path) -> dict[tuple[str, str | None], dict[str, Any]]:
    answer = document(lmx("slo", "--json", "--url", nowhere(), home=home))
    return {(row["name"], row["model"]): row for row in answer["objectives"]}


def test_without_a_daemon_the_ledger_is_counted_and_stderr_says_so(tmp_path: Path) -> None:
    file = write_ledger(tmp_path, answered("m0", 100.0), answered("m0", 99_000.0), answered("m1", 1.0), refused())
    found = rows(tmp_path)
    whole = found["ttft", None]
    assert {name: whole[name] for name in ("objective", "good", "total", "shed", "exhausts_in_s")} == {
        "objective": 0.95, "good": 2, "total": 3, "shed": 1, "exhausts_in_s": 0
    }  # fmt: skip
    assert (found["ttft", "m0"]["good"], found["ttft", "m1"]["good"]) == (1, 1)
    assert (found["admission", None]["good"], found["admission", None]["total"]) == (3, 4)
    assert list(whole["burn"]) == ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]
    assert found["cold_start", None]["budget_remaining"] is None
    assert str(file) in lmx("slo", "--url", nowhere(), home=tmp_path).stderr


def test_without_any_data_that_is_said(tmp_path: Path) -> None:
    write_ledger(tmp_path)
    done = lmx("slo", "--url", nowhere(), home=tmp_path)
    assert done.returncode == 0
    assert "no data yet" in done.stderr
    assert len(done.stdout.splitlines()) == 9


def test_neither_daemon_nor_ledger_is_status_3(tmp_path: Path) -> None:
    done = lmx("slo", "--url", nowhere(), home=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "lmx serve start" in done.stderr


def test_the_configuration_of_the_home_says_what_is_promised(tmp_path: Path) -> None:
    write_ledger(tmp_path, answered("m0", 100.0))
    (tmp_path / "config.toml").write_text('[slo.ttft]\nthreshold = "50ms"\n[slo.itl]\nenabled = false\n')
    found = rows(tmp_path)
    assert (found["ttft", None]["good"], found["ttft", None]["threshold"]) == (0, 0.05)
    assert ("itl", None) not in found
    (tmp_path / "config.toml").write_text("[slo.ttft]\ntarget = 0.5\n")
    done = lmx("slo", "--url", nowhere(), home=tmp_path)
    assert done.returncode == 1
    assert "[slo.ttft] target" in done.stderr


def test_a_daemon_does_not_start_with_a_promise_that_it_could_not_watch(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[server]\nport = {free_port()}\n[slo.itl]\ntarget = 0.9\n")
    done = lmx("serve", "start", "--foreground", "--config", str(file), home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "[slo.itl] target" in line
    assert 'set period = "1d"' in line
    assert not (tmp_path / "home" / "ledger.db").exists()


def test_a_pipe_gets_fields_with_tabs(tmp_path: Path) -> None:
    write_ledger(tmp_path, answered("m0", 100.0), answered("m0", 99_000.0), alerted())
    first = lmx("slo", "--url", nowhere(), home=tmp_path).stdout.splitlines()[0]
    assert first.split("\t") == ["ttft", "", "0.95", "1", "2", "0", "-9", "0", "page:1h/5m"]


@pytest.mark.parametrize(("columns", "windows"), [(80, "1h 6h 1d 3d"), (120, "5m 30m 1h 2h 6h 1d 3d")])
def test_a_person_sees_a_table_that_fits(tmp_path: Path, columns: int, windows: str) -> None:
    write_ledger(tmp_path, *[answered("m0", 100.0)] * 97, *[answered("m0", 99_000.0)] * 3, alerted(), alerted("m0"))
    lines = seen(tmp_path, columns)
    (head,) = [line for line in lines if line.startswith("over 30 days")]
    assert head.split()[3:] == ["good", "goal", "budget", "left", *windows.split(), "lasts"]
    assert max(map(len, lines[1:])) <= columns
    (row,) = [line for line in lines if line.startswith("ttft ≤ 30s")]
    assert re.search(r"97%\s+95%\s+█+░+\s+40%\s.*0\.6x", row)
    # Of one model alone its rows say the same as those of all.
    alerts = [line for line in lines if line.startswith("page: ")]
    assert len(alerts) == 1
    assert alerts[0].startswith("page: ttft burns 0.6x over 1h and 0.6x over 5m, for ")
    assert not [line for line in lines if line.strip().startswith("m0")]


def test_of_several_models_those_that_missed_something_stand_below_what_they_add_up_to(tmp_path: Path) -> None:
    slow = "org/m1"
    write_ledger(tmp_path, answered("m0", 100.0), answered(slow, 99_000.0), refused(), alerted(slow))
    lines = seen(tmp_path, 100)
    place = next(n for n, line in enumerate(lines) if line.startswith("ttft ≤ 30s"))
    assert [line.split()[0] for line in lines[place : place + 3]] == ["ttft", "m1", "itl"]
    assert any(line.startswith("page: ttft of org/m1 burns") for line in lines)
    assert any(line.startswith("ttft of org/m1 has no budget left: 1 of 1 were not good") for line in lines)
    assert lines[-1] == "Refused on purpose: 1. Only admission tells of these."
