"""KV found by the tokens of a prompt: a true beginning of it, what was computed for it, and within bounds."""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lmx_ledger.engine.kv.borrowed import BorrowedSegments
from lmx_ledger.engine.kv.chain import Piece, common, cut, root_key
from lmx_ledger.engine.kv.library import Library
from lmx_ledger.engine.kv.segments import SegmentStore

ROOT = root_key("model", "f32")
BLOCK, PER_TOKEN = 4, 16


def payload_of(piece: Piece) -> bytes:
    return random.Random(piece.parent + bytes(str(list(piece.tokens)), "ascii")).randbytes(
        PER_TOKEN * len(piece.tokens)
    )


OPENED: dict[Path, Library] = {}


def lent(folder: Path, *, ram: int = 1_000_000) -> Library:
    """As a process that finds the folder taken."""
    return Library(BorrowedSegments(folder, ROOT), ROOT, BLOCK, ram)


def opened(folder: Path, *, disk: int = 1_000_000, ram: int = 1_000_000) -> Library:
    """As the next process would."""
    if folder in OPENED:
        OPENED[folder].close()
    OPENED[folder] = Library(SegmentStore(folder, ROOT, disk, disk), ROOT, BLOCK, ram)
    return OPENED[folder]


def keep_all(library: Library, tokens: Sequence[int]) -> int:
    return sum(
        library.keep(piece, payload_of(piece))
        for _, piece, stored in library.wanted(library.chain().pieces(tokens))
        if not stored
    )


def test_a_prompt_finds_what_it_has_in_common_with_what_was_kept(tmp_path: Path) -> None:
    library = opened(tmp_path / "kv")
    keep_all(library, range(10))
    assert library.match(range(10)).tokens == 10
    assert library.save().pieces == 3
    for again in (library, opened(tmp_path / "kv")):
        assert again.match(range(10)).tokens == 10
        assert again.match([*range(10), 77]).tokens == 10
        assert again.match([*range(6), 99, 98]).tokens == 6
        assert again.match([99]).tokens == 0
        assert (again.match(range(6)).tail, len(again.match(range(6)).keys)) == (2, 2)


def test_a_common_beginning_is_stored_once(tmp_path: Path) -> None:
    library = opened(tmp_path / "kv")
    keep_all(library, range(400))
    library.save()
    before = library.disk_bytes
    for session in range(50):
        keep_all(library, [*range(400), 1_000 + session, 7, 7, 7])
        library.save()
    assert library.disk_bytes - before < 50 * 4 * PER_TOKEN * 4


def test_a_longer_end_takes_the_place_of_a_shorter_one(tmp_path: Path) -> None:
    library = opened(tmp_path / "kv")
    for length in range(1, 9):
        keep_all(library, range(length))
        library.save()
        assert library.match(range(20)).tokens == length
    assert len(library.match(range(8)).keys) == 2
    assert [wanted.stored for wanted in library.wanted(library.chain().pieces(range(7)))] == [True, False]


def test_a_conversation_is_erased_but_for_what_others_begin_with(tmp_path: Path) -> None:
    library = opened(tmp_path / "kv")
    one, other = [*range(8), 100, 101, 102], [*range(8), 200, 201, 202, 203]
    keep_all(library, one)
    keep_all(library, other)
    library.save()
    assert library.erase([piece.key for piece in cut(ROOT, one, BLOCK)]) == 3 * PER_TOKEN
    assert library.match(one).tokens == 8
    assert library.match(other).tokens == 12
    assert opened(tmp_path / "kv").match(one).tokens == 8


def test_what_a_full_disk_refused_stays_in_ram_and_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = opened(tmp_path / "kv")
    keep_all(library, range(8))
    library.save()
    keep_all(library, range(16))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lmx_ledger.engine.kv.segments._write_all", full)
        with pytest.raises(OSError, match="space"):
            library.save()
    assert library.match(range(16)).tokens == 16
    assert library.save().pieces == 2
    assert opened(tmp_path / "kv").match(range(16)).tokens == 16


def test_without_a_disk_pieces_live_in_ram_and_the_first_of_a_chain_goes_last(tmp_path: Path) -> None:
    library = opened(tmp_path / "kv", disk=0, ram=5 * BLOCK * PER_TOKEN)
    keep_all(library, range(16))
    assert library.save() == (0, 0, 0, 0)
    keep_all(library, range(100, 108))
    told = library.save()
    assert (told.gone, told.gone_bytes) == (1, BLOCK * PER_TOKEN)
    assert library.match(range(16)).tokens == 12
    assert library.why_lacking(range(16), 16) == ("evicted", 2, BLOCK * PER_TOKEN)
    assert library.why_lacking(range(12), 12) is None
    assert library.why_lacking(range(50, 60), 10) is None


def test_a_piece_that_does_not_verify_is_remembered_as_corrupt(tmp_path: Path) -> None:
    library = opened(tmp_path / "kv")
    keep_all(library, range(8))
    library.save()
    library = opened(tmp_path / "kv")
    (path,) = (tmp_path / "kv").glob("*.kv")
    path.write_bytes(path.read_bytes()[:-3] + b"xxx")
    assert [library.payload(key) is None for key in library.match(range(8)).keys] == [False, True]
    assert library.why_lacking(range(8), 8) == ("corrupt", 1, BLOCK * PER_TOKEN)
    assert library.match(range(8)).tokens == 4


