"""Keeps `[ledger] retention`: seals what is due once an hour, on another thread, and says when it cannot."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.config import Retention
from lmx_ledger.core.settings import Settings
from lmx_ledger.ledger.archive import archived_event, due, sealed_event
from lmx_ledger.ledger.segment import Segment, seal_through
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.ledger.writer import Ledger

EVERY_S: Final = 3_600.0
FIRST_AFTER_S: Final = 60.0
"""Not at the start, when there is enough to do."""


class Keeper:
    """Of two daemons that share a ledger both look; the second finds nothing due."""

    def __init__(self, settings: Settings, ledger: Ledger, notice: Callable[[str], None]) -> None:
        """`notice` is called with one line when sealing begins to fail, and one when it works again."""
        self._settings = settings
        self._ledger = ledger
        self._notice = notice
        self._error: str | None = None

    async def run(self, first_after_s: float = FIRST_AFTER_S, every_s: float = EVERY_S) -> None:
        """Look and seal, until cancelled."""
        pause_s = first_after_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = every_s
            await self.keep()

    async def keep(self) -> None:
        """Seal what is due now; trouble is told once, and never raised."""
        path = self._ledger.path
        retention = Retention.parse(self._settings.now.ledger.retention)
        try:
            through = await asyncio.to_thread(due, path, retention, utc_us())
            if through:
                await asyncio.to_thread(self._seal, path, through)
        except (OSError, sqlite3.Error, LedgerError) as error:
            first, self._error = self._error is None, str(error)
            if first:
                self._notice(f"old events cannot be sealed: {error}; they stay in {path.name}, it is tried again")
        else:
            if self._error is not None:
                self._error = None
                self._notice("old events are sealed again")

    def _seal(self, path: Path, through: int) -> None:
        done: list[Segment] = []
        try:
            for segment in seal_through(path, through):
                done.append(segment)
                self._ledger.emit(sealed_event(segment))
        finally:
            if done:
                self._ledger.emit(archived_event(done, "retention"))
