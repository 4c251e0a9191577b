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
from lmx_ledger.ledger.event_id import event_id, request_key, request_of
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.schema import BLOCK, OFTEN, event, name, own_stream_of, span, span_model
from lmx_ledger.ledger.store import LedgerUnusable, connect_to_read, identity

_LAST_ACTS: Final = 20
_SEVERITIES: Final = {int(severity): severity for severity in Severity}
_NO_NAMES: Final[dict[int | None, str | None]] = {None: None, 0: None}
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


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
        # Names are never changed, so the dictionary is replaced when an unknown number turns up and never locked. None
        # and 0 stand where an event has no name.
        self._names: dict[int | None, str | None] = dict(_NO_NAMES)
        self._numbers: dict[str, int] = {}
        self._engine = sa.create_engine(
            "sqlite://", creator=lambda: connect_to_read(path), poolclass=QueuePool, pool_size=4, max_overflow=4
        )

        def note_file(_: object, record: sa.pool.ConnectionPoolEntry) -> None:
            record.info["file"] = identity(path)

        def same_file(_: object, record: sa.pool.ConnectionPoolEntry, __: object) -> None:
            # An open connection goes on reading a file that was moved away or deleted, whatever is at its path now.
            if record.info["file"] != identity(path):
                self._names, self._numbers = dict(_NO_NAMES), {}
                raise sa.exc.DisconnectionError("another file is at the ledger's path")

        sa.event.listen(self._engine, "connect", note_file)
        sa.event.listen(self._engine, "checkout", same_file)

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
        question = self._conditions(wanted)
        if question is None:
            return []
        conditions, by_block = question
        query = sa.select(event).where(*conditions).limit(wanted.limit)
        # Blocks first where they lead to the events: then they come in order without being sorted.
        places = [span_model.c.block, event.c.seq] if by_block else [event.c.seq]
        query = query.order_by(*(place.desc() if wanted.order == "desc" else place for place in places))
        return [self._recorded(row) for row in self._rows(query)]

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

    def broken_in(self, first: int, last: int) -> int | None:
        """See `chain.broken_in`.

        Raises:
            LedgerUnusable: the file cannot be read any more.
        """
        try:
            with self._engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - what connect_to_read makes
                return chain.broken_in(raw, first, last)
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise LedgerUnusable(f"the ledger cannot be read: {error}") from None

    def last_run_without_end(self, boot: str) -> UnendedRun | None:
        """The newest run other than `boot`, if it wrote no `daemon.stopped` and no later run has noticed that yet.

        Raises:
            LedgerUnusable: the file cannot be read, or an event in it is no event.
        """
        other = event.c.boot.not_in(_ids(name.c.text == boot))
        rows = self._rows(
            sa.select(event)
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

    def _conditions(self, wanted: EventFilter) -> tuple[list[sa.ColumnElement[bool]], bool] | None:
        """And whether they go by the blocks of a model. None when no event can match: a name or time that none has."""
        column = event.c
        found: list[sa.ColumnElement[bool]] = []
        # Whatever else has an index leads to the events sooner than the blocks of a model.
        others = (wanted.request, wanted.session, wanted.incident, wanted.cause)
        by_block = wanted.model is not None and all(other is None for other in others)
        if wanted.types:
            numbers = [row.id for row in self._fetch(_ids(*(_matches(pattern) for pattern in wanted.types)))]
            if not numbers:
                return None
            found.append(column.type.in_(numbers))
            if min(numbers) > len(OFTEN):
                # What the index of rare types is made for; SQLite does not see it in the list.
                found.append(column.type > sa.literal_column(str(len(OFTEN))))
                by_block = False
        named = (
            (wanted.model, column.model),
            (wanted.boot, column.boot),
            (wanted.session, column.session),
            (wanted.incident, column.incident),
        )
        for text, where in named:
            if text is not None:
                number = self._number(text)
                if number is None:
                    return None
                found.append(where == number)
                if where is column.model and by_block:
                    found.extend(_in_blocks(number, wanted))
        if wanted.request is not None:
            found.append(column.request == request_key(request_id_of(wanted.request) or wanted.request))
        if wanted.severity is not None:
            found.append(column.severity >= int(wanted.severity))
        if wanted.cause is not None:
            found.append(column.cause == wanted.cause)
        if wanted.since_us is not None or wanted.until_us is not None:
            within = self._within(wanted.since_us, wanted.until_us)
            if within is None:
                return None
            found.extend(within)
        if wanted.after is not None:
            found.append(column.seq < wanted.after if wanted.order == "desc" else column.seq > wanted.after)
        return found, by_block

    def _within(self, since_us: int | None, until_us: int | None) -> list[sa.ColumnElement[bool]] | None:
        blocks, times = [], []
        if since_us is not None:
            blocks.append(span.c.last_us >= since_us)
            times.append(event.c.time_us >= since_us)
        if until_us is not None:
            blocks.append(span.c.first_us < until_us)
            times.append(event.c.time_us < until_us)
        bounds = sa.select(sa.func.min(span.c.block).label("first"), sa.func.max(span.c.block).label("last"))
        ends = self._fetch(bounds.where(*blocks))[0]
        if ends.first is None:
            return None
        # A clock that jumped back makes this range wider than need be, never too narrow.
        return [event.c.seq >= ends.first * BLOCK, event.c.seq < (ends.last + 1) * BLOCK, *times]

    def _fetch(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query).all())
        except sa.exc.DBAPIError as error:
            raise LedgerUnusable(f"the ledger cannot be read: {error.orig}") from None

    def _rows(self, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
        """As `_fetch`, as the driver gives them: many rows, and none of them is asked for a column by its name."""
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query).cursor.fetchall())
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise LedgerUnusable(f"the ledger cannot be read: {getattr(error, 'orig', error)}") from None

    def _recorded(self, row: tuple[Any, ...]) -> Recorded:
        try:
            try:
                return _recorded(row, self._names)
            except KeyError:
                self._learn_names()
                return _recorded(row, self._names)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise LedgerUnusable(f"event {row[0]} cannot be read ({error!r})") from None

    def _number(self, text: str) -> int | None:
        if text not in self._numbers:
            rows = self._fetch(_ids(name.c.text == text))
            if not rows:
                return None
            number: int = rows[0].id
            self._numbers[text] = number
        return self._numbers[text]

    def _learn_names(self) -> None:
        """Those that came since the last time."""
        last = max((number for number in self._names if number is not None), default=0)
        newer = sa.select(name.c.id, name.c.text).where(name.c.id > last)
        self._names = self._names | {row.id: row.text for row in self._fetch(newer)}


