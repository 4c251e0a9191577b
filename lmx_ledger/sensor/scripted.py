"""Readings from a file, for tests and rehearsals: JSON, a reading a line, each for a while.

A line has the fields of a reading, or `error`, which is then what the sensor fails with; and `for_s`, how long it
holds, or `at_s`, when it begins, counted from the first read. The last line holds on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Self

import msgspec
from msgspec import Meta, Struct

from lmx_ledger.core.clock import mono_ns
from lmx_ledger.core.errors import StartupError
from lmx_ledger.sensor.reading import MemoryReading, SensorError


class ScriptError(StartupError):
    """The file is no script; the message says which line is wrong and why."""


_ForS = Annotated[float, Meta(gt=0)]
_AtS = Annotated[float, Meta(ge=0)]


class _Reading(MemoryReading, frozen=True, kw_only=True, forbid_unknown_fields=True):
    for_s: _ForS | None = None
    at_s: _AtS | None = None


class _Outage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    error: Annotated[str, Meta(min_length=1)]
    for_s: _ForS | None = None
    at_s: _AtS | None = None


class _Cue(NamedTuple):
    at_s: float
    says: MemoryReading | str


class ScriptedMemory:
    """A sensor of `MemoryReading`."""

    name: Final = "scripted"

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
            cues.append(_Cue(at_s, line.error if isinstance(line, _Outage) else _plain(line)))
            next_s = None if line.for_s is None else at_s + line.for_s
        if not cues or cues[0].at_s > 0:
            raise ScriptError(f"{file}: no reading to begin with; the first line begins at 0 s")
        return cls(cues, clock)

    def read(self) -> MemoryReading:
        """See `reading.Sensor`."""
        now_ns = self._clock()
        if self._began_ns is None:
            self._began_ns = now_ns
        elapsed_s = (now_ns - self._began_ns) / 1e9
        says = next((cue.says for cue in reversed(self._cues) if cue.at_s <= elapsed_s), self._cues[0].says)
        if isinstance(says, str):
            raise SensorError(says)
        return says


def _parse(text: str) -> _Reading | _Outage:
    raw = msgspec.json.decode(text)
    if isinstance(raw, dict) and "error" in raw:
        return msgspec.convert(raw, _Outage)
    return msgspec.convert(raw, _Reading)


def _plain(line: _Reading) -> MemoryReading:
    return MemoryReading(**{name: getattr(line, name) for name in MemoryReading.__struct_fields__})
