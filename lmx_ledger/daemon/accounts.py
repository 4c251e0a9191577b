"""The account of memory of this daemon: what each model holds, under which limit, and how grants grow and shrink."""

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.paging import Pager
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.protocol import RoomSet, first_room
from lmx_ledger.engine.stream import WorkerDied
from lmx_ledger.memory import plan as planner
from lmx_ledger.memory.foretold import Foretold
from lmx_ledger.memory.holding import LEAST_KEPT, Holding
from lmx_ledger.memory.plan import Account, Need, Policy, reserve_of
from lmx_ledger.memory.shared import SharedAccount
from lmx_ledger.serving.models import ModelState, ModelTable, ServedModel

_KEPT_SHARE: Final = 8


class Guard(Protocol):
    """Who judges what is used, and lowers the limit while others need memory."""

    @property
    def limit_bytes(self) -> int:
        """The limit in force."""

    async def judge(self, reserved_bytes: int) -> int | None:
        """So much is about to be reserved: the event of the breach that this is, None where it is none."""


class Accounts:
    """Of all models of this daemon, in bytes."""

    def __init__(
        self,
        table: ModelTable,
        settings: Settings,
        pager: Pager,
        shared: SharedAccount,
        configured: Callable[[], int],
    ) -> None:
        """`configured` is the limit that the operator set."""
        self._table, self._settings, self._pager = table, settings, pager
        self._shared, self._configured = shared, configured
        self.holdings: dict[str, Holding] = {}
        self.foretold: dict[str, Foretold] = {}
        self.returning: dict[str, int] = {}
        """Of models whose worker is being replaced: what it needed."""
        self.guard: Guard | None = None
        self.first: Need | None = None
        """Who waits longest: what that one needs is taken by nobody who comes later."""

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
        """What is reserved: for models, by other daemons, and for nobody."""
        return sum(holding.total for holding in self.holdings.values()) + self.unused + self._shared.others()

    @property
    def _allowed(self) -> int:
        return sum(holding.allowed for holding in self.holdings.values())

    @property
    def used_bytes(self) -> int:
        """What the workers hold, beyond what empty ones do."""
        return sum(_held(model.worker) for model in self._table.all() if model.worker is not None)

    @property
    def floor_bytes(self) -> int:
        """What is in flight: nothing lowers the limit beneath it."""
        busy = [self.holdings[model.id] for model in self._table.all() if model.in_flight and model.id in self.holdings]
        ours = {holding.model: holding.needs() for holding in busy}
        # Where a worker is replaced, its model is on its way back, and its streams with it.
        return self.reserve + sum({**self.returning, **ours}.values())

    @property
    def reserve(self) -> int:
        """What is nobody's."""
        return reserve_of(self.configured_bytes)

    @property
    def unused(self) -> int:
        """Of the reserve, what processes do not take beside their arrays: that is what it is for."""
        return max(self.reserve - sum(holding.overhead for holding in self.holdings.values()), 0)

    def account(self) -> Account:
        """As the planner is given it."""
        lines = []
        for model in self._table.all():
            holding = self.holdings.get(model.id)
            if holding is not None:
                waits = model.queue.waiting > 0 and model.queue.held_s is None and model.state is ModelState.RESIDENT
                coming = model.state is ModelState.LOADING or self._pager.is_coming(model)
                busy = model.in_flight > 0 or waits or coming
                lines.append(holding.line(busy=busy, pinned=model.pinned, priority=model.priority))
        return Account(self.limit_bytes, self.unused, tuple(lines), self._shared.others(), self.configured_bytes)

    def public(self) -> dict[str, Any]:
        """`/lmx/memory`."""
        account = self.account()
        lines = account.lines
        policy = self.policy
        return {
            "limit_bytes": account.limit,
            "configured_bytes": self.configured_bytes,
            "used_bytes": account.used,
            "used_fraction": round(account.used / account.limit, 4) if account.limit else 1.0,
            "measured_bytes": self.used_bytes,
            "weights_bytes": sum(line.weights for line in lines),
            "kv_bytes": sum(line.kv for line in lines),
            "kept_bytes": sum(self.holdings[line.model].kept for line in lines),
            "working_bytes": sum(line.working + line.spare for line in lines),
            "reserved_bytes": account.reserve,
            "others_bytes": account.others,
            "page_at": policy.page_at,
            "page_to": policy.page_to,
            "accounts": [holding.public() for holding in self.holdings.values()],
            "foretold": {name: told.public() for name, told in self.foretold.items()},
        }

    def ceiling(self, model: ServedModel, most: int) -> int:
        """The longest prompt and answer, in tokens, that the model could have with all that may go gone."""
        holding = self.holdings.get(model.id)
        if holding is None or not holding.shape.bytes(1):
            return most

        def size_of(tokens: int) -> int:
            room = first_room(tokens, 0)
            return holding.kv_bytes(room) + holding.working(room) + LEAST_KEPT

        return planner.ceiling(self.account(), model.id, sum(holding.layers), size_of, most)

    def kept_bytes(self) -> int:
        """Room for KV at rest that a model is given, where there is room."""
        ram = self._settings.now.kv.ram
        return self.configured_bytes // _KEPT_SHARE if ram == "auto" else ram

    @property
    def policy(self) -> Policy:
        """The thresholds in force."""
        memory = self._settings.now.memory
        return Policy(memory.page_at, memory.page_to)

    def used_s(self, model: ServedModel) -> float:
        """When it was asked last or came, by the monotonic clock."""
        holding = self.holdings.get(model.id)
        return max(holding.used_s, holding.came_s) if holding is not None else time.monotonic()

    # --- grants ------------------------------------------------------------------------------------------------------

    def take(self, holding: Holding, extra: int, *, page_at: float | None = None) -> bool:
        """Grant so much more, and some to spare, where that breaches nothing and nobody waits who came before."""
        limit = self.limit_bytes
        used = self.reserved_bytes + extra
        first = self.first
        if first is not None and first.model != holding.model and used + first.total > limit:
            return False
        at = self.policy.page_at if page_at is None else page_at
        if used > at * limit:
            return False
        slack = self.slack(extra)
        return self.grant(holding, holding.granted + extra + slack) or self.grant(holding, holding.granted + extra)

    def slack(self, extra: int) -> int:
        """Bytes that a worker gets beyond what it needs: with them it reads in larger pieces and joins its batches."""
        used = self.reserved_bytes + extra
        return max(int((self.policy.page_to * self.limit_bytes - used) / 4), 0)

    def grant(self, holding: Holding, size: int, worker: Worker | None = None, *, reserve: int | None = None) -> bool:
        """Let its worker take so much in all; False where it, and a reserve, have no room beside all others'."""
        more = size - holding.granted
        if more > 0:
            total = self._allowed + more
            if not self._shared.reserve(total + (self.reserve if reserve is None else reserve), self.limit_bytes):
                return False
        holding.granted = size
        if more < 0:
            self._shared.release(self._allowed)
        worker = worker or self.worker_of(holding)
        if worker is not None:
            worker.set_room(size, holding.kept)
        return True

    def worker_of(self, holding: Holding) -> Worker | None:
        """Whose account it is."""
        return next((model.worker for model in self._table.all() if model.id == holding.model), None)

    async def reclaim(self, holding: Holding, size: int, kept: int) -> None:
        """Have its worker take no more than that; it may hold more by now."""
        worker = self.worker_of(holding)
        if worker is None:
            holding.granted, holding.kept = size, kept
        else:
            try:
                answer = await worker.set_room(size, kept)
            except WorkerDied:
                return
            assert isinstance(answer, RoomSet)  # noqa: S101 - the protocol's promise
            holding.granted, holding.kept = answer.bytes, answer.kept
        self._shared.release(self._allowed)

    def give_back(self, model: ServedModel) -> None:
        """It holds nothing any more."""
        if self.holdings.pop(model.id, None) is not None:
            self._shared.release(self._allowed)

    def keep_more(self) -> None:
        """Where there is room, KV may rest in memory."""
        for holding in self.holdings.values():
            used, worker = self.account().used, self.worker_of(holding)
            more = min(holding.kept_most - holding.kept, (int(self.policy.page_to * self.limit_bytes) - used) // 4)
            if more <= 0 or worker is None:
                continue
            if self._shared.reserve(self._allowed + self.reserve + more, self.limit_bytes):
                holding.kept += more
                worker.set_room(holding.granted, holding.kept)


def _held(worker: Worker) -> int:
    return max(worker.active_bytes + worker.kept_bytes, worker.process_bytes)
