"""What a sensor is, and how it fails."""

from typing import Protocol, TypeVar

_Reading_co = TypeVar("_Reading_co", covariant=True)


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
