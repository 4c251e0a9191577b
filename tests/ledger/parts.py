"""Events and ledgers for the tests of this room."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.chain import Verdict, verify
from lmx_ledger.ledger.writer import Ledger


def queued(
    position: int = 1,
    *,
    request: str | None = "req_a",
    session: str | None = None,
    model: str | None = None,
    cause: ev.Cause = None,
) -> ev.Event:
    stream = f"request:{request}" if request else "queue"
    data = ev.RequestQueued(position=position, running=1)
    return ev.Event(data=data, stream=stream, request=request, session=session, model=model, cause=cause)


def stopped(reason: str = "done") -> ev.Event:
    return ev.Event(data=ev.DaemonStopped(reason=reason, uptime_s=1.5), stream="daemon")


def started(pid: int = 1) -> ev.Event:
    data = ev.DaemonStarted(version="0", pid=pid, host="h", port=1, platform="p", python="3")
    return ev.Event(data=data, stream="daemon")


@contextmanager
def writing(path: Path, boot: str = "boot-a", capacity: int = 65_536) -> Iterator[Ledger]:
    ledger = Ledger.open(path, boot=boot, synchronous="NORMAL", capacity=capacity)
    try:
        yield ledger
    finally:
        ledger.close()


def write(path: Path, *events: ev.Event, boot: str = "boot-a") -> None:
    with writing(path, boot) as ledger:
        for event in events:
            ledger.emit(event)


def verdict_of(path: Path) -> Verdict:
    with closing(sqlite3.connect(path)) as connection:
        return verify(connection)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's long transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
