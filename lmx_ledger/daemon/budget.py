"""Memory: nothing is loaded, admitted or grown before room is reserved for it, and room is made by plan."""

import asyncio
import contextlib
import math
import time
from typing import Any, Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import Conflict, InsufficientMemory
from lmx_ledger.core.settings import Settings
from lmx_ledger.core.units import show_bytes
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.paging import Pager
from lmx_ledger.daemon.wants import Load, Streams, Want, extent, read_wants
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.exit import Exit
from lmx_ledger.engine.protocol import Loaded, Paged, Step, growth_of_room
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.memory.foretold import Foretold
from lmx_ledger.memory.holding import LEARNED, MOST_LEARNED, Holding
from lmx_ledger.memory.plan import Account, Act, Need, Plan, Verdict, turn_over_s
from lmx_ledger.memory.recorded import Asked, steps_of
from lmx_ledger.serving.models import ModelState, ModelTable, ServedModel
from lmx_ledger.serving.queue import Place

_KV_SHARE: Final = 16
_FIRST: Final = 1_000_000
"""Priority of a place in line that is an operator's."""
_LOOK_AGAIN_S: Final = 1.0
_UNLEARN: Final = 0.999
"""What a death taught is forgotten by so much with each good step: it may not have been for lack of memory."""
_ASK_AGAIN_S: Final = 0.25
"""A stream that can have no more room asks with each of its tokens: what is done about it costs an event each time."""
_STUCK_S: Final = 1.0
"""Where nothing is in flight for so long, who waits for room waits for nothing."""
PARK_AT: Final = 16
"""Tokens before its cache is full at which a stream stops that can have no more."""


