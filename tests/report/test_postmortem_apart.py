"""A postmortem from a process of its own: the same bytes wherever it is made, and trouble as one line."""

from pathlib import Path

import pytest

from lmx_ledger.incident.state import Incident
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.apart import NotMade
from lmx_ledger.report.from_ledger import FORMS, as_form, postmortem
from lmx_ledger.report.postmortem_apart import postmortem_apart
from tests.incident.parts import Replayed, load, scenario


@pytest.fixture(scope="module")
def flood(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Incident, int]:
    """A ledger, the incident in it, and a time behind it."""
    ledger = tmp_path_factory.mktemp("home") / "ledger.db"
    events, _ = scenario("flood")
    run = Replayed().follow(events).tick(120)
    load(ledger, [*events, *run.written])
    (incident,) = run.state.all()
    return ledger, incident, run.written[-1].time_us + 1


@pytest.mark.parametrize("form", FORMS)
async def test_it_has_the_bytes_that_are_made_here_whatever_the_machine_is_set_to(
    form: str, flood: tuple[Path, Incident, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, incident, now_us = flood
    reader = Reader.open(ledger)
    here = as_form(postmortem(ledger, reader, incident, now_us), form)
    reader.close()
    for zone, seed in (("Pacific/Auckland", "1"), ("UTC", "2")):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("LC_ALL", "C")
        assert await postmortem_apart(ledger, incident.id, now_us, form, nice=19) == here


async def test_what_is_not_there_is_said_in_one_line(flood: tuple[Path, Incident, int], tmp_path: Path) -> None:
    ledger, incident, now_us = flood
    for path, name in ((tmp_path / "nowhere.db", incident.id), (ledger, "inc_01KD3YB2")):
        with pytest.raises(NotMade) as caught:
            await postmortem_apart(path, name, now_us, "md")
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
