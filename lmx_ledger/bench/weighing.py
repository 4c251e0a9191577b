"""What a daemon's workers take at most: by their own word, and of the machine's memory as it is seen from outside."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import psutil

from lmx_ledger.bench.servers import Daemon

_EVERY_S: Final = 0.02
_ASK_EVERY: Final = 10
_READY_S: Final = 60.0
_WORKER: Final = "lmx_ledger.engine.worker"


class Weighing:
    """`empty_bytes` is what a worker takes that has imported everything and has no model: the standby."""

    def __init__(self, ours: Daemon, empty_bytes: int) -> None:
        self.empty_bytes = empty_bytes
        self.processes = self.allocators = 0
        self._ours = ours
        self._over = threading.Event()

    def watch(self) -> None:
        """Look until it is over."""
        own = psutil.Process(self._ours.process.pid)
        looked = 0
        workers: list[psutil.Process] = []
        while not self._over.wait(_EVERY_S):
            if looked % _ASK_EVERY == 0:
                workers = [child for child in own.children() if _is_worker(child)]
                accounts = self._ours.get("/lmx/memory")["accounts"]
                self.allocators = max(self.allocators, sum(account["active_bytes"] for account in accounts))
            looked += 1
            taken = sum(max(_private(worker) - self.empty_bytes, 0) for worker in workers)
            self.processes = max(self.processes, taken)

    def end(self) -> None:
        """It is over."""
        self._over.set()


@contextlib.contextmanager
def weighing(ours: Daemon) -> Iterator[Weighing]:
    """Look at them meanwhile.

    Raises:
        OSError: there was no standby within a minute.
    """
    scales = Weighing(ours, _private(psutil.Process(_standby_pid(ours))))
    thread = threading.Thread(target=scales.watch)
    thread.start()
    try:
        yield scales
    finally:
        scales.end()
        thread.join()


def _standby_pid(ours: Daemon) -> int:
    began = time.perf_counter()
    while time.perf_counter() - began < _READY_S:
        if ready := ours.events("engine.standby_ready"):
            return int(ready[-1]["data"]["pid"])
        time.sleep(0.1)
    raise OSError("no standby within a minute")


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return _WORKER in process.cmdline()
    return False


def _private(process: psutil.Process) -> int:
    """Resident, without pages of files: code that it has run is in memory once, for all workers. 0 once it is gone."""
    with contextlib.suppress(psutil.Error):
        info = process.memory_info()
        return int(info.rss) - int(getattr(info, "shared", 0))
    return 0
