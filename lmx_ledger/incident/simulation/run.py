"""A run served again under other rules: its requests as they came, and a model of all that serves them; pure.

A discrete event simulation. What decides is asked itself: the planner, the guard of memory, the guard's signals and
stages. The line, its slots and the workers' time are models of theirs.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, NamedTuple

from lmx_ledger.guard.signals import BURN
from lmx_ledger.guard.stages import Decision, Off, On, Stage, StageChanged
from lmx_ledger.incident.rules import Course, Rules
from lmx_ledger.incident.simulation.clock import SimClock, Soon
from lmx_ledger.incident.simulation.demand import (
    ANSWERED,
    BACKPRESSURE,
    DECIDED,
    FAILED,
    INVALID,
    NO_MEMORY,
    QUEUE_FULL,
    REFUSED,
    TOO_LONG,
    Demand,
    Job,
)
from lmx_ledger.incident.simulation.gatekeeper import OWN, Gatekeeper, tokens_allowed
from lmx_ledger.incident.simulation.lane import Lane, Run
from lmx_ledger.incident.simulation.late import TTFT, Late
from lmx_ledger.incident.simulation.machine import Alert, Machine, Outage, Paged, Weights
from lmx_ledger.incident.simulation.making_room import MakingRoom
from lmx_ledger.incident.simulation.room import Limits, Room
from lmx_ledger.incident.simulation.worker import Done, Stream, WorkerTime

_LOOK_EVERY_S: Final = 1.0
LATELY_S: Final = 120.0
_PATIENCE_S: Final = 600.0
"""Who has not been served so long behind the last arrival never is."""


class Result(NamedTuple):
    """What became of every request, the weights that came back, and the most memory that was needed at once."""

    runs: list[Run]
    page_ins: list[Paged]
    peak: int = 0


class Simulation:
    """One run of it; `run` once."""

    def __init__(self, demand: Demand, machine: Machine, course: Course, base_us: int) -> None:
        self._machine, self._course, self._base_us = machine, course, base_us
        self._rules = course.at(base_us)
        self._clock = SimClock()
        # A model of which no event tells is there, and takes nothing.
        models = {job.model: Weights(job.model, there=True) for job in demand.jobs} | machine.models
        self._room = Room(models, machine.others, self._limits(), self._is_busy)
        self._lanes = {name: self._lane(name, demand) for name in models}
        self._making = MakingRoom(self._clock, self._room, self._lanes, machine, self._pump, self._never_fits)
        self._gate = Gatekeeper(self._rules)
        # Whoever names no conversation is one of its own.
        owners = {job.session or job.id: number for number, job in enumerate(demand.jobs)}
        self._runs = [Run(job, owners[job.session or job.id]) for job in demand.jobs]
        # Who comes behind the end of another one, by that one's id; None is nobody's.
        ids = {run.job.id for run in self._runs}
        self._behind = {run.job.behind: run for run in self._runs if run.job.behind in ids}
        self._of_stream: dict[Stream, tuple[Lane, Run]] = {}
        self._known = set(demand.known)
        self._recorded, self._here = Late(self._rules.config.slo), Late(self._rules.config.slo)
        for job in sorted(demand.jobs, key=lambda job: job.came_s + (job.ttft_ms or 0.0) / 1e3):
            if job.ttft_ms is not None:
                self._recorded.add(job.came_s + job.ttft_ms / 1e3, job.model, job.ttft_ms, job.waited_ms)
        self._burned = False
        self._in_system, self._unended = 0, len(self._runs)
        self._look_soon, self._sense_soon = Soon(self._clock, self._looked), Soon(self._clock, self._sensed)
        self._done: deque[tuple[Lane, Done]] = deque()
        self._follow = Soon(self._clock, self._followed)

    def run(self) -> Result:
        """Serve them all."""
        self._put_down()
        last_s = max((run.job.came_s for run in self._runs), default=0.0)
        self._clock.run(last_s + _PATIENCE_S, self._goes_on)
        for run in self._runs:
            # Whom nobody came to serve any more.
            run.ended = run.ended or FAILED
        return Result(self._runs, self._making.page_ins, self._room.peak)

    def _goes_on(self) -> bool:
        return self._unended > 0

    def _put_down(self) -> None:
        """All that comes from outside, in the order in which it counts where moments are the same."""
        machine = self._machine
        for at_us, rules in self._course.changes:
            if at_us >= self._base_us:
                self._at((at_us - self._base_us) / 1e6, self._configured, rules)
        for at_s, by in machine.lowered:
            self._at(at_s, self._lowered, by)
        # Of a model that nobody asks for it makes no difference.
        for out in (out for out in machine.outages if out.model in self._lanes):
            self._at(out.from_s, self._silent, out)
            self._at(out.gone_s, self._gone, out)
        for at_s, name in machine.tries:
            self._at(at_s, self._making.load, self._lanes[name])
        for at_s, name in machine.gone:
            self._at(at_s, self._making.unload, self._lanes[name])
        for at_s, signal in machine.signals:
            self._at(at_s, self._signalled, signal)
        for alert in machine.alerts:
            self._at(alert.at_s, self._alerted, alert)
        for run in self._runs:
            if run.job.behind not in self._behind:
                self._comes(run, run.job.came_s)

    def _at(self, at_s: float, act: Callable[..., object], *arguments: object) -> None:
        def now() -> None:
            act(*arguments)

        self._clock.at(at_s, now)

    def _lane(self, name: str, demand: Demand) -> Lane:
        queue, mine = self._rules.config.queue, [job for job in demand.jobs if job.model == name]
        speed = demand.speeds.get(name)
        worker = WorkerTime(
            speed.company if speed is not None else 0.0,
            self._rules.config.engine.prefill_gap,
            speed.draw_ms / 1e3 if speed is not None else 0.0,
        )
        lane = Lane(name, worker, queue.max_running, queue.max_waiting)
        if mine:
            lane.expect(median(job.read_s + job.drawn_s for job in mine))
        lane.opens = lambda: self._room.tenants[name].resident
        lane.room_for = lambda run: self._room.enter(name, run.job.id, run.job.room, run.job.size, self._clock.now)
        return lane

    def _is_busy(self, model: str) -> bool:
        return self._lanes[model].busy

    def _limits(self) -> Limits:
        memory = self._rules.config.memory
        limit = self._machine.limit if memory.limit == "auto" else memory.limit
        reserve = None if memory.kv_reserve == "auto" else memory.kv_reserve
        kept = None if self._rules.config.kv.ram == "auto" else self._rules.config.kv.ram
        return Limits(limit, memory.page_at, memory.page_to, reserve, kept)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _comes(self, run: Run, at_s: float) -> None:
        """It comes then; and where its client left, it does as long behind that."""
        run.came_s = at_s
        self._at(at_s + run.job.lead_s, self._arrived, run)
        if run.job.left_s is not None:
            self._at(at_s + run.job.left_s, self._left, run)

    def _arrived(self, run: Run) -> None:
        job, lane = run.job, self._lanes[run.job.model]
        if run.ended is not None:
            return
        if (refused := self._refused(job, lane)) is not None:
            self._over(run, refused)
            return
        if not lane.enter(run, self._clock.now):
            self._over(run, QUEUE_FULL)
            return
        self._in_system += 1
        if job.session is not None:
            self._known.add((job.session, job.model))
        self._pump(lane)
        if run.admitted_s is None:
            self._making.look()
        self._watch()

    def _refused(self, job: Job, lane: Lane) -> str | None:
        """With which code, before it joins the line; in the order in which the daemon asks."""
        if job.fate == REFUSED and job.code not in DECIDED:
            return job.code
        if job.size > lane.max_running:
            # As many choices as there are slots are allowed, and no more.
            return INVALID
        ceiling = tokens_allowed(self._rules.config, self._room.tenants[job.model].weights.context, self._gate)
        if job.prompt >= self._room.ceiling(job.model, ceiling):
            return TOO_LONG
        if self._gate.stage is Stage.NORMAL and lane.wait_s(self._clock.now) >= self._gate.impatient_s:
            # A flood comes faster than any tick.
            self._look()
        known = job.session is not None and (job.session, job.model) in self._known
        return BACKPRESSURE if lane.shed or not self._gate.admits(known=known) else None

    def _pump(self, lane: Lane) -> None:
        """Whoever can be admitted is, and its worker has it."""
        for run in lane.pump(self._clock.now):
            self._of_stream[run.stream] = lane, run
            # Its KV is fetched beside what the worker computes.
            self._at(self._clock.now + run.job.fetch_s, self._begun, lane, run)

    def _begun(self, lane: Lane, run: Run) -> None:
        if run.ended is None:
            self._later(lane, lane.worker.take(run.stream, self._clock.now))
            self._expect(lane)

    def _expect(self, lane: Lane) -> None:
        """Be there when something of its worker's comes to an end."""
        at_s = lane.worker.next_s()
        if at_s < math.inf:
            self._at(at_s, self._worked, lane, at_s)

    def _worked(self, lane: Lane, at_s: float) -> None:
        # Since it was put down others may have come or gone: then there is another moment.
        if lane.worker.next_s() == at_s:
            self._later(lane, lane.worker.advance(self._clock.now))
            self._expect(lane)

    def _later(self, lane: Lane, done: Done) -> None:
        """Something of its worker's came to an end: what follows comes when what is being done is done."""
        if done.read or done.drawn:
            self._done.append((lane, done))
            self._follow.at(self._clock.now)

    def _followed(self) -> None:
        while self._done:
            lane, done = self._done.popleft()
            for stream in done.read:
                self._read(stream)
            for stream in done.drawn:
                # Its client may have left in the same moment.
                _, run = self._of_stream.pop(stream, (lane, None))
                if run is not None:
                    self._end(lane, run, FAILED if run.job.fate == FAILED else ANSWERED)

    def _read(self, stream: Stream) -> None:
        _, run = self._of_stream.get(stream, (None, None))
        if run is not None:
            run.first_s = self._clock.now
            waited_ms = run.waited_s(run.first_s) * 1e3
            self._here.add(run.first_s, run.job.model, run.ttft_ms or 0.0, waited_ms)

    def _end(self, lane: Lane, run: Run, what: str) -> None:
        self._over(run, what)
        run.ended_s = self._clock.now
        self._in_system -= 1
        lane.leave(run, self._clock.now, served=what == ANSWERED)
        self._room.leave(lane.model, run.job.id, self._clock.now)
        self._pump(lane)
        self._making.look()

    def _left(self, run: Run) -> None:
        if run.ended is not None:
            return
        if run.joined_s is None:
            self._over(run, run.job.fate)
            return
        lane = self._lanes[run.job.model]
        if self._of_stream.pop(run.stream, None) is not None:
            self._later(lane, lane.worker.drop(run.stream, self._clock.now))
            self._expect(lane)
        self._end(lane, run, run.job.fate)

    def _over(self, run: Run, what: str) -> None:
        run.ended = what
        self._unended -= 1
        if (following := self._behind.get(run.job.id)) is not None:
            self._comes(following, self._clock.now + following.job.think_s)

    def _never_fits(self, lane: Lane, run: Run) -> None:
        self._end(lane, run, NO_MEMORY)

    # --- what the guard sees -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look again at the next full second, and as often as the sensors are read."""
        if self._gate.enabled:
            self._look_soon.at((self._clock.now // _LOOK_EVERY_S + 1) * _LOOK_EVERY_S)
        if self._room.binds:
            every_s = self._rules.config.sensors.every
            self._sense_soon.at((self._clock.now // every_s + 1) * every_s)

    def _looked(self) -> None:
        self._look()
        if self._in_system or not self._gate.calm:
            self._watch()

    def _sensed(self) -> None:
        self._making.sense()
        if self._in_system or self._room.breached:
            self._watch()

    def _look(self) -> None:
        wait_s = max((lane.wait_s(self._clock.now) for lane in self._lanes.values()), default=0.0)
        full = 0.0
        if self._making.waited_for and self._room.limit:
            full = self._room.used / self._room.limit
        burning = sum(map(self._burns_now, self._gate.alerts.values()))
        self._decided(self._gate.look(self._clock.now, wait_s, full, burning))

    def _decided(self, found: Sequence[Decision]) -> None:
        for one in found:
            if not isinstance(one, StageChanged):
                continue
            if (one.before, one.after) == (Stage.BACKPRESSURE, Stage.SHEDDING):
                self._shed()
            elif (one.before, one.after) == (Stage.SHEDDING, Stage.BACKPRESSURE):
                for lane in self._lanes.values():
                    lane.shed = False

    def _shed(self) -> None:
        """Whoever is idle goes, but for those that are pinned, and the primary one."""
        tenants = self._room.tenants
        primary = max(tenants, key=lambda name: tenants[name].weights.priority)
        for name, lane in self._lanes.items():
            if name != primary and not tenants[name].weights.pinned:
                lane.shed = self._making.unload(lane)

    # --- what comes from outside -------------------------------------------------------------------------------------

    def _configured(self, rules: Rules) -> None:
        self._rules = rules
        self._gate.obey(rules)
        self._room.limits = self._limits()
        for lane in self._lanes.values():
            lane.max_waiting = rules.config.queue.max_waiting
        self._making.look()

    def _lowered(self, by: int) -> None:
        self._room.lowered = by
        self._making.look()
        self._watch()

    def _silent(self, out: Outage) -> None:
        lane = self._lanes[out.model]
        self._later(lane, lane.worker.leave(self._clock.now))

    def _gone(self, out: Outage) -> None:
        lane = self._lanes[out.model]
        lane.away = True
        if out.until_s < math.inf:
            self._at(out.until_s, self._back, lane)

    def _back(self, lane: Lane) -> None:
        lane.worker.come(self._clock.now)
        lane.away = False
        self._expect(lane)
        self._pump(lane)
        self._making.look()

    def _signalled(self, signal: On | Off) -> None:
        if signal.name == BURN:
            self._burned = isinstance(signal, On)
            return
        moved = signal._replace(at_us=int(self._clock.now * 1e6))
        self._decided(self._gate.outside(moved))
        self._watch()

    def _alerted(self, alert: Alert) -> None:
        self._gate.alert(alert, burns=self._burns(alert))
        self._watch()

    def _burns(self, alert: Alert) -> bool:
        """Whether the requests of this model of the run burn the budget as fast as it takes, too.

        By how large a share came late so far, against how large a share did as recorded.
        """
        if not alert.on or alert.objective not in OWN:
            return alert.on
        then = self._recorded.of(alert.objective, alert.model, self._clock.now)
        here = self._here.of(alert.objective, alert.model, self._clock.now)
        return alert.on if not then or here is None else alert.burn * here / then >= alert.factor

    def _burns_now(self, alert: Alert) -> bool:
        """Whether its budget is used up faster than it lasts, by what was answered lately.

        Of objectives that the model knows nothing of: whether the guard saw any alert burn just then.
        """
        if alert.objective not in OWN:
            return self._burned
        slo = self._rules.config.slo
        target = slo.ttft.target if alert.objective == TTFT else slo.queue_wait.target
        share = self._here.of(alert.objective, alert.model, self._clock.now, self._clock.now - LATELY_S)
        return share is not None and share > 1 - target
