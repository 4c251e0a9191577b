"""`lmx incidents bundle`, and what reads the file elsewhere: without a daemon, without a ledger."""

import contextlib
import gzip
import hashlib
import json
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from typer.testing import CliRunner, Result

from lmx_ledger.cli.main import lmx as lmx_program
from lmx_ledger.incident.bundle.form import written
from lmx_ledger.incident.bundle.opened import open_bundle
from lmx_ledger.incident.bundle.write import make
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.heads import key_of, key_path
from lmx_ledger.ledger.query import Reader
from tests.cli.parts import command, document, environment, lmx, nowhere
from tests.conftest import RunningDaemon
from tests.incident.bundles import Home, home_of, home_of_scenario
from tests.incident.parts import SECOND_US, scenario


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A ledger of a recorded fault, as a daemon that has this program leaves it."""
    found = home_of_scenario(tmp_path_factory.mktemp("home"), "engine-hang")
    yield found
    found.reader.close()


@pytest.fixture
def elsewhere(made: Home, tmp_path: Path) -> Path:
    """Another machine's folder with the bundle in it, and no ledger anywhere."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(made.file, folder / "it.bundle.gz")
    return folder


def there(folder: Path, *arguments: str) -> Result:
    """Run a command in that folder, where no daemon answers and no ledger is."""
    with contextlib.chdir(folder):
        done = CliRunner(env=environment(folder / "no-home")).invoke(lmx_program, [*arguments, "--url", nowhere()])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def document_of(done: Result) -> Any:
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


# --- making one ------------------------------------------------------------------------------------------------------


def test_without_a_daemon_it_is_made_of_the_ledger_file(made: Home, tmp_path: Path) -> None:
    home, out = made.ledger.parent, tmp_path / "out.gz"
    done = lmx("incidents", "bundle", "last", "--out", str(out), "--json", "--url", nowhere(), home=home)
    told = document(done)
    assert "reading" in done.stderr
    assert out.read_bytes() == made.file.read_bytes()
    assert (told["file"], told["bytes"], told["incident"]) == (str(out), out.stat().st_size, made.incident.id)
    assert told["redacted"]["session"] > 100
    shown = lmx("incidents", "bundle", "last", "--out", str(tmp_path), "--url", nowhere(), home=home)
    assert shown.stdout.startswith(f"Written to {tmp_path / made.incident.id}.bundle.gz: {made.incident.id}, ")
    assert (tmp_path / f"{made.incident.id}.bundle.gz").read_bytes() == made.file.read_bytes()


def test_where_nobody_names_a_file_it_is_called_after_the_incident(made: Home, elsewhere: Path) -> None:
    env = environment(made.ledger.parent)
    done = subprocess.run(
        command("incidents", "bundle", made.incident.id[:12], "--url", nowhere()),
        capture_output=True,
        check=True,
        env=env,
        cwd=elsewhere,
    )
    assert done.stdout.startswith(b"Written to inc_")
    assert (elsewhere / f"{made.incident.id}.bundle.gz").read_bytes() == made.file.read_bytes()


