"""What people write for a point in time, read in one place for the command line and the routes."""

from typing import Final

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.units import parse_duration

_FARTHEST_US: Final = 2**62
"""Beyond this a moment fits no 64-bit column."""


def read_moment(text: str, now_us: int) -> int:
    """Microseconds since the epoch: a duration back from `now_us` (`10m`), or an RFC 3339 time.

    Raises:
        ValueError: it is neither.
    """
    try:
        if text[-1:].isalpha() and text[-1:] != "Z":
            at = now_us - int(parse_duration(text) * 1e6)
            if abs(at) > _FARTHEST_US:
                raise ValueError("farther away than any event")
            return at
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:80]!r} is neither a duration back from now (10m) nor an RFC 3339 time") from None
