"""Sealed segments: old events as compressed lines outside the database, each file verifiable alone and with the rest.

A segment is `segments/FIRST-LAST.ndjson.gz` beside the ledger: a header, one line per event with its hash, a footer.
The database keeps one row of each (`segment`), which says where the chain is behind it; only what such a row covers can
be deleted. A segment is complete on disk before its row is, so a crash leaves either everything in the database, or a
row and its file.
"""

import gzip
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from lmx_ledger.ledger.chain import GENESIS, READ, Sealed, StoredNames, canonical, seal, sealed_of_row
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.store import LedgerError, connect

FORMAT: Final = "lmx-ledger-segment"
KEPT: Final = 1_000
"""The newest events are never sealed: a start looks at them, and whoever follows may be a little behind."""
LARGEST: Final = 200 * BLOCK
"""Events of one segment, a multiple of a block; a longer past becomes several."""

_DELETED_AT_ONCE: Final = 4 * BLOCK
_PATIENCE_MS: Final = 10_000


class Segment(NamedTuple):
    """A row of `segment`: which events the file has, the chain's hash behind them, and the file's own SHA-256."""

    first_seq: int
    last_seq: int
    first_us: int
    last_us: int
    last_hash: bytes
    file: str
    sha256: bytes
    bytes: int


class BadSegment(LedgerError):
    """A segment's file is not as it was sealed; `seq` is the first event that cannot be relied on."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(reason)
        self.seq = seq


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    v: int
    first_seq: int
    last_seq: int
    previous_hash: str


class _Footer(msgspec.Struct, frozen=True, kw_only=True):
    events: int
    head_hash: str


_decode_sealed: Final = msgspec.json.Decoder(Sealed).decode
_decode_line: Final = msgspec.json.Decoder(tuple[msgspec.Raw, str]).decode


def segments_of(connection: sqlite3.Connection) -> list[Segment]:
    """All of them, oldest first."""
    rows = connection.execute(
        "SELECT first_seq, last_seq, first_us, last_us, last_hash, file, sha256, bytes FROM segment ORDER BY first_seq"
    )
    return [Segment(*row) for row in rows]


def seal_through(ledger: Path, through_seq: int) -> Iterator[Segment]:
    """Seal and remove what is at or before a seq, block by block; yields each segment once it is removed.

    What an earlier call began is finished first. Other processes may append meanwhile: each transaction is short.

    Raises:
        LedgerError: the chain is broken there: what is wrong is not sealed.
        OSError, sqlite3.Error: the disk is full, or the file cannot be written; nothing is lost.
    """
    with closing(connect(ledger, "FULL", busy_ms=_PATIENCE_MS)) as connection:
        known = segments_of(connection)
        if known:
            _remove(connection, known[-1].last_seq)
        (newest,) = connection.execute("SELECT seq FROM head").fetchone()
        through_seq = min(through_seq, newest - KEPT)
        first, previous = (known[-1].last_seq + 1, known[-1].last_hash) if known else (1, GENESIS)
        while (last := min((through_seq + 1) // BLOCK * BLOCK - 1, _end_of(first))) > first:
            segment = _write(ledger, connection, first, last, previous)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"INSERT INTO segment VALUES ({', '.join('?' * len(segment))})", segment)  # noqa: S608
            connection.execute("COMMIT")
            _remove(connection, last)
            yield segment
            first, previous = last + 1, segment.last_hash


def _end_of(first: int) -> int:
    return (first + LARGEST) // BLOCK * BLOCK - 1


def _write(ledger: Path, connection: sqlite3.Connection, first: int, last: int, previous: bytes) -> Segment:
    folder = ledger.parent / "segments"
    folder.mkdir(mode=0o700, exist_ok=True)
    final = folder / f"{first:012}-{last:012}.ndjson.gz"
    rough = final.with_suffix(".partial")
    times: list[int] = []
    head = previous
    names = StoredNames(connection)
    descriptor = os.open(rough, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with (
            os.fdopen(descriptor, "wb") as raw,
            # No name and no time in it: the same events make the same bytes.
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as file,
        ):
            header = _Header(format=FORMAT, v=1, first_seq=first, last_seq=last, previous_hash=previous.hex())
            file.write(msgspec.json.encode(header) + b"\n")
            for row in connection.execute(f"{READ} WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last)):
                event = sealed_of_row(row, names)
                head = seal(head, event)
                if row[0] != first + len(times) or head != row[-1]:
                    raise LedgerError(f"{ledger}: the chain is broken at event {row[0]}; see: lmx ledger verify")
                times.append(row[1])
                file.write(b'[%s,"%s"]\n' % (canonical(event), head.hex().encode()))
            file.write(msgspec.json.encode(_Footer(events=len(times), head_hash=head.hex())) + b"\n")
            file.close()
            raw.flush()
            os.fsync(raw.fileno())
        if len(times) != last - first + 1:
            raise LedgerError(f"{ledger}: event {first + len(times)} is missing; see: lmx ledger verify")
        rough.rename(final)
    except BaseException:
        rough.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    digest, size = _digest(final)
    return Segment(first, last, min(times), max(times), head, final.name, digest, size)


def _remove(connection: sqlite3.Connection, last: int) -> None:
    """Delete sealed events, a few at a time: the writer waits for each of these transactions."""
    while True:
        (least,) = connection.execute("SELECT min(seq) FROM event").fetchone()
        if least is None or least > last:
            return
        until = min(least + _DELETED_AT_ONCE, last + 1)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM event WHERE seq < ?", (until,))
        connection.execute("DELETE FROM span WHERE block < ?", (until // BLOCK,))
        connection.execute("DELETE FROM span_model WHERE block < ?", (until // BLOCK,))
        connection.execute("COMMIT")


def read(ledger: Path, segment: Segment, previous: bytes) -> Iterator[tuple[Sealed, bytes]]:
    """The events of a segment behind the `previous` hash, oldest first, with their own hashes, each verified.

    Raises:
        BadSegment: the file is missing or not as it was sealed.
    """
    path = ledger.parent / "segments" / segment.file
    seq = segment.first_seq
    try:
        digest, _ = _digest(path)
        if digest != segment.sha256:
            raise BadSegment(seq, f"{path} is not as it was sealed (its SHA-256 differs)")
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as file:
            header = msgspec.json.decode(file.readline(), type=_Header)
            if (head := previous).hex() != header.previous_hash:
                raise BadSegment(seq, f"{path} does not go on where the chain is")
            for seq in range(segment.first_seq, segment.last_seq + 1):
                told, written = _decode_line(file.readline())
                head = hashlib.sha256(head + bytes(told)).digest()
                event = _decode_sealed(told)
                if head.hex() != written or event[0] != seq:
                    raise BadSegment(seq, f"{path}: event {seq} is not what was sealed")
                yield event, head
            footer = msgspec.json.decode(file.readline(), type=_Footer)
    except FileNotFoundError:
        raise BadSegment(seq, f"{path} is missing; put it back") from None
    except (OSError, EOFError, msgspec.MsgspecError, ValueError) as error:
        raise BadSegment(seq, f"{path} cannot be read at event {seq}: {error}") from None
    if footer.head_hash != segment.last_hash.hex():
        raise BadSegment(segment.first_seq, f"{path} is not the segment that the ledger knows")


def _digest(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest(), path.stat().st_size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
