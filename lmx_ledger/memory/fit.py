"""Whether a model fits beside others, and what that costs them: asked of the daemon's own planner."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from lmx_ledger.memory.caches import STEP
from lmx_ledger.memory.plan import Account, Line, Need, Plan, Policy, Verdict, plan
from lmx_ledger.memory.shape import ModelShape

LEAST_CHUNK: Final = 64
"""Tokens; a prompt is read in smaller pieces where there is no room for large ones, but hardly in smaller ones."""


class Candidate(NamedTuple):
    """A model to be loaded, or one that is there without work."""

    model: str
    shape: ModelShape
    priority: int = 0
    pinned: bool = False


class Room(NamedTuple):
    """What there is: the limit in bytes, of which `reserve` is nobody's and `others` is taken by others.

    Prompts are read by `chunk` tokens at most; of heads as wide as one of `fused` the device keeps no scores.
    """

    limit: int
    chunk: int
    fused: frozenset[int]
    reserve: int = 0
    others: int = 0
    policy: Policy = Policy()


class PagedOut(NamedTuple):
    """Layers `first` to `last` of a model, that go together; `whole`: with all that belongs to no layer."""

    model: str
    first: int
    last: int
    whole: bool
    bytes: int


class Fit(NamedTuple):
    """The answer for one stream of `context` tokens, in bytes.

    `spare` is left under the limit behind the page-outs. `longest` is the longest context that does not fall short,
    as far as it was looked for; 0: none. `chunk`: the tokens of a prompt that there is room to read at once.
    """

    verdict: Literal["fits", "pages", "short"]
    context: int
    chunk: int
    weights: int
    kv: int
    working: int
    spare: int
    short_by: int
    paged: tuple[PagedOut, ...]
    longest: int

    @property
    def need(self) -> int:
        """All that the model takes."""
        return self.weights + self.kv + self.working


def fit(one: Candidate, context: int, beside: Sequence[Candidate], room: Room, most: int) -> Fit:
    """Whether it fits with a stream of so many tokens, and up to how many, `most` at most, it would."""
    account = Account(room.limit, room.reserve, tuple(map(_line, beside)), room.others)
    chunk, need, planned = _planned(one, context, account, room)
    # Nobody beside it has KV or room to spare: all that can go is weights.
    paged = [_paged(step.bytes, step.layers, _named(beside, step.model)) for step in planned.steps]
    fits = planned.verdict is Verdict.FITS
    return Fit(
        verdict="short" if not fits else "pages" if paged else "fits",
        context=context,
        chunk=chunk,
        weights=need.weights,
        kv=need.kv,
        working=need.working,
        spare=account.limit - account.used - need.total + planned.freed if fits else 0,
        short_by=planned.short_by,
        paged=tuple(paged) if fits else (),
        longest=_longest(one, account, room, most),
    )


def _planned(one: Candidate, context: int, account: Account, room: Room) -> tuple[int, Need, Plan]:
    """With the largest pieces that there is room for."""
    chunk = room.chunk
    while True:
        need = Need(
            one.model,
            weights=one.shape.weights_bytes,
            kv=one.shape.kv_bytes(context),
            working=one.shape.working_bytes(chunk, context, room.fused),
            priority=one.priority,
        )
        planned = plan(account, need, room.policy, now_s=0.0)
        if planned.verdict is Verdict.FITS or chunk // 2 < LEAST_CHUNK:
            return chunk, need, planned
        chunk //= 2


def _longest(one: Candidate, account: Account, room: Room, most: int) -> int:
    """By halves, in whole steps of the caches, for what is needed grows with the tokens."""
    fits, too_many = 0, -(-most // STEP) + 1
    while too_many - fits > 1:
        steps = (fits + too_many) // 2
        if _planned(one, min(steps * STEP, most), account, room)[2].verdict is Verdict.FITS:
            fits = steps
        else:
            too_many = steps
    return min(fits * STEP, most)


def _line(one: Candidate) -> Line:
    # The worker pages the last layer first, and what belongs to none at the end.
    layers = (*reversed(one.shape.layers), one.shape.rest_bytes)
    return Line(one.model, layers, pinned=one.pinned, priority=one.priority)


def _paged(size: int, parts: int, one: Candidate) -> PagedOut:
    count = len(one.shape.layers)
    return PagedOut(one.model, max(count - parts, 0), count - 1, parts > count, size)


def _named(beside: Sequence[Candidate], model: str) -> Candidate:
    return next(one for one in beside if one.model == model)
