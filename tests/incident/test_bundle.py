"""A bundle has what its ledger tells of the incident: the fold, the window, replays, and why requests took so long."""

import gzip
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import replayed
from lmx_ledger.incident.account import told, told_timeline, window
from lmx_ledger.incident.bundle.form import seal_of
from lmx_ledger.incident.bundle.gather import NoIncident
from lmx_ledger.incident.bundle.opened import Opened, open_bundle
from lmx_ledger.incident.bundle.prove import prove
from lmx_ledger.incident.bundle.write import bundle
from lmx_ledger.incident.evidence import gather
from lmx_ledger.incident.slowest import last_ended, slowest
from lmx_ledger.incident.state import MERGED, OPEN
from lmx_ledger.incident.why import why
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.heads import key_path
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import seal_through
from lmx_ledger.ledger.writer import Ledger
from tests.incident.bundles import Home, differences, home_of, home_of_scenario, incidents_of, renamed
from tests.incident.parts import NAMES, SECOND_US, Replayed, scenario, story

CLOCKS = {"at_us", "changed_us", "calm_us"}
"""Of the fold's own clock, which goes by every symptom that there ever was."""
DECIDED = ["flood", "paging-storm", "swap", "thermal"]
"""Recordings in which the guard or the planner decided something."""


@pytest.fixture(scope="module", params=NAMES)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    found = home_of_scenario(tmp_path_factory.mktemp(request.param), request.param)
    yield found
    found.reader.close()


@pytest.fixture(scope="module")
def opened(home: Home) -> Iterator[Opened]:
    with open_bundle(home.file) as found:
        yield found


def events_of(reader: Reader) -> list[Recorded]:
    return reader.events(EventFilter(limit=100_000))


# --- the same as the ledger ------------------------------------------------------------------------------------------


def test_folding_it_gives_the_incident(home: Home, opened: Opened) -> None:
    mine, its = (
        {name: value for name, value in msgspec.structs.asdict(one).items() if name not in CLOCKS}
        for one in (home.incident, opened.incident)
    )
    assert its == mine


def test_its_window_is_the_ledgers_event_by_event(home: Home, opened: Opened) -> None:
    until_us = opened.manifest.until_us
    mine = window(home.ledger, home.reader, home.incident, until_us)
    its = window(opened.ledger, opened.reader, opened.incident, until_us)
    assert (its.since_us, its.until_us, its.cut, its.sealed) == (mine.since_us, mine.until_us, False, False)
    assert len(its.events) > 200
    names = [(event.seq, event.time_us, event.type, event.model, event.cause) for event in its.events]
    assert names == [(event.seq, event.time_us, event.type, event.model, event.cause) for event in mine.events]


def test_what_is_told_of_it_is_the_same_but_for_the_names(home: Home, opened: Opened) -> None:
    until_us = opened.manifest.until_us
    events = events_of(home.reader)
    for tell in (told_timeline, lambda incident, found, _: told(incident, found, [], None)):
        mine = tell(home.incident, window(home.ledger, home.reader, home.incident, until_us), None)
        its = tell(opened.incident, window(opened.ledger, opened.reader, opened.incident, until_us), None)
        differ = differences(json.loads(renamed(home, json.dumps(mine), events)), its)
        assert [one for one in differ if "[redacted]" not in str(one[2])] == []


def test_a_replay_of_it_decides_as_the_ledger_has_it(home: Home, opened: Opened) -> None:
    between = opened.manifest.since_us, opened.manifest.until_us
    found = replayed.replay(opened.reader, *between, {}).public()
    assert found["different"] == 0
    assert found == replayed.replay(home.reader, *between, {}).public()
    if home.ledger.parent.name.rstrip("0123456789") in DECIDED:
        assert found["decisions"] > 0
    others = {"memory.page_at": "0.5", "memory.page_to": "0.4", "guard.queue_wait": "1s", "guard.gpu_for": "1s"}
    assert (
        replayed.replay(opened.reader, *between, others).public()
        == replayed.replay(home.reader, *between, others).public()
    )


