"""One transaction of the writer: read the head, seal each event behind it, insert, commit."""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.chain import COLUMNS, GENESIS, Sealed, seal
from lmx_ledger.ledger.event_id import event_id, random_halves
from lmx_ledger.ledger.schema import own_stream
from lmx_ledger.ledger.ticket import Place

_INSERT: Final = f"INSERT INTO event ({COLUMNS}) VALUES ({', '.join('?' * 15)})"  # noqa: S608 - constants
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Unwritable(Exception):
    """This event can never be stored; the message says why."""


class Draft(NamedTuple):
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


def draft(place: Place, event: ev.Event, time_us: int) -> Draft:
    """Encode an event; lone surrogates, which are no UTF-8, become `?`.

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
        self._names: dict[str, int] = {}
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
        names, new_names = self._number(connection, drafts)
        seq, head = read_head(connection)
        rows = []
        for d, half in zip(drafts, random_halves(len(drafts)), strict=True):
            seq += 1
            d.place.planned = seq
            cause = d.cause if d.cause is None or isinstance(d.cause, int) else _seq_of(d.cause)
            own = own_stream(d.stream, (d.request, d.session, d.model, d.incident))
            head = seal(
                head,
                Sealed(
                    seq,
                    event_id(d.time_us, half),
                    d.time_us,
                    self._boot,
                    d.type,
                    d.v,
                    d.severity,
                    d.stream,
                    d.request,
                    d.session,
                    d.model,
                    d.incident,
                    cause,
                    msgspec.Raw(d.data),
                ),
            )
            rows.append(
                (
                    seq,
                    half,
                    d.time_us,
                    names[self._boot],
                    names[d.type],
                    d.v,
                    d.severity,
                    names[d.stream] if own is None else own,
                    d.request,
                    d.session,
                    None if d.model is None else names[d.model],
                    d.incident,
                    cause,
                    d.data.decode(),
                    head,
                )
            )
        connection.executemany("INSERT INTO name (id, text) VALUES (?, ?)", new_names)
        connection.executemany(_INSERT, rows)
        self._tried = seq, head
        connection.execute("COMMIT")
        self._tried = None
        self._names = names
        return seq, head

    def _number(
        self, connection: sqlite3.Connection, drafts: Sequence[Draft]
    ) -> tuple[dict[str, int], list[tuple[int, str]]]:
        """The numbers of all names in the group, and the rows of those that the file does not have yet."""
        wanted = {self._boot}
        for d in drafts:
            wanted.add(d.type)
            if d.model is not None:
                wanted.add(d.model)
            if own_stream(d.stream, (d.request, d.session, d.model, d.incident)) is None:
                wanted.add(d.stream)
        unknown = sorted(wanted - self._names.keys())
        if not unknown:
            return self._names, []
        names, new = dict(self._names), []
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM name").fetchone()
        for text in unknown:
            row = connection.execute("SELECT id FROM name WHERE text = ?", (text,)).fetchone()
            if row is None:
                last += 1
                new.append((last, text))
            names[text] = row[0] if row else last
        return names, new


def _seq_of(cause: ev.Ticket) -> int | None:
    return cause.planned if isinstance(cause, Place) else cause.seq
