"""Between the caches of rows and the library of pieces: bytes to arrays and back, off the step loop where that can be.

Only caches of full attention can be cut into pieces.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache

from lmx_ledger.engine.kv.chain import root_key
from lmx_ledger.engine.kv.library import Library, Match, Saved
from lmx_ledger.engine.kv.segments import SegmentStore
from lmx_ledger.engine.protocol import Kv

Parts = Sequence[tuple[mx.array, mx.array]]
"""Keys and values of each layer, `[1, heads, tokens, size]`."""

_SEGMENT_BYTES: Final = 64_000_000


class Fetched(NamedTuple):
    """What a row begins with: of each layer keys and values, as bytes `[heads, room, size * itemsize]`."""

    stream: int
    tokens: int
    arrays: list["np.ndarray[Any, np.dtype[np.uint8]]"]
    ms: float


class Written(NamedTuple):
    """What is on disk now, or why it is not."""

    saved: Saved | None
    error: str | None


class Keeping:
    """One model's KV, kept. `deliver` gets what the threads of it have done."""

    def __init__(self, cache: Sequence[Any], settings: Kv, deliver: Callable[[Fetched | Written], None]) -> None:
        """`cache` is one that the model has read a token into.

        Raises:
            OSError: the folder cannot be used.
        """
        self._layout = [array.dtype for part in cache for array in (part.keys, part.values)]
        self._shapes = [
            (array.shape[1], array.shape[3] * array.itemsize) for part in cache for array in (part.keys, part.values)
        ]
        form = f"1 {settings.block} {[(str(t), *s) for t, s in zip(self._layout, self._shapes, strict=True)]}"
        root = root_key(settings.fingerprint, form)
        disk = SegmentStore(Path(settings.folder) / root.hex(), root, settings.disk, _SEGMENT_BYTES)
        self.library = Library(disk, root, settings.block, settings.ram)
        self._block = settings.block
        self._deliver = deliver
        self._to_fetch: queue.SimpleQueue[tuple[int, Match, int]] = queue.SimpleQueue()
        self._to_save = threading.Event()
        for work in (self._fetch, self._save):
            threading.Thread(target=work, daemon=True, name=f"kv {work.__name__}").start()

    # --- what is asked of it, on the step loop -----------------------------------------------------------------------

    def fetch(self, stream: int, match: Match, room: int) -> None:
        """Have the pieces read and put together, with room for so many tokens; it is delivered."""
        self._to_fetch.put((stream, match, room))

    def restored(self, fetched: Fetched) -> list[KVCache]:
        """The cache of a row that has read that."""
        arrays = [mx.array(array).view(kind)[None] for array, kind in zip(fetched.arrays, self._layout, strict=True)]
        mx.eval(arrays)
        cache = [KVCache() for _ in range(len(arrays) // 2)]
        for layer, part in enumerate(cache):
            part.keys, part.values = arrays[2 * layer : 2 * layer + 2]
            part.offset = fetched.tokens
        return cache

    def keep(self, tokens: Sequence[int], parts: Parts, *, whole_only: bool) -> None:
        """Keep what is new of these tokens' KV; written behind. `whole_only`: no piece that is shorter than a block."""
        for start, piece in self.library.lacks(tokens):
            if whole_only and len(piece.tokens) < self._block:
                break
            end = start + len(piece.tokens)
            arrays = [mx.contiguous(array[0, :, start:end]).view(mx.uint8) for layer in parts for array in layer]
            mx.eval(arrays)
            if not self.library.keep(piece, b"".join(np.array(array).tobytes() for array in arrays)):
                break
        self._to_save.set()

    # --- its threads -------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        while True:
            stream, match, room = self._to_fetch.get()
            began = time.monotonic()
            arrays = [np.zeros((heads, room, size), np.uint8) for heads, size in self._shapes]
            read = 0
            for number, key in enumerate(match.keys):
                payload = self.library.payload(key)
                if payload is None:
                    break
                take = match.tail if number == len(match.keys) - 1 else self._block
                self._unpack(payload, arrays, read, take)
                read += take
            self._deliver(Fetched(stream, read, arrays, (time.monotonic() - began) * 1e3))

    def _unpack(self, payload: bytes, arrays: list[Any], at: int, take: int) -> None:
        tokens = len(payload) // sum(heads * size for heads, size in self._shapes)
        start = 0
        for array, (heads, size) in zip(arrays, self._shapes, strict=True):
            end = start + heads * tokens * size
            piece = np.frombuffer(payload, np.uint8)[start:end].reshape(heads, tokens, size)
            array[:, at : at + take] = piece[:, :take]
            start = end

    def _save(self) -> None:
        while True:
            self._to_save.wait()
            self._to_save.clear()
            try:
                saved = self.library.save()
            except OSError as error:
                self._deliver(Written(None, str(error)))
                continue
            if saved.pieces:
                self._deliver(Written(saved, None))


def can_be_cut(cache: Sequence[Any]) -> bool:
    """Whether a cache is full attention in every layer."""
    return all(type(part) is KVCache for part in cache)
