"""How ids are kept: an event's is made of its time and its hash, a request's is 16 bytes instead of 30 characters."""

import re
from functools import lru_cache
from typing import Final

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Two digits at once: base64's base 32 is written in Python and takes three times as long.
_PAIRS: Final = [a + b for a in _CROCKFORD for b in _CROCKFORD]
_TO_PYTHON: Final = str.maketrans(_CROCKFORD, "0123456789ABCDEFGHIJKLMNOPQRSTUV")
_REQUEST: Final = re.compile(r"req_([0-7][0-9A-HJKMNP-TV-Z]{25})", re.ASCII)
_RANDOM_BYTES: Final = 10


def event_id(time_us: int, digest: bytes) -> str:
    """`evt_` and a ULID: the milliseconds, and the first 80 bits of the event's hash."""
    return _prefix(time_us // 1_000) + _written(int.from_bytes(digest[:_RANDOM_BYTES], "big"), 16)


@lru_cache(maxsize=64)
def _prefix(millis: int) -> str:
    return "evt_" + _written(millis, 10)


@lru_cache(maxsize=4096)
def request_key(request: str) -> bytes | str:
    """What is stored of a request's id: the 16 bytes of its ULID; the text itself where it is none."""
    if _REQUEST.fullmatch(request) is None:
        return request
    return int(request[4:].translate(_TO_PYTHON), 32).to_bytes(16, "big")


@lru_cache(maxsize=4096)
def request_of(key: bytes | str) -> str:
    """The id that was stored as this key."""
    return key if isinstance(key, str) else "req_" + _written(int.from_bytes(key, "big"), 26)


def _written(number: int, digits: int) -> str:
    """In Crockford's base 32, an even number of digits."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(5 * digits - 10, -1, -10)])
