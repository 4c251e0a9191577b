"""Pieces of KV on disk: what was stored is there, or is missing, but is never something else."""

import errno
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.engine.kv.chain import Chain, Piece, child_key, common, cut, packed, root_key, unpacked
from lmx_ledger.engine.kv.records import FILE_BYTES
from lmx_ledger.engine.kv.segments import SegmentStore

ROOT = root_key("model", "f32")
LIMIT, SEGMENT = 200_000, 20_000


OPENED: dict[Path, SegmentStore] = {}


def opened(folder: Path, root: bytes = ROOT, limit: int = LIMIT) -> SegmentStore:
    """As the next process would."""
    if folder in OPENED:
        OPENED[folder].close()
    OPENED[folder] = SegmentStore(folder, root, limit, SEGMENT)
    return OPENED[folder]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def payload_of(piece: Piece, size: int = 1_500) -> bytes:
    return random.Random(piece.key).randbytes(size)


def stored(store: SegmentStore, tokens: Sequence[int], size: int = 1_500, root: bytes = ROOT) -> list[Piece]:
    pieces = list(cut(root, tokens, 8))
    for piece in pieces:
        store.write(piece.key, piece.parent, piece.tokens, payload_of(piece, size))
    return pieces


def read(store: SegmentStore, key: bytes) -> bytes | None:
    payload = store.read(key)
    return bytes(payload) if payload is not None else None


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_equal_names_are_equal_tokens(one: list[int], other: list[int]) -> None:
    assert list(unpacked(packed(one))) == one
    shared = common(one, other)
    assert one[:shared] == other[:shared]
    assert shared == min(len(one), len(other)) or one[shared] != other[shared]
    first, second = list(cut(ROOT, one, 8)), list(cut(ROOT, other, 8))
    for a, b in zip(first, second, strict=False):
        assert (a.key == b.key) == (a.parent == b.parent and list(a.tokens) == list(b.tokens))
    assert child_key(ROOT, [1, 2]) != child_key(root_key("model", "bf16"), [1, 2])


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 40), max_size=6), st.sampled_from([0, 1, 8]))
def test_the_pieces_of_a_chain_are_those_of_its_tokens_however_often_it_is_asked(
    tokens: list[int], lengths: list[int], size: int
) -> None:
    chain = Chain(ROOT, size)
    for length in lengths:
        told = tokens[:length]
        assert chain.pieces(told) == list(cut(ROOT, told, size or max(len(told), 1)))


