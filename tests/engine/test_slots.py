"""Rows that share a batch of slots, against the same rows by themselves."""

from typing import Any

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache

from lmx_ledger.engine.worker.slots import SlotKVCache, packed

HEADS, SIZE = 2, 4


def filled(rng: np.random.Generator, length: int) -> KVCache:
    row = KVCache()
    row.update_and_fetch(*(mx.array(rng.random((1, HEADS, length, SIZE), np.float32)) for _ in range(2)))
    return row


def rows_of(batch: SlotKVCache) -> list[tuple[Any, Any]]:
    """What attention may look at in each row: all behind its padding."""
    keys, values = (np.array(part) for part in batch.keys_and_values())
    pads = np.array(batch.left_padding).tolist()
    assert np.array(batch.offset).tolist() == [keys.shape[2] - pad for pad in pads]
    assert len(pads) == len(keys)
    return [(keys[n, :, pad:], values[n, :, pad:]) for n, pad in enumerate(pads)]


def alone(row: KVCache) -> tuple[Any, Any]:
    keys, values = row.keys_and_values()
    return np.array(keys)[0], np.array(values)[0]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(st.integers(1, 600), min_size=1, max_size=3)),
        st.tuples(st.just("leave"), st.sets(st.integers(0, 7), min_size=1, max_size=4)),
        st.tuples(st.just("step"), st.integers(1, 300)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=3), OPERATIONS)
def test_rows_that_come_go_and_grow_keep_what_they_have(lengths: list[int], operations: list[tuple[str, Any]]) -> None:
    rng = np.random.default_rng(0)
    rows = [filled(rng, length) for length in lengths]
    batch = SlotKVCache(rows)
    for what, how in operations:
        if what == "join":
            new = [filled(rng, length) for length in how]
            batch.extend(SlotKVCache(new))
            rows += new
        elif what == "leave":
            keep = [n for n in range(len(rows)) if n not in how]
            if not keep:
                continue
            order = packed(len(rows), keep)
            batch.filter(order)
            rows = [rows[n] for n in order]
        else:
            keys, values = (mx.array(rng.random((len(rows), HEADS, how, SIZE), np.float32)) for _ in range(2))
            shown = batch.update_and_fetch(keys, values)
            assert [part.shape[0] for part in shown] == [len(rows)] * 2
            for n, row in enumerate(rows):
                row.update_and_fetch(keys[n : n + 1], values[n : n + 1])
    for (keys, values), row in zip(rows_of(batch), rows, strict=True):
        expected = alone(row)
        assert np.array_equal(keys, expected[0])
        assert np.array_equal(values, expected[1])


@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_packing_moves_only_rows_into_holes(case: tuple[int, set[int]]) -> None:
    rows, keep = case
    order = packed(rows, sorted(keep))
    assert set(order) == keep
    assert len(order) == len(keep)
    assert sum(slot != row for slot, row in enumerate(order)) == sum(row >= len(keep) for row in keep)


def test_rows_keep_their_memory_only_while_they_are_there() -> None:
    rng = np.random.default_rng(0)
    batch = SlotKVCache([filled(rng, 500) for _ in range(16)])
    batch.filter([0, 1, 2])
    batch.update_and_fetch(*(mx.zeros((3, HEADS, 1, SIZE)) for _ in range(2)))
    assert batch.keys.shape[0] == 3
