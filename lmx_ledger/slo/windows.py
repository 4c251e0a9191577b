"""The pairs of windows over which budgets are watched, read from windows.toml and validated as they are made."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, Self

import msgspec

from lmx_ledger.core.units import parse_duration

Severity = Literal["page", "ticket"]

_FILE: Final = "windows.toml"
_EXACT: Final = 12
"""Digits behind the point that a factor keeps: 0.02 * 720 is 14.4, and not 14.400000000000002."""


class Window(NamedTuple):
    """So many minutes, under the name that it has in windows.toml and in events."""

    name: str
    minutes: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of a duration.

        Raises:
            ValueError: it is none, or not in whole minutes.
        """
        seconds = parse_duration(text)
        if seconds < 60 or seconds % 60:
            raise ValueError(f"{text!r} is not in whole minutes, and rollups have nothing shorter")
        return cls(text, int(seconds // 60))


class Pair(msgspec.Struct, frozen=True):
    """Alerts when both windows burn faster than the factor; it is named by its two windows."""

    severity: Severity
    long: Window
    short: Window
    factor: float
    clear_after: int
    """Minutes in a row in which the short window has to be calm before the alert ends."""

    def __post_init__(self) -> None:
        """Held against what a pair is.

        Raises:
            ValueError: it could never alert, or never sensibly.
        """
        if self.short.minutes >= self.long.minutes:
            raise ValueError(f"the short window ({self.short.name}) is not shorter than the long ({self.long.name})")
        if self.factor < 1:
            raise ValueError(f"a burn of {self.factor:g}x over {self.long.name} uses up no budget before its time")
        if self.clear_after < 1:
            raise ValueError("an alert that clears at once flaps")

    @property
    def name(self) -> str:
        """`1h/5m`."""
        return f"{self.long.name}/{self.short.name}"


class Profile(msgspec.Struct, frozen=True):
    """The pairs of one period, the fastest first."""

    period: Window
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        """Held against what a profile is.

        Raises:
            ValueError: a window is longer than the period, or the pairs are out of order.
        """
        lengths = [pair.long.minutes for pair in self.pairs]
        if not lengths or lengths != sorted(set(lengths)):
            raise ValueError(f"the pairs of {self.period.name} are not in the order of their long windows")
        if lengths[-1] > self.period.minutes:
            raise ValueError(f"a window is longer than the period of {self.period.name}")
        if any(a.factor < b.factor for a, b in zip(self.pairs, self.pairs[1:], strict=False)):
            raise ValueError(f"a longer window of {self.period.name} has a higher factor than a shorter one")

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows, once each, the shortest first."""
        return tuple(sorted({w for pair in self.pairs for w in (pair.long, pair.short)}, key=lambda w: w.minutes))

    @property
    def highest_factor(self) -> float:
        """Of the pair that alerts first."""
        return self.pairs[0].factor


@cache
def profiles() -> dict[str, Profile]:
    """What windows.toml has, by the name of the period: `30d`, `7d`, `1d`."""
    text = files("lmx_ledger.slo").joinpath(_FILE).read_text(encoding="utf-8")
    return {profile.period.name: profile for profile in map(_profile, tomllib.loads(text)["period"])}


def _profile(raw: dict[str, Any]) -> Profile:
    period = Window.parse(raw["length"])
    return Profile(period, tuple(_pair(period, **pair) for pair in raw["pairs"]))


def _pair(period: Window, *, severity: Severity, share: float, long: str, short: str, clear_after: str) -> Pair:
    over = Window.parse(long)
    factor = round(share * period.minutes / over.minutes, _EXACT)
    return Pair(severity, over, Window.parse(short), factor, Window.parse(clear_after).minutes)
