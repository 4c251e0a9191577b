"""Questions to the ledger: the contract's filters in any combination, both orders, with a cursor; read-only."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.ids import request_id_of
from lmx_ledger.ledger import chain
from lmx_ledger.ledger.event_id import event_id
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.schema import event, name, stream_of
from lmx_ledger.ledger.store import LedgerUnusable, connect_to_read, identity

_LAST_ACTS: Final = 20
_COLUMNS: Final = tuple(column for column in event.columns if column.name != "hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnendedRun:
    """A run that began and wrote no `daemon.stopped`: it crashed, or it still runs (`pid`, since `started_us`).

    `last_acts` are its last events as `type` and what they are about, oldest first; `last_daemon` is the newest
    `daemon.*` event among all of its events.
    """

    boot: str
    pid: int
    started_us: int
    last_seq: int
    last_time_us: int
    last_daemon: str
    last_acts: list[str]


class Reader:
    """The reading end of a ledger file, for any number of threads; it cannot write."""

    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(
            "sqlite://", creator=lambda: connect_to_read(path), poolclass=QueuePool, pool_size=4, max_overflow=4
        )

        def note_file(_: object, record: sa.pool.ConnectionPoolEntry) -> None:
            record.info["file"] = identity(path)

        def same_file(_: object, record: sa.pool.ConnectionPoolEntry, __: object) -> None:
            # An open connection goes on reading a file that was moved away or deleted, whatever is at its path now.
            if record.info["file"] != identity(path):
                raise sa.exc.DisconnectionError("another file is at the ledger's path")

        sa.event.listen(self._engine, "connect", note_file)
        sa.event.listen(self._engine, "checkout", same_file)
        # Names are never changed, so the dictionary is replaced when an unknown number turns up and never locked.
        self._names: dict[int, str] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a ledger, whether a daemon writes to it or none does.

        Raises:
            LedgerMissing: there is no such file.
            LedgerUnusable: it is no ledger, or of another schema than this program's.
        """
        connect_to_read(path).close()
        return cls(path)

    def close(self) -> None:
        """Close the connections that no thread is using."""
        self._engine.dispose()

    def head(self) -> int:
        """The newest seq; 0 in an empty ledger.

        Raises:
            LedgerUnusable: the file cannot be read any more.
        """
        rows = self._fetch(sa.select(sa.func.coalesce(sa.func.max(event.c.seq), 0)))
        return int(rows[0][0])

    def events(self, wanted: EventFilter) -> list[Recorded]:
        """At most `limit` events in the order asked. To go on, pass the last one's seq as `after`.

        Raises:
            LedgerUnusable: the file cannot be read, or an event in it is no event.
        """
        query = sa.select(*_COLUMNS).where(*_conditions(wanted))
        query = query.order_by(event.c.seq.desc() if wanted.order == "desc" else event.c.seq).limit(wanted.limit)
        return [self._recorded(row) for row in self._fetch(query)]

    def verify(self) -> chain.Verdict:
        """Walk the whole chain, see `chain.verify`.

        Raises:
            LedgerMissing: the file is gone.
            LedgerUnusable: it cannot be opened.
        """
        with self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - what connect_to_read makes
            return chain.verify(raw)

    def last_run_without_end(self, boot: str) -> UnendedRun | None:
        """The newest run other than `boot`, if it wrote no `daemon.stopped` and no later run has noticed that yet.

        Raises:
            LedgerUnusable: the file cannot be read, or an event in it is no event.
        """
        other = event.c.boot.not_in(_ids(name.c.text == boot))
        rows = self._fetch(
            sa.select(*_COLUMNS)
            .where(event.c.type.in_(_ids(name.c.text == "daemon.started")), other)
            .order_by(event.c.seq.desc())
            .limit(1)
        )
        if not rows:
            return None
        started = self._recorded(rows[0])
        if self.events(EventFilter(types=("daemon.stopped",), boot=started.boot, limit=1)):
            return None
        noticed = self.events(EventFilter(types=("daemon.crash_detected",), after=started.seq, limit=1_000))
        if any(found.data.get("boot") == started.boot for found in noticed):
            return None
        last = self.events(EventFilter(boot=started.boot, order="desc", limit=_LAST_ACTS))
        (of_daemon,) = self.events(EventFilter(types=("daemon.*",), boot=started.boot, order="desc", limit=1))
        return UnendedRun(
            boot=started.boot,
            pid=started.data["pid"],
            started_us=started.time_us,
            last_seq=last[0].seq,
            last_time_us=last[0].time_us,
            last_daemon=of_daemon.type,
            last_acts=[f"{act.seq} {act.type} {act.stream}" for act in reversed(last)],
        )

    def _fetch(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query).all())
        except sa.exc.DBAPIError as error:
            raise LedgerUnusable(f"the ledger cannot be read: {error.orig}") from None

    def _recorded(self, row: sa.Row[Any]) -> Recorded:
        try:
            model = None if row.model is None else self._name(row.model)
            if row.stream > 0:
                self._name(row.stream)
            return Recorded(
                seq=row.seq,
                id=event_id(row.time_us, row.id),
                time_us=row.time_us,
                boot=self._name(row.boot),
                type=self._name(row.type),
                v=row.v,
                severity=Severity(row.severity),
                stream=stream_of(row.stream, (row.request, row.session, model, row.incident), self._names),
                request=row.request,
                session=row.session,
                model=model,
                incident=row.incident,
                cause=row.cause,
                data=msgspec.json.decode(row.data, type=dict[str, Any]),
            )
        except (KeyError, IndexError, ValueError) as error:
            raise LedgerUnusable(f"event {row.seq} cannot be read ({error!r})") from None

    def _name(self, number: int) -> str:
        if number not in self._names:
            self._names = {row.id: row.text for row in self._fetch(sa.select(name.c.id, name.c.text))}
        return self._names[number]


def _ids(*conditions: sa.ColumnElement[bool]) -> sa.Select[tuple[int]]:
    return sa.select(name.c.id).where(sa.or_(*conditions))


def _conditions(wanted: EventFilter) -> list[sa.ColumnElement[bool]]:
    column = event.c
    found: list[sa.ColumnElement[bool]] = []
    if wanted.types:
        found.append(column.type.in_(_ids(*(_matches(pattern) for pattern in wanted.types))))
    if wanted.request is not None:
        found.append(column.request == (request_id_of(wanted.request) or wanted.request))
    for text, where in ((wanted.session, column.session), (wanted.incident, column.incident)):
        if text is not None:
            found.append(where == text)
    for text, where in ((wanted.model, column.model), (wanted.boot, column.boot)):
        if text is not None:
            found.append(where == _ids(name.c.text == text).scalar_subquery())
    if wanted.severity is not None:
        found.append(column.severity >= int(wanted.severity))
    if wanted.cause is not None:
        found.append(column.cause == wanted.cause)
    if wanted.since_us is not None:
        found.append(column.time_us >= wanted.since_us)
    if wanted.until_us is not None:
        found.append(column.time_us < wanted.until_us)
    if wanted.after is not None:
        found.append(column.seq < wanted.after if wanted.order == "desc" else column.seq > wanted.after)
    return found


def _matches(pattern: str) -> sa.ColumnElement[bool]:
    if pattern.endswith("*"):
        # substr, not LIKE: a type pattern is a plain prefix, and LIKE would fold case and read _ as a wildcard.
        prefix = pattern[:-1]
        return sa.func.substr(name.c.text, 1, len(prefix)) == prefix
    return name.c.text == pattern
