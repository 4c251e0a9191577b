"""Pieces of KV that another process has on disk: read and verified here, never written."""

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lmx_ledger.engine.kv.records import FILE_BYTES, Found, Opened, file_head, mapped, path_of, records, verified


class Changes(NamedTuple):
    """What the process that has the files has written since the last look, and what it has let go of."""

    came: list[Found]
    went: list[Found]


class BorrowedSegments:
    """The records of one root in a folder that another process has. Of the two, only that one stores and deletes.

    A file that it deletes is closed between any two reads here, and whatever is read is verified: nothing has to be
    kept from it for a reader's sake.

    Raises, in every method that touches the disk:
        OSError: it cannot be read.
    """

    borrowed = True

    def __init__(self, folder: Path, root: bytes) -> None:
        self._folder, self._root = folder, root
        self._pieces: dict[bytes, Found] = {}
        self._read: dict[int, int] = {}
        self.look()
        self.opened = Opened(len(self._pieces), [], 0)

    def look(self) -> Changes:
        """See what is there now."""
        there = {int(path.stem) for path in self._folder.glob("*.kv") if path.stem.isdigit()}
        came: list[Found] = []
        for number in sorted(there):
            came += self._new_in(number)
        deleted = self._read.keys() - there
        for number in deleted:
            del self._read[number]
        # What was written anew elsewhere before its file went is there already.
        went = [found for found in self._pieces.values() if found.segment in deleted]
        for found in went:
            del self._pieces[found.key]
        return Changes(came, went)

    def close(self) -> None:
        """Nothing is held."""

    def __contains__(self, key: object) -> bool:
        return key in self._pieces

    def __iter__(self) -> Iterator[Found]:
        return iter(self._pieces.values())

    @property
    def used_bytes(self) -> int:
        """None: the bytes are the other process's."""
        return 0

    def find(self, key: bytes) -> Found | None:
        """The record of that name."""
        return self._pieces.get(key)

    def forget(self, key: bytes) -> None:
        """It is not looked at any more."""
        self._pieces.pop(key, None)

    def use(self, key: bytes) -> None:
        """What is kept longest is for the other process to say."""

    def read(self, key: bytes) -> memoryview | None:
        """Its payload; None where there is none, or it is not what was written (it is let go of then)."""
        found = self._pieces.get(key)
        if found is None:
            return None
        payload = verified(self._folder, found)
        if payload is None:
            del self._pieces[key]
        return payload

    def write(self, key: bytes, parent: bytes, tokens: Sequence[int], payload: bytes) -> list[Found]:
        """Nothing is written, and nothing goes."""
        del key, parent, tokens, payload
        return []

    def sync(self) -> None:
        """There is nothing to be made durable."""

    def erase(self, keys: Sequence[bytes]) -> None:
        """Only the process that has the files can.

        Raises:
            BlockingIOError: one of these is there.
        """
        if any(key in self._pieces for key in keys):
            raise BlockingIOError(
                errno.EWOULDBLOCK, f"another process has {self._folder}: erase it there, or stop that one first"
            )

    def _new_in(self, number: int) -> list[Found]:
        """Behind what was read of that file."""
        try:
            data = mapped(path_of(self._folder, number))
        except FileNotFoundError:
            return []
        at = self._read.get(number, FILE_BYTES)
        if data is None or len(data) <= at or data[:FILE_BYTES] != file_head(self._root):
            return []
        found = list(records(data, number, at))
        for one in found:
            self._pieces[one.key] = one
            at = one.offset + one.size
        self._read[number] = at
        return found
