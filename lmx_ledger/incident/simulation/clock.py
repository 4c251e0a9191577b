"""The clock of a model of a run: what is to happen when, in order; what is put down first for a moment comes first."""

import heapq
from collections.abc import Callable


class SimClock:
    """`now` goes from one moment to the next, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, at_s: float, act: Callable[[], None]) -> None:
        """Do it then, or next where that is past."""
        self._count += 1
        heapq.heappush(self._coming, (max(at_s, self.now), self._count, act))

    def run(self, until_s: float, goes_on: Callable[[], bool]) -> None:
        """Do all that is to be done until then, and what follows from it, as long as it `goes_on`."""
        while goes_on() and self._coming and self._coming[0][0] <= until_s:
            self.now, _, act = heapq.heappop(self._coming)
            act()


class Soon:
    """Something that is done once more, however often it is asked for until then."""

    def __init__(self, clock: SimClock, act: Callable[[], None]) -> None:
        self._clock, self._act = clock, act
        self._due = float("inf")

    def at(self, at_s: float) -> None:
        """Do it then at the latest."""
        at_s = max(at_s, self._clock.now)
        if at_s < self._due:
            self._due = at_s
            self._clock.at(at_s, self._do)

    def _do(self) -> None:
        # It may have been asked for sooner, and done, since this was put down.
        if self._due == self._clock.now:
            self._due = float("inf")
            self._act()
