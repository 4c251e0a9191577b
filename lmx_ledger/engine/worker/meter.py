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
from lmx_ledger.engine.worker.slots import AT_ONCE

_PROBE: Final = 32
_FAR: Final = 1_024
_CACHE_SHARE: Final = 16
_LOOK_EVERY_S: Final = 0.2
"""How often the process is looked at: at every step of a small model it would cost a twentieth of it."""


class Foretold(NamedTuple):
    """What a round of the loop was to have taken at its peak, and what it had."""

    predicted_bytes: int
    peak_bytes: int


NOTHING: Final = Foretold(0, 0)


class _Act(NamedTuple):
    """What is done next: a pass, or caches that are made anew, or one behind the other. Bytes; `began` are there."""

    one: Pass | None
    pass_bytes: int
    anew: int
    anew_bytes: int
    began: int

    @property
    def foretold(self) -> int:
        """At its peak."""
        return self.began + max(self.pass_bytes, self.anew_bytes)


class Meter:
    """One worker's, whose model has just been loaded: what its process takes beside arrays now is not the model's."""

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._room: int | None = None
        mx.clear_cache()
        give_back()
        self._process_bytes, self._looked_s = process_bytes(), time.monotonic()
        self._empty_bytes = self._process_bytes - mx.get_active_memory()
        self._act: _Act | None = None
        self._carried = 0
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

    @property
    def has_room(self) -> bool:
        """Whether what it holds, buffers included, is within what it was granted."""
        return self._room is not None and mx.get_active_memory() + mx.get_cache_memory() <= self._room

    def _tidy(self) -> bool:
        """Let buffers go that are not in use, where there is no room for them."""
        if self._room is None or self.has_room:
            return False
        mx.clear_cache()
        return True

    def begin(self) -> None:
        """A round of the loop."""
        self._tidy()

    def expect(self, one: Pass | None, growth: int, copies: int) -> None:
        """A pass comes next, or caches are joined; they grow by `growth`, and so many bytes of them are made anew."""
        self._learn()
        anew = copies + self._carried
        # What is not large is made by the device together with what comes next.
        self._carried = copies if copies <= AT_ONCE else 0
        passing = self._estimate.bytes(one) if one is not None else 0
        began = mx.get_active_memory() + growth
        self._act = _Act(one, passing, anew, self._estimate.copies(anew), began)
        peak = began + passing + self._estimate.copies(anew)
        if self._room is not None and peak + mx.get_cache_memory() > self._room:
            # What is kept to be used again is seldom of the sizes that come: beside the peak there is no room for it.
            mx.clear_cache()
        mx.reset_peak_memory()

    def end(self) -> None:
        """The round is over."""
        self._learn()

    def _learn(self) -> None:
        """From what came last."""
        act, self._act = self._act, None
        if act is None:
            return
        # Nothing was allocated: then there is no peak.
        peak = max(mx.get_peak_memory(), mx.get_active_memory())
        if act.anew_bytes > act.pass_bytes:
            self._estimate.copied(act.anew, peak - act.began)
        elif act.one is not None:
            self._estimate.seen(act.one, max(peak - act.began, 0))
        known = self._last
        self._last = Foretold(max(known.predicted_bytes, act.foretold), max(known.peak_bytes, peak))

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

    def look_again(self) -> None:
        """Behind what freed or took much, and before a silence: what was seen before may stand for long."""
        self._looked_s = -_LOOK_EVERY_S

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
    full = next((part for part in _flat(cache) if type(part) is KVCache), None)
    per_pair = _per_pair(heads, full.keys) if full is not None else 4.0 * heads
    return Estimate(max(taken - caches, 0) / _PROBE - per_pair * _PROBE, per_pair, scale), shape


def _per_pair(heads: int, keys: mx.array) -> float:
    """Bytes that attention takes for a token and each one that it looks at: none where its weights are fused."""
    _, kv_heads, _, size = keys.shape
    queries = mx.zeros((1, heads, _PROBE, size), keys.dtype)
    far = mx.zeros((1, kv_heads, _FAR, size), keys.dtype)
    mx.eval(queries, far)
    began = mx.get_active_memory()
    mx.reset_peak_memory()
    found = mx.fast.scaled_dot_product_attention(queries, far, far, scale=1.0, mask="causal")
    mx.eval(found)
    return max(mx.get_peak_memory() - began - found.nbytes, 0) / (_PROBE * _FAR)


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
