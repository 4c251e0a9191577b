"""The words of the sensors: what a reading has, what a sensor is, and how it fails."""

import enum
from typing import Annotated, Protocol, TypeVar

from msgspec import Meta, Struct

Bytes = Annotated[int, Meta(ge=0)]
_Reading_co = TypeVar("_Reading_co", covariant=True)


class Pressure(enum.StrEnum):
    """How short of memory the system says that it is (macOS: kern.memorystatus_vm_pressure_level 1, 2, 4)."""

    NORMAL = "normal"
    WARN = "warn"
    CRITICAL = "critical"


class MemoryReading(Struct, frozen=True, kw_only=True):
    """The whole machine's memory at one moment, in bytes; None is what this machine does not say.

    `available_bytes` could be had without swapping. `cgroup_*` are of the limit on this process that leaves the least
    room, and what counts against it. `swap_in_bytes` and `swap_out_bytes` only grow, from the machine's start on.
    """

    total_bytes: Annotated[int, Meta(ge=1)]
    available_bytes: Bytes
    cgroup_limit_bytes: Bytes | None = None
    cgroup_used_bytes: Bytes | None = None
    swap_used_bytes: Bytes | None = None
    swap_in_bytes: Bytes | None = None
    swap_out_bytes: Bytes | None = None
    pressure: Pressure | None = None


class SensorError(Exception):
    """A sensor cannot be read just now; the message names what failed. It may be tried again."""


class Sensor(Protocol[_Reading_co]):
    """Reads one kind of reading. It may block: not for an event loop."""

    @property
    def name(self) -> str:
        """What it is called in events."""

    def read(self) -> _Reading_co:
        """The machine as it is now.

        Raises:
            SensorError: it cannot be read.
        """
