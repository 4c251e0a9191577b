"""A batch of rows in which one comes or goes for the price of that one, not of all."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

AT_ONCE: Final = 8_000_000
"""Bytes of caches that may be made anew without waiting for the device in between."""
_WASTE = 4
"""Padding that all rows have is given up when it is one part in so many of the whole."""


class SlotKVCache(BatchKVCache):  # type: ignore[misc]
    """mlx-lm's `BatchKVCache` with room for more rows: `[slots, heads, room, size]`, of which the first rows are used.

    There, each row that joins or leaves copies the whole batch. Here a row that joins is written into a free slot, and
    the hole that one leaves is filled by the last row, if the caller keeps the order of `packed`. The positions, the
    padding at the left and what attention sees are the same.
    """

    def __init__(self, rows: Sequence[KVCache]) -> None:
        """Of rows by themselves, each read; a single one is not copied."""
        longest = max(row.offset for row in rows)
        self._pads = [longest - row.offset for row in rows]
        super().__init__(self._pads)
        self.offset: mx.array = mx.array([row.offset for row in rows])
        self._idx: int = longest
        if len(rows) == 1:
            self.keys, self.values = rows[0].keys, rows[0].values
            return
        self.keys, self.values = (self._new(part, len(rows), longest) for part in (rows[0].keys, rows[0].values))
        for slot, (pad, row) in enumerate(zip(self._pads, rows, strict=True)):
            self._write(slot, pad, row.keys[..., : row.offset, :], row.values[..., : row.offset, :])

    def row(self, number: int) -> KVCache:
        """One row's, as views."""
        cache = KVCache()
        part = slice(self._pads[number], self._idx)
        cache.keys, cache.values = (whole[number : number + 1, :, part] for whole in (self.keys, self.values))
        cache.offset = self._idx - self._pads[number]
        return cache

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """`[rows, heads, T, size]` behind what is there; all of it, of the rows in use."""
        end = self._idx + keys.shape[2]
        if end > self.keys.shape[2]:
            self._make_room(self.keys.shape[0], 0, end)
        rows = len(self._pads)
        self.keys[:rows, :, self._idx : end] = keys
        self.values[:rows, :, self._idx : end] = values
        self.offset = self.offset + keys.shape[2]
        self._idx = end
        return self.keys_and_values()

    def grow(self) -> None:
        """Have room for more tokens."""
        self._make_room(self.keys.shape[0], 0, self._idx)

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """What the rows in use have."""
        rows = len(self._pads)
        return self.keys[:rows, :, : self._idx], self.values[:rows, :, : self._idx]

    def extend(self, other: "SlotKVCache") -> None:
        """Take in another's rows, behind the own ones."""
        end = max(self._idx, other._idx)
        own, more = len(self._pads), len(other._pads)
        shift, left = end - self._idx, end - other._idx
        slots = self.keys.shape[0]
        if own + more > slots or end > self.keys.shape[2] or shift:
            self._make_room(max(slots, own + more + own // 2), shift, end)
        self._write(own, left, *other.keys_and_values())
        self._pads = [pad + shift for pad in self._pads] + [pad + left for pad in other._pads]
        self.left_padding = mx.array(self._pads)
        self.offset = mx.concatenate([self.offset, other.offset])
        self._idx = end

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep these rows, in this order; see `packed`."""
        keep = list(batch_indices)
        self._pads = [self._pads[row] for row in keep]
        self.offset = self.offset[mx.array(keep)]
        spare = min(self._pads)
        spare = spare if spare * _WASTE > self._idx else 0
        if spare or self.keys.shape[0] > 2 * len(keep) or any(row < slot for slot, row in enumerate(keep)):
            rows = mx.array(keep)
            self.keys, self.values = (part[rows, :, spare : self._idx] for part in (self.keys, self.values))
            self._pads = [pad - spare for pad in self._pads]
            self._idx -= spare
        else:
            moves = [(slot, row) for slot, row in enumerate(keep) if row != slot]
            moved = [(mx.contiguous(self.keys[row]), mx.contiguous(self.values[row])) for _, row in moves]
            # While somebody looks at the arrays, a write copies all of them.
            mx.eval(moved)
            for (slot, _), (keys, values) in zip(moves, moved, strict=True):
                self._write(slot, 0, keys[None], values[None])
        self.left_padding = mx.array(self._pads)

    def _write(self, slot: int, at: int, keys: mx.array, values: mx.array) -> None:
        rows, _, tokens, _ = keys.shape
        self.keys[slot : slot + rows, :, at : at + tokens] = keys
        self.values[slot : slot + rows, :, at : at + tokens] = values

    def _make_room(self, slots: int, shift: int, tokens: int) -> None:
        """Copy all of it, `shift` places to the right, to where there are so many slots and tokens."""
        keys, values = self.keys_and_values()
        self.keys, self.values = (self._new(part, slots, tokens) for part in (keys, values))
        self._write(0, shift, keys, values)

    def _new(self, like: mx.array, slots: int, tokens: int) -> mx.array:
        _, heads, _, size = like.shape
        room = (tokens + self.step) // self.step * self.step
        return mx.zeros((slots, heads, room, size), like.dtype)


def packed(rows: int, keep: Sequence[int]) -> list[int]:
    """Those of `rows` rows that are kept, in an order in which few of them move: the last ones fill the holes."""
    kept = set(keep)
    holes = [row for row in range(len(keep)) if row not in kept]
    movers = [row for row in range(len(keep), rows) if row in kept]
    order = list(range(len(keep)))
    for hole, mover in zip(holes, movers, strict=True):
        order[hole] = mover
    return order


def as_batch(part: Any) -> Any:
    """One row's cache of one layer as a batch of one; of whatever kind it is."""
    return SlotKVCache([part]) if type(part) is KVCache else part.merge([part])


def one_of(part: Any, number: int) -> Any:
    """The cache of one row of a batch; its arrays may be views, and are not to be kept."""
    return part.row(number) if isinstance(part, SlotKVCache) else part.extract(number)


class Copies(NamedTuple):
    """Arrays of caches that are made anew: their bytes, those that go for them, and those of the largest layer."""

    made: int = 0
    gone: int = 0
    largest: int = 0

    @property
    def bytes(self) -> int:
        """What it takes at the moment of the most: layer by layer where there is much of it, else all at once."""
        return self.made if self.made <= AT_ONCE else max(self.made - self.gone, 0) + self.largest

    def and_one(self, made: int, gone: int) -> "Copies":
        """With those of one more layer."""
        return Copies(self.made + made, self.gone + gone, max(self.largest, made))


def growth(cache: Sequence[Any]) -> Copies:
    """What has to be made anew because there is no room for one more token; of full attention."""
    found = Copies()
    for part in cache:
        if _is_full(part):
            have = part.keys.shape[2]
            found = found.and_one(_bytes(part) // have * (have + part.step), _bytes(part))
    return found


def joined(own: Sequence[Any], other: Sequence[Any]) -> Copies:
    """What has to be made anew for two batches to be one; of full attention."""
    found = Copies()
    for first, second in zip(own, other, strict=True):
        if not isinstance(first, KVCache | SlotKVCache) or not isinstance(second, KVCache | SlotKVCache):
            continue
        rows, slots, at = _used(first)
        more, _, behind = _used(second)
        end, have = max(at, behind), first.keys.shape[2]
        if rows + more > slots or end > have or end > at:
            step = SlotKVCache.step
            room = (end + step) // step * step
            made = _bytes(first) // (slots * have) * max(slots, rows + more + rows // 2) * room
            found = found.and_one(made, _bytes(first) + _bytes(second))
    return found


def copied(cache: Sequence[Any]) -> Copies:
    """What may have to be made anew when a row leaves; of full attention."""
    found = Copies()
    for part in cache:
        if isinstance(part, SlotKVCache) and len(part._pads) > 1:
            found = found.and_one(_bytes(part), _bytes(part))
    return found


def make_room(cache: Sequence[Any]) -> None:
    """Have room for one more token in each layer of full attention; what is large grows layer by layer."""
    one_by_one = growth(cache).made > AT_ONCE
    for part in cache:
        if _is_full(part):
            if isinstance(part, SlotKVCache):
                part.grow()
            else:
                more = [
                    mx.zeros((*array.shape[:2], part.step, array.shape[3]), array.dtype)
                    for array in (part.keys, part.values)
                ]
                part.keys = mx.concatenate([part.keys, more[0]], axis=2)
                part.values = mx.concatenate([part.values, more[1]], axis=2)
            if one_by_one:
                mx.eval(part.keys, part.values)


def settle(part: Any, *, large: bool) -> None:
    """Where there is much of it, have a layer made before the next one is: then the old one is gone by then."""
    if large and isinstance(part, SlotKVCache):
        mx.eval(part.keys, part.values)


def _is_full(part: Any) -> bool:
    if not isinstance(part, KVCache | SlotKVCache) or part.keys is None:
        return False
    return _used(part)[2] >= int(part.keys.shape[2])


def _used(part: Any) -> tuple[int, int, int]:
    """Rows, slots for rows, and tokens."""
    if isinstance(part, SlotKVCache):
        return len(part._pads), part.keys.shape[0], part._idx
    return 1, 1, part.offset


def _bytes(part: Any) -> int:
    return int(part.keys.nbytes + part.values.nbytes)
