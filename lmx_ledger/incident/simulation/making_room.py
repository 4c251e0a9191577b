"""Who makes room in a model of a run: one want after the other, by plan, as `daemon.budget.Budget` does; no I/O."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from lmx_ledger.incident.simulation.clock import SimClock, Soon
from lmx_ledger.incident.simulation.lane import Lane, Run
from lmx_ledger.incident.simulation.machine import Machine, Paged
from lmx_ledger.incident.simulation.room import Room
from lmx_ledger.memory.plan import Act, Need, Plan, Verdict

_LOOK_AGAIN_S: Final = 1.0
_LEAST_AGAIN_S: Final = 0.01
_STUCK_S: Final = 1.0


class _Want(NamedTuple):
    """Somebody waits for memory: the lane, its next request, what is lacking, and since when."""

    lane: Lane
    run: Run
    need: Need
    since_s: float


class MakingRoom:
    """`pump` admits whoever can be in a lane; `refuse` turns somebody away for whom there can never be room."""

    def __init__(
        self,
        clock: SimClock,
        room: Room,
        lanes: Mapping[str, Lane],
        machine: Machine,
        pump: Callable[[Lane], None],
        refuse: Callable[[Lane, Run], None],
    ) -> None:
        self._clock, self._room, self._lanes, self._machine = clock, room, lanes, machine
        self._pump, self._refuse = pump, refuse
        self._round = Soon(clock, self._make)
        self._moving_s = 0.0
        self._stuck_s: float | None = None
        self._breached = False
        self.page_ins: list[Paged] = []

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for memory that cannot be had just now."""
        return self._room.first is not None

    def look(self) -> None:
        """Something has changed: who waits, who has gone, the limit."""
        self._round.at(self._clock.now)

    def sense(self) -> None:
        """The guard of memory looks at what is held."""
        if self._room.binds and self._room.judge(self._room.used, self._clock.now):
            self._breached = True
            self.look()

    def load(self, lane: Lane) -> None:
        """Load a model that nobody asks for yet, if nobody's weights have to go for it."""
        tenant = self._room.tenants[lane.model]
        if tenant.there:
            return
        need, found = self._room.plan(self._room.need(lane.model, 0, 0, patient=True), self._clock.now)
        if self._room.binds and (found.verdict is not Verdict.FITS or _puts_out(found)):
            return
        self._carry_out(found)
        self._load(lane, need, self._clock.now)
        # It was not asked for: it has no turn.
        tenant.came_s = -math.inf

    def unload(self, lane: Lane) -> bool:
        """Put a model out that has nothing to do; whether it was."""
        tenant = self._room.tenants[lane.model]
        if not tenant.there or tenant.coming or lane.admitted or lane.line:
            return False
        self._room.unload(lane.model)
        self.look()
        return True

    def _make(self) -> None:
        while self._clock.now >= self._moving_s:
            self._room.first = None
            for lane in self._lanes.values():
                self._pump(lane)
            wants = self._wants()
            if not wants:
                for lane in self._lanes.values():
                    self._let_go(lane)
                self._relieve()
                return
            first = min(wants, key=lambda want: (-want.need.priority, want.since_s, want.lane.model))
            again_s = self._satisfy(first)
            if again_s is not None:
                self._room.first = first.need
                self._go_on(first, wants)
                self._round.at(self._clock.now + again_s)
                return
        # While weights move nothing is planned.
        self._round.at(self._moving_s)

    def _wants(self) -> list[_Want]:
        found: list[_Want] = []
        for lane in self._lanes.values():
            run, tenant = lane.head, self._room.tenants[lane.model]
            if run is None or lane.away or lane.shed or tenant.coming:
                continue
            if tenant.resident and (not lane.has_slots(run) or self._room.has(lane.model, run.job.id)):
                continue
            patient = tenant.resident and bool(lane.admitted)
            need = self._room.need(lane.model, run.job.room, run.job.size, patient=patient)
            found.append(_Want(lane, run, need, max(run.joined_s or 0.0, lane.held_s)))
        return found

    def _satisfy(self, want: _Want) -> float | None:
        """Make room and reserve it; how soon to look again when that cannot be done yet."""
        now_s = self._clock.now
        if not self._room.binds:
            self._reserve(want, want.need, now_s)
            return None
        need, found = self._room.plan(want.need, now_s)
        if found.verdict is Verdict.NEVER:
            self._refuse(want.lane, want.run)
            return None
        if found.breached and (found.verdict is Verdict.FITS or found.steps):
            self._room.judge(self._room.used + need.total, now_s)
        for step in found.steps:
            lane = self._lanes[step.model]
            if step.act is Act.YIELD and not lane.held:
                lane.held, lane.held_s = True, now_s
        moved_s = self._carry_out(found)
        if found.verdict is Verdict.WAIT:
            if not self._is_stuck(found):
                again_s = _LOOK_AGAIN_S if found.after_s is None else max(found.after_s - now_s, _LEAST_AGAIN_S)
                return max(min(again_s, _LOOK_AGAIN_S), moved_s)
            # What is nobody's is for this: nobody is left who could give anything.
            if self._room.used - self._room.reserve + need.total > self._room.limit:
                self._refuse(want.lane, want.run)
                return None
        self._stuck_s = None
        self._reserve(want, need, now_s + moved_s)
        return None

    def _is_stuck(self, found: Plan) -> bool:
        """Whether nothing under way will free what is missing, and has not for a while.

        What is missing is then what processes take beside their arrays, for which there is a reserve.
        """
        coming = any(tenant.coming for tenant in self._room.tenants.values())
        working = any(lane.admitted for lane in self._lanes.values())
        if found.after_s is not None or coming or working or self._room.lowered:
            self._stuck_s = None
            return False
        self._stuck_s = self._clock.now if self._stuck_s is None else self._stuck_s
        return self._clock.now - self._stuck_s > _STUCK_S

    def _carry_out(self, found: Plan) -> float:
        """What a plan takes back; how many seconds it takes until the weights have gone that it puts out."""
        return math.fsum(self._machine.page_out.takes_s(size) for size in self._room.carry_out(found.steps))

    def _reserve(self, want: _Want, need: Need, from_s: float) -> None:
        lane, job = want.lane, want.run.job
        tenant = self._room.tenants[lane.model]
        self._moving_s = max(self._moving_s, from_s)
        if not tenant.there:
            self._load(lane, need, from_s)
            return
        tenant.granted += need.total
        tenant.kv[job.id] = tenant.kv_bytes(job.room, job.size)
        if not tenant.out:
            self._clock.at(from_s, lambda: self._let_go(lane))
            return
        took_s = self._machine.page_in.takes_s(tenant.out_bytes)
        # They are on their way, and their room is nobody else's.
        tenant.coming, tenant.out, tenant.came_s = True, 0, math.inf

        def came() -> None:
            self.page_ins.append(Paged(self._clock.now, took_s * 1e3))
            self._came(lane, took_s)

        self._clock.at(from_s + took_s, came)

    def _load(self, lane: Lane, need: Need, from_s: float) -> None:
        self._room.loading(lane.model, need)
        took_s = self._room.tenants[lane.model].weights.load_s
        self._clock.at(from_s + took_s, lambda: self._came(lane, took_s))

    def _came(self, lane: Lane, took_s: float) -> None:
        """All of its weights are in memory, and its turn begins."""
        tenant = self._room.tenants[lane.model]
        tenant.coming, tenant.took_s = False, took_s
        if tenant.came_s == math.inf:
            tenant.came_s = self._clock.now
        self._let_go(lane)
        self.look()

    def _let_go(self, lane: Lane) -> None:
        lane.held = False
        self._pump(lane)

    def _go_on(self, first: _Want, wants: Sequence[_Want]) -> None:
        """Who is first waits for turns to end: until then those who have one do not stand still for it."""
        over = self._room.turns_over(first.need)
        for want in sorted(wants, key=lambda one: (one.since_s, one.lane.model)):
            tenant = self._room.tenants[want.lane.model]
            if want is first or not tenant.resident or want.lane.held or self._clock.now >= over[want.lane.model]:
                continue
            need, found = self._room.plan(want.need, self._clock.now)
            # Nobody's weights go for it: those would be what the first one has already.
            if found.verdict is Verdict.FITS and not _puts_out(found):
                self._carry_out(found)
                self._reserve(want, need, self._clock.now)

    def _relieve(self) -> None:
        """Nobody waits: what is idle goes while the limit is exceeded, or the threshold has just been breached."""
        if not self._room.binds:
            return
        if self._room.used <= self._room.limit and not self._breached:
            self._room.keep_more()
            return
        self._breached = False
        _, found = self._room.plan(Need("", patient=True), self._clock.now)
        self._moving_s = max(self._moving_s, self._clock.now + self._carry_out(found))


def _puts_out(found: Plan) -> bool:
    return any(step.act is Act.PAGE_OUT for step in found.steps)
