"""Memory: nothing is loaded, admitted or grown before room is reserved for it, and room is made by plan."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import Conflict, InsufficientMemory
from lmx_ledger.core.settings import Settings
from lmx_ledger.core.units import show_bytes
from lmx_ledger.daemon.paging import Pager
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.exit import Exit
from lmx_ledger.engine.protocol import Loaded, Paged, RoomSet, Step, first_room, growth_of_room
from lmx_ledger.engine.stream import WorkerDied
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.memory import plan as planner
from lmx_ledger.memory.holding import LEARNED, MOST_LEARNED, Holding
from lmx_ledger.memory.plan import Account, Act, Need, Plan, Policy, Verdict, plan, reserve_of
from lmx_ledger.memory.shared import SharedAccount
from lmx_ledger.serving.models import PAGED, ModelState, ModelTable, ServedModel
from lmx_ledger.serving.queue import Place

_KV_SHARE: Final = 16
_KEPT_SHARE: Final = 8
_FIRST: Final = 1_000_000
"""Priority of a place in line that is an operator's."""
_LOOK_AGAIN_S: Final = 1.0
_UNLEARN: Final = 0.999
"""What a death taught is forgotten by so much with each good step: it may not have been for lack of memory."""
PARK_AT: Final = 16
"""Tokens before its cache is full at which a stream stops that can have no more."""


class Want(NamedTuple):
    """What somebody waits for: a load, weights to come back, or KV. `place` waits first; `since_s` says how long."""

    model: ServedModel
    reason: str
    need: Need
    since_s: float
    cause: ev.Cause
    place: Place | None = None


class _Streams(NamedTuple):
    kv: dict[object, int]
    longest: dict[object, int]


class _Load(NamedTuple):
    weights: int
    streams: _Streams
    patient: bool
    since_s: float
    cause: ev.Cause
    granted: "asyncio.Future[int | None]"


class Guard(Protocol):
    """Who judges what is used, and lowers the limit while others need memory."""

    @property
    def limit_bytes(self) -> int:
        """The limit in force."""

    async def judge(self, reserved_bytes: int) -> int | None:
        """So much is about to be reserved: the event of the breach that this is, None where it is none."""


class Foretold:
    """How well the workers foretold their peaks."""

    def __init__(self) -> None:
        self.steps = self.under = self.near = 0
        self.worst_under = self.predicted_peak = self.measured_peak = 0

    def add(self, step: Step) -> None:
        """One round of a worker's loop."""
        if not step.predicted_bytes:
            return
        missing = step.peak_bytes - step.predicted_bytes
        self.steps += 1
        self.under += missing > 0
        self.near += abs(missing) <= step.peak_bytes / 10
        self.worst_under = max(self.worst_under, missing)
        self.predicted_peak = max(self.predicted_peak, step.predicted_bytes)
        self.measured_peak = max(self.measured_peak, step.peak_bytes)

    def public(self) -> dict[str, int]:
        """A part of `/lmx/memory`."""
        return {
            "steps": self.steps,
            "under": self.under,
            "within_a_tenth": self.near,
            "worst_under_bytes": self.worst_under,
            "predicted_peak_bytes": self.predicted_peak,
            "measured_peak_bytes": self.measured_peak,
        }


