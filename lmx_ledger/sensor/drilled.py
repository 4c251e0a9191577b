"""A sensor whose readings can be changed on their way, for a rehearsal: all behind it takes them as the machine's."""

from collections.abc import Callable
from typing import Generic, TypeVar

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
