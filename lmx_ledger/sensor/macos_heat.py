"""Heat, the GPU and the power mode on macOS, without root: notify(3), and what ioreg, macmon and pmset print."""

import ctypes
import os
import re
import shutil
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from lmx_ledger.core.sensed import LEVELS, HeatReading, ThermalLevel
from lmx_ledger.sensor.macos import Run, run_command
from lmx_ledger.sensor.reading import SensorError

_LEVEL: Final = "com.apple.system.thermalpressurelevel"
_NOTIFYUTIL: Final = ("/usr/bin/notifyutil", "-g", _LEVEL)
_IOREG: Final = ("/usr/sbin/ioreg", "-r", "-c", "IOGPU", "-d", "1", "-f")
_PMSET: Final = ("/usr/bin/pmset", "-g")
_BUSY: Final = re.compile(r'"Device Utilization %"\s*=\s*(\d+)')
_POWER_MODE: Final = re.compile(r"^\s*(?:low)?powermode\s+(\d+)\b", re.MULTILINE)
# Half a second measured, beside what it takes to begin, is well within the time that a command may take.
_SAMPLE: Final = ("pipe", "-s", "1", "-i", "500")
_HOMEBREW: Final = "/opt/homebrew/bin:/usr/local/bin"


class MacThermal:
    """The system's thermal pressure. `state` gives the number that notify(3) has of it, `run` what a command prints."""

    name: Final = "macos.thermal"

    def __init__(self, state: Callable[[], int] | None = None, run: Run | None = None) -> None:
        self._state = state or notify_state
        self._run = run or run_command

    def read(self) -> HeatReading:
        """See `reading.Sensor`."""
        try:
            level = level_of(self._state())
        except SensorError:
            level = parse_notifyutil(self._run(_NOTIFYUTIL))
        return HeatReading(level=level)


class MacGpu:
    """How busy the GPU is, as the registry of devices has it."""

    name: Final = "macos.gpu"

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or run_command

    def read(self) -> HeatReading:
        """See `reading.Sensor`."""
        return HeatReading(gpu_busy=parse_ioreg(self._run(_IOREG)))


class MacGpuClock:
    """The GPU's clock and temperature, where macmon is installed; without it they are not known, which is no failure.

    macOS itself gives a clock to root alone (powermetrics).
    """

    name: Final = "macmon"

    def __init__(self, run: Run | None = None, find: Callable[[], str | None] | None = None) -> None:
        self._run = run or run_command
        self._find = find or find_macmon

    def read(self) -> HeatReading:
        """See `reading.Sensor`."""
        macmon = self._find()
        return HeatReading() if macmon is None else parse_macmon(self._run((macmon, *_SAMPLE)))


class MacPower:
    """Whether Low Power Mode is on."""

    name: Final = "macos.power"

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or run_command

    def read(self) -> HeatReading:
        """See `reading.Sensor`."""
        return HeatReading(low_power=parse_pmset(self._run(_PMSET)))


def notify_state(library: Any = None) -> int:
    """The state of the notification of thermal pressure: man 3 notify. `library` is libSystem, opened.

    Raises:
        SensorError: there is no such library, or it refuses.
    """
    try:
        system = ctypes.CDLL("/usr/lib/libSystem.B.dylib") if library is None else library
        register, get_state, cancel = system.notify_register_check, system.notify_get_state, system.notify_cancel
    except (OSError, AttributeError) as error:
        raise SensorError(f"notify(3) cannot be called: {error}") from None
    register.argtypes, register.restype = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)), ctypes.c_uint32
    get_state.argtypes, get_state.restype = (ctypes.c_int, ctypes.POINTER(ctypes.c_uint64)), ctypes.c_uint32
    cancel.argtypes, cancel.restype = (ctypes.c_int,), ctypes.c_uint32
    token, state = ctypes.c_int(), ctypes.c_uint64()
    if status := register(_LEVEL.encode(), ctypes.byref(token)):
        raise SensorError(f"notify_register_check gave {status}")
    try:
        if status := get_state(token.value, ctypes.byref(state)):
            raise SensorError(f"notify_get_state gave {status}")
    finally:
        cancel(token.value)
    return state.value


def find_macmon() -> str | None:
    """Where macmon is, also for a daemon whose PATH is launchd's."""
    return shutil.which("macmon", path=f"{os.environ.get('PATH', os.defpath)}:{_HOMEBREW}")


def level_of(number: int) -> ThermalLevel:
    """The level that macOS counts so.

    Raises:
        SensorError: it has no such one.
    """
    if not 0 <= number < len(LEVELS):
        raise SensorError(f"thermal pressure {number} is no level that is known")
    return LEVELS[number]


def parse_notifyutil(text: str) -> ThermalLevel:
    """The level in what `notifyutil -g` prints: the last word.

    Raises:
        SensorError: it is none.
    """
    words = text.split()
    if not words or not words[-1].isdecimal():
        raise SensorError(f"notifyutil says no {_LEVEL}")
    return level_of(int(words[-1]))


def parse_ioreg(text: str) -> float:
    """How busy the GPU is, 0 to 1; of several the busiest one.

    Raises:
        SensorError: none is in it.
    """
    found = [int(percent) for percent in _BUSY.findall(text)]
    if not found:
        raise SensorError("ioreg says no Device Utilization of a GPU")
    return min(max(found), 100) / 100


def parse_pmset(text: str) -> bool | None:
    """Whether Low Power Mode is on, None where this machine has no such mode.

    Where there is a High Power Mode too the line is `powermode`: 0 automatic, 1 low, 2 high.

    Raises:
        SensorError: it is not what pmset prints.
    """
    if "Currently in use" not in text:
        raise SensorError("pmset says no settings")
    mode = _POWER_MODE.search(text)
    return None if mode is None else mode[1] == "1"


class _Temperatures(Struct, frozen=True):
    gpu_temp_avg: float | None = None


class _Macmon(Struct, frozen=True):
    """`gpu_usage` is the older name: clock and share."""

    gpu_freq_mhz: float | None = None
    gpu_active_ratio: float | None = None
    gpu_usage: tuple[float, float] | None = None
    temp: _Temperatures = _Temperatures()


def parse_macmon(text: str) -> HeatReading:
    """What `macmon pipe` says of the GPU, by the last line: clock in MHz, share of time, degrees.

    Raises:
        SensorError: it is not what macmon prints, or has no clock.
    """
    try:
        said = msgspec.json.decode(text.strip().rpartition("\n")[2], type=_Macmon)
    except msgspec.DecodeError as error:
        raise SensorError(f"macmon cannot be understood: {error}") from None
    mhz, busy = said.gpu_usage or (None, None)
    mhz = mhz if said.gpu_freq_mhz is None else said.gpu_freq_mhz
    busy = busy if said.gpu_active_ratio is None else said.gpu_active_ratio
    if mhz is None:
        raise SensorError("macmon says no clock of the GPU")
    return HeatReading(gpu_mhz=mhz, gpu_busy=busy, celsius=said.temp.gpu_temp_avg)
