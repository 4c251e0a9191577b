"""What is told of an incident, wherever its events are by now."""

from pathlib import Path

import msgspec
import pytest

from lmx_ledger.incident.account import distrust, openers, told, told_timeline, window
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import seal_through
from tests.incident.parts import SECOND_US, Replayed, load, observed, scenario


def test_an_incident_whose_events_are_sealed_is_told_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, _ = scenario("engine-hang")
    (incident,) = Replayed().feed(observed(events)).tick(70).state.all()
    # Behind it as much again, so that there is something to seal.
    later_us = events[-1].time_us + 3_600 * SECOND_US
    sampled = next(event for event in events if event.type == "sensor.sampled")
    behind = [
        msgspec.structs.replace(sampled, seq=events[-1].seq + n, time_us=later_us + n) for n in range(1, 3 * BLOCK)
    ]
    path = tmp_path / "ledger.db"
    load(path, [*events, *behind])
    reader = Reader.open(path)
    now_us = behind[-1].time_us
    before = window(path, reader, incident, now_us)
    assert not before.sealed
    monkeypatch.setattr(sealing, "KEPT", 100)
    monkeypatch.setattr(sealing, "LARGEST", 2 * BLOCK)
    assert list(seal_through(path, 2 * BLOCK))
    after = window(path, reader, incident, now_us)
    assert after.sealed
    assert after.events == before.events != []
    whose = openers(path, reader, incident, after)
    assert [event.seq for event in whose] == list(incident.events)
    answer = told(incident, after, whose, distrust(reader, walk=True))
    assert answer["hypotheses"] == told(incident, before, whose, None)["hypotheses"]
    assert answer["ledger_distrusted"] is None
    assert told_timeline(incident, after, None)["lines"] == told_timeline(incident, before, None)["lines"]
    reader.close()
