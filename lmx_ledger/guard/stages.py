"""The guard's stages and its safe mode, as pure functions of signals that come on and go off, and of time.

Trouble is met in stages: `backpressure` (new sessions are refused), `shedding` (models of low priority go), `restart`
(the worker is replaced, its sessions kept). Up with the trouble that the next stage is for, and down one stage after
the other once that is over. Safe mode, a lower context ceiling, is a flag beside them.

A decision is dated to the moment when it became due, not to the tick that found it: whoever feeds the recorded signals
in again gets the recorded decisions, whenever the ticks of that day were.
"""

import enum
from typing import Final, NamedTuple, TypeAlias

from lmx_ledger.guard.signals import BURN, GPU, MEMORY_FULL, QUEUE_WAIT, SWAP, THERMAL


class Stage(enum.IntEnum):
    """In their order."""

    NORMAL = 0
    BACKPRESSURE = 1
    SHEDDING = 2
    RESTART = 3

    @property
    def label(self) -> str:
        """As events and `/lmx/status` have it."""
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> "Stage":
        """The stage of that label; `KeyError` where there is none."""
        return cls[label.upper()]


_CROWDED: Final = frozenset({QUEUE_WAIT, MEMORY_FULL, GPU, BURN, SWAP})
"""What new sessions would make worse."""
_STARVED: Final = frozenset({MEMORY_FULL, BURN, SWAP})
"""What may be better with fewer models. A long line is not: models that do nothing take nothing from it."""
_HOLDS: Final = {Stage.BACKPRESSURE: _CROWDED, Stage.SHEDDING: _STARVED, Stage.RESTART: _STARVED}
_SAFE: Final = (THERMAL, SWAP)


class Policy(NamedTuple):
    """No stage is left before `dwell_s`, and none before what it is for has been over for `exit_s`.

    From backpressure it goes on to shedding behind `shed_after_s` of trouble that fewer models might mend, and from
    there, behind `restart_after_s` of it, to a restart, at most once in `restart_every_s`. Safe mode lasts for
    `safe_dwell_s` at least, and `max_tokens` and `safe_tokens` are the ceilings without it and in it.
    """

    dwell_s: float = 5.0
    exit_s: float = 10.0
    shed_after_s: float = 30.0
    restart_after_s: float = 120.0
    restart_every_s: float = 600.0
    safe_dwell_s: float = 10.0
    max_tokens: int = 131_072
    safe_tokens: int = 64_000

    @property
    def safe_ceiling(self) -> int:
        """In safe mode."""
        return min(self.safe_tokens, self.max_tokens)


class On(NamedTuple):
    """A signal has come on, with that value."""

    at_us: int
    name: str
    value: float


class Off(NamedTuple):
    """It has gone off."""

    at_us: int
    name: str


class Tick(NamedTuple):
    """Time has passed."""

    at_us: int


Observed: TypeAlias = On | Off | Tick


class StageChanged(NamedTuple):
    """From that moment on it is another stage. `reasons` are the signals that are on then, with their values."""

    at_us: int
    before: Stage
    after: Stage
    reasons: tuple[tuple[str, float], ...]


class CeilingChanged(NamedTuple):
    """From that moment on prompts may have so many tokens; `reason` is the signal, None: safe mode is over."""

    at_us: int
    before: int
    after: int
    reason: str | None


Decision: TypeAlias = StageChanged | CeilingChanged


class State(NamedTuple):
    """`on` are the signals that are on: since when, and with which value they came on.

    `calm_us`: since when none of those that hold a stage is on, by stage, where that is so.
    """

    on: tuple[tuple[str, int, float], ...] = ()
    calm_us: tuple[tuple[Stage, int], ...] = ()
    stage: Stage = Stage.NORMAL
    entered_us: int | None = None
    restarted_us: int | None = None
    safe: str | None = None
    safe_changed_us: int | None = None
    safe_calm_us: int | None = None
    now_us: int = 0

    @property
    def names(self) -> frozenset[str]:
        """Of the signals that are on."""
        return frozenset(name for name, _, _ in self.on)


def admits(stage: Stage, *, known: bool) -> bool:
    """Whether a request is let in: whoever is known goes on at any stage."""
    return known or stage is Stage.NORMAL


