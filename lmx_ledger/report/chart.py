"""Figures as data: what is drawn, before it is drawn. Times are microseconds since the epoch, UTC."""

import msgspec


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """From when to when something was so. `tone` says how bad that is: calm, busy, warn, bad, or plain (neither)."""

    from_us: int
    until_us: int
    label: str
    tone: str = "plain"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at one moment."""

    at_us: int
    label: str
    seq: int


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """A value that matters all along: an objective, a factor."""

    label: str
    value: float


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Values over time. `step`: each holds until the next one; a None in between is a gap."""

    label: str
    points: list[tuple[int, float | None]]
    step: bool = False


class TimeChart(msgspec.Struct, frozen=True, kw_only=True, tag="time"):
    """Lines or columns over time. `unit` is ms, bytes, x or empty (a count); `empty` is what it says without data."""

    key: str
    title: str
    about: str
    unit: str
    from_us: int
    until_us: int
    series: list[Series]
    levels: list[Level] = []
    bands: list[Band] = []
    marks: list[Mark] = []
    marks_are: str = ""
    columns: bool = False
    column_us: int = 0
    empty: str | None = None


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One thing's states, one after the other, and what happened to it."""

    label: str
    bands: list[Band] = []
    marks: list[Mark] = []


class LaneChart(msgspec.Struct, frozen=True, kw_only=True, tag="lanes"):
    """Swim lanes: who was in which state when."""

    key: str
    title: str
    about: str
    from_us: int
    until_us: int
    lanes: list[Lane]
    empty: str | None = None


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of several parts, in the order of the chart's `parts`."""

    label: str
    values: list[float]


class BarChart(msgspec.Struct, frozen=True, kw_only=True, tag="bars"):
    """Bars that lie, each the sum of its parts, in milliseconds."""

    key: str
    title: str
    about: str
    parts: list[str]
    bars: list[Bar]
    empty: str | None = None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What is estimated at one value of a setting, and how that is written."""

    x: float
    label: str
    value: float | None


class ValueChart(msgspec.Struct, frozen=True, kw_only=True, tag="setting"):
    """A figure over the values of a setting. `error` is by how much it may be off, to both sides; `recorded` is what it
    was, with the setting that was (`in_force`, None: nobody knows).
    """

    key: str
    title: str
    about: str
    unit: str
    setting: str
    points: list[Point]
    error: float = 0.0
    recorded: float | None = None
    in_force: float | None = None
    empty: str | None = None


Chart = TimeChart | LaneChart | BarChart
"""What a postmortem has."""
