"""Keeps the projections behind the ledger while the daemon runs, on a thread of its own, and says when it cannot."""

import sqlite3
import threading
from collections.abc import Callable
from typing import Final

from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.ledger.projection import Projections
from lmx_ledger.ledger.store import LedgerError

_EVERY_S: Final = 2.0
_BETWEEN_PAGES_S: Final = 0.02
"""Pause behind each page of a history that is folded anew: the interpreter is the event loop's in the first place."""
_BUSY_PATIENCE_MS: Final = 5_000
"""Another process's transaction is no trouble before it has lasted this long."""
_STOP_S: Final = 1.0


class Projector:
    """Nothing waits for it: not a request, and not the end of the daemon, which a fold may outlive by a moment."""

    def __init__(self, projections: Projections, notice: Callable[[str], None]) -> None:
        """`notice` is called on the projector's thread."""
        self._projections = projections
        self._notice = notice
        self._stopping = threading.Event()
        self._behind_since_ns: int | None = None
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="projector", daemon=True)

    def start(self) -> None:
        """Begin to fold."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """The page in hand is the last one; does not wait for it."""
        self._stopping.set()

    def join(self) -> None:
        """After `ask_to_stop`: wait for that page, but no longer than a second. Not for an event loop."""
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            pause_s = _BETWEEN_PAGES_S if self._advance() else _EVERY_S
        self._projections.close()

    def _advance(self) -> bool:
        began = mono_ns()
        try:
            more = self._projections.advance()
        except (sqlite3.Error, OSError, LedgerError) as error:
            self._failed(error, began)
            return False
        self._behind_since_ns = None
        if self._error is not None:
            self._error = None
            self._notice(f"{self._projections.path} is folded again")
        return more

    def _failed(self, error: Exception, began_ns: int) -> None:
        self._behind_since_ns = began_ns if self._behind_since_ns is None else self._behind_since_ns
        busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
        if busy and elapsed_ms(self._behind_since_ns) < _BUSY_PATIENCE_MS:
            return
        first, self._error = self._error is None, str(error)
        if first:
            self._notice(f"{self._projections.path} cannot be folded: {error}; serving goes on, and it is tried again")
