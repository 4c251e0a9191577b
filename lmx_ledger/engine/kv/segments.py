"""Pieces of KV on disk: append-only files of records, each with its own checksums; the index is read from them.

A file begins with what it belongs to (`root`); a record is a header, its tokens and its payload. A record counts when
all of it is there and its header verifies; its payload is verified whenever it is read. Half a record at the end of a
file is what a crash leaves, and is cut off. Only one process has a folder, for as long as it lives.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lmx_ledger.engine.kv.chain import KEY_BYTES, packed, unpacked

_FILE: Final = struct.Struct(f"<4sHH{KEY_BYTES}s")
_FILE_MAGIC: Final = b"LMKV"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(f"<4s{KEY_BYTES}s{KEY_BYTES}sIQI")
"""Magic, key, parent, number of tokens, bytes of payload, its crc32. The crc32 of this and the tokens follows it."""
_CRC: Final = struct.Struct("<I")
_RECORD_BYTES: Final = _HEAD.size + _CRC.size
_RECORD_MAGIC: Final = b"piec"
_TOKEN_BYTES: Final = 4


class Found(NamedTuple):
    """One record: whose it is and where its payload lies."""

    key: bytes
    parent: bytes
    tokens: Sequence[int]
    segment: int
    offset: int
    size: int
    crc: int

    @property
    def whole(self) -> int:
        """Bytes that it takes in its file."""
        return _RECORD_BYTES + _TOKEN_BYTES * len(self.tokens) + self.size


class Opened(NamedTuple):
    """What was found at the start: pieces that are there, files of something else, bytes that are no record."""

    pieces: int
    foreign: list[str]
    broken_bytes: int


class SegmentStore:
    """The records of one root in one folder, of at most `limit` bytes; the least recently used ones go first.

    A piece counts as used whenever one behind it is, so what goes is never in the middle of a chain.

    Raises, in every method that touches the disk:
        BlockingIOError: at the start only: another process has the folder.
        OSError: it is full or cannot be written or read; what was stored before is as it was.
    """

    def __init__(self, folder: Path, root: bytes, limit: int, segment_bytes: int) -> None:
        self._folder, self._root = folder, root
        # A file is given back as a whole: it must be a small part of all there may be.
        self._limit, self._segment_bytes = limit, min(segment_bytes, limit // 8)
        self._pieces: OrderedDict[bytes, Found] = OrderedDict()
        self._lengths: dict[int, int] = {}
        self._live: dict[int, int] = {}
        self._active = self._highest = 0
        self._unsynced: set[int] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lease = os.open(folder / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.opened = self._open()
        except BlockingIOError:
            self.close()
            raise BlockingIOError(errno.EWOULDBLOCK, f"another process has {folder}") from None
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have the folder; nothing is read or written here any more."""
        if self._lease >= 0:
            os.close(self._lease)
            self._lease = -1

    def __contains__(self, key: object) -> bool:
        return key in self._pieces

    def __iter__(self) -> Iterator[Found]:
        return iter(self._pieces.values())

    @property
    def used_bytes(self) -> int:
        """What the files take."""
        return sum(self._lengths.values())

    def find(self, key: bytes) -> Found | None:
        """The record of that name."""
        return self._pieces.get(key)

    def forget(self, key: bytes) -> None:
        """Its room is free; harmless if there is none of that name."""
        if key in self._pieces:
            self._let_go(key)

    def use(self, key: bytes) -> None:
        """It was of use, and so were all before it: they stay."""
        while (found := self._pieces.get(key)) is not None:
            self._pieces.move_to_end(key)
            key = found.parent

    def read(self, key: bytes) -> bytes | None:
        """Its payload; None where there is none, or it is not what was written (it is let go of then)."""
        found = self._pieces.get(key)
        if found is None:
            return None
        payload = b""
        # A file that is gone is a payload that does not verify.
        with contextlib.suppress(FileNotFoundError), self._path(found.segment).open("rb", buffering=0) as file:
            payload = os.pread(file.fileno(), found.size, found.offset)
        if len(payload) != found.size or zlib.crc32(payload) != found.crc:
            self._let_go(key)
            return None
        return payload

    def write(self, key: bytes, parent: bytes, tokens: Sequence[int], payload: bytes) -> list[Found]:
        """Append one, unless it is there; returns what had to go for it. Durable behind `sync`.

        One that finds no room without those before it is not stored.
        """
        size = _size(tokens, payload)
        if key in self._pieces or (parent != self._root and parent not in self._pieces):
            return []
        # From here on those before it are the youngest.
        self.use(parent)
        gone, fits = self._make_room(size, parent)
        if fits:
            self._pieces[key] = self._append(key, parent, tokens, payload)
            self.use(key)
        return gone

    def sync(self) -> None:
        """What was written so far survives a loss of power."""
        while self._unsynced:
            number = next(iter(self._unsynced))
            # It may have been given back meanwhile.
            with contextlib.suppress(FileNotFoundError), self._path(number).open("rb") as file:
                os.fsync(file.fileno())
            self._unsynced.discard(number)

    def erase(self, keys: Sequence[bytes]) -> None:
        """They are conversation data: not only forgotten, but overwritten."""
        for key in keys:
            if (found := self._pieces.get(key)) is None:
                continue
            start = found.offset - _RECORD_BYTES - _TOKEN_BYTES * len(found.tokens)
            with self._path(found.segment).open("r+b", buffering=0) as file:
                file.seek(start + _RECORD_BYTES)
                _write_all(file.fileno(), bytes(found.whole - _RECORD_BYTES))
                os.fsync(file.fileno())
            self._let_go(key)

    # --- room --------------------------------------------------------------------------------------------------------

    def _make_room(self, size: int, parent: bytes) -> tuple[list[Found], bool]:
        """Let the oldest go, none of those before a piece of `parent`, until `size` more bytes fit; whether they do."""
        gone: list[Found] = []
        while self.used_bytes + size + _FILE.size > self._limit:
            sparse = min(self._lengths, key=lambda number: self._live[number] / self._lengths[number], default=None)
            if sparse is not None and self._may_compact(sparse):
                self._compact(sparse)
                continue
            oldest = next(iter(self._pieces), parent)
            if oldest == parent:
                return gone, False
            gone.append(self._pieces[oldest])
            self._let_go(oldest)
        return gone, True

    def _may_compact(self, number: int) -> bool:
        live = self._live[number]
        return live * 2 < self._lengths[number] and self.used_bytes + live + _FILE.size <= self._limit

    def _compact(self, number: int) -> None:
        """Write what is alive in a file behind the others, and delete it; nothing is older or younger for that."""
        if self._active == number:
            self._active = 0
        for found in [found for found in self._pieces.values() if found.segment == number]:
            payload = self.read(found.key)
            if payload is not None:
                self._pieces[found.key] = self._append(found.key, found.parent, found.tokens, payload)
        if number in self._lengths:
            self._delete(number)

    def _append(self, key: bytes, parent: bytes, tokens: Sequence[int], payload: bytes) -> Found:
        size = _size(tokens, payload)
        number = self._segment_for(size)
        raw = packed(tokens)
        crc = zlib.crc32(payload)
        head = _HEAD.pack(_RECORD_MAGIC, key, parent, len(tokens), len(payload), crc)
        at, path = self._lengths[number], self._path(number)
        try:
            with path.open("r+b", buffering=0) as file:
                file.seek(at)
                for part in (head, _CRC.pack(zlib.crc32(raw, zlib.crc32(head))), raw, payload):
                    _write_all(file.fileno(), part)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, at)
            raise
        self._lengths[number] = at + size
        self._live[number] += size
        self._unsynced.add(number)
        return Found(key, parent, tokens, number, at + size - len(payload), len(payload), crc)

    def _let_go(self, key: bytes) -> None:
        found = self._pieces.pop(key)
        self._live[found.segment] -= found.whole
        if not self._live[found.segment]:
            self._delete(found.segment)

    def _delete(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)
        del self._lengths[number], self._live[number]
        if self._active == number:
            self._active = 0

    def _segment_for(self, size: int) -> int:
        """The file that is written to; a new one when that is full."""
        if not self._active or self._lengths[self._active] + size > max(self._segment_bytes, _FILE.size + size):
            self._highest = number = self._highest + 1
            descriptor = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_FILE.pack(_FILE_MAGIC, _VERSION, 0, self._root))
            self._lengths[number], self._live[number] = _FILE.size, 0
            self._active = number
        return self._active

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.kv"

    # --- the start ---------------------------------------------------------------------------------------------------

    def _open(self) -> Opened:
        foreign, broken = [], 0
        for path in sorted(self._folder.glob("*.kv")):
            self._highest = max(self._highest, int(path.stem) if path.stem.isdigit() else 0)
            data = _mapped(path)
            if (
                data is None
                or not path.stem.isdigit()
                or data[: _FILE.size] != _FILE.pack(_FILE_MAGIC, _VERSION, 0, self._root)
            ):
                foreign.append(path.name)
                continue
            number, end = int(path.stem), _FILE.size
            self._live[number] = 0
            for found in _records(data, number):
                end = found.offset + found.size
                # Compaction was cut off: both are what they say.
                if old := self._pieces.pop(found.key, None):
                    self._live[old.segment] -= old.whole
                self._pieces[found.key] = found
                self._live[number] += found.whole
            broken += len(data) - _FILE.size - self._live[number]
            if end < len(data):
                os.truncate(path, end)
            self._lengths[number] = end
        for number in [number for number, live in self._live.items() if not live]:
            self._delete(number)
        return Opened(len(self._pieces), foreign, broken)


