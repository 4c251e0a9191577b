"""What retention seals and when, and the walk over everything that was ever written, sealed or not."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.config import Retention
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.ledger.chain import GENESIS, READ, Sealed, StoredNames, sealed_of_row
from lmx_ledger.ledger.event_id import event_id
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import Segment, read, segments_of
from lmx_ledger.ledger.store import LedgerUnusable, connect_to_read

_ROOM: Final = 0.9
"""Of the size that is allowed: what is sealed makes room for a while, not for one event."""


def due(ledger: Path, retention: Retention, now_us: int) -> int:
    """The seq through which events are to be sealed; 0 when nothing is due.

    Raises:
        LedgerError, sqlite3.Error: the ledger cannot be read.
    """
    with closing(connect_to_read(ledger)) as connection:
        by_age = by_size = 0
        if retention.age_s is not None:
            by_age = through_time(connection, now_us - int(retention.age_s * 1e6))
        if retention.size_bytes is not None:
            by_size = _through_size(connection, retention.size_bytes)
        return max(by_age, by_size)


def through_time(connection: sqlite3.Connection, before_us: int) -> int:
    """The last seq of the blocks that lie before a moment altogether; 0 when there is none."""
    query = "SELECT coalesce(min(block), -1) FROM span WHERE last_us >= ?"
    (first_kept,) = connection.execute(query, (before_us,)).fetchone()
    if first_kept < 0:
        (newest,) = connection.execute("SELECT seq FROM head").fetchone()
        return int(newest)
    return max(int(first_kept) * BLOCK - 1, 0)


def _through_size(connection: sqlite3.Connection, size_bytes: int) -> int:
    page, pages, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    used = page * (pages - free)
    if used <= size_bytes:
        return 0
    (first,) = connection.execute("SELECT coalesce(min(seq), 1) FROM event").fetchone()
    (newest,) = connection.execute("SELECT seq FROM head").fetchone()
    return int(first + (newest - first + 1) * (1 - _ROOM * size_bytes / used))


def sealed_event(segment: Segment) -> ev.Event:
    """What the ledger says of a new segment."""
    data = ev.LedgerSealed(
        first_seq=segment.first_seq,
        last_seq=segment.last_seq,
        file=segment.file,
        bytes=segment.bytes,
        sha256=segment.sha256.hex(),
    )
    return ev.Event(data=data, stream="ledger")


def archived_event(segments: Sequence[Segment], reason: Literal["retention", "operator"]) -> ev.Event:
    """What the ledger says when one round of sealing is over; there is at least one new segment."""
    data = ev.LedgerArchived(
        segments=len(segments),
        events=sum(segment.last_seq - segment.first_seq + 1 for segment in segments),
        bytes=sum(segment.bytes for segment in segments),
        last_seq=segments[-1].last_seq,
        reason=reason,
    )
    return ev.Event(data=data, stream="ledger")


def walk(ledger: Path) -> Iterator[Recorded]:
    """Every event that is in segments or in the database, oldest first, in constant memory; segments are verified.

    Raises:
        LedgerError: a segment is not as it was sealed, or an event cannot be read.
    """
    with closing(connect_to_read(ledger)) as connection:
        connection.execute("BEGIN")
        seq, head = 0, GENESIS
        for segment in segments_of(connection):
            for event, digest in read(ledger, segment, head):
                yield recorded_of(event, digest)
                head = digest
            seq = segment.last_seq
        names = StoredNames(connection)
        try:
            for row in connection.execute(f"{READ} WHERE seq > ? ORDER BY seq", (seq,)):
                yield recorded_of(sealed_of_row(row, names), row[-1])
        except (sqlite3.Error, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise LedgerUnusable(f"{ledger} cannot be read on ({error!r}); see: lmx ledger verify") from None


def recorded_of(sealed: Sealed, digest: bytes) -> Recorded:
    """An event of a segment or of a row as everybody else reads it."""
    seq, time_us, boot, kind, v, severity, stream, request, session, model, incident, cause, data = sealed
    decoded: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    return Recorded(
        seq=seq,
        id=event_id(time_us, digest),
        time_us=time_us,
        boot=boot or "",
        type=kind or "",
        v=v,
        severity=Severity(severity),
        stream=stream or "",
        request=request,
        session=session,
        model=model,
        incident=incident,
        cause=cause,
        data=decoded,
    )
