"""What an operator is told while the ledger cannot be written: one line when it begins, one when it is over."""

import sqlite3
from collections.abc import Callable
from typing import Final

from lmx_ledger.core.clock import elapsed_ms

_BUSY_PATIENCE_MS: Final = 2_000
"""Another process's transaction is no trouble before it has lasted this long."""


class Trouble:
    """The error in force, None when all is well. `notice` gets the lines."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self.error: str | None = None
        self._signing: str | None = None
        self._notice = notice

    def failed(self, error: Exception, began_ns: int, capacity: int) -> None:
        """A write that was tried first at `began_ns` failed again."""
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY and elapsed_ms(began_ns) < _BUSY_PATIENCE_MS:
            return
        first, self.error = self.error is None, str(error)
        if first:
            self._notice(
                f"the ledger cannot be written: {error}; "
                f"serving goes on, and up to {capacity} events are kept in memory until it can"
            )

    def succeeded(self, last_seq: int) -> None:
        """A write went through."""
        if self.error is not None:
            self.error = None
            self._notice(f"the ledger is written again, up to event {last_seq}")

    def signing(self, error: str | None) -> None:
        """Whether the head could be signed, after a group was written."""
        if error != self._signing:
            self._signing = error
            if error is not None:
                self._notice(f"the ledger's head cannot be signed: {error}; events are kept, it is tried again")
