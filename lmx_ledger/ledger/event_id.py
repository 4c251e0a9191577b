"""Event ids: `evt_` and a ULID, of which the ledger stores only the random half; the other half is the event's time."""

import base64
import os
from functools import lru_cache
from typing import Final

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_CROCKFORD: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _CROCKFORD.encode())


def random_halves(count: int) -> list[str]:
    """That many times 16 characters, 80 random bits each."""
    # 10 bytes are 16 characters of base 32 exactly, so one encoding serves the whole batch.
    text = base64.b32encode(os.urandom(10 * count)).translate(_TO_CROCKFORD).decode("ascii")
    return [text[at : at + 16] for at in range(0, 16 * count, 16)]


def event_id(time_us: int, random_half: str) -> str:
    """The public id of an event stamped at that time."""
    return _prefix(time_us // 1_000) + random_half


@lru_cache(maxsize=64)
def _prefix(millis: int) -> str:
    return "evt_" + "".join(_CROCKFORD[(millis >> shift) & 31] for shift in range(45, -1, -5))
