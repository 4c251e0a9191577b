"""What goes to make room, and in which order: pure, so that the daemon, `lmx fit` and a replay ask the same planner.

First what nobody uses (room that was granted and is not needed, KV at rest), then weights of models without work, layer
by layer, the lowest priority and the least recently used first. Nothing in flight is a victim, pins hold, and a model
that has just come back has its turn before it goes again. What is still missing is waited for, or can never be had.
"""

import enum
import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

TURN: Final = 4.0
"""A model that came back stays for so many times as long as its coming back took: paging costs a fifth at most."""
LEAST_TURN_S: Final = 0.25
_PRECEDENCE: Final = 4.0
"""Each step of priority makes the turn so many times as long against those below."""


RESERVE_SHARE: Final = 50
"""One part in so many of a limit is nobody's."""


def reserve_of(limit: int) -> int:
    """What of a limit is nobody's: for the interpreters' own growth, and what no estimate foresaw."""
    return limit // RESERVE_SHARE


class Verdict(enum.StrEnum):
    """What becomes of a need."""

    FITS = "fits"
    """At once, behind the steps."""
    WAIT = "wait"
    """When work that is in flight has ended, or a turn is over; the steps that can be taken are worth taking."""
    NEVER = "never"
    """Not under this limit, with these pins."""


class Act(enum.StrEnum):
    """How room is made."""

    SPARE = "spare"
    """Granted to a worker that does not need it."""
    KEPT = "kept"
    """KV at rest leaves memory; it is on disk."""
    PAGE_OUT = "page_out"
    YIELD = "yield"
    """A model with work admits nobody new: it goes when what it has is done."""


class Line(NamedTuple):
    """One model's account, in bytes. `layers` are those in memory, in the order in which they would go.

    `kv` and `working` are reserved for streams in flight; `kept` is room for KV at rest; `spare` is granted beyond.
    `busy`: it has work in flight, or somebody waits for it. Its weights `came_s` (a monotonic clock), which `took_s`.
    """

    model: str
    layers: tuple[int, ...]
    kv: int = 0
    kept: int = 0
    working: int = 0
    spare: int = 0
    busy: bool = False
    pinned: bool = False
    priority: int = 0
    used_s: float = 0.0
    came_s: float = -math.inf
    took_s: float = 0.0

    @property
    def weights(self) -> int:
        """In memory, or on their way there."""
        return sum(self.layers)

    @property
    def total(self) -> int:
        """All that is its own."""
        return self.weights + self.kv + self.kept + self.working + self.spare


class Account(NamedTuple):
    """Everything that is reserved under one limit. `others`: by other daemons of this home; `reserve` is nobody's.

    `configured` is the limit when nobody else needs memory; 0: the one in force.
    """

    limit: int
    reserve: int
    lines: tuple[Line, ...]
    others: int = 0
    configured: int = 0

    @property
    def lowered(self) -> bool:
        """Whether others need memory, for now."""
        return self.limit < self.configured

    @property
    def used(self) -> int:
        """All that is reserved."""
        return self.reserve + self.others + sum(line.total for line in self.lines)


class Policy(NamedTuple):
    """Fractions of the limit: over `page_at` what is idle goes until `page_to`."""

    page_at: float = 0.85
    page_to: float = 0.75


class Need(NamedTuple):
    """What a model wants beyond what it has, in bytes. `patient`: nobody else is to stop admitting for it."""

    model: str
    weights: int = 0
    kv: int = 0
    working: int = 0
    priority: int = 0
    patient: bool = False

    @property
    def total(self) -> int:
        """Together."""
        return self.weights + self.kv + self.working


class Step(NamedTuple):
    """One act, the bytes that it frees, and of weights how many layers."""

    act: Act
    model: str
    bytes: int
    layers: int = 0


class Plan(NamedTuple):
    """`short_by`: bytes that are missing behind the steps. `after_s`: when a turn ends that is waited for, if one is.

    `breached`: the threshold is passed with this need, whether or not all of it is had.
    """

    verdict: Verdict
    steps: tuple[Step, ...]
    short_by: int
    breached: bool
    after_s: float | None = None

    @property
    def freed(self) -> int:
        """What the steps free; yielding frees nothing yet."""
        return sum(step.bytes for step in self.steps if step.act is not Act.YIELD)


