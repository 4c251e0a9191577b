"""One model's KV, kept: what is asked of the library on the step loop, and what is done for it on threads."""

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.engine.kv.borrowed import BorrowedSegments
from lmx_ledger.engine.kv.chain import LEAST_TOKENS, Chain, root_key
from lmx_ledger.engine.kv.library import Gone, Library, Match, Saved, Wanted
from lmx_ledger.engine.kv.records import Payload
from lmx_ledger.engine.kv.segments import SegmentStore, drop
from lmx_ledger.engine.protocol import Insert, Kept, Kv, KvOpened
from lmx_ledger.engine.worker.forms import Assembled, Copied, Cut, Form
from lmx_ledger.engine.worker.pace import Pace

_SEGMENT_BYTES: Final = 32_000_000
_LEFT_FREE: Final = 1_000_000_000
"""Bytes of the disk that are left to others when the bound is set."""
_TOLD_EVERY_S: Final = 1.0


class Fetched(NamedTuple):
    """What a row begins with; `gone` tells what became of more, `borrowed` whether the files are another process's.

    `waited_ms`: what others had asked for was fetched first.
    """

    stream: int
    assembled: Assembled
    ms: float
    read_bytes: int
    gone: Gone | None
    borrowed: bool
    waited_ms: float


class Fetching(NamedTuple):
    """It takes its time: so many bytes are read so far."""

    stream: int
    read_bytes: int


class Written(NamedTuple):
    """What is on disk now, or why it is not."""

    turn: int
    saved: Saved
    kept: list[Kept]
    label: str
    ms: float
    error: str | None


class _Keep(NamedTuple):
    """The pieces of a row that are to be kept, with a copy of those that are not stored; `reading`: the row goes on."""

    label: str
    pieces: list[tuple[Wanted, Copied | None]]
    reading: bool


class _Ask(NamedTuple):
    stream: int
    tokens: Sequence[int]
    known: int
    room: int
    asked_s: float


