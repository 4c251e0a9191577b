"""Memory on macOS: what sysctl and vm_stat print. Not psutil: up to 7.2.2 it raises on macOS 27."""

import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from lmx_ledger.core.sensed import MemoryReading, Pressure
from lmx_ledger.sensor.reading import SensorError

_TIMEOUT_S: Final = 2.0
_SYSCTL: Final = (
    "/usr/sbin/sysctl",
    "hw.memsize",
    "kern.memorystatus_vm_pressure_level",
    "vm.swapusage",
)
_VM_STAT: Final = ("/usr/bin/vm_stat",)
_PRESSURE: Final = {"1": Pressure.NORMAL, "2": Pressure.WARN, "4": Pressure.CRITICAL}
_PAGE: Final = re.compile(r"page size of (\d+) bytes")
_COUNT: Final = re.compile(r'^"?([A-Z][^":\n]*)"?:\s+(\d+)\.?$', re.MULTILINE)
_VALUE: Final = re.compile(r"^([\w.]+): (.+)$", re.MULTILINE)
_SWAP_USED: Final = re.compile(r"used = (\d+)[.,](\d\d)M")

Run = Callable[[Sequence[str]], str]


class MacMemory:
    """A sensor of `MemoryReading`. `run` gives what a command prints."""

    name: Final = "macos"

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or run_command

    def read(self) -> MemoryReading:
        """See `reading.Sensor`."""
        return parse(self._run(_SYSCTL), self._run(_VM_STAT))


def run_command(command: Sequence[str]) -> str:
    """What it prints, also where it says that one of several names is unknown to it.

    Raises:
        SensorError: it is not there, or takes longer than two seconds.
    """
    try:
        # In the C locale, for a decimal point is a comma elsewhere.
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env={"LC_ALL": "C"}
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise SensorError(f"{command[0]} cannot be run: {error}") from None
    return done.stdout


def parse(sysctl: str, vm_stat: str) -> MemoryReading:
    """The reading that these two texts are.

    Raises:
        SensorError: the size of the memory or what is free of it is not in them.
    """
    values: dict[str, str] = dict(_VALUE.findall(sysctl))
    pages = {name: int(count) for name, count in _COUNT.findall(vm_stat)}
    page = _PAGE.search(vm_stat)
    total = values.get("hw.memsize", "").strip()
    if not total.isdecimal() or not int(total):
        raise SensorError("sysctl says no hw.memsize")
    if page is None or "Pages free" not in pages:
        raise SensorError("vm_stat says neither a page size nor what is free")
    size = int(page[1])
    swap = _SWAP_USED.search(values.get("vm.swapusage", ""))
    # Read ahead (speculative) is of files too; whether it is among the file-backed pages depends on the release.
    files = max(pages.get("File-backed pages", 0), pages.get("Pages speculative", 0))
    available = (pages["Pages free"] + files + pages.get("Pages purgeable", 0)) * size
    return MemoryReading(
        total_bytes=int(total),
        available_bytes=min(available, int(total)),
        swap_used_bytes=(int(swap[1]) * 100 + int(swap[2])) * 1024**2 // 100 if swap else None,
        swap_in_bytes=_times(pages.get("Swapins"), size),
        swap_out_bytes=_times(pages.get("Swapouts"), size),
        pressure=_PRESSURE.get(values.get("kern.memorystatus_vm_pressure_level", "").strip()),
    )


def _times(pages: int | None, size: int) -> int | None:
    return None if pages is None else pages * size
