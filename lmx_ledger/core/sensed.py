"""What a machine says of itself at one moment: the words that sensors, the guard and events share."""

import enum
from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta, Struct

Bytes = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Pressure(enum.StrEnum):
    """How short of memory the system says that it is (macOS: kern.memorystatus_vm_pressure_level 1, 2, 4)."""

    NORMAL = "normal"
    WARN = "warn"
    CRITICAL = "critical"


class MemoryReading(Struct, frozen=True, kw_only=True):
    """The whole machine's memory at one moment, in bytes; None is what this machine does not say.

    `available_bytes` could be had without swapping. `cgroup_*` are of the limit on this process that leaves the least
    room, and what counts against it. `swap_in_bytes` and `swap_out_bytes` only grow, from the machine's start on.
    `stalled_some` and `stalled_full` are the shares of the last ten seconds in which a process, or every one of them,
    stood still for want of memory (Linux: /proc/pressure/memory).
    """

    total_bytes: Annotated[int, Meta(ge=1)]
    available_bytes: Bytes
    cgroup_limit_bytes: Bytes | None = None
    cgroup_used_bytes: Bytes | None = None
    swap_used_bytes: Bytes | None = None
    swap_in_bytes: Bytes | None = None
    swap_out_bytes: Bytes | None = None
    pressure: Pressure | None = None
    stalled_some: Share | None = None
    stalled_full: Share | None = None


class ThermalLevel(enum.StrEnum):
    """How hot the system says that it is, from cool to hot (macOS: com.apple.system.thermalpressurelevel 0 to 4)."""

    NOMINAL = "nominal"
    MODERATE = "moderate"
    HEAVY = "heavy"
    TRAPPING = "trapping"
    SLEEPING = "sleeping"

    @property
    def rank(self) -> int:
        """0 to 4, as macOS counts them."""
        return LEVELS.index(self)


LEVELS: Final = tuple(ThermalLevel)


class HeatReading(Struct, frozen=True, kw_only=True):
    """Heat, the GPU and the power mode at one moment; None is what this machine, or this sensor, does not say.

    `celsius` is the hottest that was measured, `gpu_busy` the share of time in which the GPU had work, `gpu_mhz` its
    clock meanwhile, `low_power` whether Low Power Mode is on. `slowed`: its driver itself says whether heat slows it.

    Several sensors say this of one machine, each its part, so that one that fails takes nothing along but that.
    """

    level: ThermalLevel | None = None
    celsius: float | None = None
    gpu_busy: float | None = None
    gpu_mhz: float | None = None
    low_power: bool | None = None
    slowed: bool | None = None


_MHZ: Final = (1.0, 10_000.0)
_CELSIUS: Final = (-50.0, 250.0)


def together(parts: Iterable[HeatReading]) -> HeatReading:
    """What they say between them: the first word on each, the hottest temperature, and no figure that cannot be."""
    readings = [plausible(part) for part in parts]
    said = {
        name: next((value for reading in readings if (value := getattr(reading, name)) is not None), None)
        for name in HeatReading.__struct_fields__
    }
    said["celsius"] = max((reading.celsius for reading in readings if reading.celsius is not None), default=None)
    return HeatReading(**said)


def plausible(reading: HeatReading) -> HeatReading:
    """Without what cannot be: no number, a share that is none, a clock or a temperature that no machine has."""
    return HeatReading(
        level=reading.level,
        celsius=_between(reading.celsius, *_CELSIUS),
        gpu_busy=_between(reading.gpu_busy, 0.0, 1.0),
        # A clock that stands still is a GPU that is switched off.
        gpu_mhz=_between(reading.gpu_mhz, *_MHZ),
        low_power=reading.low_power,
        slowed=reading.slowed,
    )


def _between(value: float | None, least: float, most: float) -> float | None:
    return value if value is not None and least <= value <= most else None
