"""Recorded faults of a real daemon: one incident each, dated to where the fault was put in, with it as a hypothesis."""

from pathlib import Path

import pytest

from lmx_ledger.incident.account import affected, hypotheses, lines, window
from lmx_ledger.incident.rank import rank, without_rehearsals
from lmx_ledger.ledger.query import Reader
from tests.incident.parts import NAMES, Replayed, load, scenario

ALL = (
    *("bad-config", "broken-prefix", "crash-loop", "engine-hang", "flood"),
    *("long-prompts", "paging-storm", "slow-disk", "swap", "thermal"),
)


def test_every_fault_is_recorded() -> None:
    assert sorted(ALL) == NAMES


@pytest.mark.parametrize("name", ALL)
def test_a_recorded_fault_is_one_incident_with_its_cause_among_the_first(name: str, tmp_path: Path) -> None:
    events, told = scenario(name)
    path = tmp_path / "ledger.db"
    load(path, events)
    reader = Reader.open(path)
    run = Replayed().feed(events)
    (incident,) = run.state.all()
    assert abs(incident.started_us - told["injected_us"]) <= 2_000_000
    assert incident.started_us <= incident.detected_us
    found = window(path, reader, incident, events[-1].time_us + 1)
    assert [event.seq for event in found.events] == [e.seq for e in events if e.time_us >= found.since_us]
    kinds = [one.kind for one in hypotheses(found, incident)]
    assert told["kind"] in kinds[:2]
    shown = lines(found, incident)
    assert 3 <= len(shown) < 150
    assert [line.time_us for line in shown] == sorted(line.time_us for line in shown)
    assert {line.first_seq for line in shown if line.symptom} & set(incident.events)
    hit = affected(found.events, incident)
    assert hit.refused + hit.failed + hit.slow > 0
    reader.close()


@pytest.mark.parametrize("name", ["engine-hang", "flood", "slow-disk", "swap", "thermal"])
def test_that_it_was_a_rehearsal_changes_nothing_in_the_ranking(name: str) -> None:
    events, _ = scenario(name)
    (incident,) = Replayed().feed(events).state.all()
    since_us, until_us = events[0].time_us, events[-1].time_us
    ranked = rank(events, incident, since_us, until_us)
    stripped = list(without_rehearsals(events))
    assert stripped != events
    assert not [e for e in stripped if e.type.startswith("drill.") or "drill" in e.data]
    assert rank(stripped, incident, since_us, until_us) == ranked != []
