"""The flight recorder: a small mmapped ring in which a worker notes what it is about to do; it outlives the worker.

The daemon makes the file (unlinked at once, shared by descriptor) and reads it after a death. Layout: a count of all
notes ever written (u64); how many streams the last one is about (u16), and their numbers (u32 each); then 64 slots of
160 bytes, each a length (u16) and UTF-8 text.
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Collection
from itertools import islice
from typing import Final

SLOTS: Final = 64
SLOT_BYTES: Final = 160
MOST_STREAMS: Final = 256
_COUNT: Final = struct.Struct("<Q")
_LENGTH: Final = struct.Struct("<H")
_STREAMS_AT: Final = _COUNT.size
_TEXTS_AT: Final = _STREAMS_AT + _LENGTH.size + 4 * MOST_STREAMS
SIZE_BYTES: Final = _TEXTS_AT + SLOTS * SLOT_BYTES


class FlightRecorder:
    """One ring, mapped by both processes; the worker writes, the daemon reads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, SIZE_BYTES)
        (self._count,) = _COUNT.unpack_from(self._map)

    @classmethod
    def create(cls) -> "FlightRecorder":
        """A new, empty ring; its `fd` is for the worker to inherit.

        Raises:
            OSError: no file, descriptor or memory is to be had.
        """
        with tempfile.TemporaryFile() as file:
            file.truncate(SIZE_BYTES)
            fd = os.dup(file.fileno())
        try:
            return cls(fd)
        except OSError:
            # mmap takes a descriptor of its own.
            os.close(fd)
            raise

    def note(self, text: str, streams: Collection[int] = ()) -> None:
        """Write one line, about some streams; the oldest gives way. The count moves last: a torn note is never read."""
        numbers = list(islice(streams, MOST_STREAMS))
        struct.pack_into(f"<H{len(numbers)}I", self._map, _STREAMS_AT, len(numbers), *numbers)
        raw = text.encode()[: SLOT_BYTES - _LENGTH.size]
        at = _TEXTS_AT + self._count % SLOTS * SLOT_BYTES
        _LENGTH.pack_into(self._map, at, len(raw))
        self._map[at + _LENGTH.size : at + _LENGTH.size + len(raw)] = raw
        self._count += 1
        _COUNT.pack_into(self._map, 0, self._count)

    def last(self, most: int = 16) -> list[str]:
        """The last notes, oldest first."""
        (count,) = _COUNT.unpack_from(self._map)
        notes = []
        for index in range(max(0, count - min(most, SLOTS)), count):
            at = _TEXTS_AT + index % SLOTS * SLOT_BYTES
            (length,) = _LENGTH.unpack_from(self._map, at)
            raw = self._map[at + _LENGTH.size : at + _LENGTH.size + min(length, SLOT_BYTES - _LENGTH.size)]
            notes.append(raw.decode(errors="replace"))
        return notes

    def streams(self) -> frozenset[int]:
        """Those that the last note is about."""
        (length,) = _LENGTH.unpack_from(self._map, _STREAMS_AT)
        return frozenset(struct.unpack_from(f"<{min(length, MOST_STREAMS)}I", self._map, _STREAMS_AT + _LENGTH.size))

    def close(self) -> None:
        """Unmap, and let the descriptor go."""
        self._map.close()
        os.close(self.fd)
