"""The two forms in which a row's cache is kept: cut into pieces of tokens, or whole.

Full attention can be cut anywhere, and a conversation shares what it has in common with others. A sliding window, a
recurrent state or a mixture of them is good only behind exactly the tokens that made it, and is kept as it is.
"""

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as mlx_lm_cache
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from lmx_ledger.engine.kv.library import Library, Match
from lmx_ledger.engine.kv.records import Payload

_LENGTH: Final = struct.Struct("<I")
_KEPT_WHOLE: Final = (KVCache, RotatingKVCache, ArraysCache, CacheList)


class Assembled(NamedTuple):
    """What was fetched for a row: how many tokens it stands for, and the bytes."""

    tokens: int
    data: Any


class Copied(NamedTuple):
    """Some of a cache, copied but not in bytes yet: what stands in front, then arrays of bytes that are evaluated."""

    head: bytes
    arrays: list[mx.array]

    def payload(self) -> bytes:
        """In bytes; on any thread, for nothing is left to be computed."""
        return b"".join([self.head, *(np.array(part).tobytes() for part in self.arrays)])


class Form(Protocol):
    """How caches of one model become bytes and come back. What is no step loop's work needs no MLX."""

    name: str
    whole: bool
    """It can only be kept where it is, and must be kept where it will be wanted."""

    def kept_of(self, tokens: int, *, reading: bool) -> int:
        """Of how many of a row's tokens something is to be stored; `reading`: it goes on at once."""

    def match(self, library: Library, tokens: Sequence[int]) -> Match:
        """What is stored of their beginning."""

    def copy(self, cache: Sequence[Any], start: int, end: int) -> Copied:
        """Some tokens of a row's cache, in memory of their own; on the step loop."""

    def assemble(self, match: Match, payload_of: Callable[[bytes], Payload | None], room: int) -> Assembled:
        """Put together what is still there, with room for so many tokens; on any thread, without computing."""

    def cache(self, assembled: Assembled) -> list[Any]:
        """A row's cache that has read that; on the step loop."""


def form_for(cache: Sequence[Any], block: int) -> Form | None:
    """The form for caches like this one, in which there is a token; None: such a one cannot be kept."""
    if all(type(part) is KVCache for part in cache):
        return Cut(cache, block)
    if all(type(part) in _KEPT_WHOLE for part in cache):
        return Whole(cache)
    return None


class Cut:
    """Pieces of `block` tokens, `[layer][keys, values][heads, tokens, size]` one behind the other."""

    whole = False

    def __init__(self, cache: Sequence[KVCache], block: int) -> None:
        """Like this one, in which there is a token."""
        arrays = [array for part in cache for array in (part.keys, part.values)]
        self._block = block
        self._kinds = [array.dtype for array in arrays]
        self._shapes = [(array.shape[1], array.shape[3] * array.itemsize) for array in arrays]
        self._token_bytes = sum(heads * size for heads, size in self._shapes)
        self.name = (
            f"cut {block} {[(str(kind), *shape) for kind, shape in zip(self._kinds, self._shapes, strict=True)]}"
        )

    def kept_of(self, tokens: int, *, reading: bool) -> int:
        """All; the last piece, which will grow, only of a row that does not go on."""
        return tokens // self._block * self._block if reading else tokens

    def match(self, library: Library, tokens: Sequence[int]) -> Match:
        """The longest common beginning."""
        return library.match(tokens)

    def copy(self, cache: Sequence[Any], start: int, end: int) -> Copied:
        """Copied out of the arrays."""
        parts = [mx.contiguous(array[0, :, start:end]) for part in cache for array in (part.keys, part.values)]
        raw = [part.view(mx.uint8) for part in parts]
        mx.eval(raw)
        return Copied(b"", raw)

    def assemble(self, match: Match, payload_of: Callable[[bytes], Payload | None], room: int) -> Assembled:
        """Array by array, each of them put together in memory that is at hand and taken over by MLX as it is."""
        payloads = []
        for key in match.keys:
            payload = payload_of(key)
            if payload is None or len(payload) % self._token_bytes:
                break
            payloads.append(np.frombuffer(payload, np.uint8))
        if not payloads:
            return Assembled(0, [])
        takes = [self._block] * len(payloads)
        if len(payloads) == len(match.keys):
            takes[-1] = match.tail
        arrays, before = [], 0
        scratch = np.zeros(max(heads * room * size for heads, size in self._shapes), np.uint8)
        for heads, size in self._shapes:
            whole = scratch[: heads * room * size].reshape(heads, room, size)
            at = 0
            for piece, take in zip(payloads, takes, strict=True):
                tokens = len(piece) // self._token_bytes
                start, end = before * tokens, (before + heads * size) * tokens
                whole[:, at : at + take] = piece[start:end].reshape(heads, tokens, size)[:, :take]
                at += take
            # No computation, and so no stream of the step loop's: only what is made of it there is.
            arrays.append(mx.array(whole))
            before += heads * size
        return Assembled(sum(takes), arrays)

    def cache(self, assembled: Assembled) -> list[Any]:
        """What was put together, seen as what it is."""
        arrays = [part.view(kind)[None] for part, kind in zip(assembled.data, self._kinds, strict=True)]
        mx.eval(arrays)
        cache = []
        for keys, values in zip(arrays[::2], arrays[1::2], strict=True):
            part = KVCache()
            part.keys, part.values, part.offset = keys, values, assembled.tokens
            cache.append(part)
        return cache


