"""All pieces of KV of one model: found by the tokens of a prompt, in RAM and on disk, each within its bytes."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from lmx_ledger.engine.kv.borrowed import BorrowedSegments
from lmx_ledger.engine.kv.chain import Chain, Piece, child_key, common, cut, packed
from lmx_ledger.engine.kv.records import Found, Payload, is_whole
from lmx_ledger.engine.kv.segments import SegmentStore

EVICTED: Final = "evicted"
CORRUPT: Final = "corrupt"
_REMEMBERED: Final = 65_536


class Match(NamedTuple):
    """The pieces that a prompt begins with. Of the last, only the first `tail` tokens; of the others all."""

    keys: list[bytes]
    tokens: int
    tail: int


class Wanted(NamedTuple):
    """One piece of some tokens, where it begins among them, and whether it is stored."""

    at: int
    piece: Piece
    stored: bool


class Saved(NamedTuple):
    """What one `save` did: pieces that are new on disk, their bytes, and what went from both tiers since the last."""

    pieces: int
    bytes: int
    gone: int
    gone_bytes: int


class Gone(NamedTuple):
    """Why a piece of so many bytes is not there any more: `evicted` or `corrupt`; and which `save` told of it."""

    reason: str
    turn: int
    bytes: int


class Extent(NamedTuple):
    """Bytes of some pieces by tier; what is in both counts in both."""

    ram: int
    disk: int


class Library:
    """Pieces of `block` tokens each, the last of a conversation with fewer; 0: of any length, none behind another.

    A piece is in RAM as soon as it was kept, and on disk once `save` has returned, if it finds room there; both tiers
    let go of the least recently used. Any thread may call it.
    """

    def __init__(self, disk: SegmentStore | BorrowedSegments, root: bytes, block: int, ram: int) -> None:
        self._disk, self._root, self._block, self._ram_limit = disk, root, block, ram
        self._lock = threading.RLock()
        self._held: OrderedDict[bytes, bytes] = OrderedDict()
        self._unsaved: OrderedDict[bytes, tuple[Piece, bytes]] = OrderedDict()
        self._held_bytes = self._unsaved_bytes = 0
        # Of what is held, the pieces that the disk does not have.
        self._only_held: dict[bytes, Piece] = {}
        # What an error kept from the disk, to be tried again.
        self._unwritten: list[bytes] = []
        self._behind: dict[bytes, dict[bytes, Sequence[int]]] = {}
        for found in disk:
            self._behind.setdefault(found.parent, {})[found.key] = found.tokens
        self._gone: OrderedDict[bytes, Gone] = OrderedDict()
        self._turn = 1
        self._gone_since = self._gone_bytes_since = 0
        self._read: list[tuple[Found, memoryview]] = []
        self.read_bytes = 0
        """From the disk, so far."""

    @property
    def ram_bytes(self) -> int:
        """What the RAM tier holds, what is not on disk yet included."""
        with self._lock:
            return self._held_bytes + self._unsaved_bytes

    def hold_at_most(self, ram: int) -> None:
        """Another bound for the RAM tier; what is on its way to the disk stays until it is there."""
        with self._lock:
            self._ram_limit = ram
            while self._held and self._held_bytes + self._unsaved_bytes > ram:
                self._let_go_of_oldest()

    @property
    def disk_bytes(self) -> int:
        """What the files take."""
        with self._lock:
            return self._disk.used_bytes

    @property
    def borrowed(self) -> bool:
        """Whether the files are another process's: what is kept here stays in RAM then."""
        with self._lock:
            return self._disk.borrowed

    def look(self) -> None:
        """Know what the process that has the files has done since the last time.

        Raises:
            OSError: they cannot be read.
        """
        with self._lock:
            if isinstance(self._disk, BorrowedSegments):
                self._know_of(*self._disk.look())

    def take_over(self, disk: SegmentStore) -> None:
        """The files are this process's from now on; what is in RAM alone is written by the next `save`."""
        with self._lock:
            before, self._disk = self._disk, disk
            self._know_of(list(disk), [found for found in before if found.key not in disk])
            self._unwritten = list(self._only_held)

    def _know_of(self, came: Iterable[Found], went: Iterable[Found]) -> None:
        for found in went:
            if found.key in self._held:
                self._only_held[found.key] = Piece(found.key, found.parent, found.tokens)
            elif found.key not in self._unsaved:
                self._lose(found.parent, found.key, found.size, EVICTED)
        for found in came:
            self._only_held.pop(found.key, None)
            self._behind.setdefault(found.parent, {})[found.key] = found.tokens

    @property
    def turn(self) -> int:
        """How many times `save` has been called, and once more: what goes now is told by the next."""
        with self._lock:
            return self._turn

    def match(self, tokens: Sequence[int]) -> Match:
        """The longest stored beginning of these tokens."""
        keys: list[bytes] = []
        at, parent = 0, self._root
        with self._lock:
            while at + self._block <= len(tokens):
                key = child_key(parent, tokens[at : at + self._block])
                if key not in self._behind.get(parent, ()):
                    break
                keys.append(key)
                at, parent = at + self._block, key
            behind = self._behind.get(parent, {})
            rest = tokens[at : at + self._block]
            shared = {key: common(rest, stored) for key, stored in behind.items()}
        best = max(shared, key=lambda key: shared[key], default=None)
        if best is None or not shared[best]:
            return Match(keys, at, self._block if keys else 0)
        return Match([*keys, best], at + shared[best], shared[best])

    def chain(self) -> Chain:
        """For the tokens of one more conversation."""
        return Chain(self._root, self._block)

    def wanted(self, pieces: Iterable[Piece]) -> list[Wanted]:
        """These pieces, which begin where there is none before them."""
        at, found = 0, []
        # Without the lock, which is held while files are written: the step loop asks. `keep` looks again.
        for piece in pieces:
            found.append(Wanted(at, piece, piece.key in self._behind.get(piece.parent, ())))
            at += len(piece.tokens)
        return found

    def match_whole(self, tokens: Sequence[int]) -> Match:
        """The longest stored piece, of any length, that these tokens begin with."""
        begins = packed(tokens)
        with self._lock:
            behind = {key: packed(stored) for key, stored in self._behind.get(self._root, {}).items()}
        fitting = {key: raw for key, raw in behind.items() if begins.startswith(raw)}
        best = max(fitting, key=lambda key: len(fitting[key]), default=None)
        if best is None:
            return Match([], 0, 0)
        length = len(fitting[best]) // len(packed([0]))
        return Match([best], length, length)

    def why_lacking(self, tokens: Sequence[int], known: int) -> Gone | None:
        """What became of the first piece of these tokens that is not there, or of the one that ended at `known`.

        None: there was none of that name, as far as is remembered.
        """
        with self._lock:
            for piece in cut(self._root, tokens[:known], self._block or max(known, 1)):
                if piece.key not in self._behind.get(piece.parent, ()):
                    return self._gone.get(piece.key)
            return None

    def keep(self, piece: Piece, payload: bytes) -> bool:
        """Have it from now on; `save` puts it on disk. Of cut pieces, a shorter one that it begins with goes.

        False where what is not on disk yet takes all the RAM that there may be, or where what comes before it is not
        there.
        """
        with self._lock:
            while self._held_bytes + self._unsaved_bytes + len(payload) > self._ram_limit:
                if not self._held:
                    return False
                self._let_go_of_oldest()
            if piece.parent != self._root and not self._has(piece.parent):
                return False
            behind = self._behind.setdefault(piece.parent, {})
            for key, tokens in list(behind.items()):
                if self._block and common(tokens, piece.tokens) == len(tokens) < len(piece.tokens):
                    self._forget(piece.parent, key)
            self._behind.setdefault(piece.parent, {})[piece.key] = piece.tokens
            self._gone.pop(piece.key, None)
            self._unsaved[piece.key] = (piece, payload)
            self._unsaved_bytes += len(payload)
            return True

    def payload(self, key: bytes) -> Payload | None:
        """Of one piece of a match; None if it is gone by now, or is not what was written.

        What lies on disk is not copied: `confirm` says afterwards whether it was still what was written, and
        `hold_read` has it in RAM from then on. One thread alone reads.
        """
        with self._lock:
            if (waiting := self._unsaved.get(key)) is not None:
                return waiting[1]
            if (held := self._held.get(key)) is not None:
                return held
            found = self._disk.find(key)
            payload = self._disk.read(key)
            if found is None:
                return None
            if payload is None:
                # Of another process's files, it is what that one has let go of.
                self._lose(found.parent, key, found.size, EVICTED if self._disk.borrowed else CORRUPT)
                return None
            self.read_bytes += len(payload)
            self._read.append((found, payload))
            return payload

    def confirm(self) -> bool:
        """Whether all that was read from disk since `hold_read` is still what was written."""
        return all(is_whole(found, payload) for found, payload in self._read)

    def hold_read(self) -> None:
        """Have in RAM what was read from disk."""
        for found, payload in self._read:
            copy = bytes(payload)
            with self._lock:
                if found.key in self._disk and found.key not in self._held and is_whole(found, copy):
                    self._hold(found.key, copy)
        self._read.clear()

    def used(self, keys: Sequence[bytes]) -> None:
        """These pieces of a match were of use: they are the youngest, the first of them the very youngest."""
        with self._lock:
            self._rejuvenate(list(reversed(keys)))
            if keys:
                self._disk.use(keys[-1])

    def save(self) -> Saved:
        """Write what was kept since the last time; durable when it returns. What finds no room there stays in RAM.

        Raises:
            OSError: the disk is full or cannot be written; what was to be written stays in RAM, for the next time.
        """
        pieces = written = 0
        self._try_again()
        try:
            while True:
                with self._lock:
                    if not self._unsaved:
                        break
                    key, (piece, payload) = next(iter(self._unsaved.items()))
                    for found in self._disk.write(key, piece.parent, piece.tokens, payload):
                        if found.key in self._held:
                            self._only_held[found.key] = Piece(found.key, found.parent, found.tokens)
                        else:
                            self._lose(found.parent, found.key, found.size, EVICTED)
                    if key in self._disk:
                        pieces, written = pieces + 1, written + len(payload)
                    self._move_to_held(key)
                    if not self._unsaved:
                        self._rejuvenate(self._up_from([key]))
            self._disk.sync()
        except OSError:
            with self._lock:
                for key in list(self._unsaved):
                    self._move_to_held(key)
                    self._unwritten.append(key)
            raise
        finally:
            with self._lock:
                self._turn += 1
                gone, gone_bytes = self._gone_since, self._gone_bytes_since
                self._gone_since = self._gone_bytes_since = 0
        return Saved(pieces, written, gone, gone_bytes)

    def has(self, piece: Piece) -> bool:
        """Whether it is stored."""
        with self._lock:
            return piece.key in self._behind.get(piece.parent, ())

    def on_disk(self, key: bytes) -> bool:
        """Whether the files have that piece."""
        with self._lock:
            return key in self._disk

    def extent(self, ends: Iterable[bytes]) -> Extent:
        """Bytes of the pieces with these names and of all that come before them, by tier."""
        ram = disk = 0
        with self._lock:
            for key in self._up_from(ends):
                if key in self._unsaved:
                    ram += len(self._unsaved[key][1])
                elif key in self._held:
                    ram += len(self._held[key])
                if (found := self._disk.find(key)) is not None:
                    disk += found.whole
        return Extent(ram, disk)

    def erase(self, ends: Iterable[bytes]) -> int:
        """Overwrite and forget the pieces with these names and all before them that none of others needs; their bytes.

        Raises:
            BlockingIOError: some of it is in files of another process; nothing is erased then.
            OSError: a file cannot be written.
        """
        erased = 0
        with self._lock:
            # Behind comes before in front: what others go on from is whatever still has one behind it then.
            keys = self._up_from(ends)
            if isinstance(self._disk, BorrowedSegments):
                self._disk.erase(keys)
            for key in keys:
                if self._behind.get(key):
                    continue
                parent = self._parent(key)
                if (found := self._disk.find(key)) is not None:
                    erased += found.size
                    self._disk.erase([key])
                elif key in self._held:
                    erased += len(self._held[key])
                if parent is not None:
                    self._forget(parent, key)
        return erased

    def close(self) -> None:
        """Let another process have the files."""
        with self._lock:
            self._disk.close()

    def _up_from(self, ends: Iterable[bytes]) -> list[bytes]:
        """Each key once, none before one that comes behind it."""
        depth: dict[bytes, int] = {}
        for end in ends:
            chain, key = [], end
            while (parent := self._parent(key)) is not None:
                chain.append(key)
                if parent == self._root:
                    break
                key = parent
            for number, one in enumerate(reversed(chain)):
                depth[one] = number
        return sorted(depth, key=lambda key: depth[key], reverse=True)

    def _parent(self, key: bytes) -> bytes | None:
        if (waiting := self._unsaved.get(key)) is not None:
            return waiting[0].parent
        if (piece := self._only_held.get(key)) is not None:
            return piece.parent
        found = self._disk.find(key)
        return found.parent if found is not None else None

    def _has(self, key: bytes) -> bool:
        return key in self._unsaved or key in self._only_held or key in self._disk

    def _try_again(self) -> None:
        with self._lock:
            for key in self._unwritten:
                if (piece := self._only_held.pop(key, None)) is not None:
                    payload = self._held.pop(key)
                    self._held_bytes -= len(payload)
                    self._unsaved[key] = (piece, payload)
                    self._unsaved_bytes += len(payload)
            self._unwritten = []

    def _rejuvenate(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            if key in self._held:
                self._held.move_to_end(key)

    def _hold(self, key: bytes, payload: bytes) -> None:
        if len(payload) + self._unsaved_bytes > self._ram_limit:
            return
        self._held[key] = payload
        self._held_bytes += len(payload)
        while self._held_bytes + self._unsaved_bytes > self._ram_limit:
            self._let_go_of_oldest()

    def _let_go_of_oldest(self) -> None:
        key, payload = self._held.popitem(last=False)
        self._held_bytes -= len(payload)
        if (piece := self._only_held.get(key)) is not None:
            self._lose(piece.parent, key, len(payload), EVICTED)

    def _move_to_held(self, key: bytes) -> None:
        piece, payload = self._unsaved.pop(key)
        self._unsaved_bytes -= len(payload)
        self._hold(key, payload)
        if key in self._disk:
            return
        if key in self._held:
            self._only_held[key] = piece
        else:
            self._lose(piece.parent, key, len(payload), EVICTED)

    def _lose(self, parent: bytes, key: bytes, size: int, reason: str) -> None:
        self._forget(parent, key)
        self._gone[key] = Gone(reason, self._turn, size)
        self._gone_since, self._gone_bytes_since = self._gone_since + 1, self._gone_bytes_since + size
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)

    def _forget(self, parent: bytes, key: bytes) -> None:
        if (waiting := self._unsaved.pop(key, None)) is not None:
            self._unsaved_bytes -= len(waiting[1])
        if (payload := self._held.pop(key, None)) is not None:
            self._held_bytes -= len(payload)
        self._only_held.pop(key, None)
        self._disk.forget(key)
        if behind := self._behind.get(parent):
            behind.pop(key, None)
            if not behind:
                del self._behind[parent]
