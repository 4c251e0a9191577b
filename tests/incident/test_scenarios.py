"""Recorded faults of a real daemon: one incident each, dated to where the fault was put in, with it as a hypothesis,
and named by `why` of the request that was hit hardest.
"""

import re
from datetime import UTC
from pathlib import Path

import pytest

from lmx_ledger.incident.account import affected, hypotheses, lines, window, worst
from lmx_ledger.incident.evidence import gather
from lmx_ledger.incident.rank import rank, without_rehearsals
from lmx_ledger.incident.why import Why, why
from lmx_ledger.ledger.query import Reader
from tests.incident.parts import NAMES, Replayed, load, observed, scenario

ALL = {
    "bad-config": r"a configuration was read that changed queue\.max_waiting",
    "broken-prefix": r"in message 0 \(system\): nonce",
    "crash-loop": r"the worker of m0 ended by SIGSEGV",
    "engine-hang": r"it was busy and gave nothing for",
    "flood": r"of \d+ sessions|requests waited too long in line",
    "long-prompts": r"of bulk-import/1\.0 had [\d,]+ tokens to read",
    "paging-storm": r"to bring m\d's weights back \(plan \d+\)|plan \d+ let .* go to|weights were back in memory",
    "slow-disk": r"from disk, at \d+ KB a second",
    "swap": r"this machine swapped|the machine was swapping",
    "thermal": r"safe mode began, because heat slowed this machine: at most 600 tokens",
}
"""What names the cause, to somebody who reads the answer for the request that was hit hardest."""


def test_every_fault_is_recorded() -> None:
    assert sorted(ALL) == NAMES


@pytest.mark.parametrize("name", ALL)
def test_a_recorded_fault_is_one_incident_with_its_cause_among_the_first(name: str, tmp_path: Path) -> None:
    events, told = scenario(name)
    path = tmp_path / "ledger.db"
    load(path, events)
    reader = Reader.open(path)
    run = Replayed().feed(observed(events))
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
    assert hit.sessions > 0
    reader.close()


@pytest.mark.parametrize("name", ALL)
def test_the_daemon_itself_saw_one_incident_there(name: str) -> None:
    events, _ = scenario(name)
    state = Replayed().follow(events).state
    assert len([one for one in state.all() if one.into is None]) == 1


@pytest.mark.parametrize("name", ALL)
def test_why_of_the_request_that_was_hit_hardest_names_the_cause(name: str, tmp_path: Path) -> None:
    events, _ = scenario(name)
    path = tmp_path / "ledger.db"
    load(path, events)
    (incident,) = Replayed().feed(observed(events)).state.all()
    reader = Reader.open(path)
    found = window(path, reader, incident, events[-1].time_us + 1)
    request = worst(found.events, incident)
    assert request is not None
    evidence = gather(reader, request, lambda _: False)
    assert evidence is not None
    answer = why(evidence, UTC)
    assert not answer.reckoned
    assert re.search(ALL[name], read(answer)), read(answer)
    reader.close()


def read(answer: Why) -> str:
    """All that is told of it, but for what is told of the incident as such."""
    notes = [note.text for note in answer.notes if "lmx incidents show" not in note.text]
    return "\n".join([answer.text, *notes, *(one.text for part in answer.parts for one in part.because)])


@pytest.mark.parametrize("name", ["engine-hang", "flood", "slow-disk", "swap", "thermal"])
def test_that_it_was_a_rehearsal_changes_nothing_in_the_ranking(name: str) -> None:
    events, _ = scenario(name)
    (incident,) = Replayed().feed(observed(events)).state.all()
    since_us, until_us = events[0].time_us, events[-1].time_us
    ranked = rank(events, incident, since_us, until_us)
    stripped = list(without_rehearsals(events))
    assert stripped != events
    assert not [e for e in stripped if e.type.startswith("drill.") or "drill" in e.data]
    assert rank(stripped, incident, since_us, until_us) == ranked != []
