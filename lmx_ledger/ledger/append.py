"""One transaction of the writer: read the head, seal each event behind it, insert, commit."""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.chain import COLUMNS, GENESIS, seal
from lmx_ledger.ledger.event_id import request_key
from lmx_ledger.ledger.schema import BLOCK, own_stream
from lmx_ledger.ledger.ticket import Place

_INSERT: Final = f"INSERT INTO event ({COLUMNS}) VALUES ({', '.join('?' * 14)})"  # noqa: S608 - constants
_SPAN: Final = """INSERT INTO span (block, first_us, last_us) VALUES (?, ?, ?) ON CONFLICT (block) DO UPDATE
SET first_us = min(first_us, excluded.first_us), last_us = max(last_us, excluded.last_us)"""
_SPAN_MODEL: Final = "INSERT OR IGNORE INTO span_model (model, block) VALUES (?, ?)"
_NAMES_KEPT: Final = 65_536
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Unwritable(Exception):
    """This event can never be stored; the message says why."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event made ready to store, but for its seq, cause and hash."""

    place: Place
    time_us: int
    type: str
    v: int
    severity: int
    stream: str
    request: str | None
    session: str | None
    model: str | None
    incident: str | None
    cause: ev.Cause
    data: bytes


def draft(place: Place, event: ev.Event, time_us: int, drill: int | None = None) -> Draft:
    """Encode an event; lone surrogates, which are no UTF-8, become `?`. `drill` is put into its data.

    Raises:
        Unwritable: its data is no JSON.
    """
    kind = event.kind
    try:
        try:
            data = _encode(event.data)
        except UnicodeEncodeError:
            data = _encode(_clean_all(msgspec.to_builtins(event.data)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unwritable(f"{kind.name} could not be encoded: {error}") from None
    if drill is not None:
        # Spliced into the object: to have the field in every event would cost each of them its bytes.
        data = b'%b%b"drill":%d}' % (data[:-1], b"," if len(data) > 2 else b"", drill)
    return Draft(
        place,
        time_us,
        kind.name,
        kind.v,
        int(kind.severity if event.severity is None else event.severity),
        _clean(event.stream),
        event.request and _clean(event.request),
        event.session and _clean(event.session),
        event.model and _clean(event.model),
        event.incident and _clean(event.incident),
        event.cause,
        data,
    )


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _clean_all(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list):
        return [_clean_all(item) for item in value]
    if isinstance(value, dict):
        return {_clean_all(key): _clean_all(item) for key, item in value.items()}
    return value


def read_head(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """The newest event's seq and hash; 0 and the genesis in an empty ledger."""
    row = connection.execute("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    return row or (0, GENESIS)


class Appender:
    """Appends groups for one boot. It remembers what it tried last and which numbers names have."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._names = Names()
        self._tried: tuple[int, bytes] | None = None

    def append(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> tuple[int, bytes]:
        """Commit the group; each place's `planned` is then its seq. Returns seq and hash of its last event.

        Another process may have appended in between, so the head is read inside the transaction. Called again with
        the same group after an error, it writes nothing when the attempt had reached the disk after all.

        Raises:
            sqlite3.Error: nothing is known to be written; the connection must be closed.
            OverflowError: a number is beyond 64 bits.
        """
        connection.execute("BEGIN IMMEDIATE")
        if self._tried is not None:
            seq, tried = self._tried
            self._tried = None
            if connection.execute("SELECT 1 FROM event WHERE seq = ? AND hash = ?", (seq, tried)).fetchone():
                connection.execute("ROLLBACK")
                return seq, tried
        names = self._names
        names.begin(connection)
        seq, head = read_head(connection)
        boot, boot_id = self._boot, names[self._boot]
        rows = []
        for d in drafts:
            seq += 1
            d.place.planned = seq
            cause = d.cause
            if cause is not None and not isinstance(cause, int):
                cause = _seq_of(cause)
            stream, request, session, model, incident = d.stream, d.request, d.session, d.model, d.incident
            # Nearly all streams are requests: told here, without a call.
            if request is not None and stream == f"request:{request}":
                code = 0
            else:
                own = own_stream(stream, (request, session, model, incident))
                code = names[stream] if own is None else own
            head = seal(
                head,
                (
                    seq,
                    d.time_us,
                    boot,
                    d.type,
                    d.v,
                    d.severity,
                    stream,
                    request,
                    session,
                    model,
                    incident,
                    cause,
                    Raw(d.data),
                ),
            )
            rows.append(
                (
                    seq,
                    d.time_us,
                    boot_id,
                    names[d.type],
                    d.v,
                    d.severity,
                    code,
                    None if request is None else request_key(request),
                    None if session is None else names[session],
                    None if model is None else names[model],
                    None if incident is None else names[incident],
                    cause,
                    d.data.decode(),
                    head,
                )
            )
        store(connection, names, rows)
        self._tried = seq, head
        connection.execute("COMMIT")
        self._tried = None
        names.committed()
        return seq, head


def store(connection: sqlite3.Connection, names: "Names", rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows of `COLUMNS`, by ascending seq, with what goes with them: new names, spans, the head. The caller commits.

    Raises:
        sqlite3.Error, OverflowError: a row cannot be stored; the transaction is to be given up.
    """
    connection.executemany("INSERT INTO name (id, text) VALUES (?, ?)", names.new())
    connection.executemany(_INSERT, rows)
    connection.executemany(_SPAN, _spans(rows))
    connection.executemany(_SPAN_MODEL, {(row[9], row[0] // BLOCK) for row in rows if row[9] is not None})
    connection.execute("UPDATE head SET seq = ?", (rows[-1][0],))


class Names(dict[str, int]):
    """The numbers of names that this writer has used, for any number of transactions, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._new: list[tuple[int, str]] = []
        self._added: list[str] = []
        self._connection: sqlite3.Connection | None = None

    def begin(self, connection: sqlite3.Connection) -> None:
        """Look up in this transaction what is not known yet; what the one before it added is forgotten if it failed."""
        for text in self._added:
            del self[text]
        if len(self) > _NAMES_KEPT:
            self.clear()
        self._added, self._new, self._connection = [], [], connection

    def new(self) -> list[tuple[int, str]]:
        """The rows to be stored: names that the file does not have."""
        return self._new

    def committed(self) -> None:
        """What was looked up stays."""
        self._added = []

    def __missing__(self, text: str) -> int:
        assert self._connection is not None  # noqa: S101 - begin() comes first
        row = self._connection.execute("SELECT id FROM name WHERE text = ?", (text,)).fetchone()
        if row is None:
            (last,) = self._connection.execute("SELECT coalesce(max(id), 0) FROM name").fetchone()
            row = (last + len(self._new) + 1,)
            self._new.append((row[0], text))
        number: int = row[0]
        self[text] = number
        self._added.append(text)
        return number


def _spans(rows: Sequence[tuple[Any, ...]]) -> list[tuple[int, int, int]]:
    """(block, first_us, last_us) of the rows of each block."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row[0] // BLOCK, []).append(row[1])
    return [(block, min(times), max(times)) for block, times in found.items()]


def _seq_of(cause: ev.Ticket) -> int | None:
    return cause.planned if isinstance(cause, Place) else cause.seq
