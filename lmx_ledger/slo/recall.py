"""What the ledger knows of objectives: alerts that are on, budgets that were told to be exhausted, when it slept."""

from typing import Any, Final

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.slo.asleep import Slept, with_sleep
from lmx_ledger.slo.burn import REFILLED, Alert, State

EVERY_MODEL: Final = ""
"""Of all models together, where a key has to be a text."""

_KEPT_SLEEPS: Final = 500
_NEW: Final = State()


class Recalled(msgspec.Struct, frozen=True):
    """States by objective and model, when the machine slept, and when objectives were last told of (0: never)."""

    states: dict[str, dict[str, State]] = {}
    slept: tuple[Slept, ...] = ()
    evaluated_us: int = 0

    def of(self, objective: str, model: str | None) -> State:
        """The state of one; a new one where nothing is known."""
        return self.states.get(objective, {}).get(model or EVERY_MODEL, _NEW)

    def having(self, objective: str, model: str | None, state: State) -> "Recalled":
        """With that state."""
        of_all = {**self.states.get(objective, {}), model or EVERY_MODEL: state}
        return msgspec.structs.replace(self, states={**self.states, objective: of_all})


class ObjectivesFold:
    """See `ledger.fold.Fold`."""

    name: Final = "objectives"
    version: Final = 1
    types: Final = ("slo.*", "sensor.woke")
    state: Final[Any] = Recalled

    def initial(self) -> Recalled:
        """Nothing was ever promised."""
        return Recalled()

    def evolve(self, state: Recalled, event: Recorded) -> Recalled:
        """After one more. Told again what it knows (two daemons of one home judge alike), it stays as it is."""
        if event.type == "sensor.woke":
            slept = with_sleep(state.slept, _slept(event))
            return msgspec.structs.replace(state, slept=slept[-_KEPT_SLEEPS:])
        objective = event.data["objective"]
        known = state.of(objective, event.model)
        if event.type == "slo.evaluated":
            left = event.data["budget_remaining"]
            refilled = known.exhausted and left is not None and left >= REFILLED
            state = msgspec.structs.replace(state, evaluated_us=max(state.evaluated_us, event.time_us))
            return state.having(objective, event.model, _told(known, False)) if refilled else state
        return state.having(objective, event.model, _after(known, event))


def _after(known: State, event: Recorded) -> State:
    if event.type == "slo.budget_exhausted":
        return _told(known, True)
    name = f"{event.data['long']}/{event.data['short']}"
    others = {pair: alert for pair, alert in known.alerts.items() if pair != name}
    if event.type == "slo.burn_cleared":
        return msgspec.structs.replace(known, alerts=others)
    alert = known.alerts.get(name)
    if alert is None:
        alert = Alert(event.data["severity"], event.data["factor"], event.time_us)
    if not alert.seq:
        alert = msgspec.structs.replace(alert, since_us=event.time_us, seq=event.seq)
    return msgspec.structs.replace(known, alerts={**others, name: alert})


def _told(known: State, exhausted: bool) -> State:
    return msgspec.structs.replace(known, exhausted=exhausted)


def _slept(event: Recorded) -> Slept:
    return Slept(event.time_us - int(event.data["slept_s"] * 1e6), event.time_us)
