"""Writes reports to the daemon on a thread of its own: a write takes a twentieth of a small model's step."""

import os
import queue
import socket
import threading

from lmx_ledger.engine.protocol import Report, frame


class Sender:
    """In the order in which they were given."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="reports", daemon=True)
        self._thread.start()

    def send(self, report: Report) -> None:
        """Have it written soon."""
        self._frames.put(frame(report))

    def close(self) -> None:
        """Until all of it is written."""
        self._frames.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (one := self._frames.get()) is not None:
            try:
                self._sock.sendall(one)
            except BrokenPipeError:
                os._exit(0)
