"""Sensors whose readings can be changed on their way, for rehearsals: all behind them takes those as the machine's."""

from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from msgspec.structs import replace

from lmx_ledger.core.sensed import HeatReading, MemoryReading
from lmx_ledger.sensor.choose import Sensors
from lmx_ledger.sensor.reading import Sensor

_R = TypeVar("_R")


class Drilled(Generic[_R]):
    """As the sensor that it stands before, but for what `change` makes of its readings while there is one."""

    def __init__(self, sensor: Sensor[_R]) -> None:
        self._sensor = sensor
        self.change: Callable[[_R], _R] | None = None

    @property
    def name(self) -> str:
        """See `reading.Sensor`."""
        return self._sensor.name

    def read(self) -> _R:
        """See `reading.Sensor`."""
        reading, change = self._sensor.read(), self.change
        return reading if change is None else change(reading)


class _Silent:
    """A sensor of nothing, before which a rehearsal can stand on a machine that says nothing of its GPU."""

    name: Final = "rehearsed"

    def read(self) -> HeatReading:
        """See `reading.Sensor`."""
        return HeatReading()


class Rehearsable(NamedTuple):
    """All sensors of a daemon, ready for rehearsals."""

    memory: Drilled[MemoryReading]
    heat: tuple[Drilled[HeatReading], ...]

    @classmethod
    def of(cls, sensors: Sensors) -> "Rehearsable":
        """Those, and of heat one more behind them, which says nothing by itself."""
        return cls(Drilled(sensors.memory), tuple(Drilled(sensor) for sensor in (*sensors.heat, _Silent())))

    def seem_hot(self, gpu_mhz: float) -> None:
        """From now on the GPU is busy at that clock, whatever it does."""
        self.heat[-1].change = lambda _: HeatReading(gpu_busy=1.0, gpu_mhz=gpu_mhz)
        for sensor in self.heat[:-1]:
            # A driver's own word on heat would be taken before the clock's.
            sensor.change = lambda reading: replace(reading, gpu_busy=None, gpu_mhz=None, slowed=None)

    def as_they_are(self) -> None:
        """No more of it."""
        self.memory.change = None
        for sensor in self.heat[:-1]:
            sensor.change = None
        if self.heat[-1].change is not None:
            # Heat is over when what told of it tells of none, and that may be nobody else.
            self.heat[-1].change = lambda _: HeatReading(gpu_busy=0.0)

    def forget(self) -> None:
        """What was rehearsed is over for whoever looked, too: only the machine is heard from now on."""
        self.heat[-1].change = None