def test_what_conversations_take_counts_what_they_share_once(tmp_path: Path) -> None:
    library = opened(tmp_path / "kv")
    ends = []
    for tokens in ([*range(8), 100, 101], [*range(8), 200]):
        keep_all(library, tokens)
        ends.append(list(cut(ROOT, tokens, BLOCK))[-1].key)
    assert library.extent(ends) == (11 * PER_TOKEN, 0)
    library.save()
    assert library.extent(ends).ram == 11 * PER_TOKEN
    assert library.disk_bytes - 100 < library.extent(ends).disk <= library.disk_bytes


def test_another_process_reads_what_is_there_and_sees_it_come_and_go(tmp_path: Path) -> None:
    library = opened(tmp_path, disk=2_000)
    keep_all(library, range(9))
    library.save()
    other = lent(tmp_path)
    match = other.match(range(20))
    assert match.tokens == 9
    assert [other.payload(key) for key in match.keys] == [library.payload(key) for key in match.keys]
    assert other.confirm()
    other.hold_read()
    with pytest.raises(BlockingIOError, match="another process has"):
        other.erase(match.keys)
    keep_all(library, range(100, 109))
    library.save()
    assert other.match(range(100, 109)).tokens == 0
    other.look()
    assert other.match(range(100, 109)).tokens == 9
    for start in range(200, 1_000, 100):
        keep_all(library, range(start, start + 9))
        library.save()
    other.look()
    assert other.match(range(100, 109)).tokens == 0
    assert other.match(range(20)).tokens == 9, "what was read stays in RAM"
    assert other.match(range(900, 909)).tokens == 9


def test_what_is_overwritten_while_it_is_read_is_noticed_and_not_held(tmp_path: Path) -> None:
    library = opened(tmp_path)
    keep_all(library, range(4))
    library.save()
    other = lent(tmp_path)
    (key,) = other.match(range(4)).keys
    assert other.payload(key) is not None
    library.erase([key])
    assert not other.confirm()
    other.hold_read()
    assert other.ram_bytes == 0


def test_what_another_process_let_go_of_between_look_and_read_is_evicted(tmp_path: Path) -> None:
    library = opened(tmp_path)
    keep_all(library, range(8))
    library.save()
    other = lent(tmp_path)
    match = other.match(range(8))
    library.erase([match.keys[-1]])
    assert other.payload(match.keys[0]) is None
    gone = other.why_lacking(range(8), 8)
    assert gone is not None
    assert gone.reason == "evicted"


def test_what_a_reader_kept_is_written_once_the_files_are_its_own(tmp_path: Path) -> None:
    library = opened(tmp_path)
    keep_all(library, range(8))
    library.save()
    other = lent(tmp_path)
    assert keep_all(other, range(13)) == 2
    other.save()
    assert (other.borrowed, other.match(range(13)).tokens) == (True, 13)
    library.close()
    other.take_over(SegmentStore(tmp_path, ROOT, 1_000_000, 1_000_000))
    assert other.save().pieces == 2
    other.close()
    assert opened(tmp_path).match(range(20)).tokens == 13


class Conversations(RuleBasedStateMachine):
    """Any mixture of conversations, saves and restarts, in little room."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.kept: list[list[int]] = []
        self.place = Path(tempfile.mkdtemp(dir=self.folder))
        self.library = opened(self.place, disk=4_000, ram=600)
        self.reader = lent(self.place, ram=600)

    @rule(of=st.integers(0, 9), cut_at=st.integers(0, 30), more=st.lists(st.integers(0, 2), min_size=1, max_size=12))
    def turn(self, of: int, cut_at: int, more: list[int]) -> None:
        before = self.kept[of % len(self.kept)][:cut_at] if self.kept else []
        tokens = [*before, *more]
        keep_all(self.library, tokens)
        self.kept.append(tokens)

    @rule()
    def save(self) -> None:
        self.library.save()

    @rule()
    def restart(self) -> None:
        self.library = opened(self.place, disk=4_000, ram=600)

    @rule()
    def look(self) -> None:
        self.reader.look()

    @rule(of=st.integers(0, 30), more=st.lists(st.integers(0, 2), max_size=6))
    def keep_beside(self, of: int, more: list[int]) -> None:
        tokens = [*(self.kept[of % len(self.kept)] if self.kept else []), *more]
        keep_all(self.reader, tokens)
        self.kept.append(tokens)

    @rule(of=st.integers(0, 30), more=st.lists(st.integers(0, 2), max_size=6), beside=st.booleans())
    def ask(self, of: int, more: list[int], *, beside: bool) -> None:
        tokens = [*(self.kept[of % len(self.kept)] if self.kept else []), *more]
        library = self.reader if beside else self.library
        match = library.match(tokens)
        assert match.tokens <= max((common(tokens, kept) for kept in self.kept), default=0)
        at, parent = 0, ROOT
        for number, key in enumerate(match.keys):
            last = number == len(match.keys) - 1
            payload = library.payload(key)
            if beside and payload is None:
                return
            assert payload is not None
            length = match.tail if last else BLOCK
            behind = (
                kept[at:end] for kept in self.kept if kept[:at] == tokens[:at] for end in range(at + length, at + 5)
            )
            held = next(piece for piece in (Piece(key, parent, one) for one in behind) if payload == payload_of(piece))
            assert list(held.tokens[:length]) == tokens[at : at + length]
            at, parent = at + length, key
        assert at == match.tokens

    @invariant()
    def within_bounds(self) -> None:
        if hasattr(self, "library"):
            assert max(self.library.ram_bytes, self.reader.ram_bytes) <= 600
            assert sum(path.stat().st_size for path in self.place.glob("*.kv")) <= 4_000


def test_conversations_that_grow_branch_and_are_dropped(tmp_path: Path) -> None:
    machine = type("InFolder", (Conversations,), {"folder": tmp_path})
    test = machine.TestCase()  # type: ignore[attr-defined]
    test.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    test.runTest()
