"""Names for pieces of KV: a hash chain over the model, the format and every token up to the piece's end.

KV at a position depends on all tokens before it, and so does the name: equal names are equal KV, whichever session
computed it.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

KEY_BYTES: Final = 16
LEAST_TOKENS: Final = 16
"""What a prompt has in common with others is looked for from so many tokens on: every chat begins with a few alike."""


class Piece(NamedTuple):
    """Some tokens behind those that `parent` names."""

    key: bytes
    parent: bytes
    tokens: Sequence[int]


def root_key(fingerprint: str, form: str) -> bytes:
    """The name of no tokens at all, in this model and this format."""
    return hashlib.blake2b(f"{fingerprint}\0{form}".encode(), digest_size=KEY_BYTES).digest()


def child_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of these tokens behind `parent`; no two different lists share one."""
    return hashlib.blake2b(parent + packed(tokens), digest_size=KEY_BYTES).digest()


class Chain:
    """The pieces of tokens that only become more: each is named once, however often they are asked for."""

    def __init__(self, root: bytes, size: int) -> None:
        """In pieces of `size`; 0: all of them are one."""
        self._root, self._size = root, size
        self._full: list[Piece] = []

    def pieces(self, tokens: Sequence[int]) -> list[Piece]:
        """As `cut`; what the last call was given must be the beginning of these, or they of it."""
        if not self._size:
            return list(cut(self._root, tokens, max(len(tokens), 1)))
        full = self._full[: len(tokens) // self._size]
        at, behind = len(full) * self._size, full[-1].key if full else self._root
        new = list(cut(behind, tokens[at:], self._size))
        if len(full) == len(self._full):
            self._full += [piece for piece in new if len(piece.tokens) == self._size]
        return [*full, *new]


def cut(root: bytes, tokens: Sequence[int], size: int) -> Iterator[Piece]:
    """All tokens in pieces of `size`; the last may be shorter."""
    parent = root
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        key = child_key(parent, part)
        yield Piece(key, parent, part)
        parent = key


def packed(tokens: Sequence[int]) -> bytes:
    """Four bytes a token, little-endian."""
    numbers = array("I", tokens)
    if numbers.itemsize != 4:
        raise OverflowError("this platform's unsigned int has not four bytes")
    return numbers.tobytes()


def unpacked(raw: bytes) -> Sequence[int]:
    """The tokens of `packed`."""
    numbers = array("I")
    numbers.frombytes(raw)
    return numbers


def common(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for number, (one, other) in enumerate(zip(tokens, others, strict=False)):
        if one != other:
            return number
    return min(len(tokens), len(others))
