"""Writes the postmortem of each incident that is over into the folder of reports, and again where it came back."""

import asyncio
import traceback
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns, utc_us
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.incidents import Incidents
from lmx_ledger.incident.state import Incident
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.report.apart import LOWEST
from lmx_ledger.report.postmortem_apart import postmortem_apart
from lmx_ledger.report.write import NotWritten, read_json, write

_EVERY_S: Final = 2.0
_FIRST_WAIT_S: Final = 60.0
_LONGEST_WAIT_S: Final = 3_600.0
_OLD_US: Final = 7 * 86_400_000_000
"""What was over so long ago when this program first came to it is left as it is: `lmx incidents report` tells of it."""


class _Failed(NamedTuple):
    at_ns: int
    wait_s: float


class Reports:
    """One per daemon; of several daemons of one home the one that decides about incidents writes."""

    def __init__(
        self,
        incidents: Incidents,
        settings: Settings,
        ledger: Path,
        notice: Callable[[str], None] = lambda _: None,
        *,
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        """`notice` is called with one line when reports cannot be written, and when they can again.

        What could not be written is tried again after `first_wait_s`, then after twice that, up to an hour.
        """
        self._incidents, self._settings, self._ledger = incidents, settings, ledger
        self._notice = notice
        self._first_wait_s = first_wait_s
        self._failed: dict[str, _Failed] = {}
        self._scheduler = AsyncIOScheduler(timezone=UTC)

    def start(self) -> None:
        """Look every two seconds whether one is over."""
        self._scheduler.add_job(
            self.look, "interval", seconds=_EVERY_S, coalesce=True, misfire_grace_time=None, max_instances=1
        )
        self._scheduler.start()

    def stop(self) -> None:
        """What is being written is still written whole, or not at all."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def look(self) -> None:
        """Once: write what is due."""
        for incident in self._incidents.without_report(utc_us() - _OLD_US):
            failed = self._failed.get(incident.id)
            if failed is not None and elapsed_ms(failed.at_ns) < failed.wait_s * 1e3:
                continue
            try:
                done = await self._write(incident)
            except (NotWritten, LedgerError, msgspec.DecodeError) as error:
                self._cannot(incident, str(error))
            except Exception:  # noqa: BLE001 - a fault of ours in one report must not keep the others from being written
                self._cannot(incident, traceback.format_exc())
            else:
                self._can(incident)
                await self._incidents.reported(incident, done)

    async def _write(self, incident: Incident) -> ev.IncidentReportWritten:
        began, folder = mono_ns(), self._settings.now.reports
        body = await postmortem_apart(self._ledger, incident.id, utc_us(), "json", nice=LOWEST)
        document = await asyncio.to_thread(read_json, body)
        written = await asyncio.to_thread(write, folder, incident.id, document)
        return ev.IncidentReportWritten(
            folder=str(folder),
            files=[file.name for file in written],
            head_seq=document.integrity.head_seq if document.integrity is not None else 0,
            ms=elapsed_ms(began),
        )

    def _cannot(self, incident: Incident, reason: str) -> None:
        if not self._failed:
            self._notice(f"the postmortem of {incident.id}: {reason}; it is tried again")
        before = self._failed.get(incident.id)
        wait_s = self._first_wait_s if before is None else min(2 * before.wait_s, _LONGEST_WAIT_S)
        self._failed[incident.id] = _Failed(mono_ns(), wait_s)

    def _can(self, incident: Incident) -> None:
        if self._failed.pop(incident.id, None) is not None and not self._failed:
            self._notice("postmortems can be written again")
