"""Writes the postmortem of each incident that is over into the folder of reports, and again where it came back."""

import asyncio
import traceback
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Final, NamedTuple

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns, utc_us
from lmx_ledger.core.config import Config
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.incidents import Incidents
from lmx_ledger.incident.state import Incident
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.report.from_ledger import postmortem
from lmx_ledger.report.write import NotWritten, write

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
        reader: Reader,
        settings: Settings,
        ledger: Path,
        notice: Callable[[str], None] = lambda _: None,
        *,
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        """`notice` is called with one line when reports cannot be written, and when they can again.

        What could not be written is tried again after `first_wait_s`, then after twice that, up to an hour.
        """
        self._incidents, self._reader, self._settings, self._ledger = incidents, reader, settings, ledger
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
                done = await asyncio.to_thread(self._write, incident, self._settings.now)
            except (NotWritten, LedgerError) as error:
                self._cannot(incident, str(error))
            except Exception:  # noqa: BLE001 - a fault of ours in one report must not keep the others from being written
                self._cannot(incident, traceback.format_exc())
            else:
                self._can(incident)
                await self._incidents.reported(incident, done)

    def _write(self, incident: Incident, config: Config) -> ev.IncidentReportWritten:
        began, folder = mono_ns(), config.reports
        document = postmortem(self._ledger, self._reader, incident, utc_us())
        written = write(folder, incident.id, document)
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