def plan(account: Account, need: Need, policy: Policy, now_s: float) -> Plan:
    """How room is made for a need at that moment of the lines' clock."""
    used = account.used + need.total
    hard = used - account.limit
    breached = used >= policy.page_at * account.limit
    soft = used - math.floor(policy.page_to * account.limit) if breached else 0
    steps: list[Step] = []
    left = max(hard, soft, 0)
    for step in _idle(account, need, now_s, must=hard > 0):
        if left <= 0:
            break
        taken = _no_more_than(step, left, account)
        steps.append(taken)
        left -= taken.bytes
    missing = max(hard - sum(step.bytes for step in steps), 0)
    if not missing:
        return Plan(Verdict.FITS, tuple(steps), 0, breached)
    # Who wants nothing is refused nothing: what can go is then all that can be done.
    if need.total and (never := short_of(account, need)) > 0:
        return Plan(Verdict.NEVER, (), never, breached)
    others = _others(account, need)
    after_s = min((over for line in others if now_s < (over := turn_over_s(line, need)) < math.inf), default=None)
    if not need.patient:
        idle = sum(line.total for line in others if not line.busy)
        steps += _yielding(account, need, missing - idle, now_s)
    return Plan(Verdict.WAIT, tuple(steps), missing, breached, after_s)


def short_of(account: Account, need: Need) -> int:
    """Bytes by which it does not fit, even when all that can go has gone and all work has ended; negative: to spare.

    What does not fit under a limit that is lowered will when that is over.
    """
    pinned = sum(line.weights for line in account.lines if line.pinned and line.model != need.model)
    own = sum(line.weights for line in account.lines if line.model == need.model)
    return account.reserve + account.others + pinned + own + need.total - max(account.limit, account.configured)


def ceiling(account: Account, model: str, weights: int, size_of: Callable[[int], int], most: int) -> int:
    """The most tokens, up to `most`, of one stream that can be had alone; `size_of` gives the bytes of so many."""
    # A prompt is held against what there is now: it is told by how much to be shorter, and does not wait for others.
    alone = account._replace(lines=tuple(line for line in account.lines if line.model != model), configured=0)
    fits, too_many = 0, most + 1
    while too_many - fits > 1:
        tokens = (fits + too_many) // 2
        if short_of(alone, Need(model, weights=weights, kv=size_of(tokens))) <= 0:
            fits = tokens
        else:
            too_many = tokens
    return fits


def _others(account: Account, need: Need) -> list[Line]:
    """Whose weights may go for it, in that order."""
    lines = [line for line in account.lines if line.model != need.model and not line.pinned]
    return sorted(lines, key=lambda line: (line.priority, line.used_s))


def _idle(account: Account, need: Need, now_s: float, *, must: bool) -> Iterator[Step]:
    """What can go at once. `must`: it is wanted now, and not only to stay clear of the limit."""
    own_first = sorted(account.lines, key=lambda line: line.model != need.model)
    for line in own_first:
        if line.spare:
            yield Step(Act.SPARE, line.model, line.spare)
    for line in sorted(account.lines, key=lambda line: (line.busy, line.priority, line.used_s)):
        if line.kept:
            yield Step(Act.KEPT, line.model, line.kept)
    for line in _others(account, need):
        # To stay clear of the limit is no reason to put those out whose priority is higher.
        wanted = must or line.priority <= need.priority
        if line.layers and not line.busy and wanted and now_s >= turn_over_s(line, need):
            yield Step(Act.PAGE_OUT, line.model, line.weights, len(line.layers))


def _no_more_than(step: Step, most: int, account: Account) -> Step:
    """As many layers as it takes; of what can be cut anywhere, no more than that."""
    if step.act is not Act.PAGE_OUT:
        return step._replace(bytes=min(step.bytes, most))
    line = next(line for line in account.lines if line.model == step.model)
    layers = freed = 0
    for size in line.layers:
        if freed >= most:
            break
        layers, freed = layers + 1, freed + size
    return step._replace(bytes=freed, layers=layers)


def turn_over_s(line: Line, need: Need) -> float:
    """When the turn of a model is over for this need."""
    turn_s = max(LEAST_TURN_S, TURN * line.took_s)
    return line.came_s + turn_s * _PRECEDENCE ** max(line.priority - need.priority, 0)


def _yielding(account: Account, need: Need, missing: int, now_s: float) -> Iterator[Step]:
    """Models with work that shall admit nobody new, until what they have would be enough."""
    for line in _others(account, need):
        if missing <= 0:
            return
        if line.busy:
            missing -= line.total
            if now_s >= turn_over_s(line, need):
                yield Step(Act.YIELD, line.model, line.total, len(line.layers))
