"""SIGHUP: the configuration is read again, and what can change while the daemon runs does."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from lmx_ledger.core import events as ev
from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.settings import Settings, compare
from lmx_ledger.daemon.terminal import warn
from lmx_ledger.ledger.writer import Ledger


class Rereader:
    """`read` is how the configuration was read at the start: the same file, the same overrides."""

    def __init__(self, settings: Settings, source: Path | None, read: Callable[[], Config]) -> None:
        self._settings = settings
        self._source = str(source) if source else None
        self._read = read
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Read it soon; asking again before that is one with it."""
        self._asked.set()

    async def run(self, ledger: Ledger) -> None:
        """Read whenever asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._reread(ledger)

    async def _reread(self, ledger: Ledger) -> None:
        try:
            wanted = await asyncio.to_thread(self._read)
            changes = compare(self._settings.now, wanted)
        except StartupError as error:
            warn(f"the configuration stays as it was: {error}")
            await ledger.commit(self._event({}, [], str(error)))
            return
        seq = await ledger.commit(self._event(changes.changed, changes.needs_restart, None))
        self._settings.put_in_force(changes.config, seq)
        if changes.needs_restart:
            warn(f"the configuration was read again; {', '.join(changes.needs_restart)} will change with a restart")

    def _event(self, changed: dict[str, object], needs_restart: list[str], error: str | None) -> ev.Event:
        return ev.Event(
            data=ev.ConfigChanged(source=self._source, changed=changed, needs_restart=needs_restart, error=error),
            stream="daemon",
            cause=self._settings.rules_seq or None,
            severity=ev.Severity.WARNING if error else None,
        )
