"""How much memory a worker may take, takes, and will have taken when the next pass is done."""

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import KVCache, make_prompt_cache

from lmx_ledger.engine.protocol import KvShape
from lmx_ledger.engine.worker.estimate import Estimate, Pass
from lmx_ledger.engine.worker.process import give_back, process_bytes

_PROBE: Final = 32
_CACHE_SHARE: Final = 16
_LOOK_EVERY_S: Final = 0.05
"""How often the process is looked at: at every step of a small model it would cost a twentieth of it."""


class Foretold(NamedTuple):
    """What a round of the loop was to have taken at its peak, and what it had."""

    predicted_bytes: int
    peak_bytes: int


NOTHING: Final = Foretold(0, 0)


class Meter:
    """One worker's, whose model has just been loaded: what its process takes beside arrays now is not the model's."""

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._room: int | None = None
        mx.clear_cache()
        give_back()
        self._process_bytes, self._looked_s = process_bytes(), time.monotonic()
        self._empty_bytes = self._process_bytes - mx.get_active_memory()
        self._passes: list[tuple[Pass, int]] = []
        self._growth = self._copies = self._carried = self._began = 0
        self._last = NOTHING

    def take(self, room: int | None) -> int:
        """Let arrays take so many bytes (None: as many as they like); what they may take, for they may hold more.

        A part of it is for buffers that MLX keeps to use them again: they are nobody's arrays, and memory all the same.
        """
        if room is None:
            return 0
        mx.set_cache_limit(room // _CACHE_SHARE)
        self._room = room
        if self._tidy():
            give_back()
        self._room = max(room, mx.get_active_memory())
        return self._room

    def _tidy(self) -> bool:
        """Let buffers go that are not in use, where there is no room for them."""
        if self._room is None or mx.get_active_memory() + mx.get_cache_memory() <= self._room:
            return False
        mx.clear_cache()
        return True

    def begin(self) -> None:
        """A round of the loop."""
        self._tidy()
        self._passes.clear()
        # What the round before began is done by the device in this one.
        self._growth, self._carried, self._copies = 0, self._copies, 0
        self._began = mx.get_active_memory()
        mx.reset_peak_memory()

    def expect(self, one: Pass | None, growth: int, copies: int) -> None:
        """A pass is part of the round; caches grow by `growth`, and so many bytes of them are made anew."""
        if one is not None:
            self._passes.append((one, self._estimate.bytes(one)))
        self._growth += growth
        self._copies += copies

    def end(self) -> None:
        """The round is over: learn from it."""
        if not self._passes:
            return
        # Nothing was allocated: then there is no peak.
        peak = max(mx.get_peak_memory(), mx.get_active_memory())
        passes = sum(size for _, size in self._passes)
        before = self._began + self._growth
        copies = self._copies + self._carried
        self._last = Foretold(before + passes + self._estimate.copies(copies), peak)
        if copies:
            self._estimate.copied(copies, peak - before - passes)
            return
        # What is not foretold is put to the largest pass: beside it the others are small.
        largest, size = max(self._passes, key=lambda known: known[1])
        self._estimate.seen(largest, max(peak - before - (passes - size), 0))

    def told(self) -> Foretold:
        """Of the last round, once."""
        last, self._last = self._last, NOTHING
        return last

    def tokens(self, length: int, most: int, growth: int) -> int:
        """New tokens of a prompt, behind `length`, for which there is room when caches grow by so much; 0: for none."""
        if self._room is None:
            return most
        return self._estimate.tokens(self._room - mx.get_active_memory() - growth, length, most)

    def has_room_for(self, copies: int) -> bool:
        """Whether so much of the caches may be made anew, where it need not be."""
        return self._room is None or mx.get_active_memory() + self._estimate.copies(copies) <= self._room

    @property
    def process_bytes(self) -> int:
        """What the process takes beyond an empty one, without buffers that MLX keeps: those go when they have to."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s, self._process_bytes = now_s, process_bytes()
        return max(self._process_bytes - self._empty_bytes - mx.get_cache_memory(), 0)


def measure(module: nn.Module, scale: float) -> tuple[Estimate, KvShape]:
    """What a token takes in a pass and in the caches, from a pass over a few of them.

    Raises:
        Exception: whatever the architecture's own code raises.
    """
    cache = make_prompt_cache(module)
    began = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(module(mx.array([[0] * _PROBE]), cache=cache), [part.state for part in cache])
    taken = mx.get_peak_memory() - began
    shape = _shape(cache)
    heads = int(getattr(getattr(module, "args", None), "num_attention_heads", 0) or 1)
    caches = sum(part.nbytes for part in cache)
    per_pair = 4.0 * heads
    return Estimate(max(taken - caches, 0) / _PROBE - per_pair * _PROBE, per_pair, scale), shape


def _shape(cache: Sequence[Any]) -> KvShape:
    per_token = constant = 0
    windows: list[tuple[int, int]] = []
    for part in _flat(cache):
        if type(part) is KVCache:
            per_token += part.nbytes // part.keys.shape[2]
        elif (size := getattr(part, "max_size", 0)) and part.keys is not None:
            windows.append((part.nbytes // part.keys.shape[2], size))
        else:
            constant += part.nbytes
    return KvShape(per_token=per_token, constant=constant, windows=windows)


def _flat(cache: Sequence[Any]) -> list[Any]:
    return [one for part in cache for one in (_flat(part.caches) if hasattr(part, "caches") else [part])]


def wire_memory(size: int) -> int:
    """Have Metal wire so many bytes, at most what it recommends; what it was told. Nothing without Metal.

    Never by default: under load this has been tied to kernel panics (ml-explore/mlx issue 3186).
    """
    if not mx.metal.is_available():
        return 0
    wired = min(size, int(mx.device_info().get("max_recommended_working_set_size", 0)))
    mx.set_wired_limit(wired)
    return wired
