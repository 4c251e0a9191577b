"""Records of pieces in files: how they are laid out, and what can be read of a file.

A file begins with what it belongs to (a root); a record is a header, its tokens and its payload. A record counts when
all of it is there and its header verifies; its payload is verified whenever it is read.
"""

import mmap
import os
import re
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
_ERASED_MAGIC: Final = b"gone"
"""Of a record that was overwritten: it is whole, and says nothing."""
_MAGIC: Final = re.compile(b"%s|%s" % (_RECORD_MAGIC, _ERASED_MAGIC))
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


class Span(NamedTuple):
    """Where a whole record lies in its file, from `at` to `end`; of an erased one there is nothing `found`."""

    at: int
    end: int
    found: Found | None


def spans(data: mmap.mmap, number: int, at: int = FILE_BYTES) -> Iterator[Span]:
    """All that are whole; what lies between them, because a byte of it is not what it was, is passed over."""
    while (magic := _MAGIC.search(data, at)) is not None and (at := magic.start()) + _RECORD_BYTES <= len(data):
        head = data[at : at + _HEAD.size]
        _, key, parent, tokens, size, digest = _HEAD.unpack(head)
        start = at + _RECORD_BYTES
        offset = start + _TOKEN_BYTES * tokens
        if offset + size <= len(data):
            raw = data[start:offset]
            if _CRC.pack(zlib.crc32(raw, zlib.crc32(head))) == data[at + _HEAD.size : start]:
                said = Found(key, parent, unpacked(raw), number, offset, size, digest)
                yield Span(at, offset + size, said if magic.group() == _RECORD_MAGIC else None)
                at = offset + size
                continue
        at += 1


def records(data: mmap.mmap, number: int, at: int = FILE_BYTES) -> Iterator[Found]:
    """Those of `spans` that say something."""
    return (span.found for span in spans(data, number, at) if span.found is not None)


def is_cut_off(data: mmap.mmap, at: int) -> bool:
    """Whether what lies behind that is the beginning of a record whose writer was ended in the middle of it."""
    rest = data[at : at + _HEAD.size]
    if not _RECORD_MAGIC.startswith(rest[: len(_RECORD_MAGIC)]):
        return False
    if len(rest) < _HEAD.size:
        return True
    _, _, _, tokens, size, _ = _HEAD.unpack(rest)
    return bool(at + _RECORD_BYTES + _TOKEN_BYTES * tokens + size > len(data))


def erased(found: Found) -> tuple[int, bytes]:
    """Where to write what in its file, so that the record is one that was erased."""
    raw = bytes(_TOKEN_BYTES * len(found.tokens))
    head = _HEAD.pack(_ERASED_MAGIC, bytes(KEY_BYTES), bytes(KEY_BYTES), len(found.tokens), found.size, 0)
    whole = head + _CRC.pack(zlib.crc32(raw, zlib.crc32(head))) + raw + bytes(found.size)
    return found.said_at - _RECORD_BYTES, whole


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