def test_the_requests_of_its_time_are_explained_as_by_the_ledger(home: Home, opened: Opened) -> None:
    since_us, until_us = opened.manifest.since_us, opened.manifest.until_us
    events = events_of(home.reader)
    asked = [row["request"] for row in slowest(opened.reader, 12, None, "wall", _lives, UTC)]
    compared = 0
    for request in (*asked, last_ended(opened.reader) or ""):
        mine, its = (gather(reader, request, _lives) for reader in (home.reader, opened.reader))
        assert mine is not None
        assert its is not None
        if its.own[0].time_us < since_us or its.own[-1].time_us >= until_us:
            continue
        said = json.loads(renamed(home, json.dumps(why(mine, UTC).public()), events))
        differ = differences(said, why(its, UTC).public())
        assert [one for one in differ if "[redacted]" not in str(one[2])] == []
        compared += 1
    assert compared >= 5


def _lives(_: int) -> bool:
    return True


def test_every_request_of_its_time_is_there_from_its_first_event_to_its_last(home: Home, opened: Opened) -> None:
    until_us = opened.manifest.until_us
    inside = window(home.ledger, home.reader, home.incident, until_us).events
    for request in {event.request for event in inside if event.request}:
        mine, its = (reader.events(EventFilter(request=request)) for reader in (home.reader, opened.reader))
        assert [event.seq for event in its] == [event.seq for event in mine]


def test_its_owner_can_prove_it(home: Home) -> None:
    assert prove(home.file, home.ledger, home.reader, home.key).wrong == []


# --- what of the ledger changes, and what not ------------------------------------------------------------------------


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Home]:
    found = home_of_scenario(tmp_path, "engine-hang")
    yield found
    found.reader.close()


def write(home: Home, *events: ev.Event) -> None:
    ledger = Ledger.open(home.ledger, boot="01LATER", synchronous="NORMAL")
    for event in events:
        ledger.emit(event)
    ledger.close()


def test_what_is_written_later_changes_nothing_of_its_proof(hang: Home) -> None:
    acknowledged = ev.Event(
        data=ev.IncidentAcknowledged(via="http"), stream=f"incident:{hang.incident.id}", incident=hang.incident.id
    )
    write(hang, acknowledged, ev.Event(data=ev.SensorSwapThrash(bytes_per_s=9, window_s=1.0), stream="sensor"))
    assert prove(hang.file, hang.ledger, hang.reader, hang.key).wrong == []
    assert hang.made() != hang.file.read_bytes()