def drop(folder: Path) -> int:
    """Delete what is in a folder of records that nobody has a use for; the bytes. 0 where a process has it.

    Raises:
        OSError: it cannot be deleted.
    """
    lease = os.open(folder / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        freed = 0
        for path in folder.glob("*.kv"):
            freed += path.stat().st_size
            path.unlink()
        (folder / "lease").unlink()
        folder.rmdir()
        return freed
    except BlockingIOError:
        return 0
    finally:
        os.close(lease)


def _mapped(path: Path) -> mmap.mmap | None:
    if not path.stat().st_size:
        return None
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _records(data: mmap.mmap, number: int) -> Iterator[Found]:
    """All that are whole; what lies between them, because a byte of it is not what it was, is passed over."""
    at = _FILE.size
    while (at := data.find(_RECORD_MAGIC, at)) >= 0 and at + _RECORD_BYTES <= len(data):
        head = data[at : at + _HEAD.size]
        _, key, parent, tokens, size, crc = _HEAD.unpack(head)
        start = at + _RECORD_BYTES
        offset = start + _TOKEN_BYTES * tokens
        if offset + size <= len(data):
            raw = data[start:offset]
            if _CRC.pack(zlib.crc32(raw, zlib.crc32(head))) == data[at + _HEAD.size : start]:
                yield Found(key, parent, unpacked(raw), number, offset, size, crc)
                at = offset + size
                continue
        at += 1


def _size(tokens: Sequence[int], payload: bytes) -> int:
    return _RECORD_BYTES + _TOKEN_BYTES * len(tokens) + len(payload)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
