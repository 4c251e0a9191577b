"""One worker process without a model, kept ready to take the place of one that dies: its imports are done by then."""

import asyncio
import contextlib
from typing import Any, Final

from lmx_ledger.core import events as ev
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.stream import EngineError
from lmx_ledger.ledger.writer import Ledger

AFTER_S: Final = 5.0
"""Started when the daemon has been ready for so long, and has other things to do before."""
_NEXT_S: Final = 1.0
"""The next one starts so long behind a take: streams are read again then, and a crash loop must not be a fork loop."""
_AGAIN_S: Final = 30.0


class Standby:
    """Of all models together: whoever needs a worker first takes it, and another one is started."""

    def __init__(self, ledger: Ledger, blas: str, after_s: float = AFTER_S) -> None:
        self._ledger = ledger
        self._blas = blas
        self._after_s = after_s
        self._worker: Worker | None = None
        self._taken = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of the process that waits; None while there is none."""
        return self._worker.pid if self._worker is not None else None

    def take(self) -> Worker | None:
        """The worker that waits; None where there is none just now."""
        worker, self._worker = self._worker, None
        self._taken.set()
        return worker if worker is not None and worker.alive else None

    async def run(self) -> None:
        """Keep one, until cancelled."""
        pause_s = self._after_s
        try:
            while True:
                await asyncio.sleep(pause_s)
                pause_s = await self._keep_one()
        finally:
            if (worker := self.take()) is not None:
                await worker.stop()

    async def _keep_one(self) -> float:
        """Until it is taken or has died; how long to wait before the next one."""
        try:
            worker = await Worker.start(self._blas)
        except (EngineError, OSError):
            # Whoever needs a worker starts one, and says why that cannot be done.
            return _AGAIN_S
        self._taken.clear()
        self._worker = worker
        ready = ev.EngineStandbyReady(pid=worker.pid, ms=worker.age_ms)
        self._ledger.emit(ev.Event(data=ready, stream="daemon"))
        taken: asyncio.Future[Any] = asyncio.create_task(self._taken.wait())
        either: set[asyncio.Future[Any]] = {taken, worker.exited}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await taken
        if self._worker is worker:
            self._worker = None
            return _AGAIN_S
        return min(_NEXT_S, self._after_s)
