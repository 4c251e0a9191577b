"""Which sensor a daemon reads."""

import sys
from pathlib import Path

from lmx_ledger.sensor.linux import LinuxMemory
from lmx_ledger.sensor.macos import MacMemory
from lmx_ledger.sensor.reading import MemoryReading, Sensor
from lmx_ledger.sensor.scripted import ScriptedMemory


def choose_memory(script: str | None) -> Sensor[MemoryReading]:
    """The script's, where there is one, else this platform's.

    Raises:
        ScriptError: the script is none.
    """
    if script is not None:
        return ScriptedMemory.load(Path(script).expanduser())
    return MacMemory() if sys.platform == "darwin" else LinuxMemory()