def test_an_event_that_was_altered_in_the_ledger_is_named(hang: Home) -> None:
    saved = hang.reader.events(EventFilter(types=("kv.saved",)))[40]
    with closing(sqlite3.connect(hang.ledger, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute(
            """UPDATE event SET data = replace(data, '"tokens":', '"tokens":1') WHERE seq = ?""", (saved.seq,)
        )
    proof = prove(hang.file, hang.ledger, hang.reader, hang.key)
    assert proof.wrong == [
        f"event {saved.seq} is not what the ledger has (data.tokens)",
        "its manifest says otherwise of: broken_from",
    ]


def test_an_event_that_was_altered_in_the_file_is_named_whoever_sealed_it(hang: Home) -> None:
    lines = gzip.decompress(hang.file.read_bytes()).splitlines(keepends=True)
    event = json.loads(lines[20])
    event["severity"] = "critical"
    lines[20] = msgspec.json.encode(event) + b"\n"
    packed = resealed(lines, b"another key")
    hang.file.write_bytes(packed)
    with open_bundle(hang.file) as found:
        assert found.incident.id == hang.incident.id
    assert prove(hang.file, hang.ledger, hang.reader, hang.key).wrong == [
        "its seal was not made with this ledger's key: it was altered, or is of another ledger",
        f"event {event['seq']} is not what the ledger has (severity)",
    ]


def resealed(lines: list[bytes], key: bytes) -> bytes:
    import hashlib  # noqa: PLC0415

    seal = seal_of(hashlib.sha256(b"".join(lines[:-1])).digest(), key)
    return gzip.compress(b"".join([*lines[:-1], msgspec.json.encode(seal), b"\n"]))


def test_events_that_are_missing_or_too_many_are_named(hang: Home) -> None:
    lines = gzip.decompress(hang.file.read_bytes()).splitlines(keepends=True)
    manifest = json.loads(lines[0])
    gone, made_up = json.loads(lines[20]), {**json.loads(lines[-2]), "seq": json.loads(lines[-2])["seq"] + 1}
    lines[20:21] = []
    lines[-1:-1] = [msgspec.json.encode(made_up) + b"\n"]
    lines[0] = msgspec.json.encode({**manifest, "last_seq": made_up["seq"]}) + b"\n"
    hang.file.write_bytes(resealed(lines, hang.key))
    assert prove(hang.file, hang.ledger, hang.reader, hang.key).wrong == [
        f"event {gone['seq']} is missing in it",
        f"event {made_up['seq']} is none that belongs to it",
        "its manifest says otherwise of: last_seq",
    ]


def test_a_bundle_of_another_ledger_is_not_taken_for_ours(hang: Home, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = home_of_scenario(tmp_path / "other", "thermal")
    wrong = prove(other.file, hang.ledger, hang.reader, hang.key).wrong
    assert wrong[0].startswith("its seal was not made with this ledger's key")
    assert "is not there with that hash" in wrong[1]
    other.reader.close()


def test_another_version_is_named_as_what_may_have_made_it_so(hang: Home) -> None:
    lines = gzip.decompress(hang.file.read_bytes()).splitlines(keepends=True)
    lines[0] = lines[0].replace(b'"version":"0.1.0"', b'"version":"0.0.9"')
    hang.file.write_bytes(resealed(lines, hang.key))
    assert prove(hang.file, hang.ledger, hang.reader, hang.key).wrong == []
    lines[20] = lines[20].replace(b'"v":1', b'"v":2')
    hang.file.write_bytes(resealed(lines, hang.key))
    (wrong,) = prove(hang.file, hang.ledger, hang.reader, hang.key).wrong
    assert "it was made by lmx 0.0.9, and this is 0.1.0: verify with that" in wrong


def test_a_ledger_that_was_altered_gives_a_bundle_that_says_so(hang: Home) -> None:
    with closing(sqlite3.connect(hang.ledger, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET severity = 50 WHERE seq = 300")
    hang.file.write_bytes(hang.made())
    with open_bundle(hang.file) as found:
        assert found.manifest.broken_from == 300
        assert found.reader.broken_in(1, 299) is None
        assert found.reader.broken_in(400, 500) == 300
        late = next(event for event in events_of(found.reader) if event.seq > 400 and event.type == "request.finished")
        evidence = gather(found.reader, late.request or "", _lives)
        assert evidence is not None
        assert "is not as it was written from event 300 on" in why(evidence, UTC).notes[0].text
    assert prove(hang.file, hang.ledger, hang.reader, hang.key).wrong == []


# --- incidents of all kinds ------------------------------------------------------------------------------------------


@pytest.fixture
def aging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Behind the incident so much more was written that its events can be sealed."""
    events, _ = scenario("engine-hang")
    written = Replayed().feed(events).tick(70).written
    sampled = next(event for event in events if event.type == "sensor.sampled")
    later_us = events[-1].time_us + 3_600 * SECOND_US
    behind = [
        msgspec.structs.replace(sampled, seq=9_000_000 + n, time_us=later_us + n, boot="01LATER")
        for n in range(3 * BLOCK)
    ]
    monkeypatch.setattr(sealing, "KEPT", 100)
    monkeypatch.setattr(sealing, "LARGEST", 2 * BLOCK)
    found = home_of(tmp_path, [*events, *written, *behind])
    yield found
    found.reader.close()


def test_what_is_sealed_is_in_it_as_before(aging: Home) -> None:
    assert list(seal_through(aging.ledger, 2 * BLOCK))
    assert events_of(aging.reader)[0].seq > aging.incident.opened_seq
    assert aging.made() == aging.file.read_bytes()
    assert prove(aging.file, aging.ledger, aging.reader, aging.key).wrong == []
    segment = next((aging.ledger.parent / "segments").iterdir())
    segment.write_bytes(segment.read_bytes()[:-20])
    with pytest.raises(sealing.BadSegment, match="is not as it was sealed"):
        aging.made()


class _Aged(Reader):
    """Reads a ledger that somebody seals at the n-th question, as retention does beside a daemon."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path)
        self._path, self._left = path, at

    def events(self, wanted: EventFilter) -> list[Recorded]:
        self._left -= 1
        if self._left == 0:
            assert list(seal_through(self._path, 2 * BLOCK))
        return super().events(wanted)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 8, 20, 200])
def test_what_is_sealed_while_it_is_made_is_not_missed(aging: Home, at: int) -> None:
    reader = _Aged(aging.ledger, at)
    assert bundle(aging.ledger, reader, aging.incident.id, aging.key) == aging.file.read_bytes()
    reader.close()


def swap(at_s: float) -> tuple[float, ev.EventData, dict[str, Any]]:
    return at_s, ev.SensorSwapThrash(bytes_per_s=9_000_000, window_s=2.0), {}


def test_one_that_goes_on_is_known_up_to_the_newest_event(tmp_path: Path) -> None:
    started = ev.DaemonStarted(version="0.1.0", pid=7, host="h", port=1, platform="p", python="3")
    events = list(story((0.0, started, {}), swap(20.0), (50.0, ev.SensorPowerModeChanged(low_power=True), {})))
    home = home_of(tmp_path, [*events, *Replayed().feed(events[:2]).written])
    with open_bundle(home.file) as found:
        assert (found.incident.status, found.manifest.status) == (OPEN, OPEN)
        assert found.manifest.until_us == home.reader.events(EventFilter(order="desc", limit=1))[0].time_us + 1
    assert prove(home.file, home.ledger, home.reader, home.key).wrong == []
    write(home, ev.Event(data=ev.SensorSwapRecovered(bytes_per_s=0, window_s=2.0), stream="sensor"))
    assert prove(home.file, home.ledger, home.reader, home.key).wrong == []
    home.reader.close()


def test_a_run_that_began_long_before_is_there_as_far_as_a_replay_reads_it(tmp_path: Path) -> None:
    """Its events have gaps then, and what lies before the incident's time is not taken for what is sealed."""
    started = ev.DaemonStarted(version="0.1.0", pid=7, host="h", port=1, platform="p", python="3")
    told = ev.ConfigLoaded(source=None, changed={"slo": {"ttft": {"threshold": 3.0}}})
    quiet: list[tuple[float, ev.EventData, dict[str, Any]]] = [
        (float(n), ev.KvHit(reused_tokens=1, computed_tokens=1, read_bytes=0, ms=1.0), {}) for n in range(1, 90)
    ]
    figures = ev.SensorSampled(sensor="guard", figures={"queue_wait": 0.1})
    events = list(story((0.0, started, {}), (0.1, told, {}), (5.0, figures, {}), *quiet, swap(5_000.0)))
    home = home_of(tmp_path, [*events, *Replayed().feed(events).written])
    with open_bundle(home.file) as found:
        assert [event.seq for event in events_of(found.reader)] == [1, 2, 3, len(events), len(events) + 1]
        assert found.manifest.objectives.ttft_s == 3.0
        seen = window(found.ledger, found.reader, found.incident, found.manifest.until_us)
        assert not seen.sealed
        assert [event.seq for event in seen.events] == [len(events), len(events) + 1]
    home.reader.close()


def test_one_that_is_part_of_another_brings_that_one_along(tmp_path: Path) -> None:
    died = ev.EngineExited(
        pid=1, code=None, signal="SIGKILL", stderr_tail="", last_acts=[], expected=False, in_flight=[]
    )
    heat = ev.SensorThermalThrottled(
        reason="level", gpu_drop=None, gpu_mhz=None, baseline_mhz=None, gpu_busy=None, level="heavy"
    )
    # Two that turn out to be one because of what both made happen.
    events = list(
        story(
            (0.0, died, {"model": "m0"}),
            (1.0, heat, {}),
            (3.0, ev.BreakerOpened(name="engine", failures=4, for_s=2.0, reason="x"), {"model": "m0", "cause": 2}),
        )
    )
    run = Replayed().feed(events)
    assert "merged" in run.types
    merged = next(one for one in run.state.all() if one.status == MERGED)
    home = home_of(tmp_path, [*events, *run.written])
    for one in incidents_of(home.ledger, home.reader):
        home.file.write_bytes(bundle(home.ledger, home.reader, one.id, home.key))
        with open_bundle(home.file) as found:
            assert found.incident.public() == one.public()
            assert {event.incident for event in events_of(found.reader)} - {None} == {merged.id, merged.into}
        assert prove(home.file, home.ledger, home.reader, home.key).wrong == []
    home.reader.close()


def test_of_an_incident_that_is_not_there_nothing_is_made(hang: Home) -> None:
    with pytest.raises(NoIncident, match="lmx incidents list"):
        bundle(hang.ledger, hang.reader, "inc_NOTHING", hang.key)


def test_an_empty_ledger_has_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger.open(path, boot="b", synchronous="NORMAL").close()
    reader = Reader.open(path)
    with pytest.raises(NoIncident, match="no event in the ledger yet"):
        bundle(path, reader, "inc_NOTHING", bytes(32))
    reader.close()


def test_nothing_is_left_behind_of_what_was_opened(hang: Home) -> None:
    with open_bundle(hang.file) as found:
        folder = found.ledger.parent
        assert folder.is_dir()
    assert not folder.exists()
    assert key_path(hang.ledger).exists()
