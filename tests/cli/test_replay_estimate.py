"""`lmx replay` of an incident: estimate, sweep and figure, without a daemon and with one, sealed or not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.incident.timeline import BEFORE_S
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import seal_through
from tests.cli.parts import document, lmx, nowhere, screen
from tests.conftest import RunningDaemon
from tests.incident.parts import Replayed, load, scenario

SWEEP = ("--sweep", "memory.limit=80MB..240MB/5")


def storm_in(home: Path) -> Path:
    """The ledger of the paging storm, with the incident that it is."""
    home.mkdir(parents=True, exist_ok=True)
    events, _ = scenario("paging-storm")
    run = Replayed().follow(events).tick(120)
    load(home / "ledger.db", [*events, *run.written])
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return storm_in(tmp_path_factory.mktemp("home"))


def told(home: Path, *arguments: str) -> Any:
    return document(lmx("replay", *arguments, "--json", "--url", nowhere(), home=home))


def test_an_incident_is_asked_about_with_its_own_time(home: Path) -> None:
    found = told(home, "last", "--set", "memory.limit=190MB")
    (incident,) = document(lmx("incidents", "list", "--json", "--url", nowhere(), home=home))["incidents"]
    began_us = parse_rfc3339(incident["started_at"])
    assert parse_rfc3339(found["since"]) == began_us - int(BEFORE_S * 1e6)
    assert found["different"] > 0
    assert found["bears_on"] == {"memory.limit": ["exact", "estimated"]}
    estimate = found["estimate"]
    assert estimate["estimated"]["page_ins"] <= 1 < estimate["recorded"]["page_ins"]
    assert estimate["text"][-2].startswith("page-ins: ")
    assert told(home, incident["id"][4:20].lower(), "--set", "memory.limit=190MB")["estimate"] == estimate


def test_a_pipe_gets_the_decisions_and_the_estimate_and_of_a_sweep_a_table_between_tabs(home: Path) -> None:
    plain = lmx("replay", "last", "--set", "queue.max_waiting=0", "--url", nowhere(), home=home)
    assert plain.returncode == 0
    assert "no recorded decision hangs on queue.max_waiting" in plain.stderr
    assert re.search(r"^estimate\trequests answered: \d+ recorded", plain.stdout, re.M)
    rows = lmx("replay", "last", *SWEEP, "--url", nowhere(), home=home).stdout.splitlines()
    heads, *values = [row.split("\t") for row in rows]
    assert heads[:3] == ["value", "decisions", "different"]
    assert [row[0] for row in values] == ["80000000", "120000000", "160000000", "200000000", "240000000"]
    assert {len(row) for row in values} == {len(heads)}
    moved = [float(row[heads.index("page_ins")]) for row in values]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] == 0 < moved[0]


def test_a_person_sees_a_table_with_bars_that_fits_the_terminal(home: Path) -> None:
    with screen("replay", "last", *SWEEP, "--url", nowhere(), home=home) as seen:
        text = seen.until("in force")
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80 or "reading" in max(lines, key=len)
    row = next(line for line in lines if "80 MB" in line)
    assert "█" in row
    assert any(line.strip().startswith("off by") for line in lines)
    with screen("replay", "last", "--set", "memory.limit=190MB", "--url", nowhere(), home=home) as seen:
        text = seen.until("time spent paging in.*")
    assert "served again by a model, and estimated with these rules:" in text


@pytest.mark.parametrize("form", [".html", ".svg"])
def test_a_sweep_is_written_as_a_page_or_a_picture_that_fetches_nothing(home: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"sweep{form}"
    done = lmx("replay", "last", *SWEEP, "--out", str(out), "--url", nowhere(), home=home)
    assert (done.returncode, done.stdout) == (0, f"Written to {out}.\n")
    text = out.read_text()
    for title in ("Page-ins", "Requests refused", "Time to the first token, 95th percentile", "Time spent waiting"):
        assert title in text
    assert text.count('role="img"') == 4
    assert text.count("<circle") == 4 * 5
    assert "in force then" in text
    assert not re.search(r'(?:src|href)="|url\(http|<script', text)
    again = tmp_path / f"again{form}"
    lmx("replay", "last", *SWEEP, "--out", str(again), "--url", nowhere(), home=home)
    undated = re.compile(r"\d{4}-\d\d-\d\d[ T][\d:.]+")
    assert undated.sub("", again.read_text()) == undated.sub("", text)


def test_what_is_asked_wrongly_is_said(home: Path) -> None:
    for arguments, status, why in (
        (("last", "--since", "1h"), 2, "an incident has its own time"),
        (("nobody",), 1, "there is no incident 'nobody'"),
        (("--sweep", "memory.limit"), 2, "is no sweep"),
        (("--sweep", "memory.limit=1GB..2GB"), 2, "in how many values"),
        (("--sweep", "kv.ram=1GB"), 2, "a replay cannot set 'kv.ram'"),
        (("--sweep", "memory.page_at=" + ",".join(["0.8"] * 33)), 2, "1 to 32 values"),
        (("--sweep", "memory.page_at=0.1"), 2, "cannot be above page_at"),
        (("--out", "x.html"), 2, "takes a --sweep"),
        ((*SWEEP, "--out", "x.png"), 2, "ends in .html or .svg"),
        ((*SWEEP, "--out", "/nowhere/x.svg"), 1, "cannot be written"),
    ):
        done = lmx("replay", *arguments, "--url", nowhere(), home=home)
        assert done.returncode == status, (arguments, done.stderr)
        assert why in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split()), (arguments, done.stderr)


def test_what_was_sealed_counts_without_a_daemon_and_with_one(
    tmp_path: Path, start_daemon: Callable[[str], RunningDaemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The home that the daemon will have, before there is a daemon.
    home = storm_in(tmp_path / "home0")
    # Not the incident's time, which goes on: the daemon's own first events would be in it.
    first, last = (rfc3339(event.time_us) for event in (scenario("paging-storm")[0][at] for at in (0, -1)))
    asked = ("--since", first, "--until", last, "--set", "memory.limit=190MB")
    whole = told(home, *asked)
    monkeypatch.setattr(sealing, "KEPT", 10)
    sealed = list(seal_through(home / "ledger.db", 1_100))
    # A good part of the incident's time.
    assert sealed[-1].last_seq >= BLOCK - 1
    assert told(home, *asked)["estimate"] == whole["estimate"]
    for name in ("decisions", "different", "differences", "stages_s"):
        assert told(home, *asked)[name] == whole[name]
    running = start_daemon("[engine]\nstandby = false\n")
    assert running.home == home
    body = {"since": first, "until": last, "set": {"memory.limit": "190MB"}, "sweep": "memory.limit=100MB,190MB"}
    answer = running.post("/lmx/replay", body).json()
    assert answer["estimate"] == whole["estimate"]
    assert answer["differences"] == whole["differences"]
    assert [row["value"] for row in answer["sweep"]["rows"]] == [100_000_000, 190_000_000]
    assert answer["sweep"]["in_force"] == 100_000_000
    here = ("--url", running.url)
    assert running.post("/lmx/replay", {"incident": "last"}).json()["since"] == told(home, "last")["since"]
    assert document(lmx("replay", *asked, "--json", *here, home=home))["estimate"] == whole["estimate"]
    for wrong, status, param in (
        ({"incident": "last", "since": "1h"}, 400, "incident"),
        ({"incident": "nobody"}, 404, None),
        ({"sweep": "memory.limit"}, 400, "sweep"),
        ({"set": {"kv.ram": "1GB"}}, 400, "set"),
    ):
        refused: httpx.Response = running.post("/lmx/replay", wrong)
        assert refused.status_code == status, refused.text
        assert json.loads(refused.content)["error"]["param"] == param