def _recorded(row: tuple[Any, ...], names: dict[int | None, str | None]) -> Recorded:
    seq, time_us, boot, kind, v, severity, code, key, session_id, model_id, incident_id, cause, data, digest = row
    request = None if key is None else request_of(key)
    session, model, incident = names[session_id], names[model_id], names[incident_id]
    if code == 0:
        stream = f"request:{request}"
    elif code > 0:
        stream = names[code] or ""
    else:
        stream = own_stream_of(code, (request, session, model, incident))
    return Recorded(
        seq=seq,
        id=event_id(time_us, digest),
        time_us=time_us,
        boot=names[boot] or "",
        type=names[kind] or "",
        v=v,
        severity=_SEVERITIES[severity],
        stream=stream,
        request=request,
        session=session,
        model=model,
        incident=incident,
        cause=cause,
        data=_decode(data),
    )


def _in_blocks(model: int, wanted: EventFilter) -> list[sa.ColumnElement[bool]]:
    block, seq = span_model.c.block, event.c.seq
    found = [span_model.c.model == model, seq >= block * BLOCK, seq < (block + 1) * BLOCK]
    if wanted.after is not None:
        found.append(block <= wanted.after // BLOCK if wanted.order == "desc" else block >= wanted.after // BLOCK)
    return found


def _ids(*conditions: sa.ColumnElement[bool]) -> sa.Select[tuple[int]]:
    return sa.select(name.c.id).where(sa.or_(*conditions))


def _matches(pattern: str) -> sa.ColumnElement[bool]:
    if pattern.endswith("*"):
        # substr, not LIKE: a type pattern is a plain prefix, and LIKE would fold case and read _ as a wildcard.
        prefix = pattern[:-1]
        return sa.func.substr(name.c.text, 1, len(prefix)) == prefix
    return name.c.text == pattern
