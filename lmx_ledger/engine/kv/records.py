"""Records of pieces in files: how they are laid out, and what can be read of a file.

A file begins with what it belongs to (a root); a record is a header, its tokens and its payload. A record counts when
all of it is there and its header verifies; its payload is verified whenever it is read.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from xxhash import xxh3_64_intdigest

from lmx_ledger.engine.kv.chain import KEY_BYTES, packed, unpacked

_FILE: Final = struct.Struct(f"<4sHH{KEY_BYTES}s")
FILE_BYTES: Final = _FILE.size
"""What stands in front of the first record."""
_FILE_MAGIC: Final = b"LMKV"
_VERSION: Final = 2
_HEAD: Final = struct.Struct(f"<4s{KEY_BYTES}s{KEY_BYTES}sIQQ")
"""Magic, key, parent, number of tokens, bytes of payload, its xxh3. The crc32 of this and the tokens follows it."""
_CRC: Final = struct.Struct("<I")
_RECORD_BYTES: Final = _HEAD.size + _CRC.size
_RECORD_MAGIC: Final = b"piec"
_TOKEN_BYTES: Final = 4


Payload: TypeAlias = bytes | memoryview


class Found(NamedTuple):
    """One record: whose it is and where its payload lies."""

    key: bytes
    parent: bytes
    tokens: Sequence[int]
    segment: int
    offset: int
    size: int
    digest: int

    @property
    def whole(self) -> int:
        """Bytes that it takes in its file."""
        return _RECORD_BYTES + self.said_bytes

    @property
    def said_at(self) -> int:
        """Where what was said begins in its file: the tokens, and behind them the payload."""
        return self.offset - _TOKEN_BYTES * len(self.tokens)

    @property
    def said_bytes(self) -> int:
        """Bytes of tokens and payload."""
        return _TOKEN_BYTES * len(self.tokens) + self.size


class Opened(NamedTuple):
    """What was found at the start: pieces that are there, files of something else, bytes that are no record."""

    pieces: int
    foreign: list[str]
    broken_bytes: int


def file_head(root: bytes) -> bytes:
    """What a file of that root begins with."""
    return _FILE.pack(_FILE_MAGIC, _VERSION, 0, root)


def record(key: bytes, parent: bytes, tokens: Sequence[int], payload: Payload) -> tuple[list[Payload], int]:
    """The parts of a record, the payload last, and the payload's digest."""
    raw, digest = packed(tokens), xxh3_64_intdigest(payload)
    head = _HEAD.pack(_RECORD_MAGIC, key, parent, len(tokens), len(payload), digest)
    return [head, _CRC.pack(zlib.crc32(raw, zlib.crc32(head))), raw, payload], digest


def record_bytes(tokens: Sequence[int], payload: Payload) -> int:
    """What a record takes."""
    return _RECORD_BYTES + _TOKEN_BYTES * len(tokens) + len(payload)


def records(data: mmap.mmap, number: int, at: int = FILE_BYTES) -> Iterator[Found]:
    """All that are whole; what lies between them, because a byte of it is not what it was, is passed over."""
    while (at := data.find(_RECORD_MAGIC, at)) >= 0 and at + _RECORD_BYTES <= len(data):
        head = data[at : at + _HEAD.size]
        _, key, parent, tokens, size, digest = _HEAD.unpack(head)
        start = at + _RECORD_BYTES
        offset = start + _TOKEN_BYTES * tokens
        if offset + size <= len(data):
            raw = data[start:offset]
            if _CRC.pack(zlib.crc32(raw, zlib.crc32(head))) == data[at + _HEAD.size : start]:
                yield Found(key, parent, unpacked(raw), number, offset, size, digest)
                at = offset + size
                continue
        at += 1


def mapped(path: Path) -> mmap.mmap | None:
    """What is in a file; None where that is nothing.

    Raises:
        OSError: it cannot be read, or is gone.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return None
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def path_of(folder: Path, number: int) -> Path:
    """Of a file of records."""
    return folder / f"{number:08d}.kv"


def verified(folder: Path, found: Found) -> memoryview | None:
    """Its payload, where it lies; None where that is not what was written, or cannot be read (any more).

    It is the file's own bytes, without a copy: whoever computes with it looks again behind that (`is_whole`).
    """
    try:
        data = mapped(path_of(folder, found.segment))
    except OSError:
        return None
    if data is None or len(data) < found.offset + found.size:
        return None
    payload = memoryview(data)[found.offset : found.offset + found.size]
    return payload if is_whole(found, payload) else None


def is_whole(found: Found, payload: Payload) -> bool:
    """Whether that is what was written."""
    return xxh3_64_intdigest(payload) == found.digest
