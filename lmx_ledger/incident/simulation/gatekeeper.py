"""The guard in a model of a run: the same deciders as the daemon's, on figures that the model has; pure.

How long the line is, how full memory is and which alerts burn the model says itself. Swap, heat and the GPU come and go
as they did.
"""

from collections.abc import Mapping
from typing import Final

from lmx_ledger.core.config import Config
from lmx_ledger.guard import signals, stages
from lmx_ledger.guard.signals import BURN, MEMORY_FULL, QUEUE_WAIT
from lmx_ledger.guard.stages import Decision, Off, On, Stage, Tick
from lmx_ledger.incident.rules import Rules
from lmx_ledger.incident.simulation import late
from lmx_ledger.incident.simulation.late import TTFT
from lmx_ledger.incident.simulation.machine import Alert

ADMISSION: Final = "admission"
"""The objective whose alerts are no signal: refusals burn it."""
OWN: Final = frozenset({TTFT, late.QUEUE_WAIT})
"""Objectives that the model's own requests can be held against."""
_OURS: Final = (QUEUE_WAIT, MEMORY_FULL, BURN)


class Gatekeeper:
    """One run's guard. Moments are seconds of the model's clock."""

    def __init__(self, rules: Rules) -> None:
        self._signals, self._stages = signals.State(), stages.State()
        self.alerts: dict[tuple[str, str | None, str], Alert] = {}
        """That are on, in this model of the run, too."""
        self.obey(rules)

    def obey(self, rules: Rules) -> None:
        """Other rules are in force from now on."""
        self.rules = rules
        self._policy, self._thresholds = rules.stages, {name: rules.thresholds[name] for name in _OURS}

    @property
    def enabled(self) -> bool:
        """Whether it acts."""
        return self.rules.config.guard.enabled

    @property
    def stage(self) -> Stage:
        """In force."""
        return self._stages.stage if self.enabled else Stage.NORMAL

    @property
    def ceiling(self) -> int | None:
        """Of safe mode, where it is on."""
        return self._policy.safe_ceiling if self.enabled and self._stages.safe is not None else None

    @property
    def calm(self) -> bool:
        """Whether nothing is raised and nothing is on."""
        quiet = not self._signals.on and not self._stages.on
        return quiet and self._stages.stage is Stage.NORMAL and self._stages.safe is None

    @property
    def impatient_s(self) -> float:
        """Who would wait for so long is a reason to look at once."""
        return self.rules.config.guard.queue_wait

    def admits(self, *, known: bool) -> bool:
        """Whether a request is let in."""
        return stages.admits(self.stage, known=known)

    def alert(self, one: Alert, *, burns: bool) -> None:
        """An alert begins, which `burns` says whether it would have begun here, too; or it ends."""
        if one.objective == ADMISSION:
            return
        key = (one.objective, one.model, one.window)
        if one.on and burns:
            self.alerts[key] = one
        else:
            self.alerts.pop(key, None)

    def outside(self, one: On | Off) -> list[Decision]:
        """A signal comes on or goes off that nothing here changes."""
        return self._advance(one)

    def look(self, now_s: float, wait_s: float, memory: float, burning: int) -> list[Decision]:
        """Once: what follows from the figures of that moment; `burning`: alerts whose budget burns just then."""
        if not self.enabled:
            return []
        at_us = int(now_s * 1e6)
        values: Mapping[str, float | None] = {QUEUE_WAIT: wait_s, MEMORY_FULL: memory, BURN: float(burning)}
        policy = self._thresholds
        observed, found = signals.Observed(at_us, values), list[Decision]()
        changes = signals.decide(self._signals, observed, policy)
        self._signals = signals.evolve(self._signals, observed, policy)
        for change in changes:
            self._signals = signals.evolve(self._signals, change, policy)
            if isinstance(change, signals.Breached):
                found += self._advance(On(change.at_us, change.name, change.value))
            else:
                found += self._advance(Off(change.at_us, change.name))
        return [*found, *self._advance(Tick(at_us))]

    def _advance(self, one: On | Off | Tick) -> list[Decision]:
        if not self.enabled:
            return []
        self._stages, decided = stages.advance(self._stages, one, self._policy)
        return decided


def tokens_allowed(config: Config, context: int, gate: Gatekeeper) -> int:
    """Before memory is asked: the ceiling that configuration, model and safe mode make."""
    most = min(config.context.max_tokens, context or config.context.max_tokens)
    return most if gate.ceiling is None else min(most, gate.ceiling)
