"""Identifiers that sort by time: ULIDs, 48 bits of milliseconds and 80 random ones in Crockford base 32."""

import os
import re
from typing import Final

from lmx_ledger.core.clock import utc_us

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_STEM: Final = re.compile(r"^(?:req_|chatcmpl-|cmpl-|resp_|msg_)?([0-9A-HJKMNP-TV-Z]{26})$")


def new_ulid(time_us: int | None = None) -> str:
    """26 characters; later ones sort after earlier ones (to the millisecond)."""
    millis = (utc_us() if time_us is None else time_us) // 1_000
    number = (millis << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def new_request_id() -> str:
    """`req_` and a ULID; the answers' ids (`chatcmpl-`, `cmpl-`, ...) have the same stem."""
    return f"req_{new_ulid()}"


def answer_id(request_id: str, prefix: str) -> str:
    """The id in a vendor's answer: the same stem behind the vendor's prefix (`chatcmpl-`)."""
    return prefix + request_id.removeprefix("req_")


def request_id_of(any_id: str) -> str | None:
    """The `req_` form of a request's id in any vendor's clothes; None if it is no such id."""
    match = _STEM.match(any_id.strip())
    return f"req_{match.group(1)}" if match else None
