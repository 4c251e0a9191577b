"""The hash chain: each event's SHA-256 covers the hash before it and the event's canonical bytes."""

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.ledger.event_id import request_of
from lmx_ledger.ledger.schema import BLOCK, own_stream_of

GENESIS: Final = hashlib.sha256(b"lmx-ledger v1").digest()
"""What stands before the first event."""

COLUMNS: Final = "seq, time_us, boot, type, v, severity, stream, request, session, model, incident, cause, data, hash"
"""The order in which rows are written and verified."""


Sealed = tuple[
    int,
    int,
    str | None,
    str | None,
    int,
    int,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    int | None,
    msgspec.Raw,
]
"""What the hash covers: seq, time_us, boot, type, v, severity, stream, request, session, model, incident, cause, and
data, the stored text itself."""


class Verdict(NamedTuple):
    """What `verify` found: `events` good ones up to `head_seq`; `bad_seq` and `reason` are None when all are good."""

    ok: bool
    events: int
    head_seq: int
    head_hash: bytes
    bad_seq: int | None
    reason: str | None


canonical: Final[Callable[[Sealed], bytes]] = msgspec.json.Encoder(order="deterministic").encode
"""The bytes of an event, a JSON array, the same on every machine."""


def seal(previous: bytes, event: Sealed) -> bytes:
    """The event's hash, 32 bytes, behind the `previous` one."""
    return hashlib.sha256(previous + canonical(event)).digest()


def verify(connection: sqlite3.Connection) -> Verdict:
    """Walk the chain in one snapshot, in constant memory, and stop at the first seq that is not as written.

    Events that were sealed into segments are not walked: the chain begins at the hash behind them (see `audit`). The
    spans are compared with the events that they are made of. A whole rewrite from the genesis on is beyond a
    chain: compare `head_hash` with one kept elsewhere.
    """
    factory, connection.text_factory = connection.text_factory, str
    seq, head = began_at = 0, GENESIS
    try:
        connection.execute("BEGIN")
        seq, head = began_at = _behind_segments(connection)
        names = StoredNames(connection)
        spans = Spans(connection)
        cursor = connection.execute(f"{READ} WHERE seq > ? ORDER BY seq", (seq,))
        while block := cursor.fetchmany(BLOCK - (seq + 1) % BLOCK):
            for row in block:
                if row[0] != seq + 1:
                    return _bad(seq - began_at[0], seq, head, f"event {seq + 1} is missing; the next one is {row[0]}")
                try:
                    sealed = seal(head, sealed_of_row(row, names))
                except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                    return _bad(
                        seq - began_at[0], seq, head, f"event {row[0]} refers to a name that does not exist ({error!r})"
                    )
                if sealed != row[13]:
                    return _bad(
                        seq - began_at[0], seq, head, f"event {row[0]} is not what was written, or not in its place"
                    )
                seq, head = row[0], sealed
            spans.see(seq // BLOCK, block)
        (noted,) = connection.execute("SELECT seq FROM head").fetchone() or (None,)
        if noted != seq:
            return _bad(seq - began_at[0], seq, head, f"the file's head says that there are {noted} events")
        if (wrong := spans.wrong()) is not None:
            return Verdict(
                False, seq - began_at[0], seq, head, wrong, f"the spans of event {wrong} hide it from questions"
            )
    except sqlite3.DatabaseError as error:
        return _bad(seq - began_at[0], seq, head, f"the file cannot be read behind event {seq}: {error}")
    finally:
        connection.text_factory = factory
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return Verdict(True, seq - began_at[0], seq, head, None, None)


def broken_in(connection: sqlite3.Connection, first: int, last: int) -> int | None:
    """The first of events `first` to `last` that is not as written; None: all that are not sealed away are.

    Raises:
        sqlite3.DatabaseError: the file cannot be read.
    """
    factory, connection.text_factory = connection.text_factory, str
    try:
        names = StoredNames(connection)
        begins_at = _behind_segments(connection)
        first = max(first, begins_at[0] + 1)
        before = connection.execute("SELECT hash FROM event WHERE seq = ?", (first - 1,)).fetchone()
        head, seq = (before[0], first - 1) if before else (None, None)
        if first == begins_at[0] + 1:
            seq, head = begins_at
        for row in connection.execute(f"{READ} WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last)):
            if head is not None:
                try:
                    whole = row[0] == (seq or 0) + 1 and seal(head, sealed_of_row(row, names)) == row[13]
                except (KeyError, IndexError, TypeError, AttributeError, ValueError):
                    whole = False
                if not whole:
                    return int(row[0])
            head, seq = row[13], row[0]
    finally:
        connection.text_factory = factory
    return None


def _behind_segments(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """The last event that is sealed away, and its hash; 0 and the genesis where none is."""
    row = connection.execute("SELECT last_seq, last_hash FROM segment ORDER BY first_seq DESC LIMIT 1").fetchone()
    return row or (0, GENESIS)


class StoredNames(dict[int | None, str | None]):
    """The names by number, read as they are met; None is no name."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__({None: None})
        self._connection = connection

    def __missing__(self, number: int | None) -> str | None:
        row = self._connection.execute("SELECT text FROM name WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise KeyError(number)
        text: str = row[0]
        self[number] = text
        return text


class Spans:
    """The tables of spans beside what they should hold, block by block."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._stored: dict[int, tuple[int, int]] = {
            row[0]: (row[1], row[2]) for row in connection.execute("SELECT block, first_us, last_us FROM span")
        }
        self._models: dict[int, set[int]] = defaultdict(set)
        for model, block in connection.execute("SELECT model, block FROM span_model"):
            self._models[block].add(model)
        self._wrong: int | None = None

    def see(self, number: int, rows: Sequence[tuple[Any, ...]]) -> None:
        """The next block, as `READ` gives it: all of its events that are not in segments."""
        times = [row[1] for row in rows]
        models = {row[9] for row in rows} - {None}
        as_they_are = self._stored.get(number) == (min(times), max(times)) and self._models[number] == models
        if self._wrong is None and not as_they_are:
            self._wrong = max(number * BLOCK, 1)

    def wrong(self) -> int | None:
        """A seq of the first block that is not as the events make it; None when all are."""
        return self._wrong


# The text as bytes: a flipped byte may be no UTF-8 any more, and it is hashed as it stands anyway.
READ: Final = f"SELECT {COLUMNS.replace('data', 'CAST(data AS BLOB)')} FROM event"  # noqa: S608 - constants
"""Reads rows for `sealed_of_row`; conditions and an order may follow."""


def sealed_of_row(row: tuple[Any, ...], names: Mapping[int | None, str | None]) -> Sealed:
    """What the hash of a row that `READ` gave covers; the hash itself is the row's last column.

    Raises:
        KeyError, IndexError, TypeError, AttributeError, ValueError: it is no row that was ever written.
    """
    seq, time_us, boot, kind, v, severity, code, key, session_id, model_id, incident_id, cause, data, _ = row
    request, model = None if key is None else request_of(key), names[model_id]
    session, incident = names[session_id], names[incident_id]
    if code > 0:
        stream = names[code]
    elif code == 0:
        stream = f"request:{request}"
    else:
        stream = own_stream_of(code, (request, session, model, incident))
    own = (stream, request, session, model, incident)
    return (seq, time_us, names[boot], names[kind], v, severity, *own, cause, msgspec.Raw(data))


def _bad(events: int, seq: int, head: bytes, reason: str) -> Verdict:
    return Verdict(False, events, seq, head, seq + 1, reason)
