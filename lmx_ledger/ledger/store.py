"""The ledger's file: making it, bringing its schema up to date, opening it to write or to read."""

import sqlite3
import time
from pathlib import Path
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

import lmx_ledger
from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.core.errors import StartupError
from lmx_ledger.ledger.schema import OLDEST, REVISION

Synchronous = Literal["NORMAL", "FULL"]

_OPEN_PATIENCE_MS: Final = 10_000
_BUSY_MS: Final = 100
_WAL_KEPT_BYTES: Final = 64 * 1024**2
_CACHE_BYTES: Final = 32 * 1024**2


class LedgerError(StartupError):
    """The ledger cannot be used; the message is one line that says why and what to do."""


class LedgerMissing(LedgerError):
    """There is no ledger at that path yet."""


class LedgerUnusable(LedgerError):
    """There is a file, and it cannot be read or written as this program's ledger."""


def migrations_folder() -> Path:
    """Where the migrations are: inside the installed package, or beside it in a checkout."""
    package = Path(lmx_ledger.__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def migrate(path: Path) -> None:
    """Make the file (0600; SQLite gives its -wal and -shm the same mode) or bring it to the newest schema.

    Two processes may do so at once: the second waits, and finds nothing left to do.

    Raises:
        LedgerUnusable: it cannot be made or written, is no ledger, or comes from a newer program.
    """
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        connection = connect(path, "FULL", busy_ms=_OPEN_PATIENCE_MS)
        try:
            found = _revision(connection)
        finally:
            connection.close()
        if found == REVISION:
            return
        if found is not None and found > REVISION:
            raise _newer(path, found)
        if found is not None and found < OLDEST:
            raise LedgerUnusable(
                f"{path}: written by an lmx from before the first release (schema {found}); "
                "move it away, or use another --home"
            )
        _upgrade(path)
    except OSError as error:
        raise LedgerUnusable(f"{path}: cannot be written ({error.strerror})") from None
    except (sqlite3.Error, sa.exc.DBAPIError) as error:
        raise _unusable(path, error) from None


def connect(path: Path, synchronous: Synchronous, *, busy_ms: int = _BUSY_MS) -> sqlite3.Connection:
    """A writing connection: WAL, transactions begun by hand, recursive triggers. It does not checkpoint by itself.

    Raises:
        sqlite3.Error: SQLite cannot open or write the file.
    """
    # mode=rw: a file that was moved away must not come back as an empty ledger.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _use_wal(connection, busy_ms)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        if synchronous == "FULL":
            # macOS: fsync alone leaves the data in the drive's cache.
            connection.execute("PRAGMA fullfsync=ON")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_KEPT_BYTES}")
        # The leaves of the indexes that grow; SQLite's own 2 MB would read them again and again.
        connection.execute(f"PRAGMA cache_size=-{_CACHE_BYTES // 1024}")
        connection.execute("PRAGMA recursive_triggers=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, not even a checkpoint; it works beside a daemon and without one.

    Raises:
        LedgerMissing: there is no such file.
        LedgerUnusable: it is no ledger, or of another schema than this program's.
    """
    if not path.is_file():
        raise LedgerMissing(f"{path}: there is no ledger yet; lmx serve start makes one")
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=5.0,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            found = _revision(connection)
        except sqlite3.Error:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise _unusable(path, error) from None
    if found != REVISION:
        connection.close()
        if found is not None and found > REVISION:
            raise _newer(path, found)
        raise LedgerUnusable(f"{path}: not brought up to date yet; lmx serve start does it")
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at a path; None where nothing can be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _use_wal(connection: sqlite3.Connection, patience_ms: float) -> None:
    # SQLite does not wait its busy timeout for the first switch to WAL, which another process may be doing now.
    began = mono_ns()
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or elapsed_ms(began) > patience_ms:
                raise
            time.sleep(0.005)
        else:
            return


def _revision(connection: sqlite3.Connection) -> str | None:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
    return row[0] if row else None


def _upgrade(path: Path) -> None:
    # Alembic costs a quarter of a second of imports; a ledger that is up to date does without it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    engine = sa.create_engine(
        "sqlite://", creator=lambda: connect(path, "FULL", busy_ms=_OPEN_PATIENCE_MS), poolclass=NullPool
    )

    @sa.event.listens_for(engine, "begin")
    def _immediate(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _newer(path: Path, found: str) -> LedgerUnusable:
    return LedgerUnusable(
        f"{path}: written by a newer lmx (schema {found}, here {REVISION}); upgrade lmx or use another --home"
    )


def _unusable(path: Path, error: Exception) -> LedgerUnusable:
    raw = getattr(error, "orig", None) or error
    return LedgerUnusable(f"{path}: cannot be used as a ledger: {raw}")