class Budget:
    """Of all models of this daemon. One task makes room, for one want after the other; admission never waits for it."""

    def __init__(
        self,
        table: ModelTable,
        ledger: Ledger,
        settings: Settings,
        pager: Pager,
        shared: SharedAccount,
        configured: Callable[[], int],
    ) -> None:
        """`configured` is the limit that the operator set."""
        self._table, self._ledger, self._settings, self._pager = table, ledger, settings, pager
        self._shared, self._configured = shared, configured
        self._holdings: dict[str, Holding] = {}
        self._loads: dict[str, _Load] = {}
        self._told: dict[str, Foretold] = {}
        self._scales: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._first: Want | None = None
        self._lowered: int | None = None
        # The breach that goes on, and the one for which nothing has gone yet.
        self._breach: int | None = None
        self._breached: int | None = None
        self._growing: dict[Place, int] = {}
        self._pumping = False
        self.guard: Guard | None = None
        pager.on_moved = self._moved

    # --- what there is -----------------------------------------------------------------------------------------------

    @property
    def limit_bytes(self) -> int:
        """The limit in force."""
        return self.guard.limit_bytes if self.guard is not None else self.configured_bytes

    @property
    def configured_bytes(self) -> int:
        """The limit that the operator set."""
        return self._configured()

    @property
    def reserved_bytes(self) -> int:
        """What is reserved for models."""
        return sum(holding.total for holding in self._holdings.values())

    @property
    def used_bytes(self) -> int:
        """What the workers hold, beyond what empty ones do."""
        return sum(_held(model.worker) for model in self._table.all() if model.worker is not None)

    @property
    def floor_bytes(self) -> int:
        """What is in flight: nothing lowers the limit beneath it."""
        busy = [
            self._holdings[model.id] for model in self._table.all() if model.in_flight and model.id in self._holdings
        ]
        return self._reserve + sum(holding.needs() for holding in busy)

    @property
    def _reserve(self) -> int:
        return reserve_of(self.configured_bytes)

    def account(self) -> Account:
        """As the planner is given it."""
        lines = []
        for model in self._table.all():
            holding = self._holdings.get(model.id)
            if holding is not None:
                waits = model.queue.waiting > 0 and model.queue.held_s is None and model.state is ModelState.RESIDENT
                coming = model.state is ModelState.LOADING or self._pager.is_coming(model)
                busy = model.in_flight > 0 or waits or coming
                lines.append(holding.line(busy=busy, pinned=model.pinned, priority=model.priority))
        return Account(self.limit_bytes, self._reserve, tuple(lines), self._shared.others())

    def public(self) -> dict[str, Any]:
        """`/lmx/memory`."""
        account = self.account()
        lines = account.lines
        policy = self._policy
        return {
            "limit_bytes": account.limit,
            "configured_bytes": self.configured_bytes,
            "used_bytes": account.used,
            "used_fraction": round(account.used / account.limit, 4) if account.limit else 1.0,
            "measured_bytes": self.used_bytes,
            "weights_bytes": sum(line.weights for line in lines),
            "kv_bytes": sum(line.kv for line in lines),
            "kept_bytes": sum(self._holdings[line.model].kept for line in lines),
            "working_bytes": sum(line.working + line.spare for line in lines),
            "reserved_bytes": account.reserve,
            "others_bytes": account.others,
            "page_at": policy.page_at,
            "page_to": policy.page_to,
            "accounts": [holding.public() for holding in self._holdings.values()],
            "foretold": {name: told.public() for name, told in self._told.items()},
            "waiting": None if self._first is None else {"model": self._first.model.id, "for": self._first.reason},
        }

    def ceiling(self, model: ServedModel, most: int) -> int:
        """The longest prompt and answer, in tokens, that the model could have with all that may go gone."""
        holding = self._holdings.get(model.id)
        if holding is None or not holding.shape.bytes(1):
            return most

        def size_of(tokens: int) -> int:
            return holding.kv_bytes(tokens) + holding.working(tokens)

        return planner.ceiling(self.account(), model.id, sum(holding.layers), size_of, most)

    def kept_bytes(self) -> int:
        """Room for KV at rest that a model is given, where there is room."""
        ram = self._settings.now.kv.ram
        return self.configured_bytes // _KEPT_SHARE if ram == "auto" else ram

    # --- loads -------------------------------------------------------------------------------------------------------

    async def admit_load(self, model: ServedModel, weights: int, cause: ev.Cause, *, patient: bool) -> int | None:
        """Wait until there is room for a model that is about to be loaded; what its arrays may take.

        None: there is none without taking it from others, and it is `patient`.

        Raises:
            InsufficientMemory: it can never fit.
        """
        before = self._holdings.get(model.id)
        # What its last worker was asked goes on with the next.
        kept_on = _Streams(before.kv, before.longest) if before is not None else _Streams({}, {})
        self.forget(model)
        granted: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._loads[model.id] = _Load(weights, kept_on, patient, time.monotonic(), cause, granted)
        self._wake.set()
        try:
            return await granted
        finally:
            self._loads.pop(model.id, None)

    def loaded(self, model: ServedModel, worker: Worker, loaded: Loaded, *, asked: bool) -> None:
        """Its worker has measured what it takes. `asked`: somebody waits for it, and it has its turn."""
        holding = self._holdings[model.id]
        holding.loaded(loaded, time.monotonic() if asked else -math.inf)
        model.queue.room_for = lambda place: self._may_enter(model, place)
        model.queue.on_left = lambda place: self._left(model, place)
        told = self._told.setdefault(model.id, Foretold())

        def measured(step: Step) -> None:
            self._scales[model.id] = max(self.scale(model) * _UNLEARN, 1.0)
            holding.active = step.active_bytes
            holding.overhead = max(step.process_bytes - step.active_bytes - step.kept_bytes, 0)
            told.add(step)

        worker.on_memory = measured
        needed = holding.needs()
        self._grant(holding, max(needed, min(holding.granted, needed + self._slack(needed - holding.granted))), worker)

    def kept_of(self, model: ServedModel) -> int:
        """Room that it has for KV at rest."""
        return self._holdings[model.id].kept

    def used_s(self, model: ServedModel) -> float:
        """When it was asked last or came, by the monotonic clock."""
        holding = self._holdings.get(model.id)
        return max(holding.used_s, holding.came_s) if holding is not None else time.monotonic()

    async def bring_back(self, model: ServedModel, cause: ev.Cause) -> None:
        """Until all of a paged model is in memory again, because an operator wants it.

        Raises:
            InsufficientMemory: it does not fit.
        """
        place = model.queue.enter(0, _FIRST, (), None)
        try:
            place.cause = cause
            self._wake.set()
            await place.admitted
        finally:
            place.leave()

    def scale(self, model: ServedModel) -> float:
        """How much more than foretold its passes took earlier workers."""
        return self._scales.get(model.id, 1.0)

    def exited(self, model: ServedModel, died: Exit) -> None:
        """Its worker is gone, and what that held; where memory was what it lacked, more is reserved from now on."""
        if died.out_of_memory:
            self._scales[model.id] = min(self.scale(model) * LEARNED, MOST_LEARNED)
        if (holding := self._holdings.get(model.id)) is not None:
            holding.active = 0
        self._wake.set()

    def forget(self, model: ServedModel) -> None:
        """It holds nothing any more."""
        if (holding := self._holdings.pop(model.id, None)) is not None:
            self._shared.release(self.reserved_bytes)
            del holding
        self._wake.set()

    # --- admission ---------------------------------------------------------------------------------------------------

    def _may_enter(self, model: ServedModel, place: Place) -> bool:
        """Reserve what a request begins with, if that takes nothing from anybody."""
        holding = self._holdings.get(model.id)
        if holding is None:
            return True
        if place not in holding.kv:
            kv, longest = _extent(holding, place)
            extra = holding.needs(kv, longest) - holding.granted
            if extra > 0 and not self._take(holding, extra):
                if not self._pumping:
                    self._wake.set()
                return False
            holding.kv[place], holding.longest[place] = kv, longest
        holding.used_s = time.monotonic()
        return True

    def grow(self, model: ServedModel, place: Place, room: int, left: int) -> int:
        """One of a request's streams has `left` tokens before its cache of `room` is full: its room from then on.

        As before where there is no memory for more yet. Where one comes to its end so, the youngest of its model's
        requests is parked, which goes on when there is.
        """
        holding = self._holdings.get(model.id)
        grown = room + growth_of_room(room)
        if holding is None or place not in holding.kv:
            return grown
        more = holding.kv_bytes(grown) - holding.kv_bytes(room)
        extra = holding.needs(more, grown) - holding.granted
        if extra > 0 and not self._take(holding, extra, page_at=1.0):
            self._growing[place] = more
            self._wake.set()
            if left <= PARK_AT and (youngest := model.queue.youngest) is not None and youngest.park is not None:
                youngest.park()
            return room
        self._growing.pop(place, None)
        holding.kv[place] += more
        holding.longest[place] = max(holding.longest[place], grown)
        return grown

    def _left(self, model: ServedModel, place: Place) -> None:
        self._growing.pop(place, None)
        if (load := self._loads.get(model.id)) is not None:
            load.streams.kv.pop(place, None)
            load.streams.longest.pop(place, None)
        if (holding := self._holdings.get(model.id)) is not None:
            holding.kv.pop(place, None)
            holding.longest.pop(place, None)
            holding.used_s = time.monotonic()
        self._wake.set()

    def _take(self, holding: Holding, extra: int, *, page_at: float | None = None) -> bool:
        """Grant so much more, and some to spare, where that breaches nothing and nobody waits who came before."""
        others, limit = self._shared.others(), self.limit_bytes
        used = self.reserved_bytes + self._reserve + others + extra
        first = self._first
        if first is not None and first.model.id != holding.model and used + first.need.total > limit:
            return False
        at = self._policy.page_at if page_at is None else page_at
        if used > at * limit:
            return False
        slack = self._slack(extra)
        return self._grant(holding, holding.granted + extra + slack) or self._grant(holding, holding.granted + extra)

    def _slack(self, extra: int) -> int:
        """Bytes that a worker gets beyond what it needs: with them it reads in larger pieces and joins its batches."""
        used = self.reserved_bytes + self._reserve + self._shared.others() + extra
        return max(int((self._policy.page_to * self.limit_bytes - used) / 4), 0)

    def _grant(self, holding: Holding, size: int, worker: Worker | None = None) -> bool:
        """Let its worker take so much in all; False where other daemons have what is missing."""
        more = size - holding.granted
        if more > 0:
            total = self.reserved_bytes + more
            if not self._shared.reserve(total + self._reserve, self.limit_bytes):
                return False
        holding.granted = size
        if more < 0:
            self._shared.release(self.reserved_bytes)
        worker = worker or self._worker(holding)
        if worker is not None:
            worker.set_room(size, holding.kept)
        return True

    def _worker(self, holding: Holding) -> Worker | None:
        return next((model.worker for model in self._table.all() if model.id == holding.model), None)

    # --- room that is made -------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> Policy:
        memory = self._settings.now.memory
        return Policy(memory.page_at, memory.page_to)

    def on_limit(self, limit_bytes: int, seq: int | None) -> None:
        """Another limit is in force: what is over it goes as far as it is idle."""
        del limit_bytes
        self._lowered = seq
        self._wake.set()

    def on_breach(self, seq: int | None) -> None:
        """The threshold is breached by what is held: what is idle goes."""
        self._breach = self._breached = seq
        self._wake.set()

    def on_cleared(self, seq: int | None) -> None:
        """It is cleared."""
        del seq
        self._breach = self._breached = None

    def look(self) -> None:
        """Something has changed: the limit, a pin, who waits."""
        self._wake.set()

    async def run(self) -> None:
        """Make room for whoever waits, until cancelled."""
        while True:
            after_s = await self._round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), after_s)
            self._wake.clear()

    async def _round(self) -> float | None:
        """All wants that can be satisfied; how soon to look again when one cannot."""
        self._first, self._pumping = None, True
        for model in self._table.all():
            model.queue.pump()
        self._pumping = False
        while wants := self._wants():
            want = min(wants, key=lambda one: (-one.need.priority, one.since_s))
            after_s = await self._satisfy(want)
            if after_s is not None:
                self._first = want
                return after_s
        for model in self._table.all():
            model.queue.let_go()
        await self._relieve()
        return None

    def _wants(self) -> list[Want]:
        wants = []
        for name, load in self._loads.items():
            model = next(model for model in self._table.all() if model.id == name)
            if not load.granted.done() and not (load.patient and self._comes_behind(model)):
                working, kv = Holding.working_of_load(load.weights), sum(load.streams.kv.values())
                need = Need(name, load.weights, kv, working, model.priority, patient=load.patient)
                wants.append(Want(model, "load", need, load.since_s, load.cause))
        for model in self._table.all():
            holding, head = self._holdings.get(model.id), model.queue.head
            if holding is None or self._pager.is_coming(model) or model.id in self._loads:
                continue
            since_s = max(head.since_s, model.queue.held_s or 0.0) if head is not None else 0.0
            if head is not None and model.state in PAGED:
                kv, longest = _extent(holding, head)
                extra = max(holding.needs(kv, longest) + holding.out_bytes - holding.granted, 0)
                weights = min(holding.out_bytes, extra)
                wants.append(
                    Want(
                        model,
                        "page_in",
                        Need(model.id, weights, extra - weights, 0, model.priority),
                        since_s,
                        head.cause,
                        head,
                    )
                )
            elif head is not None and model.state is ModelState.RESIDENT and model.queue.has_slots(head):
                kv, longest = _extent(holding, head)
                extra = max(holding.needs(kv, longest) - holding.granted, 0)
                if extra or model.queue.held_s is not None:
                    need = Need(model.id, 0, extra, 0, model.priority, patient=model.in_flight > 0)
                    wants.append(Want(model, "kv", need, since_s, head.cause, head))
            for place, more in self._growing.items():
                if place in holding.kv:
                    extra = max(holding.needs(more) - holding.granted, 0)
                    need = Need(model.id, 0, extra, 0, model.priority, patient=True)
                    wants.append(Want(model, "kv", need, place.since_s, place.cause, place))
        return wants

    def _comes_behind(self, model: ServedModel) -> bool:
        """Whether models that the configuration names before it are not so far yet: memory is theirs first."""
        for other in self._table.all():
            if other is model:
                return False
            if not other.settled.is_set() and other.id not in self._holdings and other.id not in self._loads:
                return True
            if (load := self._loads.get(other.id)) is not None and not load.granted.done():
                return True
        return False

    async def _satisfy(self, want: Want) -> float | None:
        """Make room and reserve it; how soon to look again when that cannot be done yet."""
        found, need = self._found(want)
        if found.verdict is Verdict.NEVER:
            self._refuse(want, found.short_by)
            return None
        if (
            want.reason == "load"
            and need.patient
            and (found.verdict is not Verdict.FITS or any(step.act is Act.PAGE_OUT for step in found.steps))
        ):
            # Nobody has asked for it yet: what others have stays theirs.
            self._loads[want.model.id].granted.set_result(None)
            return None
        cause = await self._write_down(want, need, found)
        cause = await self._carry_out(found, cause)
        again_s = _LOOK_AGAIN_S if found.after_s is None else max(found.after_s - time.monotonic(), 0.01)
        if found.verdict is Verdict.WAIT:
            return min(again_s, _LOOK_AGAIN_S)
        account = self.account()
        if account.used + need.total > account.limit or not self._reserve_for(want, need, account, cause):
            # A worker holds more by now than it was to: with what is known from that it is planned anew.
            return 0.01
        return None

    def _found(self, want: Want) -> tuple[Plan, Need]:
        """The plan for it; where KV needs room, for more than the one request wants."""
        account, now_s, policy = self.account(), time.monotonic(), self._policy
        if want.reason == "kv" and want.need.total and account.used + want.need.total > policy.page_at * account.limit:
            reserve = self._settings.now.memory.kv_reserve
            wanted = account.limit // _KV_SHARE if reserve == "auto" else reserve
            more = want.need._replace(kv=max(want.need.kv, wanted))
            if (found := plan(account, more, policy, now_s)).verdict is Verdict.FITS:
                return found, more
        return plan(account, want.need, policy, now_s), want.need

    async def _write_down(self, want: Want, need: Need, found: Plan) -> ev.Cause:
        """What is decided, before it is done; the event that what follows is because of."""
        cause = want.cause
        if found.breached and self.guard is not None:
            self._breach = await self.guard.judge(self.account().used + need.total) or self._breach
            cause = self._breach or cause
        yielding = [
            step for step in found.steps if step.act is Act.YIELD and self._table.find(step.model).queue.held_s is None
        ]
        if not yielding and not any(step.act in {Act.KEPT, Act.PAGE_OUT} for step in found.steps):
            return cause
        victims = dict.fromkeys(step.model for step in found.steps if step.act is not Act.SPARE)
        planned = ev.PagingPlanned(
            need_bytes=need.total,
            victims=list(victims),
            reason=want.reason,
            steps=[(step.act.value, step.model, step.bytes, step.layers) for step in found.steps],
            short_by_bytes=found.short_by,
            account=_told(self.account()),
        )
        return await self._ledger.commit(self._event(want.model, planned, cause)) or cause

    async def _carry_out(self, found: Plan, cause: ev.Cause) -> ev.Cause:
        for step in found.steps:
            model, holding = self._table.find(step.model), self._holdings.get(step.model)
            if holding is None:
                # It was unloaded while the plan was written down.
                continue
            match step.act:
                case Act.YIELD:
                    if model.queue.held_s is None:
                        model.queue.hold()
                    _drop_waiting(holding)
                case Act.PAGE_OUT:
                    _drop_waiting(holding)
                    # It may have been asked something meanwhile: then it is planned anew.
                    with contextlib.suppress(Conflict):
                        await self._pager.page_out(model, step.bytes, cause, planned=True)
                        cause = self._pager.finished[model.id]
                case Act.SPARE:
                    await self._reclaim(holding, holding.granted - step.bytes, holding.kept)
                case Act.KEPT:
                    await self._reclaim(holding, holding.granted, holding.kept - step.bytes)
        return cause

    async def _reclaim(self, holding: Holding, size: int, kept: int) -> None:
        """Have its worker take no more than that; it may hold more by now."""
        worker = self._worker(holding)
        if worker is None:
            holding.granted, holding.kept = size, kept
        else:
            try:
                answer = await worker.set_room(size, kept)
            except WorkerDied:
                return
            assert isinstance(answer, RoomSet)  # noqa: S101 - the protocol's promise
            holding.granted, holding.kept = answer.bytes, answer.kept
        self._shared.release(self.reserved_bytes)

    def _reserve_for(self, want: Want, need: Need, account: Account, cause: ev.Cause) -> bool:
        model = want.model
        if want.reason == "load":
            load = self._loads.get(model.id)
            if load is None or load.granted.done():
                return True
            holding = Holding(model.id, load.weights, 0)
            holding.kv, holding.longest = load.streams
            holding.scale = self.scale(model)
            self._holdings[model.id] = holding
            if not self._grant(holding, need.total):
                del self._holdings[model.id]
                return False
            room = account.limit - account.used - need.total
            holding.kept = holding.kept_most = min(self.kept_bytes(), max(room // 2, 0))
            load.granted.set_result(holding.granted)
            return True
        if model.id not in self._holdings:
            return True
        holding = self._holdings[model.id]
        if need.total and not self._grant(holding, holding.granted + need.total):
            return False
        if need.kv and want.reason != "load":
            reserved = ev.KvReserved(bytes=need.kv, used_bytes=account.used + need.total, limit_bytes=account.limit)
            severity = ev.Severity.DEBUG if cause is want.cause else None
            self._ledger.emit(self._event(model, reserved, cause, severity))
        if want.reason == "page_in":
            # They are on their way, and their room is nobody else's.
            holding.out, holding.came_s = 0, math.inf
            self._pager.bring_back(model, cause)
        if want.place is not None and self._growing.pop(want.place, None) is None:
            holding.kv[want.place], holding.longest[want.place] = _extent(holding, want.place)
        model.queue.let_go()
        model.queue.pump()
        return True

    def _refuse(self, want: Want, short_by: int) -> None:
        error = InsufficientMemory(
            f"{want.model.id} needs {show_bytes(want.need.total)} and is short by {show_bytes(short_by)} with all else "
            "out of memory: ask for less, raise [memory] limit, unpin a model, or take a smaller one",
            lmx={"short_by_bytes": short_by},
        )
        if want.reason == "load":
            if (load := self._loads.get(want.model.id)) is not None and not load.granted.done():
                load.granted.set_exception(error)
        elif want.place is not None:
            self._growing.pop(want.place, None)
            want.place.refuse(error)
            want.place.leave()

    async def _relieve(self) -> None:
        """Nobody waits: what is idle goes while the limit is exceeded; where there is room, KV may rest in memory."""
        account, breached = self.account(), self._breached
        if account.used > account.limit or breached is not None:
            self._breached = None
            found = plan(account, Need(""), self._policy, time.monotonic())
            cause: ev.Cause = breached or self._lowered
            if any(step.act is not Act.SPARE for step in found.steps):
                planned = ev.PagingPlanned(
                    need_bytes=max(account.used - account.limit, 0),
                    victims=list(dict.fromkeys(step.model for step in found.steps)),
                    reason="limit",
                    steps=[(step.act.value, step.model, step.bytes, step.layers) for step in found.steps],
                    short_by_bytes=found.short_by,
                    account=_told(account),
                )
                cause = await self._ledger.commit(ev.Event(data=planned, stream="memory", cause=cause)) or cause
            await self._carry_out(found, cause)
            return
        for holding in self._holdings.values():
            free = int(self._policy.page_to * self.limit_bytes) - account.used
            more = min(holding.kept_most - holding.kept, free // 4)
            worker = self._worker(holding)
            if (
                more > 0
                and worker is not None
                and self._shared.reserve(self.reserved_bytes + self._reserve + more, self.limit_bytes)
            ):
                holding.kept += more
                worker.set_room(holding.granted, holding.kept)
                account = self.account()

    # --- weights that went and came ----------------------------------------------------------------------------------

    def _moved(self, model: ServedModel, moved: Paged) -> None:
        holding = self._holdings.get(model.id)
        if holding is None:
            return
        before, holding.out = holding.weights, moved.layers_out
        if moved.layers_out:
            self._grant(holding, max(holding.granted - (before - holding.weights), 0))
        else:
            holding.came_s, holding.took_s = time.monotonic(), moved.ms / 1e3
        self._wake.set()

    def _event(
        self, model: ServedModel, data: ev.EventData, cause: ev.Cause, severity: ev.Severity | None = None
    ) -> ev.Event:
        return ev.Event(data=data, stream=f"model:{model.id}", model=model.id, cause=cause, severity=severity)


def _held(worker: Worker) -> int:
    return max(worker.active_bytes + worker.kept_bytes, worker.process_bytes)


def _drop_waiting(holding: Holding) -> None:
    """Who has not been admitted has nothing reserved any more."""
    for place in [one for one in holding.kv if isinstance(one, Place) and not one.admitted.done()]:
        del holding.kv[place], holding.longest[place]


def _extent(holding: Holding, place: Place) -> tuple[int, int]:
    """Bytes of KV that a request begins with, and the tokens of its longest stream then."""
    rooms = [first_room(extent.tokens, extent.left) for extent in place.extents]
    return sum(holding.kv_bytes(room) for room in rooms), max(rooms, default=0)


def _told(account: Account) -> dict[str, Any]:
    """As JSON: what the planner decided by."""
    lines = [
        {
            **line._asdict(),
            "layers": list(line.layers),
            # JSON has no infinity.
            "came_s": round(min(max(line.came_s, -1.0), 1e12), 3),
            "used_s": round(max(line.used_s, -1.0), 3),
        }
        for line in account.lines
    ]
    return {"limit": account.limit, "reserve": account.reserve, "others": account.others, "lines": lines}
