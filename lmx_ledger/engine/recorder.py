"""The flight recorder: a small mmapped ring in which a worker notes what it is about to do; it outlives the worker.

The daemon makes the file (unlinked at once, shared by descriptor) and reads it after a death. Layout: a count of all
notes ever written (u64), then 64 slots of 160 bytes, each a length (u16) and UTF-8 text.
"""

import mmap
import os
import struct
import tempfile
from typing import Final

SLOTS: Final = 64
SLOT_BYTES: Final = 160
_COUNT: Final = struct.Struct("<Q")
_TEXT: Final = struct.Struct("<H")
SIZE_BYTES: Final = _COUNT.size + SLOTS * SLOT_BYTES


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

    def note(self, text: str) -> None:
        """Write one line; the oldest gives way. The count moves last, so a torn note is never read."""
        raw = text.encode()[: SLOT_BYTES - _TEXT.size]
        at = _COUNT.size + self._count % SLOTS * SLOT_BYTES
        _TEXT.pack_into(self._map, at, len(raw))
        self._map[at + _TEXT.size : at + _TEXT.size + len(raw)] = raw
        self._count += 1
        _COUNT.pack_into(self._map, 0, self._count)

    def last(self, most: int = 16) -> list[str]:
        """The last notes, oldest first."""
        (count,) = _COUNT.unpack_from(self._map)
        notes = []
        for index in range(max(0, count - min(most, SLOTS)), count):
            at = _COUNT.size + index % SLOTS * SLOT_BYTES
            (length,) = _TEXT.unpack_from(self._map, at)
            raw = self._map[at + _TEXT.size : at + _TEXT.size + min(length, SLOT_BYTES - _TEXT.size)]
            notes.append(raw.decode(errors="replace"))
        return notes

    def close(self) -> None:
        """Unmap, and let the descriptor go."""
        self._map.close()
        os.close(self.fd)
