"""The file that a writer appends to: opened, watched, and never mistaken for another."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.ledger.append import Appender, Draft, read_head
from lmx_ledger.ledger.heads import Signer
from lmx_ledger.ledger.lock import CheckpointLock
from lmx_ledger.ledger.store import LedgerError, Synchronous, connect, connect_to_read, identity

WAL_PAGES: Final = 1_000
"""After so many pages of 4 KB the one that checkpoints copies them from the WAL into the file."""

_TAKE_EVERY_MS: Final = 1_000
_PAGE_BYTES: Final = 4_096


class Strayed(Exception):
    """What is at the path is not the ledger that this writer wrote; the message says what to do."""


class LedgerFile:
    """One ledger, by its path and by its own last event.

    SQLite goes on writing into a file that was moved away or deleted, and nobody would ever read it. So before each
    group the path is compared with what is open. Where the file is gone, nothing is written: not into what nobody can
    see any more, and not into a new, empty file, whose chain would begin anew as if nothing had been before. The
    writer keeps the events, within its bound, and tries again. It goes on when a file is there again that has the last
    event which it wrote: the same file, put back, or a whole copy of it. Any other ledger, an older copy included,
    is left as it is.
    """

    def __init__(self, path: Path, synchronous: Synchronous, boot: str) -> None:
        """Open it.

        Raises:
            sqlite3.Error: it cannot be opened or written.
        """
        self.path = path
        self._synchronous = synchronous
        self._appender = Appender(boot)
        self._connection: sqlite3.Connection | None = connect(path, synchronous)
        self._identity = identity(path)
        self._head = read_head(self._connection)
        self._signer = Signer(path)
        self._lock = CheckpointLock(path)
        self._tried_ns = mono_ns()
        if self._lock.take():
            self._checkpoint_by_itself(self._connection)

    @property
    def signing_error(self) -> str | None:
        """Why the last head could not be signed; None when all is well."""
        return self._signer.error

    @property
    def head_seq(self) -> int:
        """The newest event that this writer has committed (at first: that the file had)."""
        return self._head[0]

    def append(self, drafts: Sequence[Draft]) -> None:
        """Commit the group, see `Appender.append`.

        Raises:
            Strayed: the file is not where it was.
            sqlite3.Error: nothing is known to be written; to be called again with the same group.
            OverflowError: a number is beyond 64 bits.
        """
        # After any error the connection is made anew: a full disk or a bad read can leave it in an unknown state.
        connection, self._connection = self._ours(), None
        try:
            self._head = self._appender.append(connection, drafts)
        except (sqlite3.Error, OverflowError):
            connection.close()
            raise
        self._connection = connection
        self._signer.note(*self._head)
        self._take_over()

    def tend(self) -> None:
        """What is due when nothing was appended for a while: a head, and the WAL that others have filled."""
        connection = self._connection
        if connection is None or identity(self.path) != self._identity:
            return
        self._signer.note(*self._head)
        self._take_over()
        if self._lock.held and _size(self.path.with_name(f"{self.path.name}-wal")) > WAL_PAGES * _PAGE_BYTES:
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.Error:
                # The next append meets the same trouble, and tells of it.
                return

    def close(self) -> None:
        """Sign the last event, and let the file go."""
        if self._connection is not None and identity(self.path) == self._identity:
            self._signer.sign(*self._head)
        self._let_go()
        self._lock.release()

    def _take_over(self) -> None:
        """Checkpoint from now on, where the one that did is gone."""
        if self._lock.held or elapsed_ms(self._tried_ns) < _TAKE_EVERY_MS:
            return
        self._tried_ns = mono_ns()
        if self._lock.take() and self._connection is not None:
            self._checkpoint_by_itself(self._connection)

    def _checkpoint_by_itself(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")

    def _ours(self) -> sqlite3.Connection:
        found = identity(self.path)
        if found is None:
            self._let_go()
            raise Strayed(f"{self.path} is gone; put it back")
        if found != self._identity:
            self._let_go()
            self._recognise()
            self._identity = found
        if self._connection is not None:
            return self._connection
        connection = connect(self.path, self._synchronous)
        if self._lock.held:
            self._checkpoint_by_itself(connection)
        return connection

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _recognise(self) -> None:
        # Read-only: a stranger's file is not to be touched, and connect() would switch it to WAL.
        seq, digest = self._head
        try:
            with closing(connect_to_read(self.path)) as connection:
                known = connection.execute("SELECT 1 FROM event WHERE seq = ? AND hash = ?", (seq, digest)).fetchone()
        except (LedgerError, sqlite3.Error) as error:
            raise Strayed(f"another file is in the ledger's place ({error}); put the right one back") from None
        if seq and not known:
            raise Strayed(
                f"another ledger is in the place of {self.path}, without event {seq} of this run; "
                "put the right one back, or restart the daemon to go on with that one"
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
