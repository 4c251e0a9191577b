"""Has the ledger held against itself once a day, in a process of its own, and puts on record what was found."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.ledger.writer import Ledger

EVERY_S: Final = 86_400.0
FIRST_AFTER_S: Final = 600.0
"""Not at the start, when there is enough to do."""

_FIELDS: Final = ("ok", "events", "sealed", "head_seq", "head_hash", "signed_seq", "bad_seq", "reason")
_COMMAND: Final = (sys.executable, "-m", "lmx_ledger.ledger.audit")


class Verifier:
    """A walk over millions of events takes half a minute of one core: that one is not the event loop's."""

    def __init__(self, ledger: Ledger, notice: Callable[[str], None]) -> None:
        """`notice` is called with one line when the ledger is not as it was written, or cannot be looked at."""
        self._ledger = ledger
        self._notice = notice

    async def run(self, first_after_s: float = FIRST_AFTER_S, every_s: float = EVERY_S) -> None:
        """Look, until cancelled; a walk that goes on then is broken off."""
        pause_s = first_after_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = every_s
            await self.verify()

    async def verify(self) -> None:
        """Look now; what is wrong is told and recorded, and never raised."""
        path, began = self._ledger.path, mono_ns()
        try:
            found = await _audited(path)
        except (OSError, ValueError) as error:
            found = {"error": f"its process failed ({error!r})"}
        if "error" in found:
            self._notice(f"{path} could not be verified: {found['error']}; it is tried again tomorrow")
            return
        if not found["ok"]:
            self._notice(f"{path} is not as it was written from event {found['bad_seq']} on: {found['reason']}")
        data = ev.LedgerVerified(
            **{field: found[field] for field in _FIELDS},
            took_ms=elapsed_ms(began),
        )
        severity = None if data.ok else ev.Severity.CRITICAL
        self._ledger.emit(ev.Event(data=data, stream="ledger", severity=severity))


async def _audited(path: Path) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(*_COMMAND, str(path), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    answer: dict[str, Any] = json.loads(told)
    return answer
