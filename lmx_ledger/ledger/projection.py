"""Projections: what the events add up to, kept in `projections.db` beside the ledger so that no start folds it all.

They are disposable. The ledger alone is the truth, its file stays append-only, and a projections file that is
deleted, corrupt, or beside another ledger than the one it was folded from is folded anew from the first event.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Protocol

from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.file import WAL_PAGES
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.follow import Asked, Follower
from lmx_ledger.ledger.lock import CheckpointLock
from lmx_ledger.ledger.store import LedgerError, connect, identity

FILE: Final = "projections.db"

_BUSY_MS: Final = 250
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY_CODE: Final = 0xFF
_KEPT_US: Final = 7 * 86_400 * 1_000_000
"""What another version of the code has folded is kept so long: two programs may share the file for a while."""
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS projection (name TEXT NOT NULL, version INTEGER NOT NULL, reached_seq INTEGER NOT NULL,"
    " reached_id TEXT NOT NULL, updated_us INTEGER NOT NULL, PRIMARY KEY (name, version)) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS snapshot (name TEXT NOT NULL, version INTEGER NOT NULL, seq INTEGER NOT NULL,"
    " state BLOB NOT NULL, PRIMARY KEY (name, version, seq)) STRICT, WITHOUT ROWID",
)


class Projection(Protocol):
    """Something that is folded from events and kept in the projections file.

    Its state is in tables of its own, all named `table_of` or beginning with that and `_`, or in `snapshot` under its
    name and version (`fold.Folded`). Another `version` of the code folds into tables of its own, from zero.
    """

    @property
    def name(self) -> str:
        """A word that no other projection has."""

    @property
    def version(self) -> int:
        """Raised with every change of what is folded, or of how it is stored."""

    @property
    def types(self) -> tuple[str, ...]:
        """The events that it wants; `request.*` stands for all of a kind."""

    def create(self, connection: sqlite3.Connection) -> None:
        """Make its own tables, empty. Within a transaction that the caller ends."""

    def fold(self, connection: sqlite3.Connection, events: Sequence[Recorded], seq: int) -> None:
        """Fold the wanted events behind what was folded before, in order; `seq` is the newest one looked at.

        Within a transaction that the caller ends; nothing but the connection may remember it.

        Raises:
            StateLost: what was stored cannot be read; it is folded from zero then.
        """


class ProjectionError(LedgerError):
    """A projection is not up to date; the message is one line that says why."""


class StateLost(ProjectionError):
    """What a projection has stored cannot be read by the code that stored it."""


def table_of(projection: Projection) -> str:
    """The name that a projection's own tables begin with."""
    return f"{projection.name}_v{projection.version}"


