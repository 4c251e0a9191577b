"""A decision of the guard of memory as the ledger has it: what it was asked, so that it can be asked again."""

from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.guard.memory import (
    Breached,
    Cleared,
    Decision,
    LimitChanged,
    Observed,
    Policy,
    State,
    SwapThrash,
    decide,
    judge,
)

TYPES: Final = (
    "guard.threshold_breached",
    "guard.threshold_cleared",
    "sensor.swap_thrash",
    "sensor.swap_recovered",
)
"""The events that have such a question."""


class Asked(NamedTuple):
    """All that `decide` is given; `judged`: it was `judge` that was asked, about what is about to be reserved."""

    state: State
    observed: Observed
    policy: Policy
    judged: bool = False

    def decide(self) -> list[Decision]:
        """The answer."""
        if self.judged:
            return judge(self.state, self.observed, self.policy)
        return decide(self.state, self.observed, self.policy)

    def told(self) -> list[Any]:
        """As JSON, for an event."""
        told: list[Any] = msgspec.to_builtins(self)
        return told


def asked(event: Recorded) -> Asked | None:
    """What was asked for that event; None where it is none of these."""
    told = event.data.get("asked")
    return msgspec.convert(told, Asked) if told else None


def is_of(decision: Decision, event: Recorded) -> bool:
    """Whether that event says what was decided."""
    data = event.data
    match decision:
        case LimitChanged():
            moved = (decision.from_bytes, decision.to_bytes, decision.reason.value)
            return moved == (data.get("from_bytes"), data.get("to_bytes"), data.get("reason"))
        case Breached() | Cleared():
            breached = event.type == "guard.threshold_breached"
            used = (decision.used_bytes, decision.limit_bytes)
            return isinstance(decision, Breached) is breached and used == (
                data.get("used_bytes"),
                data.get("limit_bytes"),
            )
    thrash = event.type == "sensor.swap_thrash"
    return isinstance(decision, SwapThrash) is thrash and decision.bytes_per_s == data.get("bytes_per_s")
