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
