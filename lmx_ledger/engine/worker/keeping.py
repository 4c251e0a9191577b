"""One model's KV, kept: what is asked of the library on the step loop, and what is done for it on threads."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.engine.kv.chain import root_key
from lmx_ledger.engine.kv.library import Library, Match, Saved
from lmx_ledger.engine.kv.segments import SegmentStore
from lmx_ledger.engine.protocol import Kv
from lmx_ledger.engine.worker.forms import Assembled, Cut, Form

_SEGMENT_BYTES: Final = 64_000_000


class Fetched(NamedTuple):
    """What a row begins with."""

    stream: int
    assembled: Assembled
    ms: float


class Written(NamedTuple):
    """What is on disk now, or why it is not."""

    saved: Saved | None
    error: str | None


class Keeping:
    """One model's KV, kept. `deliver` gets what the threads of it have done."""

    def __init__(self, form: Form, settings: Kv, deliver: Callable[[Fetched | Written], None]) -> None:
        """Raises:
        OSError: the folder cannot be used, or another process writes to it.
        """
        self._form = form
        root = root_key(settings.fingerprint, form.name)
        disk = SegmentStore(Path(settings.folder) / root.hex(), root, settings.disk, _SEGMENT_BYTES)
        self._library = Library(disk, root, settings.block if isinstance(form, Cut) else 0, settings.ram)
        self._deliver = deliver
        self._to_fetch: queue.SimpleQueue[tuple[int, Match, int] | None] = queue.SimpleQueue()
        self._to_save: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._fetch, self._save)]
        for thread in self._threads:
            thread.start()

    @property
    def ram_bytes(self) -> int:
        """What is kept in RAM."""
        return self._library.ram_bytes

    @property
    def disk_bytes(self) -> int:
        """What is kept on disk."""
        return self._library.disk_bytes

    # --- on the step loop --------------------------------------------------------------------------------------------

    def fetch(self, stream: int, tokens: Sequence[int], room: int) -> bool:
        """Have what is kept of their beginning put together, with room for so many; False where nothing is."""
        match = self._form.match(self._library, tokens)
        if match.tokens:
            self._to_fetch.put((stream, match, room))
        return bool(match.tokens)

    def restored(self, fetched: Fetched) -> list[Any]:
        """The cache of a row that has read that."""
        return self._form.cache(fetched.assembled)

    def keep(self, tokens: Sequence[int], cache: Sequence[Any], *, reading: bool) -> None:
        """Keep what is new of a row's cache, which stands for exactly these tokens; `reading`: the row goes on."""
        for start, piece in self._form.lacks(self._library, tokens, reading=reading):
            payload = self._form.payload(cache, start, start + len(piece.tokens))
            if not self._library.keep(piece, payload):
                break
        self._to_save.put(True)

    def close(self) -> None:
        """Write what is not on disk yet, and let another process have the files."""
        self._to_fetch.put(None)
        self._to_save.put(False)
        for thread in self._threads:
            thread.join()
        self._library.close()

    # --- on threads --------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        while (wanted := self._to_fetch.get()) is not None:
            stream, match, room = wanted
            began = time.monotonic()
            assembled = self._form.assemble(match, self._library.payload, room)
            self._deliver(Fetched(stream, assembled, (time.monotonic() - began) * 1e3))

    def _save(self) -> None:
        while self._to_save.get():
            try:
                saved = self._library.save()
            except OSError as error:
                self._deliver(Written(None, str(error)))
                continue
            if saved.pieces:
                self._deliver(Written(saved, None))
