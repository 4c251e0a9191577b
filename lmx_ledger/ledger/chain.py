"""The hash chain: each event's SHA-256 covers the hash before it and the event's canonical bytes."""

import hashlib
import sqlite3
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.ledger.event_id import event_id
from lmx_ledger.ledger.schema import stream_of

GENESIS: Final = hashlib.sha256(b"lmx-ledger v1").digest()
"""What stands before the first event."""

COLUMNS: Final = (
    "seq, id, time_us, boot, type, v, severity, stream, request, session, model, incident, cause, data, hash"
)
"""The order in which rows are written and verified."""


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """What the hash covers: every public field as a JSON array in this order. `data` is the stored text itself."""

    seq: int
    id: str
    time_us: int
    boot: str
    type: str
    v: int
    severity: int
    stream: str
    request: str | None
    session: str | None
    model: str | None
    incident: str | None
    cause: int | None
    data: msgspec.Raw


class Verdict(NamedTuple):
    """What `verify` found: `events` good ones up to `head_seq`; `bad_seq` and `reason` are None when all are good."""

    ok: bool
    events: int
    head_seq: int
    head_hash: bytes
    bad_seq: int | None
    reason: str | None


canonical: Final[Callable[[Sealed], bytes]] = msgspec.json.Encoder(order="deterministic").encode
"""The bytes of an event, the same on every machine."""


def seal(previous: bytes, event: Sealed) -> bytes:
    """The event's hash, 32 bytes, behind the `previous` one."""
    return hashlib.sha256(previous + canonical(event)).digest()


def verify(connection: sqlite3.Connection) -> Verdict:
    """Walk the whole chain in one snapshot, in constant memory, and stop at the first seq that is not as written.

    A whole rewrite from the genesis on is beyond a chain: compare `head_hash` with one kept elsewhere.
    """
    factory = connection.text_factory
    # A flipped byte may be no UTF-8 any more: that is an altered event, not an error of the reader.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    seq, head = 0, GENESIS
    try:
        names: dict[int, str] = {}
        for row in connection.execute(f"SELECT {COLUMNS} FROM event ORDER BY seq"):  # noqa: S608 - constants
            if row[0] != seq + 1:
                return _bad(seq, head, f"event {seq + 1} is missing; the next one is {row[0]}")
            if row[3] not in names or row[4] not in names or row[7] not in names or row[10] not in names:
                names = dict(connection.execute("SELECT id, text FROM name"))
            try:
                sealed = _seal_of_row(head, row, names)
            except (KeyError, IndexError, TypeError) as error:
                return _bad(seq, head, f"event {row[0]} refers to a name that does not exist ({error})")
            if sealed != row[14]:
                return _bad(seq, head, f"event {row[0]} is not what was written, or not in its place")
            seq, head = row[0], sealed
    except sqlite3.DatabaseError as error:
        return _bad(seq, head, f"the file cannot be read behind event {seq}: {error}")
    finally:
        connection.text_factory = factory
    return Verdict(True, seq, seq, head, None, None)


def _seal_of_row(previous: bytes, row: tuple[Any, ...], names: dict[int, str]) -> bytes:
    request, session, incident = row[8], row[9], row[11]
    model = None if row[10] is None else names[row[10]]
    return seal(
        previous,
        Sealed(
            row[0],
            event_id(row[2], row[1]),
            row[2],
            names[row[3]],
            names[row[4]],
            row[5],
            row[6],
            stream_of(row[7], (request, session, model, incident), names),
            request,
            session,
            model,
            incident,
            row[12],
            msgspec.Raw(row[13].encode()),
        ),
    )


def _bad(seq: int, head: bytes, reason: str) -> Verdict:
    return Verdict(False, seq, seq, head, seq + 1, reason)
