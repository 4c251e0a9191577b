"""Admission: a fixed number of places in the engine, a bounded line in front of them, by priority and then by time."""

import asyncio
import math
import time
from bisect import insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lmx_ledger.core.clock import mono_ns
from lmx_ledger.core.errors import QueueFull
from lmx_ledger.core.events import Cause
from lmx_ledger.serving.parts import LOAD, MEMORY, QUEUE


class Extent(NamedTuple):
    """How far one stream reaches: tokens that it has, and those that it may come to have."""

    tokens: int
    left: int


def expected_wait_s(waiting: int, running: int, max_running: int, ages_s: Sequence[float], mean_s: float) -> float:
    """About how long somebody who comes now will wait; 0 where there is a place.

    By Little's law: those before it, itself included, one lane's time each. `mean_s` is what a request takes; those
    who run now may take longer than any before: how old they are already (`ages_s`) says so.
    """
    if not waiting and running < max_running:
        return 0.0
    served_s = max(mean_s, sum(ages_s) / len(ages_s) if ages_s else 0.0)
    # Whoever waits beside free places waits for memory: there are only as many lanes as are running. Where none
    # runs the door is closed, and they will go in together.
    lanes = len(ages_s) if waiting and ages_s else max_running
    return (waiting + 1) / lanes * served_s


def learned_s(mean_s: float | None, served_s: float) -> float:
    """What a request takes, behind one more: an exponential mean over about five."""
    # The first one says more than any guess.
    return served_s if mean_s is None else mean_s + 0.2 * (served_s - mean_s)


class Place:
    """One request's claim on `size` places of the engine. `admitted` resolves when they are its own.

    `extents` are those of its streams, `cause` is the event of its request; `park` takes the streams out of the engine,
    to go on when there is room again.
    """

    def __init__(self, queue: "AdmissionQueue", size: int, priority: int, extents: Sequence[Extent]) -> None:
        self.size = size
        self.priority = priority
        self.extents = list(extents)
        self.cause: Cause = None
        self.park: Callable[[], None] | None = None
        self.since_s = time.monotonic()
        self.admitted_s: float | None = None
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue = queue
        self._came = queue.waited()
        self._admitted_with: dict[str, int] | None = None

    @property
    def position(self) -> int:
        """1 for the next in line, 0 once admitted."""
        return 0 if self.admitted.done() else self._queue.position_of(self)

    @property
    def waited(self) -> dict[str, int]:
        """Nanoseconds that it has stood in line (the last time), by what the line waited for."""
        until = self._admitted_with or self._queue.waited()
        return {what: ns - self._came.get(what, 0) for what, ns in until.items()}

    def admit(self) -> None:
        """The places are its own."""
        self._admitted_with = self._queue.waited()
        self.admitted_s = time.monotonic()
        self.admitted.set_result(None)

    def refuse(self, error: Exception) -> None:
        """Turn it away; whoever waits for it gets the error."""
        if not self.admitted.done():
            self.admitted.set_exception(error)
            self.admitted.exception()

    def again(self, extents: Sequence[Extent]) -> None:
        """Go back to the head of the line, with streams that have come so far."""
        self.extents = list(extents)
        self.admitted = asyncio.get_running_loop().create_future()
        self._queue.put_back(self)
        self._came, self._admitted_with = self._queue.waited(), None

    def leave(self) -> None:
        """Give the places, or the place in line, to the next; harmless when repeated."""
        self._queue.release(self)


