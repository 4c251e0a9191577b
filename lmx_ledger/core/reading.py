"""What people write for a point in time, read in one place for the command line and the routes."""

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.units import parse_duration


def read_moment(text: str, now_us: int) -> int:
    """Microseconds since the epoch: a duration back from `now_us` (`10m`), or an RFC 3339 time.

    Raises:
        ValueError: it is neither.
    """
    try:
        if text[-1:].isalpha() and text[-1:] != "Z":
            return now_us - int(parse_duration(text) * 1e6)
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:80]!r} is neither a duration back from now (10m) nor an RFC 3339 time") from None
