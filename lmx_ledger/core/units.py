"""Durations and sizes as people write them: `500ms`, `30s`, `2m`, `1h`, `7d`; `24GiB`, `8GB`, `64k` tokens."""

import re
from typing import Final

_QUANTITY: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final[dict[str, int]] = {
    "b": 1,
    **{f"{p}b": 1000**i for i, p in enumerate("kmgt", 1)},
    **{f"{p}ib": 1024**i for i, p in enumerate("kmgt", 1)},
}


def parse_duration(text: str) -> float:
    """Seconds.

    Raises:
        ValueError: no number, no unit, or a unit other than ms, s, m, h, d.
    """
    match = _QUANTITY.match(text)
    if match is None or match.group(2) not in _SECONDS:
        raise ValueError(f"{text!r} is no duration; write it like 500ms, 30s, 2m, 1h or 7d")
    return float(match.group(1)) * _SECONDS[match.group(2)]


def parse_bytes(text: str) -> int:
    """Whole bytes; GB is 10^9, GiB is 2^30.

    Raises:
        ValueError: no number, or a unit other than B, KB..TB, KiB..TiB.
    """
    match = _QUANTITY.match(text)
    unit = match.group(2).lower() if match else ""
    if match is None or (unit and unit not in _BYTES):
        raise ValueError(f"{text!r} is no size; write it like 24GiB, 8GB or a whole number of bytes")
    # In whole numbers: a float cannot tell 2^53 from 2^53 + 1.
    whole, _, fraction = match.group(1).partition(".")
    return int(whole + fraction) * _BYTES[unit or "b"] // int(10 ** len(fraction))


def show_bytes(count: int) -> str:
    """For people: `1.2 GB`, `8 GB`, `512 B` (decimal units, at most one digit behind the point)."""
    size, text = float(count), str(count)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        text = f"{size:.0f}" if abs(size) >= 99.95 else f"{size:.1f}".removesuffix(".0")
        # What is shown decides: 999,900 is 1 MB, not 1000 KB.
        if abs(float(text)) < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{text} {unit}"


def show_duration(seconds: float) -> str:
    """For people, two units at most: `340 ms`, `4.2 s`, `3m 20s`, `2h 05m`, `3d 4h`."""
    # Bounds where the rounded figure would be 1000 ms or 60.0 s.
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = max(int(seconds), 60)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"
