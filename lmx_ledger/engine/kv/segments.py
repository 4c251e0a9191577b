"""Pieces of KV on disk: append-only files of records, each with its own checksums; the index is read from them.

Half a record at the end of a file is what a crash leaves, and is cut off. Only one process writes in a folder, for as
long as it lives (others may read there: `kv/borrowed.py`).
"""

import contextlib
import errno
import fcntl
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from lmx_ledger.engine.kv.records import (
    FILE_BYTES,
    Found,
    Opened,
    Payload,
    erased,
    file_head,
    is_cut_off,
    mapped,
    path_of,
    record,
    record_bytes,
    spans,
    verified,
)

_FILES: Final = 16
_SPARSE: Final = 0.75
"""A file of which less than this is alive is written anew before anything is let go of: at most three bytes for one."""


class SegmentStore:
    """The records of one root in one folder, of at most `limit` bytes; the least recently used ones go first.

    A piece counts as used whenever one behind it is, so what goes is never in the middle of a chain.

    Raises, in every method that touches the disk:
        BlockingIOError: at the start only: another process has the folder.
        OSError: it is full or cannot be written or read; what was stored before is as it was.
    """

    borrowed = False

    def __init__(self, folder: Path, root: bytes, limit: int, segment_bytes: int) -> None:
        self._folder, self._root = folder, root
        # A file is given back as a whole: it must be a small part of all there may be. One file's worth is left free,
        # for what is alive in another one.
        self._segment_bytes = min(segment_bytes, limit // _FILES)
        self._limit = limit - self._segment_bytes
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

    def read(self, key: bytes) -> memoryview | None:
        """Its payload; None where there is none, or it is not what was written (it is let go of then)."""
        found = self._pieces.get(key)
        if found is None:
            return None
        payload = verified(self._folder, found)
        if payload is None:
            self._let_go(key)
        return payload

    def write(self, key: bytes, parent: bytes, tokens: Sequence[int], payload: Payload) -> list[Found]:
        """Append one, unless it is there; returns what had to go for it. Durable behind `sync`.

        One that finds no room without those before it is not stored.
        """
        size = record_bytes(tokens, payload)
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
            with contextlib.suppress(FileNotFoundError), path_of(self._folder, number).open("rb") as file:
                os.fsync(file.fileno())
            self._unsynced.discard(number)

    def erase(self, keys: Sequence[bytes]) -> None:
        """They are conversation data: not only forgotten, but overwritten."""
        for key in keys:
            if (found := self._pieces.get(key)) is None:
                continue
            with path_of(self._folder, found.segment).open("r+b", buffering=0) as file:
                at, nothing = erased(found)
                file.seek(at)
                _write_all(file.fileno(), nothing)
                os.fsync(file.fileno())
            self._let_go(key)

    # --- room --------------------------------------------------------------------------------------------------------

    def _make_room(self, size: int, parent: bytes) -> tuple[list[Found], bool]:
        """Let the oldest go, none of those before a piece of `parent`, until `size` more bytes fit; whether they do."""
        gone: list[Found] = []
        while self.used_bytes + size + FILE_BYTES > self._limit:
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
        return live < _SPARSE * self._lengths[number] and live + FILE_BYTES <= self._segment_bytes

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

    def _append(self, key: bytes, parent: bytes, tokens: Sequence[int], payload: Payload) -> Found:
        size = record_bytes(tokens, payload)
        number = self._segment_for(size)
        parts, digest = record(key, parent, tokens, payload)
        at, path = self._lengths[number], path_of(self._folder, number)
        try:
            with path.open("r+b", buffering=0) as file:
                file.seek(at)
                for part in parts:
                    _write_all(file.fileno(), part)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, at)
            raise
        self._lengths[number] = at + size
        self._live[number] += size
        self._unsynced.add(number)
        return Found(key, parent, tokens, number, at + size - len(payload), len(payload), digest)

    def _let_go(self, key: bytes) -> None:
        found = self._pieces.pop(key)
        self._live[found.segment] -= found.whole
        if not self._live[found.segment]:
            self._delete(found.segment)

    def _delete(self, number: int) -> None:
        path_of(self._folder, number).unlink(missing_ok=True)
        del self._lengths[number], self._live[number]
        if self._active == number:
            self._active = 0

    def _segment_for(self, size: int) -> int:
        """The file that is written to; a new one when that is full."""
        if not self._active or self._lengths[self._active] + size > max(self._segment_bytes, FILE_BYTES + size):
            self._highest = number = self._highest + 1
            descriptor = os.open(path_of(self._folder, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(file_head(self._root))
            self._lengths[number], self._live[number] = FILE_BYTES, 0
            self._active = number
        return self._active

    # --- the start ---------------------------------------------------------------------------------------------------

    def _open(self) -> Opened:
        foreign, broken = [], 0
        for path in sorted(self._folder.glob("*.kv")):
            self._highest = max(self._highest, int(path.stem) if path.stem.isdigit() else 0)
            data = mapped(path)
            if data is None or not path.stem.isdigit() or data[:FILE_BYTES] != file_head(self._root):
                foreign.append(path.name)
                continue
            number, end = int(path.stem), FILE_BYTES
            self._live[number] = 0
            for span in spans(data, number):
                broken += span.at - end
                end = span.end
                if (found := span.found) is None:
                    continue
                # It was let go of and kept again, or compaction was cut off: both are what they say.
                if old := self._pieces.pop(found.key, None):
                    self._live[old.segment] -= old.whole
                self._pieces[found.key] = found
                self._live[number] += found.whole
            if end < len(data):
                # What a killed process was writing is no damage.
                broken += 0 if is_cut_off(data, end) else len(data) - end
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


def _write_all(descriptor: int, data: Payload) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