def advance(state: State, observed: Observed, policy: Policy) -> tuple[State, list[Decision]]:
    """The state behind an observation, with all that has become due by then decided: first what was before it."""
    decided: list[Decision] = []
    for event in (Tick(observed.at_us), observed):
        found = decide(state, event, policy)
        state = evolve(state, event, policy)
        for decision in found:
            state = evolve(state, decision, policy)
        decided += found
    return state, decided


def decide(state: State, observed: Observed, policy: Policy) -> list[Decision]:
    """All that has become due by then, in order; `state` has not folded the observation in yet."""
    state, decisions = evolve(state, observed, policy), list[Decision]()
    while (decision := _next(state, policy)) is not None:
        decisions.append(decision)
        state = evolve(state, decision, policy)
    return decisions


def evolve(state: State, event: Observed | Decision, policy: Policy) -> State:  # noqa: ARG001 - as every decider's
    """After one more."""
    match event:
        case Tick():
            return state._replace(now_us=max(event.at_us, state.now_us))
        case On():
            now = max(event.at_us, state.now_us)
            rest = [one for one in state.on if one[0] != event.name]
            since = next((since for name, since, _ in state.on if name == event.name), now)
            return _with(state, (*rest, (event.name, since, event.value)), now)
        case Off():
            now = max(event.at_us, state.now_us)
            return _with(state, tuple(one for one in state.on if one[0] != event.name), now)
        case StageChanged():
            restarted = event.at_us if event.after is Stage.RESTART else state.restarted_us
            restarted = restarted if event.after > event.before else state.restarted_us
            return state._replace(stage=event.after, entered_us=event.at_us, restarted_us=restarted)
        case CeilingChanged():
            return state._replace(safe=event.reason, safe_changed_us=event.at_us)


def _with(state: State, on: tuple[tuple[str, int, float], ...], now: int) -> State:
    state = state._replace(on=tuple(sorted(on)), now_us=now)
    names, before = state.names, dict(state.calm_us)
    calm = {stage: before.get(stage, now) for stage, holds in _HOLDS.items() if not holds & names}
    safe_calm = None if names & set(_SAFE) else now if state.safe_calm_us is None else state.safe_calm_us
    return state._replace(calm_us=tuple(sorted(calm.items())), safe_calm_us=safe_calm)


def _next(state: State, policy: Policy) -> Decision | None:
    """The earliest decision that is due by now."""
    due = [decision for decision in (_stage(state, policy), _ceiling(state, policy)) if decision is not None]
    due = [decision for decision in due if decision.at_us <= state.now_us]
    return min(due, key=lambda decision: decision.at_us, default=None)


def _stage(state: State, policy: Policy) -> StageChanged | None:
    """The stage that comes next, as things are, and when."""
    stage, calm = state.stage, dict(state.calm_us)
    entered = state.entered_us
    if stage is not Stage.NORMAL and stage in calm:
        return _change(state, Stage(stage - 1), max(calm[stage] + _us(policy.exit_s), _later(entered, policy.dwell_s)))
    if stage is Stage.RESTART:
        return None
    after = Stage(stage + 1)
    since = min((since for name, since, _ in state.on if name in _HOLDS[after]), default=None)
    if since is None:
        return None
    if stage is Stage.NORMAL:
        return _change(state, after, max(since, _later(entered, policy.dwell_s)))
    patience_s = policy.shed_after_s if stage is Stage.BACKPRESSURE else policy.restart_after_s
    at_us = max(since, entered or 0) + _us(max(patience_s, policy.dwell_s))
    if after is Stage.RESTART:
        at_us = max(at_us, _later(state.restarted_us, policy.restart_every_s))
    return _change(state, after, at_us)


def _change(state: State, after: Stage, at_us: int) -> StageChanged:
    return StageChanged(at_us, state.stage, after, tuple((name, value) for name, _, value in state.on))


def _ceiling(state: State, policy: Policy) -> CeilingChanged | None:
    held = _later(state.safe_changed_us, policy.safe_dwell_s)
    wanted = next((name for name in _SAFE if name in state.names), None)
    if state.safe is None and wanted is not None:
        since = next(since for name, since, _ in state.on if name == wanted)
        return CeilingChanged(max(since, held), policy.max_tokens, policy.safe_ceiling, wanted)
    if state.safe is not None and wanted is None and state.safe_calm_us is not None:
        return CeilingChanged(max(state.safe_calm_us, held), policy.safe_ceiling, policy.max_tokens, None)
    return None


def _later(at_us: int | None, seconds: float) -> int:
    return 0 if at_us is None else at_us + _us(seconds)


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