class Whole:
    """All of a cache's state: JSON that says where which array goes, then the arrays."""

    whole = True

    def __init__(self, cache: Sequence[Any]) -> None:
        """Like this one."""
        self._classes = [type(part).__name__ for part in cache]
        self.name = f"whole {self._classes}"

    def kept_of(self, tokens: int, *, reading: bool) -> int:
        """All of it, whether it goes on or not: what comes next may begin behind the prompt or behind the answer."""
        del reading
        return tokens

    def match(self, library: Library, tokens: Sequence[int]) -> Match:
        """The longest one whose tokens are all there."""
        return library.match_whole(tokens)

    def copy(self, cache: Sequence[Any], start: int, end: int) -> Copied:
        """All of it, for it cannot be cut; that it stands for exactly `end` tokens is the caller's to know."""
        del start, end
        arrays: list[mx.array] = []
        told = json.dumps([_told(_used(part), arrays) for part in cache]).encode()
        raw = [mx.contiguous(part).view(mx.uint8) if part.size else part for part in arrays]
        mx.eval(raw)
        return Copied(_LENGTH.pack(len(told)) + told, raw)

    def assemble(self, match: Match, payload_of: Callable[[bytes], Payload | None], room: int) -> Assembled:
        """The one piece."""
        del room
        payload = payload_of(match.keys[0]) if match.keys else None
        return Assembled(match.tokens, bytes(payload)) if payload is not None else Assembled(0, None)

    def cache(self, assembled: Assembled) -> list[Any]:
        """Arrays of their own."""
        payload: bytes = assembled.data
        (length,) = _LENGTH.unpack_from(payload)
        at = _LENGTH.size + length
        states, _ = _read(json.loads(payload[_LENGTH.size : at]), payload, at)
        cache = [
            getattr(mlx_lm_cache, name).from_state(state) for name, state in zip(self._classes, states, strict=True)
        ]
        mx.eval([part.state for part in cache])
        return cache


def _used(part: Any) -> Any:
    """Its state without the room that it has for more."""
    if type(part) is KVCache:
        return part.keys[..., : part.offset, :], part.values[..., : part.offset, :], part.offset
    if type(part) is CacheList:
        return [(_used(one), type(one).__name__) for one in part.caches]
    return part.state


def _told(state: Any, arrays: list[mx.array]) -> Any:
    if isinstance(state, mx.array):
        arrays.append(state)
        return {"kind": str(state.dtype).rpartition(".")[2], "shape": list(state.shape)}
    if isinstance(state, list | tuple):
        return [_told(one, arrays) for one in state]
    return state


def _read(told: Any, payload: bytes, at: int) -> tuple[Any, int]:
    if isinstance(told, dict):
        kind, shape = getattr(mx, told["kind"]), told["shape"]
        size = kind.size * int(np.prod(shape, dtype=np.int64))
        raw = mx.array(np.frombuffer(payload, np.uint8, size, at))
        return (raw.view(kind).reshape(shape) if size else mx.zeros(shape, kind)), at + size
    if isinstance(told, list):
        states = []
        for one in told:
            state, at = _read(one, payload, at)
            states.append(state)
        return states, at
    return told, at
