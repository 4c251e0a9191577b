"""Wall time for people and the ledger, monotonic time for durations; nothing else reads a clock but sensor/sleep.py."""

import time
from datetime import UTC, datetime


def utc_us() -> int:
    """Microseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1_000


def mono_ns() -> int:
    """Nanoseconds of a clock that never goes back; only differences mean anything."""
    return time.monotonic_ns()


def elapsed_ms(since_ns: int, until_ns: int | None = None) -> float:
    """Milliseconds between two readings of `mono_ns` (until now without the second)."""
    return round(((mono_ns() if until_ns is None else until_ns) - since_ns) / 1e6, 3)


def rfc3339(time_us: int) -> str:
    """RFC 3339 UTC with microseconds: `2026-01-31T09:30:00.000000Z`."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06d}Z"


def parse_rfc3339(text: str) -> int:
    """Microseconds since the epoch; a time without an offset is UTC.

    Raises:
        ValueError: the text is no RFC 3339 time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
