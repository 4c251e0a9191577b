"""What breaks a conversation's prefix again and again, named, and how to mend it."""

import enum
import re
from collections.abc import Sequence
from typing import Any, Final


class Breaker(enum.StrEnum):
    """What changed at the token where a prompt left what was known."""

    TOOLS_REORDERED = "tools_reordered"
    TOOLS_CHANGED = "tools_changed"
    DATE = "date"
    NONCE = "nonce"
    SYSTEM_EDITED = "system_edited"
    REASONING_STRIPPED = "reasoning_stripped"
    ANSWER_EDITED = "answer_edited"
    HISTORY_EDITED = "history_edited"


MENDING: Final[dict[Breaker, str]] = {
    Breaker.TOOLS_REORDERED: "send the tools in the same order each time: sort them by name",
    Breaker.TOOLS_CHANGED: "send all tools of a conversation from its first turn on; a tool that changes is read again "
    "with all that follows it",
    Breaker.DATE: "put the date or time into the last user message, or leave the time of day out",
    Breaker.NONCE: "take the number that differs in every request (an id, a nonce, a counter) out of the beginning",
    Breaker.SYSTEM_EDITED: "keep the system message as it is; what changes belongs into the last user message",
    Breaker.REASONING_STRIPPED: "nothing to mend: the template leaves reasoning out of history, and what was answered "
    "before is read again without it",
    Breaker.ANSWER_EDITED: "send the answers back as they were given, character by character, tool calls included",
    Breaker.HISTORY_EDITED: "append to a conversation instead of rewriting or shortening what was said",
}

_AROUND: Final = 24
_TIME: Final = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}:\d{2}|\d{1,2}\. ?[A-Z][a-z]+|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
    r"|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),|\b(?:January|February|March|April|May|June|July|August|September|October"
    r"|November|December)\b"
)
_WORD: Final = re.compile(r"[\w-]+")
_NUMBER_LIKE: Final = re.compile(r"(?=.*\d)[0-9A-Za-z_-]{4,}|\d+")


def name(before: str, now: str, role: str | None, *, reasons: bool) -> Breaker:
    """Of two texts that differ somewhere: what it is that differs, by what stands there and whose message it is.

    `reasons`: the model marks its reasoning, and what was answered before had some.
    """
    if role == "assistant":
        return Breaker.REASONING_STRIPPED if reasons else Breaker.ANSWER_EDITED
    at = _first_difference(before, now)
    if all(_touches(_TIME, text, at) for text in (before, now)):
        return Breaker.DATE
    words = [_word_at(text, at) for text in (before, now)]
    if words[0] != words[1] and all(_NUMBER_LIKE.fullmatch(word) for word in words):
        return Breaker.NONCE
    return Breaker.SYSTEM_EDITED if role in {"system", "developer"} else Breaker.HISTORY_EDITED


def name_of_tools(before: Sequence[str], now: Sequence[str]) -> Breaker:
    """Of two lists of tools, each by a hash."""
    return Breaker.TOOLS_REORDERED if sorted(before) == sorted(now) else Breaker.TOOLS_CHANGED


def mending(breaker: str) -> str | None:
    """How to mend it; None for a name from another version."""
    return MENDING[Breaker(breaker)] if breaker in set(Breaker) else None


def first_different(before: Sequence[Any], now: Sequence[Any]) -> int:
    """The first place where two lists differ; the shorter one's length where there is none."""
    for number, (one, other) in enumerate(zip(before, now, strict=False)):
        if one != other:
            return number
    return min(len(before), len(now))


def _first_difference(before: str, now: str) -> int:
    return first_different(before, now)


def _touches(pattern: re.Pattern[str], text: str, at: int) -> bool:
    start = max(at - _AROUND, 0)
    return any(start + m.start() <= at <= start + m.end() for m in pattern.finditer(text[start : at + _AROUND]))


def _word_at(text: str, at: int) -> str:
    for match in _WORD.finditer(text):
        if match.start() <= at < match.end() or match.start() == at:
            return match.group()
    return ""