class Budget:
    """Of all models of this daemon. One task makes room, for one want after the other; admission never waits for it."""

    def __init__(
        self,
        accounts: Accounts,
        table: ModelTable,
        ledger: Ledger,
        settings: Settings,
        pager: Pager,
    ) -> None:
        self._accounts, self._table, self._ledger, self._settings = accounts, table, ledger, settings
        self._pager = pager
        self._loads: dict[str, Load] = {}
        self._scales: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._first: Want | None = None
        self._lowered: int | None = None
        # The breach that goes on, and the one for which nothing has gone yet.
        self._breach: int | None = None
        self._breached: int | None = None
        self._growing: dict[Place, int] = {}
        self._asked_s: dict[Place, float] = {}
        self._pumping = False
        self._stuck_s: float | None = None
        pager.on_moved = self._moved

    def public(self) -> dict[str, Any]:
        """`/lmx/memory`."""
        first = self._first
        waiting = None if first is None else {"model": first.model.id, "for": first.reason}
        return {**self._accounts.public(), "waiting": waiting}

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for memory that cannot be had just now."""
        return self._first is not None

    def ceiling(self, model: ServedModel, most: int) -> int:
        """See `Accounts.ceiling`."""
        return self._accounts.ceiling(model, most)

    # --- loads -------------------------------------------------------------------------------------------------------

    async def admit_load(self, model: ServedModel, weights: int, cause: ev.Cause, *, patient: bool) -> int | None:
        """Wait until there is room for a model that is about to be loaded; what its arrays may take.

        None: there is none without taking it from others, and it is `patient`.

        Raises:
            InsufficientMemory: it can never fit.
        """
        before = self._accounts.holdings.get(model.id)
        # What its last worker was asked goes on with the next.
        kept_on = Streams(before.kv, before.longest) if before is not None else Streams({}, {})
        returning = self._accounts.returning.get(model.id)
        self.forget(model)
        if returning is not None:
            self._accounts.returning[model.id] = returning
        granted: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._loads[model.id] = Load(weights, kept_on, patient, time.monotonic(), cause, granted)
        self._wake.set()
        try:
            return await granted
        except InsufficientMemory:
            # It does not come back, and nothing is kept for it.
            self._accounts.returning.pop(model.id, None)
            raise
        finally:
            self._loads.pop(model.id, None)

    def loaded(self, model: ServedModel, worker: Worker, loaded: Loaded, *, asked: bool) -> None:
        """Its worker has measured what it takes. `asked`: somebody waits for it, and it has its turn."""
        holding = self._accounts.holdings[model.id]
        self._accounts.returning.pop(model.id, None)
        holding.loaded(loaded, time.monotonic() if asked else -math.inf)
        model.queue.room_for = lambda place: self._may_enter(model, place)
        model.queue.on_left = lambda place: self._left(model, place)
        told = self._accounts.foretold.setdefault(model.id, Foretold())

        def measured(step: Step) -> None:
            self._scales[model.id] = max(self.scale(model) * _UNLEARN, 1.0)
            holding.active = step.active_bytes
            holding.overhead = max(step.process_bytes - step.active_bytes - step.kept_bytes, 0)
            told.add(step)

        worker.on_memory = measured
        needed = holding.needs()
        wanted = needed + self._accounts.slack(needed - holding.granted)
        self._accounts.grant(holding, max(needed, min(holding.granted, wanted)), worker)

    def kept_of(self, model: ServedModel) -> int:
        """Room that it has for KV at rest."""
        return self._accounts.holdings[model.id].kept

    def scale(self, model: ServedModel) -> float:
        """How much more than foretold its passes took earlier workers."""
        return self._scales.get(model.id, 1.0)

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

    def exited(self, model: ServedModel, died: Exit) -> None:
        """Its worker is gone, and what that held; where memory was what it lacked, more is reserved from now on."""
        if died.out_of_memory:
            self._scales[model.id] = min(self.scale(model) * LEARNED, MOST_LEARNED)
        if (holding := self._accounts.holdings.get(model.id)) is not None:
            holding.active = 0
            if died.recycled or not died.expected:
                self._accounts.returning[model.id] = holding.needs()
        self._wake.set()

    def forget(self, model: ServedModel) -> None:
        """It holds nothing any more."""
        self._accounts.returning.pop(model.id, None)
        self._accounts.give_back(model)
        self._wake.set()

    # --- admission ---------------------------------------------------------------------------------------------------

    def _may_enter(self, model: ServedModel, place: Place) -> bool:
        """Reserve what a request begins with, if that takes nothing from anybody."""
        holding = self._accounts.holdings.get(model.id)
        if holding is None:
            return True
        if place not in holding.kv:
            kv, longest = extent(holding, place)
            extra = holding.needs(kv, longest) - holding.granted
            if extra > 0 and not self._accounts.take(holding, extra):
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
        holding = self._accounts.holdings.get(model.id)
        grown = room + growth_of_room(room)
        if holding is None or place not in holding.kv:
            return grown
        more = holding.kv_bytes(grown) - holding.kv_bytes(room)
        extra = holding.needs(more, grown) - holding.granted
        if extra > 0 and not self._accounts.take(holding, extra, page_at=1.0):
            now_s = time.monotonic()
            if left > PARK_AT and now_s - self._asked_s.get(place, -math.inf) < _ASK_AGAIN_S:
                return room
            self._growing[place], self._asked_s[place] = more, now_s
            self._wake.set()
            if left <= PARK_AT and (youngest := model.queue.youngest) is not None and youngest.park is not None:
                youngest.park()
            return room
        self._growing.pop(place, None)
        holding.kv[place] += more
        holding.longest[place] = max(holding.longest[place], grown)
        return grown

    def _left(self, model: ServedModel, place: Place) -> None:
        self._asked_s.pop(place, None)
        self._growing.pop(place, None)
        if (load := self._loads.get(model.id)) is not None:
            load.streams.kv.pop(place, None)
            load.streams.longest.pop(place, None)
        if (holding := self._accounts.holdings.get(model.id)) is not None:
            holding.kv.pop(place, None)
            holding.longest.pop(place, None)
            holding.used_s = time.monotonic()
        self._wake.set()

    # --- room that is made -------------------------------------------------------------------------------------------

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
        self._first, self._accounts.first, self._pumping = None, None, True
        for model in self._table.all():
            model.queue.pump()
        self._pumping = False
        while wants := read_wants(self._table, self._accounts, self._pager, self._loads, self._growing):
            want = min(wants, key=lambda one: (-one.need.priority, one.since_s))
            after_s = await self._satisfy(want)
            if after_s is not None:
                self._first, self._accounts.first = want, want.need
                await self._go_on(want, wants)
                return after_s
        for model in self._table.all():
            model.queue.let_go()
        await self._relieve()
        return None

    async def _go_on(self, first: Want, wants: list[Want]) -> None:
        """Who is first waits for turns to end: until then those who have one do not stand still for it."""
        now_s = time.monotonic()
        lines = {line.model: line for line in self._accounts.account().lines}
        for want in sorted(wants, key=lambda one: one.since_s):
            if want is first or want.reason != "kv" or want.model.queue.held_s is not None:
                continue
            if now_s >= turn_over_s(lines[want.model.id], first.need):
                continue
            _, found = self._asked(want)
            # Nobody's weights go for it: those would be what the first one has already.
            if found.verdict is Verdict.FITS and all(step.act is not Act.PAGE_OUT for step in found.steps):
                await self._satisfy(want)

    async def _satisfy(self, want: Want) -> float | None:
        """Make room and reserve it; how soon to look again when that cannot be done yet."""
        asked, found = self._asked(want)
        need = asked.need
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
        stuck = self._is_stuck(want, found)
        cause = await self._write_down(want, asked, found)
        cause = await self._carry_out(found, cause)
        again_s = _LOOK_AGAIN_S if found.after_s is None else max(found.after_s - time.monotonic(), 0.01)
        if found.verdict is Verdict.WAIT and not stuck:
            return min(again_s, _LOOK_AGAIN_S)
        account = self._accounts.account()
        if stuck:
            # What is nobody's is for this: nobody is left who could give anything.
            account = account._replace(reserve=0)
        fits = account.used + need.total <= account.limit or stuck
        if fits and self._reserve_for(want, need, account, cause):
            self._stuck_s = None
            return None
        if stuck:
            self._refuse(want, max(account.used + need.total - account.limit, 0))
            return None
        # A worker holds more by now than it was to: with what is known from that it is planned anew.
        return 0.01

    def _is_stuck(self, want: Want, found: Plan) -> bool:
        """Whether nothing under way will free what is missing, and has not for a while.

        Then it is what processes take beside their arrays, and waiting changes nothing: it goes on within what can be
        granted, the reserve with it, for a refusal would be one of a request that fits.
        """
        under_way = (
            model.in_flight > 0
            or self._pager.is_coming(model)
            or (model.state is ModelState.LOADING and model is not want.model)
            for model in self._table.all()
        )
        account = self._accounts.account()
        if found.verdict is Verdict.FITS or found.after_s is not None or any(under_way):
            self._stuck_s = None
            return False
        if account.others or account.lowered:
            # Others may give back what they have.
            self._stuck_s = None
            return False
        now_s = time.monotonic()
        self._stuck_s = self._stuck_s or now_s
        return now_s - self._stuck_s > _STUCK_S

    def _asked(self, want: Want) -> tuple[Asked, Plan]:
        """The question to the planner, and its answer; where KV needs room, for more than the one request wants."""
        asked = Asked(self._accounts.account(), want.need, self._accounts.policy, time.monotonic())
        account, need = asked.account, asked.need
        if want.reason == "kv" and need.total and account.used + need.total > asked.policy.page_at * account.limit:
            reserve = self._settings.now.memory.kv_reserve
            wanted = account.limit // _KV_SHARE if reserve == "auto" else reserve
            more = asked._replace(need=need._replace(kv=max(need.kv, wanted)))
            if (found := more.plan()).verdict is Verdict.FITS:
                return more, found
        return asked, asked.plan()

    async def _write_down(self, want: Want, asked: Asked, found: Plan) -> ev.Cause:
        """What is decided, before it is done; the event that what follows is because of."""
        cause, account, need = want.cause, asked.account, asked.need
        yielding = [
            step for step in found.steps if step.act is Act.YIELD and self._table.find(step.model).queue.held_s is None
        ]
        acts = bool(yielding) or any(step.act in {Act.KEPT, Act.PAGE_OUT} for step in found.steps)
        if found.verdict is Verdict.WAIT and not acts:
            # It is asked again and again: what is not had breaches nothing.
            return cause
        if found.breached and self._accounts.guard is not None:
            self._breach = await self._accounts.guard.judge(account.used + need.total) or self._breach
            cause = self._breach or cause
        if not acts:
            return cause
        victims = dict.fromkeys(step.model for step in found.steps if step.act is not Act.SPARE)
        planned = ev.PagingPlanned(
            need_bytes=need.total,
            victims=list(victims),
            reason=want.reason,
            steps=steps_of(found),
            short_by_bytes=found.short_by,
            account=asked.told(),
            wanted_by=await self._seq_of(want.cause),
        )
        return await self._ledger.commit(self._event(want.model, planned, cause)) or cause

    async def _seq_of(self, cause: ev.Cause) -> int | None:
        return cause if cause is None or isinstance(cause, int) else await self._ledger.seq_of(cause)

    async def _carry_out(self, found: Plan, cause: ev.Cause) -> ev.Cause:
        for step in found.steps:
            model, holding = self._table.find(step.model), self._accounts.holdings.get(step.model)
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
                    await self._accounts.reclaim(holding, holding.granted - step.bytes, holding.kept)
                case Act.KEPT:
                    await self._accounts.reclaim(holding, holding.granted, holding.kept - step.bytes)
        return cause

    def _reserve_for(self, want: Want, need: Need, account: Account, cause: ev.Cause) -> bool:
        model = want.model
        if want.reason == "load":
            load = self._loads.get(model.id)
            if load is None or load.granted.done():
                return True
            holding = Holding(model.id, load.weights, 0)
            holding.kv, holding.longest = load.streams
            holding.scale = self.scale(model)
            # Its turn has not begun: who waits for it is not to be held back before it has come.
            holding.came_s = math.inf
            self._accounts.holdings[model.id] = holding
            if not self._accounts.grant(holding, need.total, reserve=account.reserve):
                del self._accounts.holdings[model.id]
                return False
            room = account.limit - account.used - need.total
            holding.kept = holding.kept_most = min(self._accounts.kept_bytes(), max(room // 2, 0))
            load.granted.set_result(holding.granted)
            return True
        if model.id not in self._accounts.holdings:
            return True
        holding = self._accounts.holdings[model.id]
        wanted = holding.granted + need.total
        if need.total and not self._accounts.grant(holding, wanted, reserve=account.reserve):
            return False
        if need.kv and want.reason != "load":
            reserved = ev.KvReserved(bytes=need.kv, used_bytes=account.used + need.total, limit_bytes=account.limit)
            severity = ev.Severity.DEBUG if cause is want.cause else None
            self._ledger.emit(self._event(model, reserved, cause, severity))
        if want.reason == "page_in":
            # They are on their way, and their room is nobody else's.
            holding.out, holding.came_s = 0, math.inf
            self._pager.bring_back(model, cause)
        grown = want.place is not None and self._growing.pop(want.place, None) is not None
        # It may have gone while room was made for it.
        if want.place is not None and not grown and want.place in model.queue:
            holding.kv[want.place], holding.longest[want.place] = extent(holding, want.place)
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
        account, breached = self._accounts.account(), self._breached
        if account.used > account.limit or breached is not None:
            self._breached = None
            asked = Asked(account, Need("", patient=True), self._accounts.policy, time.monotonic())
            found = asked.plan()
            cause: ev.Cause = breached or self._lowered
            if any(step.act is not Act.SPARE for step in found.steps):
                planned = ev.PagingPlanned(
                    need_bytes=max(account.used - account.limit, 0),
                    victims=list(dict.fromkeys(step.model for step in found.steps)),
                    reason="limit",
                    steps=steps_of(found),
                    short_by_bytes=found.short_by,
                    account=asked.told(),
                )
                cause = await self._ledger.commit(ev.Event(data=planned, stream="memory", cause=cause)) or cause
            await self._carry_out(found, cause)
            return
        self._accounts.keep_more()

    # --- weights that went and came ----------------------------------------------------------------------------------

    def _moved(self, model: ServedModel, moved: Paged) -> None:
        holding = self._accounts.holdings.get(model.id)
        if holding is None:
            return
        before, holding.out = holding.weights, moved.layers_out
        if moved.layers_out:
            self._accounts.grant(holding, max(holding.granted - (before - holding.weights), 0))
        else:
            holding.came_s, holding.took_s = time.monotonic(), moved.ms / 1e3
        self._wake.set()

    def _event(
        self, model: ServedModel, data: ev.EventData, cause: ev.Cause, severity: ev.Severity | None = None
    ) -> ev.Event:
        return ev.Event(data=data, stream=f"model:{model.id}", model=model.id, cause=cause, severity=severity)


def _drop_waiting(holding: Holding) -> None:
    """Who has not been admitted has nothing reserved any more."""
    for place in [one for one in holding.kv if isinstance(one, Place) and not one.admitted.done()]:
        del holding.kv[place], holding.longest[place]
