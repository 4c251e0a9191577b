"""Heat on Linux: thermal zones against their own trip points, and an NVIDIA GPU where there is one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lmx_ledger.core.sensed import HeatReading, ThermalLevel
from lmx_ledger.sensor.nvml import Nvml, NvmlError
from lmx_ledger.sensor.reading import SensorError

_TRIPS: Final = {
    "passive": ThermalLevel.MODERATE,
    "hot": ThermalLevel.HEAVY,
    "critical": ThermalLevel.TRAPPING,
}
"""What the kernel begins to do at each: slow the machine down, tell its firmware, switch it off."""


class _Zone(NamedTuple):
    celsius: float
    level: ThermalLevel | None


class LinuxThermal:
    """The hottest zone's temperature, and the worst level that any zone has reached of its own trip points."""

    name: Final = "linux.thermal"

    def __init__(self, root: Path = Path("/sys/class/thermal")) -> None:
        self._root = root

    def read(self) -> HeatReading:
        """See `reading.Sensor`. A machine without zones says nothing."""
        folders = sorted(self._root.glob("thermal_zone*"))
        zones = [zone for folder in folders if (zone := _zone(folder)) is not None]
        if folders and not zones:
            raise SensorError(f"none of {len(folders)} zones in {self._root} can be read")
        return HeatReading(
            level=max((zone.level for zone in zones if zone.level is not None), key=lambda it: it.rank, default=None),
            celsius=max((zone.celsius for zone in zones), default=None),
        )


class NvidiaGpu:
    """The first NVIDIA GPU; without one, or without its driver, nothing is said, which is no failure."""

    name: Final = "nvidia.gpu"

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._nvml = nvml or Nvml()

    def read(self) -> HeatReading:
        """See `reading.Sensor`."""
        try:
            said = self._nvml.read()
        except NvmlError as error:
            raise SensorError(str(error)) from None
        if said is None:
            return HeatReading()
        return HeatReading(gpu_busy=said.busy, gpu_mhz=said.mhz, celsius=said.celsius, slowed=said.slowed)


def _zone(folder: Path) -> _Zone | None:
    try:
        celsius = int((folder / "temp").read_text()) / 1000
    except (OSError, ValueError):
        # A zone whose device is off (a radio) has no temperature.
        return None
    trips = list(_trips(folder))
    reached = [level for level, at in trips if celsius >= at]
    level = max(reached, key=lambda it: it.rank, default=ThermalLevel.NOMINAL) if trips else None
    return _Zone(celsius, level)


def _trips(folder: Path) -> Iterator[tuple[ThermalLevel, float]]:
    for file in folder.glob("trip_point_*_type"):
        try:
            level = _TRIPS.get(file.read_text().strip())
            celsius = int(file.with_name(file.name.removesuffix("type") + "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
        # A trip that is switched off is at or below zero.
        if level is not None and celsius > 0:
            yield level, celsius
