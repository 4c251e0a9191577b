"""One model's line, its slots and its worker in a model of a run: as `serving.queue.AdmissionQueue`, but on a clock
that is told to it; no I/O.
"""

from bisect import insort
from collections.abc import Callable

from lmx_ledger.incident.simulation.demand import Job
from lmx_ledger.incident.simulation.worker import Stream, WorkerTime
from lmx_ledger.serving.queue import expected_wait_s, learned_s


class Run:
    """A request on its way: `ended` says what became of it, once something has (an answer, or a code)."""

    __slots__ = ("admitted_s", "came_s", "ended", "ended_s", "first_s", "job", "joined_s", "stream")

    def __init__(self, job: Job, owner: int) -> None:
        self.job = job
        self.stream = Stream(job.read_s, job.drawn_s, owner, 2.0**job.priority)
        self.came_s = job.came_s
        self.joined_s: float | None = None
        self.admitted_s: float | None = None
        self.first_s: float | None = None
        self.ended: str | None = None
        self.ended_s: float | None = None

    def waited_s(self, now_s: float) -> float:
        """For how long it has only waited, from the door on."""
        if self.joined_s is None:
            return 0.0
        until_s = self.ended_s if self.admitted_s is None else self.admitted_s
        return (now_s if until_s is None else until_s) - self.joined_s

    @property
    def ttft_ms(self) -> float | None:
        """From its arrival to its first token; None where there was none."""
        return None if self.first_s is None else (self.first_s - self.came_s) * 1e3

    @property
    def waited_ms(self) -> float:
        """In all, once it has ended; nothing for who was never let in."""
        return 0.0 if self.admitted_s is None and self.ended_s is None else self.waited_s(0.0) * 1e3


class Lane:
    """`away`: its worker is; `shed`: the guard has put it out; `held`: another model has its turn.

    `opens` says whether its weights are there, `room_for` whether there is memory for one more (if so, it has it).
    """

    def __init__(self, model: str, worker: WorkerTime, max_running: int, max_waiting: int) -> None:
        self.model = model
        self.worker = worker
        self.max_running, self.max_waiting = max_running, max_waiting
        self.line: list[Run] = []
        self.admitted: dict[Run, None] = {}
        self.away = self.shed = self.held = False
        self.held_s = 0.0
        self.opens: Callable[[], bool] = lambda: True
        self.room_for: Callable[[Run], bool] = lambda _: True
        self._mean_s: float | None = None
        self._usual_s = 1.0

    def expect(self, served_s: float) -> None:
        """So long requests take, before the first has been."""
        self._usual_s = served_s

    @property
    def running(self) -> int:
        """Slots taken."""
        return sum(run.job.size for run in self.admitted)

    @property
    def busy(self) -> bool:
        """Whether somebody runs in it or waits for it."""
        return bool(self.admitted) or (bool(self.line) and not self.held)

    @property
    def head(self) -> Run | None:
        """Who is next."""
        return self.line[0] if self.line else None

    def has_slots(self, run: Run) -> bool:
        """Whether it could be admitted if there were memory for it."""
        return self.running + run.job.size <= self.max_running

    def enter(self, run: Run, now_s: float) -> bool:
        """Join the line, behind those of the same or a higher priority; False: it is full."""
        run.joined_s = now_s
        if len(self.line) >= self.max_waiting and (self.line or not self._takes(run)):
            return False
        insort(self.line, run, key=lambda other: -other.job.priority)
        return True

    def pump(self, now_s: float) -> list[Run]:
        """Admit whoever can be."""
        found: list[Run] = []
        while self.line and self._takes(self.line[0]):
            run = self.line.pop(0)
            self.admitted[run], run.admitted_s = None, now_s
            found.append(run)
        return found

    def leave(self, run: Run, now_s: float, *, served: bool) -> None:
        """Its slot, or its place in line, is free; who was `served` says how long that takes."""
        if run in self.admitted:
            del self.admitted[run]
            if served and run.admitted_s is not None:
                self._mean_s = learned_s(self._mean_s, now_s - run.admitted_s)
        elif run in self.line:
            self.line.remove(run)

    def wait_s(self, now_s: float) -> float:
        """About how long somebody who comes now will wait."""
        ages = [now_s - run.admitted_s for run in self.admitted if run.admitted_s is not None]
        mean_s = self._usual_s if self._mean_s is None else self._mean_s
        return expected_wait_s(len(self.line), self.running, self.max_running, ages, mean_s)

    def _takes(self, run: Run) -> bool:
        return self.opens() and not self.away and not self.held and self.has_slots(run) and self.room_for(run)
