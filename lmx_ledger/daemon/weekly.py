"""Writes the digest of each ISO week of UTC into the folder of reports, soon after it ended or at the next start."""

import asyncio
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Final

import msgspec
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.week import Period, week_before
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.lock import CheckpointLock
from lmx_ledger.ledger.projection import is_of
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.report.apart import LOWEST
from lmx_ledger.report.digest.apart import digest_apart
from lmx_ledger.report.digest.sums import TYPES
from lmx_ledger.report.digest.write import name_of, read_json, write_digest
from lmx_ledger.report.write import NotWritten

MINUTE: Final = 5
"""Of each hour: not at midnight itself, when what happened just before may be on its way to the ledger."""
FIRST_AFTER_S: Final = 20.0
"""Not at the start, when there is enough to do."""


class Weekly:
    """Of several daemons of a home one writes, the one that holds `digests.lock`.

    It looks every hour: a timer for a week would go on by a clock that stands still while a laptop sleeps, and what
    could not be written is tried again. A week that has its digest costs a look at the folder.
    """

    def __init__(self, ledger: Path, reader: Reader, folder: Callable[[], Path], notice: Callable[[str], None]) -> None:
        """`folder` is asked for each time: it may be configured otherwise meanwhile.

        `notice` is called with one line when a digest cannot be written, and one when it is after all.
        """
        self._ledger, self._reader, self._folder, self._notice = ledger, reader, folder, notice
        # The kernel frees it with its holder.
        self._lock = CheckpointLock(ledger.with_name("digests"))
        self._turn = asyncio.Lock()
        self._seen: str | None = None
        self._error: str | None = None

    async def run(self, first_after_s: float = FIRST_AFTER_S) -> None:
        """Look, until cancelled; what is being made then is given up."""
        scheduler = AsyncIOScheduler(timezone=UTC)
        # Without a bound of grace: behind a night's sleep it is one run, at once, and no complaint about missed ones.
        scheduler.add_job(self.look, "cron", minute=MINUTE, coalesce=True, misfire_grace_time=None, max_instances=1)
        scheduler.start()
        try:
            await asyncio.sleep(first_after_s)
            await self.look()
            await asyncio.Event().wait()
        finally:
            scheduler.shutdown(wait=False)
            self._lock.release()

    async def look(self, now_us: int | None = None) -> bool:
        """Whether the last week's digest has been written just now; trouble is told once, and never raised."""
        async with self._turn:
            period = week_before(utc_us() if now_us is None else now_us)
            self._lock.take()
            if not self._lock.held or self._seen == period.name:
                return False
            try:
                due = await asyncio.to_thread(self._due, period)
                if due:
                    body = await digest_apart(self._ledger, period, "json", nice=LOWEST)
                    await asyncio.to_thread(write_digest, self._folder(), read_json(body))
            except (LedgerError, NotWritten, OSError, msgspec.DecodeError) as error:
                self._cannot(period, str(error))
                return False
            # Whoever deletes it has read it: once in a run is enough.
            self._seen = period.name
            self._can()
            return due

    def _due(self, period: Period) -> bool:
        """Whether it is missing, or was written before all of the week was in the ledger.

        One that another ledger's daemon has written into the same folder is left as it is.
        """
        history = History(self._ledger, self._reader)
        if next(history.within(("*",), *period), None) is None:
            return False
        try:
            header = read_json((self._folder() / f"{name_of(period.name)}.json").read_bytes()).header
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return True
        if not is_of(self._reader, header.last_seq, header.last_id):
            return False
        return not header.whole or next(history.within(TYPES, *period, after=header.last_seq), None) is not None

    def _cannot(self, period: Period, reason: str) -> None:
        if reason != self._error:
            self._notice(f"digest of week {period.name}: {reason}; it is tried again every hour")
        self._error = reason

    def _can(self) -> None:
        if self._error is not None:
            self._notice("the digest that could not be written is there, or has no need to be")
        self._error = None
