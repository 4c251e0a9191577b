"""The guard's signals and stages as the ledger has them: what was observed, and what was decided by it.

Fed into `stages.decide` again, the one gives the other: that is how a replay knows that it is the same guard.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.guard.signals import SIGNALS
from lmx_ledger.guard.stages import (
    CeilingChanged,
    Decision,
    Off,
    On,
    Policy,
    Stage,
    StageChanged,
    State,
    Tick,
    advance,
)

TYPES: Final = (
    "guard.threshold_breached",
    "guard.threshold_cleared",
    "guard.stage_changed",
    "guard.context_ceiling_changed",
)
"""The events that `observations` and `decisions` read."""
_SAFE_MODE: Final = "safe_mode_"
RECOVERED: Final = "recovered"


def safe_reason(signal: str | None) -> str:
    """What a change of the ceiling, and a refusal because of it, call the signal behind it."""
    return RECOVERED if signal is None else _SAFE_MODE + signal


def observations(events: Iterable[Recorded]) -> Iterator[On | Off]:
    """The changes of signals, of one run, in the order of the ledger."""
    for event in events:
        data = event.data
        if not event.type.startswith("guard.threshold_") or data["name"] not in SIGNALS:
            continue
        if event.type == "guard.threshold_breached":
            yield On(data["at_us"], data["name"], data["value"])
        else:
            yield Off(data["at_us"], data["name"])


def decisions(events: Iterable[Recorded]) -> Iterator[Decision]:
    """What was decided, of one run, in the order of the ledger."""
    for event in events:
        data = event.data
        if event.type == "guard.stage_changed":
            reasons = tuple((name, data["readings"][name]) for name in data["reasons"])
            yield StageChanged(data["at_us"], Stage.of(data["from"]), Stage.of(data["to"]), reasons)
        elif event.type == "guard.context_ceiling_changed":
            signal = None if data["reason"] == RECOVERED else data["reason"].removeprefix(_SAFE_MODE)
            yield CeilingChanged(data["at_us"], data["from"], data["to"], signal)


def replayed(
    observed: Sequence[On | Off], policy: Policy, until_us: int, changes: Sequence[tuple[int, Policy]] = ()
) -> Iterator[Decision]:
    """What would have been decided by these observations under that policy, up to a moment of the guard's clock.

    `changes` are policies that came into force later, each with its moment, in order.
    """
    state, later = State(), list(changes)
    for one in (*observed, Tick(until_us)):
        while later and later[0][0] <= one.at_us:
            # What was due until then was due under the one before.
            state, found = advance(state, Tick(later[0][0]), policy)
            yield from found
            policy = later.pop(0)[1]
        state, found = advance(state, one, policy)
        yield from found
