"""Which sensors a daemon reads."""

import sys
from pathlib import Path
from typing import NamedTuple

from lmx_ledger.core.sensed import HeatReading, MemoryReading
from lmx_ledger.sensor.linux import LinuxMemory
from lmx_ledger.sensor.linux_heat import LinuxThermal, NvidiaGpu
from lmx_ledger.sensor.macos import MacMemory
from lmx_ledger.sensor.macos_heat import MacGpu, MacGpuClock, MacPower, MacThermal
from lmx_ledger.sensor.reading import Sensor
from lmx_ledger.sensor.scripted import PARTS, Script, ScriptedHeat, ScriptedMemory


class Sensors(NamedTuple):
    """One of memory, and several of heat, each of which says its part."""

    memory: Sensor[MemoryReading]
    heat: tuple[Sensor[HeatReading], ...]


def choose(script: str | None) -> Sensors:
    """The script's, where there is one, else this platform's.

    Raises:
        ScriptError: the script is none.
    """
    if script is not None:
        recited = Script.load(Path(script).expanduser())
        return Sensors(ScriptedMemory(recited), tuple(ScriptedHeat(recited, part) for part in PARTS))
    if sys.platform == "darwin":
        # How busy the GPU is: first the system's word, then macmon's.
        return Sensors(MacMemory(), (MacThermal(), MacGpu(), MacGpuClock(), MacPower()))
    return Sensors(LinuxMemory(), (LinuxThermal(), NvidiaGpu()))
