"""All pieces of KV of one model: found by the tokens of a prompt, in RAM and on disk, each within its bytes."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from lmx_ledger.engine.kv.chain import Piece, child_key, common, cut, packed
from lmx_ledger.engine.kv.segments import Found, SegmentStore


class Match(NamedTuple):
    """The pieces that a prompt begins with. Of the last, only the first `tail` tokens; of the others all."""

    keys: list[bytes]
    tokens: int
    tail: int


class Saved(NamedTuple):
    """What one `save` did: pieces that were new, their bytes, and pieces that had to go from the disk for them."""

    pieces: int
    bytes: int
    gone: list[Found]


class Library:
    """Pieces of `block` tokens each, the last of a conversation with fewer; 0: of any length, none behind another.

    A piece is in RAM as soon as it was kept, and on disk once `save` has returned; both tiers let go of the least
    recently used. Any thread may call it.
    """

    def __init__(self, disk: SegmentStore, root: bytes, block: int, ram: int) -> None:
        self._disk, self._root, self._block, self._ram_limit = disk, root, block, ram
        self._lock = threading.RLock()
        self._held: OrderedDict[bytes, bytes] = OrderedDict()
        self._unsaved: OrderedDict[bytes, tuple[Piece, bytes]] = OrderedDict()
        self._held_bytes = self._unsaved_bytes = 0
        self._behind: dict[bytes, dict[bytes, Sequence[int]]] = {}
        for found in disk:
            self._behind.setdefault(found.parent, {})[found.key] = found.tokens

    @property
    def ram_bytes(self) -> int:
        """What the RAM tier holds, what is not on disk yet included."""
        with self._lock:
            return self._held_bytes + self._unsaved_bytes

    @property
    def disk_bytes(self) -> int:
        """What the files take."""
        with self._lock:
            return self._disk.used_bytes

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

    def lacks(self, tokens: Sequence[int]) -> list[tuple[int, Piece]]:
        """The pieces of these tokens that are not stored, with where each begins."""
        with self._lock:
            return [
                (number * self._block, piece)
                for number, piece in enumerate(cut(self._root, tokens, self._block))
                if piece.key not in self._behind.get(piece.parent, ())
            ]

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

    def lacks_whole(self, tokens: Sequence[int]) -> list[tuple[int, Piece]]:
        """These tokens as one piece, unless it is stored."""
        with self._lock:
            pieces = cut(self._root, tokens, max(len(tokens), 1))
            return [(0, piece) for piece in pieces if piece.key not in self._behind.get(self._root, ())]

    def keep(self, piece: Piece, payload: bytes) -> bool:
        """Have it from now on; `save` puts it on disk. Of cut pieces, a shorter one that it begins with goes.

        False where what is not on disk yet takes all the RAM that there may be, or where what comes before it is not
        there.
        """
        with self._lock:
            if piece.parent != self._root and not self._has(piece.parent):
                return False
            while self._held_bytes + self._unsaved_bytes + len(payload) > self._ram_limit:
                if not self._held:
                    return False
                self._let_go_of_oldest()
            behind = self._behind.setdefault(piece.parent, {})
            for key, tokens in list(behind.items()):
                if self._block and common(tokens, piece.tokens) == len(tokens) < len(piece.tokens):
                    self._forget(piece.parent, key)
            self._behind.setdefault(piece.parent, {})[piece.key] = piece.tokens
            self._unsaved[piece.key] = (piece, payload)
            self._unsaved_bytes += len(payload)
            return True

    def payload(self, key: bytes) -> bytes | None:
        """Of one piece of a match; None if it is gone by now, or is not what was written."""
        with self._lock:
            if (waiting := self._unsaved.get(key)) is not None:
                return waiting[1]
            if (held := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                self._disk.use(key)
                return held
            found = self._disk.find(key)
            payload = self._disk.read(key)
            if found is None:
                return None
            if payload is None:
                self._forget(found.parent, key)
                return None
            self._disk.use(key)
            self._hold(key, payload)
            return payload

    def save(self) -> Saved:
        """Write what was kept since the last time; durable when it returns.

        Raises:
            OSError: the disk is full or cannot be written; what is not on it then is not stored any more.
        """
        pieces = written = 0
        gone: list[Found] = []
        try:
            while True:
                with self._lock:
                    if not self._unsaved:
                        break
                    key, (piece, payload) = next(iter(self._unsaved.items()))
                    for found in self._disk.write(key, piece.parent, piece.tokens, payload):
                        gone.append(found)
                        self._forget(found.parent, found.key)
                    if key in self._disk:
                        pieces, written = pieces + 1, written + len(payload)
                        self._saved(key)
                        self._hold(key, payload)
                    else:
                        self._forget(piece.parent, key)
            self._disk.sync()
        except OSError:
            with self._lock:
                for key, (piece, _) in list(self._unsaved.items()):
                    self._forget(piece.parent, key)
            raise
        return Saved(pieces, written, gone)

    def erase(self, tokens: Sequence[int]) -> int:
        """Overwrite and forget a conversation's pieces that no other one needs; returns their bytes.

        Raises:
            OSError: a file cannot be written.
        """
        erased = 0
        with self._lock:
            for piece in reversed(list(cut(self._root, tokens, self._block))):
                if self._behind.get(piece.key) or piece.key not in self._behind.get(piece.parent, ()):
                    continue
                if (found := self._disk.find(piece.key)) is not None:
                    erased += found.size
                    self._disk.erase([piece.key])
                self._forget(piece.parent, piece.key)
        return erased

    def close(self) -> None:
        """Let another process have the files."""
        with self._lock:
            self._disk.close()

    def _has(self, key: bytes) -> bool:
        return key in self._unsaved or key in self._disk

    def _hold(self, key: bytes, payload: bytes) -> None:
        if len(payload) + self._unsaved_bytes > self._ram_limit:
            return
        self._held[key] = payload
        self._held_bytes += len(payload)
        while self._held_bytes + self._unsaved_bytes > self._ram_limit:
            self._let_go_of_oldest()

    def _let_go_of_oldest(self) -> None:
        _, payload = self._held.popitem(last=False)
        self._held_bytes -= len(payload)

    def _saved(self, key: bytes) -> None:
        if (waiting := self._unsaved.pop(key, None)) is not None:
            self._unsaved_bytes -= len(waiting[1])

    def _forget(self, parent: bytes, key: bytes) -> None:
        self._saved(key)
        if (payload := self._held.pop(key, None)) is not None:
            self._held_bytes -= len(payload)
        self._disk.forget(key)
        if behind := self._behind.get(parent):
            behind.pop(key, None)
            if not behind:
                del self._behind[parent]