class Projections:
    """All projections of one ledger, folded a page at a time. Any number of processes may do so on one file.

    The seq that a projection has reached is stored in the transaction that stores its rows: whoever folds the next page
    begins there, and a fold that breaks off has not been.
    """

    def __init__(self, path: Path, projections: Sequence[Projection], ledger: Asked) -> None:
        self.path = path
        self._projections = tuple(projections)
        self._ledger = ledger
        self._lock = CheckpointLock(path)
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def advance(self) -> bool:
        """Fold a page of events into every projection that is behind; True while there is more. Not for an event loop.

        Raises:
            sqlite3.Error, OSError: the file cannot be made or written; to be called again.
            LedgerError: the ledger cannot be read, an event cannot be folded, or the file was corrupt and is
                made anew by the next call. Projections that can be folded have been.
        """
        more, broken = False, None
        try:
            connection = self._ours()
            for projection in self._projections:
                try:
                    more = self._advance(connection, projection) or more
                except ProjectionError as error:
                    broken = broken or error
        except sqlite3.DatabaseError as error:
            self._let_go()
            if getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE not in _CORRUPT:
                raise
            _remove_corrupt(self.path)
            raise ProjectionError(f"{self.path} was corrupt ({error}) and is folded anew") from None
        if broken is not None:
            raise broken
        return more

    def close(self) -> None:
        """Let the file go."""
        self._let_go()
        self._lock.release()

    def _advance(self, connection: sqlite3.Connection, projection: Projection) -> bool:
        with _transaction(connection):
            reached = self._reached(connection, projection)
            follower = Follower(self._ledger, EventFilter(types=projection.types), reached)
            events = follower.advance()
            if follower.seen == reached:
                return False
            try:
                projection.fold(connection, events, follower.seen)
            except StateLost:
                self._begin_anew(connection, projection)
                return True
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                between = f"between events {reached + 1} and {follower.seen}"
                raise ProjectionError(f"{projection.name} cannot be folded {between}: {error!r}") from error
            last = self._ledger.events(EventFilter(after=follower.seen - 1, limit=1))
            connection.execute(
                "UPDATE projection SET reached_seq = ?, reached_id = ?, updated_us = ? WHERE name = ? AND version = ?",
                (follower.seen, last[0].id if last else "", utc_us(), projection.name, projection.version),
            )
        return follower.seen < self._ledger.head()

    def _reached(self, connection: sqlite3.Connection, projection: Projection) -> int:
        row = connection.execute(
            "SELECT reached_seq, reached_id FROM projection WHERE name = ? AND version = ?",
            (projection.name, projection.version),
        ).fetchone()
        if row is not None and is_of(self._ledger, *row):
            return int(row[0])
        self._begin_anew(connection, projection)
        return 0

    def _begin_anew(self, connection: sqlite3.Connection, projection: Projection) -> None:
        old = connection.execute(
            "SELECT version FROM projection WHERE name = ? AND version != ? AND updated_us < ?",
            (projection.name, projection.version, utc_us() - _KEPT_US),
        ).fetchall()
        for (version,) in (*old, (projection.version,)):
            _drop(connection, projection.name, version)
        projection.create(connection)
        connection.execute(
            "INSERT INTO projection VALUES (?, ?, 0, '', ?)", (projection.name, projection.version, utc_us())
        )

    def _ours(self) -> sqlite3.Connection:
        if self._connection is not None and identity(self.path) != self._identity:
            self._let_go()
        if self._connection is None:
            self.path.touch(mode=0o600)
            connection = connect(self.path, "NORMAL", busy_ms=_BUSY_MS)
            self._connection, self._identity = connection, identity(self.path)
            if self._lock.held:
                connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
            with _transaction(connection):
                for table in _TABLES:
                    connection.execute(table)
        if self._lock.take():
            self._connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        return self._connection

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, to whatever is at the path.

    Raises:
        sqlite3.Error: there is no such file, or it cannot be read.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0, isolation_level=None, check_same_thread=False
    )


def is_of(ledger: Asked, seq: int, id: str) -> bool:  # noqa: A002
    """Whether what was folded up to that event was folded from this ledger (an event's id is made of the chain)."""
    if seq == 0:
        return True
    found = ledger.events(EventFilter(after=seq - 1, limit=1))
    # An event that was archived meanwhile cannot be asked any more; only what is behind it is there.
    return bool(found) and (found[0].seq > seq or found[0].id == id)


def _drop(connection: sqlite3.Connection, name: str, version: int) -> None:
    own = f"{name}_v{version}"
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND (name = ? OR substr(name, 1, ?) = ?)",
        (own, len(own) + 1, f"{own}_"),
    ).fetchall()
    for (table,) in tables:
        connection.execute(f'DROP TABLE "{table}"')
    for common in ("projection", "snapshot"):
        connection.execute(f"DELETE FROM {common} WHERE name = ? AND version = ?", (name, version))  # noqa: S608


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        # After a full disk SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _remove_corrupt(path: Path) -> None:
    # Under a lock, and looked at again: another process may have put a whole file there already.
    descriptor = os.open(path.with_suffix(".replace"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not _is_whole(path):
            for suffix in ("-wal", "-shm", ""):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_whole(path: Path) -> bool:
    try:
        with closing(open_to_read(path)) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE not in _CORRUPT
