"""Readings from a file, for tests and rehearsals: JSON, a reading a line, each for a while.

A line has the fields of a reading of memory and those of heat, or `error`, which is then what every sensor fails with;
`errors` has what one fails with alone (`memory`, `thermal`, `gpu`, `power`). And it has `for_s`, how long it holds, or
`at_s`, when it begins, counted from the first read. The last line holds on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self, TypeAlias

import msgspec
from msgspec import Meta, Struct

from lmx_ledger.core.clock import mono_ns
from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.sensed import HeatReading, MemoryReading, ThermalLevel
from lmx_ledger.sensor.reading import SensorError


class ScriptError(StartupError):
    """The file is no script; the message says which line is wrong and why."""


_ForS = Annotated[float, Meta(gt=0)]
_AtS = Annotated[float, Meta(ge=0)]
_Why = Annotated[str, Meta(min_length=1)]
HeatPart: TypeAlias = Literal["thermal", "gpu", "power"]
PARTS: Final[dict[HeatPart, tuple[str, ...]]] = {
    "thermal": ("level", "celsius"),
    "gpu": ("gpu_busy", "gpu_mhz", "slowed"),
    "power": ("low_power",),
}
"""What each sensor of heat says."""


class _Reading(MemoryReading, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: ThermalLevel | None = None
    celsius: float | None = None
    gpu_busy: float | None = None
    gpu_mhz: float | None = None
    slowed: bool | None = None
    low_power: bool | None = None
    errors: dict[Literal["memory"] | HeatPart, _Why] = msgspec.field(default_factory=dict)
    for_s: _ForS | None = None
    at_s: _AtS | None = None


class _Outage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    error: _Why
    for_s: _ForS | None = None
    at_s: _AtS | None = None


class _Cue(NamedTuple):
    at_s: float
    says: _Reading | str


class Script:
    """What holds when. Sensors that share one share its beginning."""

    def __init__(self, cues: list[_Cue], clock: Callable[[], int] = mono_ns) -> None:
        """`clock` gives nanoseconds."""
        self._cues = cues
        self._clock = clock
        self._began_ns: int | None = None

    @classmethod
    def load(cls, file: Path, clock: Callable[[], int] = mono_ns) -> Self:
        """The script in that file.

        Raises:
            ScriptError: it is none.
        """
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"{file}: cannot be read as a script of readings: {error}") from None
        cues: list[_Cue] = []
        next_s: float | None = 0.0
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                line = _parse(text)
                at_s = line.at_s if line.at_s is not None else next_s
                if at_s is None:
                    raise ValueError("give it at_s, or the line before it for_s, to say when it begins")
                if cues and at_s <= cues[-1].at_s:
                    raise ValueError(f"it begins at {at_s:g} s, not behind the line before it")
            except ValueError as error:
                raise ScriptError(f"{file}:{number}: {error}") from None
            cues.append(_Cue(at_s, line.error if isinstance(line, _Outage) else line))
            next_s = None if line.for_s is None else at_s + line.for_s
        if not cues or cues[0].at_s > 0:
            raise ScriptError(f"{file}: no reading to begin with; the first line begins at 0 s")
        return cls(cues, clock)

    def now(self, part: Literal["memory"] | HeatPart) -> _Reading:
        """The line that holds, for that sensor.

        Raises:
            SensorError: the line says that it fails.
        """
        now_ns = self._clock()
        if self._began_ns is None:
            self._began_ns = now_ns
        elapsed_s = (now_ns - self._began_ns) / 1e9
        says = next((cue.says for cue in reversed(self._cues) if cue.at_s <= elapsed_s), self._cues[0].says)
        if isinstance(says, str):
            raise SensorError(says)
        if part in says.errors:
            raise SensorError(says.errors[part])
        return says


class ScriptedMemory:
    """A sensor of `MemoryReading`."""

    name: Final = "scripted"

    def __init__(self, script: Script) -> None:
        self._script = script

    def read(self) -> MemoryReading:
        """See `reading.Sensor`."""
        line = self._script.now("memory")
        return MemoryReading(**{name: getattr(line, name) for name in MemoryReading.__struct_fields__})


class ScriptedHeat:
    """A sensor of that part of a `HeatReading`."""

    def __init__(self, script: Script, part: HeatPart) -> None:
        self._script = script
        self._part: HeatPart = part

    @property
    def name(self) -> str:
        """See `reading.Sensor`."""
        return f"scripted.{self._part}"

    def read(self) -> HeatReading:
        """See `reading.Sensor`."""
        line = self._script.now(self._part)
        return HeatReading(**{name: getattr(line, name) for name in PARTS[self._part]})


def _parse(text: str) -> _Reading | _Outage:
    raw = msgspec.json.decode(text)
    if isinstance(raw, dict) and "error" in raw:
        return msgspec.convert(raw, _Outage)
    return msgspec.convert(raw, _Reading)