def test_what_cannot_be_made_or_written_says_why_and_leaves_nothing(
    made: Home, tmp_path: Path, elsewhere: Path
) -> None:
    home = made.ledger.parent
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = lmx("incidents", "bundle", "last", "--out", str(blocked / "x.gz"), "--url", nowhere(), home=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the bundle was not written" in done.stderr
    unknown = lmx("incidents", "bundle", "inc_NOTHING\x1b[2J", "--url", nowhere(), home=home)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "the known ones: lmx incidents list" in unknown.stderr
    assert "\x1b" not in unknown.stderr
    assert there(elsewhere, "incidents", "bundle", "last").exit_code == 3
    assert sorted(one.name for one in elsewhere.iterdir()) == ["it.bundle.gz"]


def test_a_disk_that_takes_no_more_leaves_no_half_of_it(made: Home, tmp_path: Path) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    out = tmp_path / "it.gz"
    out.write_bytes(b"what was there before")
    done = subprocess.run(
        command("incidents", "bundle", "last", "--out", str(out), "--url", nowhere()),
        capture_output=True,
        text=True,
        check=False,
        env=environment(made.ledger.parent),
        preexec_fn=no_room,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the bundle was not written" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["it.gz"]
    assert out.read_bytes() == b"what was there before"


def test_without_the_ledgers_key_none_is_made(made: Home, tmp_path: Path) -> None:
    shutil.copytree(made.ledger.parent, tmp_path / "home")
    key = key_path(tmp_path / "home" / "ledger.db")
    key.unlink()
    done = lmx("incidents", "bundle", "last", "--url", nowhere(), home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"lmx: {key}: there is no such key; put it back from a copy"
    proof = lmx("ledger", "verify", "--bundle", str(made.file), "--url", nowhere(), home=tmp_path / "home")
    assert (proof.returncode, "there is no such key" in proof.stderr) == (1, True)


# --- reading one elsewhere -------------------------------------------------------------------------------------------


def test_it_is_shown_as_by_the_ledger(made: Home, elsewhere: Path) -> None:
    mine = document(lmx("incidents", "show", "last", "--json", "--url", nowhere(), home=made.ledger.parent))
    done = there(elsewhere, "incidents", "show", "it.bundle.gz", "--json")
    its = document_of(done)
    assert f"it.bundle.gz verifies: {made.incident.id}, redacted, up to " in done.stderr
    for name in ("id", "status", "severity", "times", "affected", "title", "models", "ledger_distrusted", "events"):
        assert its[name] == mine[name]
    assert [one["kind"] for one in its["hypotheses"]] == [one["kind"] for one in mine["hypotheses"]]
    assert [one["seq"] for one in its["opened_by"]] == [one["seq"] for one in mine["opened_by"]]
    shown = there(elsewhere, "incidents", "show", "./it.bundle.gz").stdout
    assert "drill: The worker of m0 hung" in shown
    assert "One by one: lmx incidents timeline ./it.bundle.gz" in shown


def test_its_timeline_and_report_are_those_of_the_ledger(made: Home, elsewhere: Path) -> None:
    mine = document(lmx("incidents", "timeline", "last", "--json", "--url", nowhere(), home=made.ledger.parent))
    its = document_of(there(elsewhere, "incidents", "timeline", str(elsewhere / "it.bundle.gz"), "--json"))
    places = [(line["first_seq"], line["last_seq"], line["kind"], line["time"]) for line in mine["lines"]]
    assert [(line["first_seq"], line["last_seq"], line["kind"], line["time"]) for line in its["lines"]] == places
    report = there(elsewhere, "incidents", "report", "it.bundle.gz").stdout
    assert report.startswith("# DRILL: The worker of m0 hung")
    assert "written from a redacted bundle" in report
    done = there(elsewhere, "incidents", "report", "it.bundle.gz", "--into", "reports", "--json")
    assert sorted(Path(file).suffix for file in document_of(done).values()) == [".html", ".json", ".md"]
    assert (elsewhere / "reports" / "index.html").exists()


def test_its_requests_are_explained(made: Home, elsewhere: Path) -> None:
    rows = document_of(there(elsewhere, "why", "--slowest", "3", "--bundle", "it.bundle.gz", "--json"))["slowest"]
    assert len(rows) == 3
    assert all(row["session"].startswith("session-") for row in rows)
    one = document_of(there(elsewhere, "why", rows[0]["request"], "--bundle", "it.bundle.gz", "--json"))
    mine = document(lmx("why", rows[0]["request"], "--json", "--url", nowhere(), home=made.ledger.parent))
    assert [(part["name"], part["ms"]) for part in one["parts"]] == [
        (part["name"], part["ms"]) for part in mine["parts"]
    ]
    last = there(elsewhere, "why", "--last", "--bundle", "it.bundle.gz")
    assert last.exit_code == 0
    assert "[n] is an event: of the bundle" in last.stdout
    assert "--bundle it.bundle.gz" in there(elsewhere, "why", "--slowest", "1", "--bundle", "it.bundle.gz").stdout
    missing = there(elsewhere, "why", "req_none", "--bundle", "it.bundle.gz")
    assert (missing.exit_code, "there is no request 'req_none' in this bundle" in missing.stderr) == (1, True)
    assert there(elsewhere, "why", "--costs", "--bundle", "it.bundle.gz").exit_code == 2


def test_of_a_request_that_reaches_beyond_its_time_that_is_said(tmp_path: Path) -> None:
    # Its first request came a quarter of an hour before its answer.
    events, _ = scenario("broken-prefix")
    early = next(event.seq for event in events if event.type == "request.received")
    moved = [msgspec.structs.replace(e, time_us=e.time_us - 900 * SECOND_US) if e.seq == early else e for e in events]
    home_of(tmp_path, moved).reader.close()
    with open_bundle(tmp_path / "incident.bundle.gz") as found:
        manifest, events = found.manifest, found.reader.events(EventFilter(limit=10_000))
    outside = {e.request for e in events if not manifest.since_us <= e.time_us < manifest.until_us} - {None}
    beyond = next(event.request for event in events if event.request in outside)
    within = next(event.request for event in events if event.request and event.request not in outside)
    for request, is_said in ((beyond, True), (within, False)):
        told = document_of(there(tmp_path, "why", request or "", "--bundle", "incident.bundle.gz", "--json"))
        assert any("it began before the bundle's time" in note["text"] for note in told["notes"]) is is_said


@pytest.mark.parametrize("ask", [("incidents", "show"), ("incidents", "timeline"), ("incidents", "report")])
def test_what_is_no_bundle_is_refused_in_one_line(elsewhere: Path, ask: tuple[str, str]) -> None:
    whole = (elsewhere / "it.bundle.gz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    files = {
        "cut.gz": (whole[:-9], "is cut"),
        "flipped.gz": (bytes(flipped), "get it anew"),
        "text.txt": (b"hello", "is no bundle of an incident"),
        "empty.gz": (b"", "is no bundle of an incident"),
        "other.gz": (gzip.compress(b"{}\n"), "is no bundle of an incident"),
        "later.gz": (gzip.compress(b'{"format":"lmx-bundle","form":9}\n'), "was written by a newer lmx"),
        "bad\x1b[2Jname.gz": (b"x", "is no bundle of an incident"),
    }
    for name, (content, why) in files.items():
        (elsewhere / name).write_bytes(content)
        done = there(elsewhere, *ask, name)
        assert (done.exit_code, done.stdout) == (1, ""), name
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "\x1b" not in done.stderr
    assert "No such file" in there(elsewhere, *ask, "none.gz").stderr
    assert "Is a directory" in there(elsewhere, *ask, ".").stderr
    assert "No such file" in there(elsewhere, "why", "--last", "--bundle", "none").stderr


def test_a_file_whose_name_reads_like_an_id_is_named_with_its_folder(elsewhere: Path) -> None:
    (elsewhere / "inc_01KD").write_bytes((elsewhere / "it.bundle.gz").read_bytes())
    (elsewhere / "report").write_bytes((elsewhere / "it.bundle.gz").read_bytes())
    assert there(elsewhere, "incidents", "show", "inc_01KD").exit_code == 3
    assert there(elsewhere, "incidents", "show", "./inc_01KD").exit_code == 0
    # No id has an O or a U.
    assert there(elsewhere, "incidents", "show", "report").exit_code == 0


def test_names_in_a_bundle_cannot_fool_a_terminal(elsewhere: Path) -> None:
    lines = [json.loads(line) for line in gzip.decompress((elsewhere / "it.bundle.gz").read_bytes()).splitlines()]
    for line in lines[1:-1]:
        if line["model"] is not None:
            line["model"] = "m0\x1b]0;owned\x07\u202e"
        if line["type"] == "incident.opened":
            line["data"]["title"] = "bad \x1b[2J title"
    write_sealed(elsewhere / "bad.gz", lines)
    for ask in (("incidents", "show"), ("incidents", "timeline"), ("incidents", "report")):
        done = there(elsewhere, *ask, "bad.gz")
        assert done.exit_code == 0, done.stderr
        assert not {"\x1b", "\u202e", "\x07"} & set(done.stdout + done.stderr)


def test_what_is_sealed_and_yet_nonsense_is_no_traceback(elsewhere: Path) -> None:
    good = [json.loads(line) for line in gzip.decompress((elsewhere / "it.bundle.gz").read_bytes()).splitlines()]
    for kind in ("request.first_token", "engine.exited", "kv.hit", "request.received"):
        lines = json.loads(json.dumps(good))
        for line in lines[1:-1]:
            if line["type"] == kind:
                line["data"] = {"ttft_ms": "soon"}
        write_sealed(elsewhere / "bad.gz", lines)
        for ask in (
            ("incidents", "show", "bad.gz"),
            ("incidents", "report", "bad.gz"),
            ("why", "--last", "--bundle", "bad.gz"),
        ):
            done = there(elsewhere, *ask)
            assert done.exit_code in {0, 1}
            assert done.exit_code == 0 or "cannot read" in done.stderr


def write_sealed(file: Path, lines: list[Any]) -> None:
    packed = b"".join(json.dumps(line).encode() + b"\n" for line in lines[:-1])
    seal = {**lines[-1], "sha256": hashlib.sha256(packed).hexdigest()}
    file.write_bytes(gzip.compress(packed + json.dumps(seal).encode() + b"\n"))


# --- proving it ------------------------------------------------------------------------------------------------------


def test_its_owner_proves_it_and_learns_what_differs(made: Home, elsewhere: Path) -> None:
    home = made.ledger.parent
    file = elsewhere / "it.bundle.gz"
    good = lmx("ledger", "verify", "--bundle", str(file), "--url", nowhere(), home=home)
    assert (good.returncode, f"is what this ledger gives: {made.incident.id}" in good.stdout) == (0, True)
    assert document(lmx("ledger", "verify", "--bundle", str(file), "--json", "--url", nowhere(), home=home))["ok"]
    lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    lines[30]["severity"] = "critical"
    write_sealed(file, lines)
    assert there(elsewhere, "incidents", "show", "it.bundle.gz").exit_code == 0
    bad = lmx("ledger", "verify", "--bundle", str(file), "--url", nowhere(), home=home)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "its seal was not made with this ledger's key" in bad.stderr
    assert f"event {lines[30]['seq']} is not what the ledger has (severity)" in bad.stderr


def test_one_of_a_ledger_that_was_altered_says_so_on_top(made: Home, tmp_path: Path) -> None:
    shutil.copytree(made.ledger.parent, tmp_path / "home")
    with closing(sqlite3.connect(tmp_path / "home" / "ledger.db", isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET severity = 50 WHERE seq = 7")
    out = tmp_path / "it.gz"
    done = lmx("incidents", "bundle", "last", "--out", str(out), "--url", nowhere(), home=tmp_path / "home")
    assert "the ledger is not as it was written from event 7 on" in done.stderr
    told = document_of(there(tmp_path, "incidents", "show", "it.gz", "--json"))
    assert "is not as it was written from event 7 on" in told["ledger_distrusted"]
    assert (
        "is not as it was written from event 7 on" in there(tmp_path, "incidents", "timeline", "it.gz", "--json").stdout
    )
    report = there(tmp_path, "incidents", "report", "it.gz").stdout
    assert report.index("is not as it was written from event 7 on") < report.index("written from a redacted bundle")
    assert lmx("ledger", "verify", "--bundle", str(out), "--url", nowhere(), home=tmp_path / "home").returncode == 0


# --- with a daemon ---------------------------------------------------------------------------------------------------


def again(ledger: Path, file: Path) -> bytes:
    """What the ledger's file gives, as of the event that was its newest one then."""
    with open_bundle(file) as found:
        was = found.manifest
    reader = Reader.open(ledger)
    made = make(ledger, reader, was.incident, key_of(ledger), (was.head_seq, bytes.fromhex(was.head_hash)))
    reader.close()
    # Heads are signed as time goes by.
    manifest = msgspec.structs.replace(made.manifest, signed_seq=was.signed_seq)
    return written(manifest, list(made.lines.values()), key_of(ledger))


def test_a_daemon_gives_the_same_bytes_as_its_ledger_does(
    start_daemon: Callable[[str], RunningDaemon], model_config: str, tmp_path: Path
) -> None:
    running = start_daemon(model_config + "[drills]\nenabled = true\n")
    running.chat()
    running.post("/lmx/drills", {"kind": "engine-crash", "for_s": 1, "model": "chain"}).raise_for_status()
    name = running.wait_event("incident.opened")["incident"]
    running.wait_event("incident.mitigated")
    # At once, while nothing is signed yet: the key is made then.
    answer = httpx.get(f"{running.url}/lmx/incidents/last/bundle")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/gzip")
    assert f'filename="{name}.bundle.gz"' in answer.headers["content-disposition"]
    first = tmp_path / "first.gz"
    first.write_bytes(answer.content)
    done = lmx("incidents", "bundle", "last", "--out", str(tmp_path / "cli.gz"), "--url", running.url, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reading" not in done.stderr
    for path in ("/lmx/incidents/inc_NOTHING/bundle", "/lmx/incidents/inc_NOTHING%1b/bundle"):
        assert httpx.get(running.url + path).status_code == 404
    for file in (first, tmp_path / "cli.gz"):
        proof = lmx("ledger", "verify", "--bundle", str(file), "--url", running.url, home=running.home)
        assert proof.returncode == 0, proof.stderr
    key_path(running.home / "ledger.db").rename(tmp_path / "key")
    # Where heads were signed with it, another key would deny them all.
    (running.home / "ledger.db.heads").touch()
    refused = httpx.get(f"{running.url}/lmx/incidents/last/bundle")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "put it back from a copy" in refused.json()["error"]["message"]
    (tmp_path / "key").rename(key_path(running.home / "ledger.db"))
    assert running.stop() == 0
    assert again(running.home / "ledger.db", first) == first.read_bytes()
    whole = lmx(
        "incidents", "bundle", name, "--out", str(tmp_path / "file.gz"), "--url", running.url, home=running.home
    )
    assert whole.returncode == 0, whole.stderr
    told = document_of(there(tmp_path, "incidents", "timeline", "file.gz", "--json"))
    assert told["incident"]["id"] == name
    assert {"worker", "drill"} <= {line["kind"] for line in told["lines"]}
    assert lmx("ledger", "verify", "--bundle", str(tmp_path / "file.gz"), home=running.home).returncode == 0
