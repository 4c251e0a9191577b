"""Memory in a model of a run: the same planner is asked as in the daemon, about the account as the daemon keeps it.

Weights, KV and what passes take are as the run had them. What was granted is kept until somebody else needs it, and KV
at rest fills what is free: both go first, and both are why a threshold is reached that weights alone would not reach.
"""

import math
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from lmx_ledger.engine.protocol import first_room
from lmx_ledger.guard import memory as guard
from lmx_ledger.incident.simulation.machine import Weights
from lmx_ledger.memory import plan as planner
from lmx_ledger.memory.holding import LEAST_KEPT, Holding
from lmx_ledger.memory.plan import Account, Act, Line, Need, Plan, Policy, Step, reserve_of

_KV_SHARE: Final = 16
"""Where KV needs room, so much of the limit is made free at once."""
_KEPT_SHARE: Final = 8
"""Each model may keep so much of it as KV at rest."""
_SLACK: Final = 4


class Tenant:
    """What a model holds, in bytes. `there`: it is loaded, or on its way (`coming`); `out` of its layers are on disk
    only. `granted` is what its worker may take, `kept` the room for KV at rest, at most `kept_most`.
    """

    def __init__(self, weights: Weights, kept_most: int) -> None:
        self.weights = weights
        # What is left in memory when so many layers have gone.
        self._left = [*reversed(list(accumulate(reversed(weights.layers)))), 0]
        self.there, self.out = weights.there, weights.out
        self.coming = False
        self.kv: dict[str, int] = {}
        self.kept, self.kept_most = 0, kept_most
        self.used_s = self.came_s = -math.inf
        self.took_s = 0.0
        self.granted = self.needs() if self.there else 0

    @property
    def resident(self) -> bool:
        """Whether all of it is in memory."""
        return self.there and not self.coming and not self.out

    @property
    def in_memory(self) -> int:
        """Weights that are in memory, or on their way there."""
        return self._left[self.out] if self.there else 0

    @property
    def out_bytes(self) -> int:
        """Weights that are on disk only."""
        return self._left[0] - self._left[self.out]

    @property
    def total(self) -> int:
        """All that is its own."""
        return self.granted + self.kept + self.weights.idle if self.there else 0

    @property
    def kv_held(self) -> int:
        """Of all requests that have some."""
        return sum(self.kv.values())

    def kv_bytes(self, tokens: int, choices: int) -> int:
        """Of a request's streams, each of so many tokens."""
        return int(first_room(tokens, 0) * self.weights.token) * choices

    def needs(self, more_kv: int = 0) -> int:
        """What its arrays must be able to take, with so much more KV."""
        kv = self.kv_held + more_kv
        passes = self.weights.busy + kv // max(len(self.weights.layers) - 1, 1) if kv else 0
        return self.in_memory + kv + passes

    @property
    def most(self) -> int:
        """What it may come to take with what it has been asked, now and then."""
        over = self.weights.most - self.weights.busy if self.kv else 0
        return self.needs() + max(over, 0) + self.weights.idle

    def lacks(self, more_kv: int) -> int:
        """What it has to be granted for that."""
        return max(self.needs(more_kv) + self.out_bytes - self.granted, 0)

    def line(self, *, busy: bool) -> Line:
        """For the planner."""
        one, kv, on_the_way = self.weights, self.kv_held, min(self.kept, LEAST_KEPT) if busy else 0
        spare = max(self.granted - self.needs(), 0)
        return Line(
            model=one.model,
            layers=one.layers[self.out :],
            kv=kv,
            kept=self.kept - on_the_way,
            working=max(self.granted - self.in_memory - kv - spare, 0) + on_the_way + one.idle,
            spare=spare,
            busy=busy or self.coming,
            pinned=one.pinned,
            priority=one.priority,
            used_s=self.used_s,
            came_s=self.came_s,
            took_s=self.took_s,
        )


