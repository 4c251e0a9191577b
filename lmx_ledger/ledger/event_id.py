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
_EVENT: Final = re.compile(r"evt_([0-7][0-9A-HJKMNP-TV-Z]{9})([0-9A-HJKMNP-TV-Z]{16})", re.ASCII)


def event_id(time_us: int, digest: bytes) -> str:
    """`evt_` and a ULID: the milliseconds, and the first 80 bits of the event's hash."""
    p, t, n = _PAIRS, time_us // 1_000, int.from_bytes(digest[:_RANDOM_BYTES], "big")
    # Written out: every event that is read needs one.
    return (
        f"evt_{p[t >> 40]}{p[t >> 30 & 1023]}{p[t >> 20 & 1023]}{p[t >> 10 & 1023]}{p[t & 1023]}"
        f"{p[n >> 70]}{p[n >> 60 & 1023]}{p[n >> 50 & 1023]}{p[n >> 40 & 1023]}"
        f"{p[n >> 30 & 1023]}{p[n >> 20 & 1023]}{p[n >> 10 & 1023]}{p[n & 1023]}"
    )


def digest_of(event: str) -> bytes:
    """What `event_id` took of the hash: its first 10 bytes.

    Raises:
        ValueError: that is no event's id.
    """
    found = _EVENT.fullmatch(event)
    if found is None:
        raise ValueError(f"{event[:40]!r} is no id of an event")
    return int(found[2].translate(_TO_PYTHON), 32).to_bytes(_RANDOM_BYTES, "big")


@lru_cache(maxsize=4096)
def request_key(request: str) -> bytes | str:
    """What is stored of a request's id: the 16 bytes of its ULID; the text itself where it is none."""
    if _REQUEST.fullmatch(request) is None:
        return request
    return int(request[4:].translate(_TO_PYTHON), 32).to_bytes(16, "big")


@lru_cache(maxsize=4096)
def request_of(key: bytes | str) -> str:
    """The id that was stored as this key."""
    if isinstance(key, str):
        return key
    number = int.from_bytes(key, "big")
    return "req_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])
