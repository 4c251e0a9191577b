"""Words of strangers made harmless, and times and figures as a report shows them."""

import re
from typing import Any, Final, TypeVar

import msgspec

from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.units import show_bytes, show_duration

LONGEST: Final = 400
"""Characters of a text that was given: what is longer is a client's, or an error's, and is in the ledger."""
LONGEST_OF_OURS: Final = 6_000
"""Of one that is put together here from several of those."""
WORD: Final = 30
"""Of a word from a short list, a severity."""
CODE: Final = 60
"""Of an error's code."""
NAME: Final = 120
"""Of a name: a model's, a session's, a label in a figure."""
_MARK: Final = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_MARKS: Final = re.compile(f"({_MARK}{{3}}){_MARK}+")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def plain(text: str, longest: int = LONGEST) -> str:
    """Without control characters and changes of writing direction, as in log lines; what is too long is cut.

    Of marks that are put on a letter a few stay: a heap of them would be drawn over the lines around it.
    """
    if not text.isascii():
        text = _MARKS.sub(r"\1", text)
    if len(text) > longest:
        text = text[: longest - 3] + "..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def harmless(document: _Struct, longest: int = LONGEST_OF_OURS) -> _Struct:
    """A document in which every text is `plain`, whoever wrote it; the same again if it is already."""
    cleaned: _Struct = msgspec.convert(_cleaned(msgspec.to_builtins(document), longest), type(document))
    return cleaned


def _cleaned(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return plain(value, longest)
    if isinstance(value, dict):
        return {plain(key): _cleaned(item, longest) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, longest) for item in value]
    return value


def moment(at: int | str) -> str:
    """For people, to the second: `2026-03-14 09:26:53 UTC`; of microseconds or of a document's time."""
    text = rfc3339(at) if isinstance(at, int) else at
    return f"{text[:10]} {text[11:19]} UTC"


def clock(at: int | str) -> str:
    """The time of day: `09:26:53`."""
    return moment(at)[11:19]


def us(at: str) -> int:
    """Microseconds of a document's time; `ValueError` where it is none."""
    return parse_rfc3339(at)


def lasted(seconds: float | None) -> str:
    """A duration for people; `-` where it is not known."""
    return "-" if seconds is None else show_duration(seconds)


def figure(value: float | None, unit: str) -> str:
    """A value with its unit: `ms` as a duration, `bytes` as a size, `share` in percent, `x` as a factor."""
    if value is None:
        return "-"
    if unit == "ms":
        # 30 s, not 30.0 s, where it is just that.
        return show_duration(value / 1000).replace(".0 s", " s" if value % 1000 == 0 else ".0 s")
    if unit == "bytes":
        return show_bytes(round(value))
    if unit == "bytes/s":
        return f"{show_bytes(round(value))}/s"
    if unit == "share":
        return f"{value * 100:.3g} %" if abs(value) < 10 else f"{value * 100:.0f} %"
    if unit == "x":
        return f"{value:.3g}x" if abs(value) < 1000 else f"{value:.0f}x"
    text = f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
    return f"{text} {unit}".strip()


def spelled(span_us: int) -> str:
    """A round span as in "each ...": `hour`, `30 seconds`, `5 minutes`."""
    for unit, size in (("day", 86_400_000_000), ("hour", 3_600_000_000), ("minute", 60_000_000), ("second", 1_000_000)):
        if span_us % size == 0:
            return unit if span_us == size else f"{span_us // size:,} {unit}s"
    return figure(span_us / 1000, "ms")


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 request`, `1,204 requests`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: list[str], most: int = 4) -> str:
    """`a`, `a and b`, `a, b, c and 7 more`."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