class Limits(NamedTuple):
    """The configured limit in bytes (None: nobody knows it, and memory binds nobody), and the thresholds.

    `kv_reserve` and `kept` (for KV at rest, of each model): None is the usual share of the limit.
    """

    limit: int | None
    page_at: float
    page_to: float
    kv_reserve: int | None = None
    kept: int | None = None


class Room:
    """All tenants' account. `busy` says of a model whether it has work."""

    def __init__(self, models: Mapping[str, Weights], others: int, limits: Limits, busy: Callable[[str], bool]) -> None:
        kept = (limits.limit or 0) // _KEPT_SHARE if limits.kept is None else limits.kept
        self.tenants = {name: Tenant(weights, kept) for name, weights in models.items()}
        self.limits = limits
        self._idle = sum(one.weights.idle for one in self.tenants.values() if one.there)
        self.lowered = 0
        self.first: Need | None = None
        self.peak = 0
        """The most that may have been needed at once, without what is there to spare and what could go."""
        self._others, self._busy = others, busy
        self._state = guard.State()
        self._ceilings: dict[tuple[str, int], int] = {}

    @property
    def binds(self) -> bool:
        """Whether there is a limit."""
        return self.limits.limit is not None

    @property
    def limit(self) -> int:
        """In force."""
        return max((self.limits.limit or 0) - self.lowered, 0)

    @property
    def breached(self) -> bool:
        """Whether the threshold is."""
        return self._state.breached

    @property
    def reserve(self) -> int:
        """What is nobody's, of the configured limit; processes may take it beside their arrays."""
        return max(reserve_of(self.limits.limit or 0) - self._idle, 0)

    @property
    def used(self) -> int:
        """All that is reserved."""
        return sum(one.total for one in self.tenants.values()) + self.reserve + self._others

    def account(self) -> Account:
        """As the planner is given it."""
        lines = tuple(one.line(busy=self._busy(one.weights.model)) for one in self.tenants.values() if one.there)
        return Account(self.limit, self.reserve, lines, self._others, self.limits.limit or 0)

    def has(self, model: str, run: str) -> bool:
        """Whether its KV is reserved."""
        return run in self.tenants[model].kv

    def enter(self, model: str, run: str, tokens: int, choices: int, now_s: float) -> bool:
        """Reserve what a request takes, if that takes nothing from anybody and breaches nothing."""
        tenant = self.tenants[model]
        if run not in tenant.kv:
            kv = tenant.kv_bytes(tokens, choices)
            extra = tenant.lacks(kv)
            if self.binds and extra and not self._take(tenant, extra):
                return False
            tenant.kv[run] = kv
            self.peak = max(self.peak, sum(one.most for one in self.tenants.values() if one.there))
        tenant.used_s = now_s
        return True

    def leave(self, model: str, run: str, now_s: float) -> None:
        """It holds nothing any more; what its worker was granted for it stays its own until others need it."""
        tenant = self.tenants[model]
        if tenant.kv.pop(run, None) is not None:
            tenant.used_s = now_s

    def need(self, model: str, tokens: int, choices: int, *, patient: bool) -> Need:
        """What a model's next request lacks: the model, weights that are out, KV."""
        tenant = self.tenants[model]
        priority = tenant.weights.priority
        if not tenant.there:
            size = sum(tenant.weights.layers)
            return Need(model, size, 0, Holding.working_of_load(size), priority, patient)
        extra = tenant.lacks(tenant.kv_bytes(tokens, choices))
        weights = min(tenant.out_bytes, extra)
        return Need(model, weights, extra - weights, 0, priority, patient)

    def loading(self, model: str, need: Need) -> None:
        """It is on its way, with what was planned for it; what is free may in part keep its KV."""
        tenant = self.tenants[model]
        free = self.limit - self.used - need.total
        tenant.there, tenant.coming, tenant.out, tenant.came_s = True, True, 0, math.inf
        self._idle += tenant.weights.idle
        tenant.granted = need.total
        tenant.kept = tenant.kept_most = min(tenant.kept_most, max(free // 2, 0)) if self.binds else 0

    def unload(self, model: str) -> None:
        """It holds nothing any more."""
        tenant = self.tenants[model]
        tenant.there, tenant.out, tenant.granted, tenant.kept = False, 0, 0, 0
        self._idle -= tenant.weights.idle

    def keep_more(self) -> None:
        """Where there is room, KV may rest in memory."""
        for tenant in self.tenants.values():
            free = int(self.limits.page_to * self.limit) - self.used
            if tenant.there and not tenant.coming:
                tenant.kept += max(min(tenant.kept_most - tenant.kept, free // _SLACK), 0)

    def _take(self, tenant: Tenant, extra: int) -> bool:
        """Grant so much more, and some to spare, where that breaches nothing and nobody waits who came before."""
        used = self.used + extra
        if self.first is not None and self.first.model != tenant.weights.model and used + self.first.total > self.limit:
            return False
        if used > self.limits.page_at * self.limit:
            return False
        tenant.granted += extra + max(int((self.limits.page_to * self.limit - used) / _SLACK), 0)
        return True

    def plan(self, need: Need, now_s: float) -> tuple[Need, Plan]:
        """How room is made for it; where KV needs room, for more than one request wants, if that can be had."""
        account, policy = self.account(), Policy(self.limits.page_at, self.limits.page_to)
        if need.kv and not need.weights and account.used + need.total > policy.page_at * account.limit:
            wanted = account.limit // _KV_SHARE if self.limits.kv_reserve is None else self.limits.kv_reserve
            more = need._replace(kv=max(need.kv, wanted))
            found = planner.plan(account, more, policy, now_s)
            if found.verdict is planner.Verdict.FITS:
                return more, found
        return need, planner.plan(account, need, policy, now_s)

    def turns_over(self, need: Need) -> Mapping[str, float]:
        """Of each model: when its turn is over for that need."""
        return {line.model: planner.turn_over_s(line, need) for line in self.account().lines}

    def carry_out(self, steps: tuple[Step, ...]) -> list[int]:
        """Take back what a plan takes back; how many bytes of weights go, each time."""
        moved: list[int] = []
        for step in steps:
            tenant = self.tenants[step.model]
            match step.act:
                case Act.SPARE:
                    tenant.granted -= step.bytes
                case Act.KEPT:
                    tenant.kept -= step.bytes
                case Act.PAGE_OUT:
                    tenant.out += step.layers
                    tenant.granted = max(tenant.granted - step.bytes, 0)
                    moved.append(step.bytes)
        return moved

    def judge(self, reserved: int, now_s: float) -> bool:
        """Have the guard of memory look at so much; whether it is a breach that it had not told of."""
        observed = guard.Observed(int(now_s * 1e6), 0, self.limit, 0, None, reserved_bytes=reserved)
        policy = guard.Policy(page_at=self.limits.page_at, page_to=self.limits.page_to)
        new = False
        for decision in guard.judge(self._state, observed, policy):
            self._state = guard.evolve(self._state, decision, policy)
            new = isinstance(decision, guard.Breached)
        return new

    def ceiling(self, model: str, most: int) -> int:
        """The longest prompt and answer, in tokens, that there could be room for with all that may go gone."""
        tenant = self.tenants[model]
        if not self.binds or not tenant.weights.token or not tenant.there:
            return most
        key = (model, self.limit)
        if key not in self._ceilings:
            weights = tenant.weights

            def size_of(tokens: int) -> int:
                kv = tenant.kv_bytes(tokens, 1)
                return kv + weights.idle + weights.busy + kv // max(len(weights.layers) - 1, 1) + LEAST_KEPT

            self._ceilings[key] = planner.ceiling(self.account(), model, sum(weights.layers), size_of, most)
        return min(self._ceilings[key], most)