class Keeping:
    """One model's KV, kept. `deliver` gets what the threads of it have done."""

    def __init__(
        self,
        form: Form,
        settings: Kv,
        made_by: str,
        deliver: Callable[[Fetched | Fetching | Written], None],
        pace: Pace | None = None,
    ) -> None:
        """`made_by`: what else its numbers depend on; `pace`: how fast the disk is to seem.

        Raises:
            OSError: the folder cannot be used.
        """
        self._form, self._block, self._disk_limit = form, settings.block, settings.disk
        self._root = root = root_key(settings.fingerprint, f"{form.name} {made_by}")
        self._folder = folder = Path(settings.folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk: SegmentStore | BorrowedSegments
        try:
            disk = self._own()
        except BlockingIOError:
            disk = BorrowedSegments(folder / root.hex(), root)
        others = [other for other in folder.iterdir() if other.is_dir() and other.name != root.hex()]
        self.opened = KvOpened(
            form=root.hex(),
            whole=form.whole,
            pieces=disk.opened.pieces,
            disk_bytes=disk.used_bytes,
            broken_bytes=disk.opened.broken_bytes,
            foreign=disk.opened.foreign,
            dropped_bytes=sum(drop(other) for other in others),
            borrowed=disk.borrowed,
        )
        self._library = Library(disk, root, settings.block if isinstance(form, Cut) else 0, settings.ram)
        self._deliver, self._pace = deliver, pace or Pace()
        self._work: queue.SimpleQueue[_Ask | _Keep | None] = queue.SimpleQueue()
        self._to_save: queue.SimpleQueue[tuple[Kept, bool] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve, self._save)]
        for thread in self._threads:
            thread.start()

    @property
    def whole(self) -> bool:
        """Whether caches are kept as they are, for they cannot be cut."""
        return self._form.whole

    @property
    def ram_bytes(self) -> int:
        """What is kept in RAM."""
        return self._library.ram_bytes

    def hold_at_most(self, ram: int) -> None:
        """See `Library.hold_at_most`."""
        self._library.hold_at_most(ram)

    @property
    def disk_bytes(self) -> int:
        """What is kept on disk."""
        return self._library.disk_bytes

    # --- on the step loop --------------------------------------------------------------------------------------------

    def fetch(self, insert: Insert, tokens: Sequence[int], room: int) -> None:
        """Have what is kept of their beginning put together, with room for so many, and delivered."""
        self._work.put(_Ask(insert.stream, tokens, min(insert.known, len(tokens)), room, time.monotonic()))

    def restored(self, fetched: Fetched) -> list[Any]:
        """The cache of a row that has read that."""
        return self._form.cache(fetched.assembled)

    def chain(self) -> Chain:
        """What a row's pieces are named by, for as long as it lives."""
        return self._library.chain()

    def keep(self, label: str, chain: Chain, tokens: Sequence[int], cache: Sequence[Any], *, reading: bool) -> None:
        """Keep what is new of a row's cache, which stands for exactly these tokens; `reading`: the row goes on."""
        pieces = []
        count = self._form.kept_of(len(tokens), reading=reading)
        for wanted in self._library.wanted(chain.pieces(tokens[:count])):
            at, piece, stored = wanted
            # What was copied for an earlier piece of this row may not be in the library yet: then it is copied again.
            pieces.append((wanted, None if stored else self._form.copy(cache, at, at + len(piece.tokens))))
        if pieces:
            self._work.put(_Keep(label, pieces, reading))

    def due(self, insert: Insert, before: int, after: int) -> bool:
        """Whether a row that has read from `before` to `after` is to be kept as it is now."""
        return after == insert.boundary if self._form.whole else after // self._block > before // self._block

    def stops_at(self, insert: Insert, read: int) -> int:
        """How many tokens may be read before the row is to be kept as it is then; 0: as many as are left."""
        return max(insert.boundary - read, 0) if self._form.whole else 0

    def measure(self, ends: Sequence[Sequence[bytes]]) -> list[tuple[int, int]]:
        """Bytes in RAM and on disk, of each list of ends."""
        extents = [self._library.extent(each) for each in ends]
        return [(extent.ram, extent.disk) for extent in extents]

    def erase(self, ends: Sequence[bytes]) -> int:
        """See `Library.erase`."""
        return self._library.erase(ends)

    def close(self) -> None:
        """Write what is not on disk yet, and let another process have the files."""
        # A rehearsal of a slow disk is no reason to be late.
        self._pace.bytes_per_s = 0
        self._work.put(None)
        self._threads[0].join()
        self._to_save.put(None)
        self._threads[1].join()
        self._library.close()

    def _own(self) -> SegmentStore:
        folder = self._folder / self._root.hex()
        return SegmentStore(folder, self._root, min(self._disk_limit, _room(self._folder)), _SEGMENT_BYTES)

    # --- on threads --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """One after the other, so that who asks finds what was kept before."""
        while (one := self._work.get()) is not None:
            if isinstance(one, _Keep):
                self._keep(one)
            else:
                self._fetch(one)

    def _keep(self, keep: _Keep) -> None:
        kept = Kept(keep.label, 0, b"", 0, on_disk=False)
        for (at, piece, _), copied in keep.pieces:
            payload = b""
            if copied is not None and not self._library.has(piece):
                payload = copied.payload()
                if not self._library.keep(piece, payload):
                    break
            kept = Kept(keep.label, at + len(piece.tokens), piece.key, kept.bytes + len(payload), on_disk=False)
        keep.pieces.clear()
        if kept.tokens:
            self._to_save.put((kept, keep.reading))

    def _fetch(self, ask: _Ask) -> None:
        began, read_before = time.monotonic(), self._library.read_bytes
        if self._library.borrowed:
            # What cannot be read now is there as it was known.
            with contextlib.suppress(OSError):
                self._catch_up()
        match = self._form.match(self._library, ask.tokens)
        if match.tokens < LEAST_TOKENS:
            match = Match([], 0, 0)
        assembled = self._form.assemble(match, partial(self._payload, _Progress(ask.stream, self._deliver)), ask.room)
        if not self._library.confirm():
            # Damaged or erased while it was put together.
            assembled = Assembled(0, None)
        self._library.used(match.keys)
        gone = self._library.why_lacking(ask.tokens, max(ask.known, match.tokens))
        ms = (time.monotonic() - began) * 1e3
        read_bytes = self._library.read_bytes - read_before
        waited_ms = (began - ask.asked_s) * 1e3
        self._deliver(Fetched(ask.stream, assembled, ms, read_bytes, gone, self._library.borrowed, waited_ms))
        self._library.hold_read()

    def _payload(self, progress: "_Progress", key: bytes) -> Payload | None:
        before = self._library.read_bytes
        found = self._library.payload(key)
        size = self._library.read_bytes - before
        self._pace.spend(size, progress.tell)
        progress.read_bytes += size
        progress.tell()
        return found

    def _catch_up(self) -> None:
        """Have the files if the process that had them is gone, or else know what it has written since."""
        try:
            disk = self._own()
        except BlockingIOError:
            self._library.look()
            return
        self._library.take_over(disk)
        self._to_save.put((Kept("", 0, b"", 0, on_disk=False), True))

    def _save(self) -> None:
        while (one := self._to_save.get()) is not None:
            waiting = [one]
            # A burst is one write.
            while not self._to_save.empty() and (one := self._to_save.get()) is not None:
                waiting.append(one)
            self._write([kept for kept, reading in waiting if kept.label and not reading], waiting[-1][0].label)
            if one is None:
                return

    def _write(self, kept: list[Kept], label: str) -> None:
        began, turn, error = time.monotonic(), self._library.turn, None
        try:
            saved = self._library.save()
            self._pace.spend(saved.bytes)
        except OSError as failure:
            saved, error = Saved(0, 0, 0, 0), str(failure)
        done = [Kept(one.label, one.tokens, one.end, one.bytes, self._library.on_disk(one.end)) for one in kept]
        if done or saved.pieces or saved.gone or error:
            self._deliver(Written(turn, saved, done, label, (time.monotonic() - began) * 1e3, error))


class _Progress:
    """Says now and then that reading goes on: a slow disk is no worker that hangs."""

    def __init__(self, stream: int, deliver: Callable[[Fetching], None]) -> None:
        self.read_bytes = 0
        self._stream, self._deliver, self._told = stream, deliver, time.monotonic()

    def tell(self) -> None:
        """If there was nothing for a second."""
        now = time.monotonic()
        if now - self._told >= _TOLD_EVERY_S:
            self._told = now
            self._deliver(Fetching(self._stream, self.read_bytes))


def _room(folder: Path) -> int:
    """Bytes that may lie in a folder: the disk is others' as well."""
    here = sum(path.stat().st_size for path in folder.rglob("*.kv"))
    return here + max(shutil.disk_usage(folder).free - _LEFT_FREE, 0)
