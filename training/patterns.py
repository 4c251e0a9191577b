"""Patterns of phrasings: `(a|b|)` is one of the alternatives, `[a]` is `a` or nothing, `{name}` is filled in later."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """A sequence of parts; each part is a text or a choice between patterns."""

    parts: tuple["str | tuple[Pattern, ...]", ...]

    def draw(self, rng: random.Random) -> str:
        """One phrasing, each alternative as likely as the others."""
        drawn = (part if isinstance(part, str) else rng.choice(part).draw(rng) for part in self.parts)
        return " ".join("".join(drawn).split())

    def count(self) -> int:
        """How many phrasings it stands for (equal ones counted again)."""
        total = 1
        for part in self.parts:
            total *= 1 if isinstance(part, str) else sum(option.count() for option in part)
        return total

    def all(self) -> list[str]:
        """Every phrasing."""
        done = [""]
        for part in self.parts:
            options = [part] if isinstance(part, str) else [text for option in part for text in option.all()]
            done = [left + right for left in done for right in options]
        return [" ".join(text.split()) for text in done]


def parse(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        ValueError: a bracket has no partner.
    """
    pattern, end = _sequence(text, 0, "")
    if end != len(text):
        raise ValueError(f"{text!r}: a closing bracket at {end} has no partner")
    return pattern


def _sequence(text: str, at: int, ends: str) -> tuple[Pattern, int]:
    parts: list[str | tuple[Pattern, ...]] = []
    literal = ""
    while at < len(text) and text[at] not in (ends or ")]"):
        if text[at] in "([":
            closing = {"(": ")", "[": "]"}[text[at]]
            options, at = _options(text, at + 1, closing)
            if closing == "]" and all(option.parts != () for option in options):
                options.append(Pattern(()))
            parts += [literal, tuple(options)]
            literal = ""
        else:
            literal += text[at]
            at += 1
    if literal:
        parts.append(literal)
    return Pattern(tuple(part for part in parts if part != "")), at


def _options(text: str, at: int, closing: str) -> tuple[list[Pattern], int]:
    options: list[Pattern] = []
    while True:
        option, at = _sequence(text, at, "|" + closing)
        options.append(option)
        if at == len(text):
            raise ValueError(f"{text!r}: a bracket is not closed")
        if text[at] == closing:
            return options, at + 1
        at += 1
