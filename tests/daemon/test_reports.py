"""Postmortems that a daemon writes when an incident is over: whole, once, again where it came back."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmx_ledger.core.config import Config
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.incidents import Incidents
from lmx_ledger.daemon.reports import Reports
from lmx_ledger.report.write import read_json
from tests.conftest import RunningDaemon
from tests.daemon.test_incidents import Home
from tests.incident.test_lifecycle import exited, restarted

FORMS = (".html", ".json", ".md")


class Watched:
    """A home whose incidents are over after a moment, and what writes their postmortems."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.folder = folder / "reports"
        raw = {"incidents": {"resolve_after": "6s"}, "report": {"dir": str(self.folder)}}
        self.settings = Settings(Config.model_validate(raw))
        self.notices: list[str] = []
        self.incidents, self.reports = self.another()

    def another(self) -> tuple[Incidents, Reports]:
        """One more daemon's."""
        incidents = Incidents(self.home.ledger, self.home.reader, self.settings)
        return incidents, Reports(incidents, self.settings, self.home.path, self.notices.append, first_wait_s=0.3)

    async def until_resolved(self, times: int = 1) -> None:
        while len(self.home.events("incident.resolved")) < times:
            await self.incidents.look()
            await asyncio.sleep(0.2)

    @property
    def names(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir()) if self.folder.is_dir() else []


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.incidents.stop()
    found.home.close()


async def test_an_incident_that_is_over_is_written_down_once_and_says_where(watched: Watched) -> None:
    watched.home.say(exited(), "m0")
    await watched.incidents.look()
    await watched.reports.look()
    assert watched.names == []
    watched.home.say(restarted(), "m0")
    await watched.until_resolved()
    await watched.reports.look()
    await watched.reports.look()
    (event,) = watched.home.events("incident.report_written")
    incident = await watched.incidents.find("last")
    assert watched.names == [*(f"{incident.id}{form}" for form in FORMS), "index.html"]
    assert sorted(event.data["files"]) == [f"{incident.id}{form}" for form in FORMS]
    assert (event.incident, event.data["folder"]) == (incident.id, str(watched.folder))
    document = read_json((watched.folder / f"{incident.id}.json").read_bytes())
    assert document.header.status == "resolved"
    assert document.integrity is not None
    assert document.integrity.head_seq == event.data["head_seq"] < event.seq
    assert incident.public()["report"] == str(watched.folder / f"{incident.id}.html")
    assert incident.id in (watched.folder / "index.html").read_text()


async def test_one_that_comes_back_is_written_down_again_when_it_is_over_again(watched: Watched) -> None:
    watched.home.say(exited(), "m0")
    await watched.incidents.look()
    watched.home.say(restarted(), "m0")
    await watched.until_resolved()
    await watched.reports.look()
    watched.home.say(exited(), "m0")
    await watched.incidents.look()
    await watched.reports.look()
    assert len(watched.home.events("incident.report_written")) == 1
    assert not (await watched.incidents.find("last")).lacks_report
    watched.home.say(restarted(), "m0")
    await watched.until_resolved(2)
    await watched.reports.look()
    assert len(watched.home.events("incident.report_written")) == 2
    incident = await watched.incidents.find("last")
    assert read_json((watched.folder / f"{incident.id}.json").read_bytes()).header.reopened == 1


async def test_a_folder_that_cannot_be_written_is_told_of_once_and_tried_again(watched: Watched) -> None:
    watched.folder.write_text("this is no folder")
    watched.home.say(exited(), "m0")
    await watched.incidents.look()
    watched.home.say(restarted(), "m0")
    await watched.until_resolved()
    await watched.reports.look()
    await asyncio.sleep(0.4)
    await watched.reports.look()
    assert len(watched.notices) == 1
    assert "name another folder; it is tried again" in watched.notices[0]
    assert watched.home.events("incident.report_written") == []
    watched.folder.unlink()
    while not watched.home.events("incident.report_written"):
        await asyncio.sleep(0.1)
        await watched.reports.look()
    assert watched.notices[1:] == ["postmortems can be written again"]
    assert [name for name in watched.names if name.endswith(".part")] == []


async def test_of_two_daemons_of_one_home_the_one_that_decides_writes(watched: Watched) -> None:
    incidents, reports = watched.another()
    watched.home.say(exited(), "m0")
    await watched.incidents.look()
    watched.home.say(restarted(), "m0")
    await watched.until_resolved()
    await incidents.look()
    await reports.look()
    assert watched.home.events("incident.report_written") == []
    watched.incidents.stop()
    await incidents.look()
    await reports.look()
    assert len(watched.home.events("incident.report_written")) == 1
    incidents.stop()


def test_a_rehearsed_crash_ends_as_a_postmortem_in_the_folder_of_reports(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    soon = '[drills]\nenabled = true\n[incidents]\nresolve_after = "6s"\n'
    daemon = start_daemon(soon + model_config)
    order = {"kind": "engine-crash", "model": "chain", "for_s": 1}
    daemon.post("/lmx/drills", order).raise_for_status()
    written = daemon.wait_event("incident.report_written")
    page = daemon.home / "reports" / f"{written['incident']}.html"
    assert written["data"]["folder"] == str(page.parent)
    assert page.is_file()
    assert "DRILL" in page.read_text()
    assert daemon.get(f"/lmx/incidents/{written['incident']}")["report"] == str(page)