def test_what_is_stored_is_there_after_the_folder_is_opened_again(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv")
    pieces = stored(store, range(100))
    store.sync()
    again = opened(tmp_path / "kv")
    assert again.opened == (len(pieces), [], 0)
    for piece in pieces:
        assert read(again, piece.key) == payload_of(piece)
    assert {(found.key, found.parent, tuple(found.tokens)) for found in again} == {
        (piece.key, piece.parent, tuple(piece.tokens)) for piece in pieces
    }
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "kv").iterdir()} == {0o600}
    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_byte_flipped_or_cut_is_a_miss_and_nothing_else(
    data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kv")
    pieces = stored(opened(folder), range(80), size=60)
    path = data.draw(st.sampled_from(files(folder)))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    flipped = data.draw(st.booleans())
    if flipped:
        raw[at] ^= data.draw(st.integers(1, 255))
    else:
        del raw[at:]
    path.write_bytes(raw)
    again = opened(folder)
    found = {piece.key: read(again, piece.key) for piece in pieces}
    assert all(found[piece.key] in {None, payload_of(piece, 60)} for piece in pieces)
    if flipped and not again.opened.foreign:
        assert sum(payload is None for payload in found.values()) == 1
    more = stored(again, range(500, 540), size=60)
    assert [read(again, piece.key) for piece in more] == [payload_of(piece, 60) for piece in more]


def test_the_files_stay_within_their_limit_and_what_was_used_stays(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv")
    kept = stored(store, range(64))
    rng = random.Random(0)
    for number in range(400):
        store.use(kept[-1].key)
        stored(store, [1_000 + number * 10, *range(7 + 8 * rng.randrange(3))], size=rng.randrange(100, 3_000))
        assert on_disk(tmp_path / "kv") == store.used_bytes <= LIMIT
    assert [read(store, piece.key) for piece in kept] == [payload_of(piece) for piece in kept]
    # Half of the room is in use at least: compaction gives back what is dead.
    assert sum(found.whole for found in store) > LIMIT / 3
    for found in store:
        assert found.parent == ROOT or found.parent in store


def test_a_parent_outlives_what_is_behind_it(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv", limit=20_000)
    chain = stored(store, range(64))
    rng = random.Random(0)
    held = [piece.key in store for piece in chain]
    while any(held):
        assert held == sorted(held, reverse=True)
        stored(store, rng.sample(range(10_000), 8))
        held = [piece.key in store for piece in chain]


def test_a_chain_longer_than_the_limit_is_stored_from_its_beginning(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv", limit=10_000)
    chain = stored(store, range(160))
    held = [piece.key in store for piece in chain]
    assert any(held)
    assert held == sorted(held, reverse=True)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "kv")
    pieces = stored(store, range(32))
    write, left = os.write, 700

    def fills(descriptor: int, data: Any) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(descriptor, bytes(data)[:left])
        left -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills)
        with pytest.raises(OSError, match="space"):
            stored(store, range(900, 908))
    for one in (store, opened(tmp_path / "kv")):
        assert len(list(one)) == len(pieces)
        assert [read(one, piece.key) for piece in pieces] == [payload_of(piece) for piece in pieces]
        (more,) = stored(one, range(900, 908))
        assert read(one, more.key) == payload_of(more)


def test_files_of_another_model_are_left_alone(tmp_path: Path) -> None:
    stored(opened(tmp_path / "kv"), range(16))
    another = root_key("another", "f32")
    other = opened(tmp_path / "kv", another)
    assert other.opened.pieces == 0
    assert other.opened.foreign == ["00000001.kv"]
    (piece,) = stored(other, range(8), root=another)
    assert read(other, piece.key) == payload_of(piece)
    assert opened(tmp_path / "kv").opened.pieces == 2


def test_what_is_erased_is_not_in_any_file(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv")
    pieces = stored(store, range(24))
    store.erase([pieces[2].key])
    raw = b"".join(path.read_bytes() for path in files(tmp_path / "kv"))
    assert payload_of(pieces[2])[:64] not in raw
    assert packed(pieces[2].tokens) not in raw
    assert payload_of(pieces[1]) in raw
    assert opened(tmp_path / "kv").opened.pieces == 2


def test_what_was_erased_let_go_kept_again_or_cut_off_is_no_damage(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv")
    pieces = stored(store, range(24))
    store.erase([pieces[2].key])
    store.forget(pieces[1].key)
    store.write(pieces[1].key, pieces[1].parent, pieces[1].tokens, payload_of(pieces[1]))
    (path,) = files(tmp_path / "kv")
    whole = path.read_bytes()
    again = opened(tmp_path / "kv")
    assert again.opened == (2, [], 0)
    (more,) = stored(again, range(900, 908))
    longer = path.read_bytes()
    for cut_at in range(len(whole) + 1, len(longer), 97):
        path.write_bytes(longer[:cut_at])
        cut_off = opened(tmp_path / "kv")
        assert cut_off.opened == (2, [], 0)
        assert read(cut_off, more.key) is None
        assert path.stat().st_size == len(whole)


def test_a_byte_of_a_record_that_is_not_what_it_was_is_damage_wherever_the_record_stands(tmp_path: Path) -> None:
    stored(opened(tmp_path / "kv"), range(24))
    (path,) = files(tmp_path / "kv")
    whole = path.read_bytes()
    record = (len(whole) - FILE_BYTES) // 3
    for number in range(3):
        at = whole.index(b"piec", FILE_BYTES + number * record)
        path.write_bytes(whole[: at + 5] + bytes([whole[at + 5] ^ 1]) + whole[at + 6 :])
        assert opened(tmp_path / "kv").opened.broken_bytes == record


def test_one_process_has_a_folder_until_it_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lmx_ledger.engine.kv.segments import SegmentStore; "
        "SegmentStore(Path(sys.argv[1]), bytes(16), 10**6, 10**5); print('has it', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "kv")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "has it\n"
    with pytest.raises(BlockingIOError, match="another process has"):
        opened(tmp_path / "kv")
    other.kill()
    other.wait()
    other.stdout.close()
    stored(opened(tmp_path / "kv"), range(8))
