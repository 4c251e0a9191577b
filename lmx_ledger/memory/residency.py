"""Which models are resident, how large, and since when: the fold of a run's events, for its successor's start."""

from typing import Final

import msgspec

from lmx_ledger.core.events import Recorded

STOPPED: Final = "daemon_stopped"
"""The reason of a `model.unloaded` that no one asked for: the daemon ended."""


class Resident(msgspec.Struct, frozen=True):
    """A model whose weights are in memory: how many bytes, and the event (and moment) that made it so."""

    weights_bytes: int
    since_us: int
    seq: int


class Residency(msgspec.Struct, frozen=True):
    """One run's models.

    `before` is what was resident when the run before this one ended, by whatever end: what a start may bring back.
    `stopped` is what the end of this run itself took away.
    """

    resident: dict[str, Resident] = {}
    pinned: frozenset[str] = frozenset()
    stopped: dict[str, Resident] = {}
    before: dict[str, Resident] = {}

    @property
    def weights_bytes(self) -> int:
        """All weights in memory, in bytes."""
        return sum(model.weights_bytes for model in self.resident.values())


class ResidencyFold:
    """See `ledger.fold.RunFold`."""

    name: Final = "residency"
    version: Final = 1
    types: Final = (
        "model.loaded",
        "model.load_failed",
        "model.unloaded",
        "model.pinned",
        "model.unpinned",
        "engine.exited",
    )
    state: Final = Residency

    def initial(self, before: Residency | None) -> Residency:
        """Nothing is resident; pins and what was resident last are known from the run before."""
        if before is None:
            return Residency()
        return Residency(pinned=before.pinned, before={**before.stopped, **before.resident})

    def evolve(self, state: Residency, event: Recorded) -> Residency:
        """After one more event."""
        if event.model is None:
            return state
        match event.type:
            case "model.loaded":
                now = Resident(event.data["weights_bytes"], event.time_us, event.seq)
                return msgspec.structs.replace(state, resident={**state.resident, event.model: now})
            case "model.pinned":
                return msgspec.structs.replace(state, pinned=state.pinned | {event.model})
            case "model.unpinned":
                return msgspec.structs.replace(state, pinned=state.pinned - {event.model})
            case "engine.exited" if event.data["expected"]:
                # Asked for: the event that says why, `model.unloaded` or `model.load_failed`, comes next.
                return state
            case "engine.exited" | "model.load_failed" | "model.unloaded":
                return _without(state, event)
        return state


def _without(state: Residency, event: Recorded) -> Residency:
    gone = {name: model for name, model in state.resident.items() if name == event.model}
    if not gone:
        return state
    rest = {name: model for name, model in state.resident.items() if name != event.model}
    if event.data.get("reason") == STOPPED:
        return msgspec.structs.replace(state, resident=rest, stopped={**state.stopped, **gone})
    return msgspec.structs.replace(state, resident=rest)
