"""Incidents of a running daemon: one per fault, written down once, remembered by the ledger."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import Conflict, NotFound
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.incidents import Incidents
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from tests.conftest import RunningDaemon, eventually
from tests.incident.test_lifecycle import HOT, exited, restarted

SOON = {"incidents": {"resolve_after": "6s"}}


class Home:
    """A ledger, and daemons that follow it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self.ledger = Ledger.open(self.path, boot="b1", synchronous="NORMAL")
        self.reader = Reader.open(self.path)

    def run(self, config: dict[str, Any] = SOON) -> Incidents:
        return Incidents(self.ledger, self.reader, Settings(Config.model_validate(config)))

    def say(self, data: ev.EventData, model: str | None = None) -> None:
        self.ledger.emit(ev.Event(data=data, stream="s", model=model))
        assert self.ledger.flush(5)

    def events(self, kind: str = "incident.*") -> list[Recorded]:
        return self.reader.events(EventFilter(types=(kind,)))

    def close(self) -> None:
        self.ledger.close()
        self.reader.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path)
    yield found
    found.close()


async def test_a_symptom_becomes_an_incident_whose_events_say_whose_they_are(home: Home) -> None:
    incidents = home.run()
    home.say(exited(), "m0")
    await incidents.look()
    (opened,) = home.events()
    assert opened.type == "incident.opened"
    assert opened.incident is not None
    assert opened.incident.startswith("inc_")
    assert opened.cause == opened.data["events"][0]
    assert (opened.data["title"], opened.model) == ("The worker of m0 died (SIGSEGV)", "m0")
    await incidents.look()
    assert home.events() == [opened]
    assert (await incidents.find("last")).id == opened.incident


async def test_the_next_daemon_goes_on_where_the_last_one_was(home: Home) -> None:
    first = home.run()
    home.say(exited(), "m0")
    await first.look()
    home.say(restarted(), "m0")
    first.stop()
    second = home.run()
    await eventually_looked(second, lambda: home.events()[-1].type == "incident.mitigated")
    await eventually_looked(second, lambda: home.events()[-1].type == "incident.resolved")
    assert [event.type for event in home.events()] == ["incident.opened", "incident.mitigated", "incident.resolved"]


async def test_what_nobody_decided_on_before_the_end_the_next_daemon_decides(home: Home) -> None:
    home.say(exited(), "m0")
    incidents = home.run()
    await incidents.look()
    assert [event.type for event in home.events()] == ["incident.opened"]


async def test_of_two_daemons_of_one_home_one_decides_and_both_know(home: Home) -> None:
    one, other = home.run(), home.run()
    await one.look()
    await other.look()
    home.say(exited(), "m0")
    home.say(HOT)
    await other.look()
    assert home.events() == []
    await one.look()
    await other.look()
    assert [event.type for event in home.events()] == ["incident.opened", "incident.opened"]
    assert (await one.state()).all() == (await other.state()).all()
    one.stop()
    home.say(exited(), "m1")
    await other.look()
    assert len(home.events("incident.opened")) == 3


async def test_an_operator_acknowledges_and_closes(home: Home) -> None:
    incidents = home.run()
    home.say(exited(), "m0")
    await incidents.look()
    seen = await incidents.acknowledge("last", None)
    assert seen.acknowledged_us is not None
    assert await incidents.acknowledge("last", None) == seen
    closed = await incidents.close(seen.id, None)
    assert closed.status == "closed"
    with pytest.raises(Conflict, match="closed"):
        await incidents.acknowledge(seen.id, None)
    with pytest.raises(NotFound, match="lmx incidents list"):
        await incidents.find("inc_NOTHING")
    assert len(home.events("incident.acknowledged")) == len(home.events("incident.closed")) == 1


def test_a_rehearsed_crash_is_one_incident_that_resolves(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    running = start_daemon(model_config + '[drills]\nenabled = true\n[incidents]\nresolve_after = "2s"\n')
    assert running.chat().status_code == 200
    running.post("/lmx/drills", {"kind": "engine-crash", "for_s": 1, "model": "chain"}).raise_for_status()
    running.wait_event("incident.resolved")
    events = [event for event in running.events(type="incident.*") if event["type"] != "incident.report_written"]
    assert [event["type"] for event in events] == ["incident.opened", "incident.mitigated", "incident.resolved"]
    assert len({event["incident"] for event in events}) == 1
    assert events[0]["data"]["title"] == "drill: The worker of chain died (SIGSEGV)"
    exited_at = running.events(type="engine.exited", model="chain")[-1]
    assert events[0]["data"]["events"] == [exited_at["seq"]]
    assert running.events(incident=events[0]["incident"])[: len(events)] == events
    assert running.stop() == 0
    running.restart()
    assert running.events(type="incident.opened") == [events[0]]


def test_a_daemon_that_was_killed_is_an_incident_of_the_next_one(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    running = start_daemon(model_config)
    assert running.chat().status_code == 200
    last = running.events(order="desc", limit=1)[0]
    running.kill()
    running.restart()
    opened = running.wait_event("incident.opened")
    assert opened["data"]["symptom"] == "crash"
    assert opened["severity"] == opened["data"]["severity"] == "critical"
    assert last["time"] <= opened["data"]["started_at"] < opened["time"]
    told = running.get("/lmx/incidents/last")
    assert told["opened_by"][0]["type"] == "daemon.crash_detected"


async def eventually_looked(incidents: Incidents, holds: Callable[[], bool]) -> None:
    """Until it holds; the job looks again and again meanwhile."""
    task = asyncio.create_task(incidents.run())
    try:
        await eventually(holds)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