class AdmissionQueue:
    """The line of one model. While closed (no worker serves it) nobody is admitted, and nobody is sent away for it."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._waiting: list[Place] = []
        self._admitted: dict[Place, None] = {}
        self._open = False
        self._closed_for = LOAD
        self._waits_for, self._since_ns = LOAD, mono_ns()
        self._waited = {LOAD: 0}
        self.held_s: float | None = None
        """Since when nobody is admitted, so that another model has its turn; None: it is not so."""
        self.room_for: Callable[[Place], bool] = lambda _: True
        """Whether there is memory for one more; if so it is reserved."""
        self.on_left: Callable[[Place], None] = lambda _: None
        self._mean_s = 1.0
        self._learned = False

    @property
    def running(self) -> int:
        """Places taken."""
        return sum(place.size for place in self._admitted)

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._waiting)

    def __contains__(self, place: Place) -> bool:
        """Whether it waits in line."""
        return place in self._waiting

    @property
    def head(self) -> Place | None:
        """Who is next."""
        return self._waiting[0] if self._waiting else None

    @property
    def youngest(self) -> Place | None:
        """Who was admitted last, of the lowest priority."""
        return min(reversed(self._admitted), key=lambda place: place.priority, default=None)

    def position_of(self, place: Place) -> int:
        """Its position in line, 1 for the next."""
        return self._waiting.index(place) + 1

    def enter(self, size: int, priority: int = 0, extents: Sequence[Extent] = (), cause: Cause = None) -> Place:
        """Join the line (behind those of the same or a higher priority), or go straight in where nobody waits.

        Raises:
            QueueFull: the line is at its bound; `retry_after_s` is when a place should be free.
        """
        place = Place(self, size, priority, extents)
        place.cause = cause
        if not self._waiting and self._takes(place):
            self._admit(place)
        elif len(self._waiting) >= self._max_waiting:
            retry = self.retry_after_s()
            raise QueueFull(
                f"{self.running} streams are running and {self.waiting} requests wait; retry in {retry} s",
                lmx={"running": self.running, "waiting": self.waiting},
                retry_after_s=retry,
            )
        else:
            # insort puts it behind its equals.
            insort(self._waiting, place, key=lambda other: -other.priority)
        self._look()
        return place

    def release(self, place: Place) -> None:
        """See `Place.leave`."""
        if place in self._admitted:
            del self._admitted[place]
            self.on_left(place)
            self.pump()
        elif place in self._waiting:
            self._waiting.remove(place)
            self.on_left(place)
            self.pump()
        self._look()

    def put_back(self, place: Place) -> None:
        """It was admitted, and waits again, before all others of its priority."""
        self._admitted.pop(place, None)
        self.on_left(place)
        ahead = sum(other.priority > place.priority for other in self._waiting)
        self._waiting.insert(ahead, place)
        self._look()

    def hold(self) -> None:
        """Admit nobody until `let_go`, so that another model has its turn."""
        self.held_s = time.monotonic()
        self._look()

    def let_go(self) -> None:
        """Admit again."""
        if self.held_s is not None:
            self.held_s = None
            self.pump()

    def hold_waiting(self, most: int) -> None:
        """Another bound for the line; whoever stands in it already stays."""
        self._max_waiting = most

    def open(self) -> None:
        """Admit: a worker serves the model."""
        self._open = True
        self.pump()

    def close(self, waiting_for: str = LOAD) -> None:
        """Admit nobody for now; who waits goes on waiting, for a worker or for what is said."""
        self._open, self._closed_for = False, waiting_for
        self._look()

    def closed_for(self, waiting_for: str) -> None:
        """It is another thing by now that is waited for; nothing where it is open."""
        if not self._open:
            self.close(waiting_for)

    def waited(self) -> dict[str, int]:
        """Nanoseconds since it was made, by what somebody in it would have waited for."""
        now = mono_ns()
        self._waited[self._waits_for] = self._waited.get(self._waits_for, 0) + now - self._since_ns
        self._since_ns = now
        return dict(self._waited)

    def refuse_waiting(self, error: Exception) -> None:
        """Turn away everybody in line."""
        while self._waiting:
            self._waiting.pop(0).refuse(error)

    def finished(self, served_s: float) -> None:
        """Learn how long a request is in the engine, for `wait_s` (exponential mean over about five)."""
        self._mean_s = learned_s(self._mean_s if self._learned else None, served_s)
        self._learned = True

    def expect(self, served_s: float) -> None:
        """So long requests took in an earlier run."""
        self._mean_s, self._learned = served_s, True

    def wait_s(self) -> float:
        """About how long somebody who comes now will wait; 0 where there is a place."""
        now_s = time.monotonic()
        ages = [now_s - place.admitted_s for place in self._admitted if place.admitted_s is not None]
        return expected_wait_s(self.waiting, self.running, self._max_running, ages, self._mean_s)

    def retry_after_s(self) -> int:
        """Seconds until somebody who comes now should find a place, between 1 and 60."""
        return max(1, min(60, math.ceil(self.wait_s())))

    def pump(self) -> None:
        """Admit whoever can be."""
        while self._waiting and self._takes(self._waiting[0]):
            self._admit(self._waiting.pop(0))
        self._look()

    def has_slots(self, place: Place) -> bool:
        """Whether it could be admitted if there were memory for it."""
        return self.running + place.size <= self._max_running

    def _takes(self, place: Place) -> bool:
        return self._open and self.held_s is None and self.has_slots(place) and self.room_for(place)

    def _admit(self, place: Place) -> None:
        self._admitted[place] = None
        place.admit()

    def _look(self) -> None:
        """What is waited for from now on."""
        self.waited()
        if not self._open:
            self._waits_for = self._closed_for
        elif self.held_s is not None or (self._waiting and self.has_slots(self._waiting[0])):
            self._waits_for = MEMORY
        else:
            self._waits_for = QUEUE
