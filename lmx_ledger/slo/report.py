"""Objectives as they are told: the rows of `/lmx/slo`, and the events."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import rfc3339
from lmx_ledger.slo.asleep import awake_s
from lmx_ledger.slo.burn import (
    Alerted,
    Cleared,
    Count,
    Decision,
    Observed,
    State,
    budget_remaining,
    burn_rate,
    exhausts_in_s,
)
from lmx_ledger.slo.objective import Objective
from lmx_ledger.slo.recall import EVERY_MODEL, Recalled
from lmx_ledger.slo.tally import Tally


class Row(NamedTuple):
    """An objective of a model (None: of all), as it stands. `lately`: in this minute and the one before."""

    objective: Objective
    model: str | None
    observed: Observed
    state: State
    lately: Count

    @property
    def burns_now(self) -> bool:
        """Whether the budget is used up faster than it lasts by what was answered lately."""
        return (burn_rate(self.lately, self.objective.policy.target) or 0.0) > 1.0


def rows_of(objectives: Sequence[Objective], tally: Tally, recalled: Recalled, now_us: int) -> Iterator[Row]:
    """Every objective of all models, whether there was anything or not, and behind it those of models that had some."""
    for objective in objectives:
        on = recalled.states.get(objective.name, {})
        named = {model for model, state in on.items() if model != EVERY_MODEL and state.alerts}
        for model in (None, *sorted(named.union(tally.models))):
            observed = tally.observed(objective, model, now_us, recalled.slept)
            if model is None or observed.period.total or model in named:
                lately = tally.lately(objective, model, now_us, recalled.slept)
                yield Row(objective, model, observed, recalled.of(objective.name, model), lately)


def public(rows: Sequence[Row]) -> dict[str, Any]:
    """The answer of `/lmx/slo`."""
    return {"objectives": [_public(row) for row in rows]}


def _public(row: Row) -> dict[str, Any]:
    objective, observed = row.objective, row.observed
    policy = objective.policy
    return {
        "name": objective.name,
        "model": row.model,
        "objective": policy.target,
        "threshold": objective.threshold,
        "unit": objective.indicator.unit or None,
        "period": policy.profile.period.name,
        "good": observed.period.good,
        "total": observed.period.total,
        "shed": observed.period.shed,
        "budget_remaining": budget_remaining(observed.period, policy.target),
        "burn": _burn(row),
        "exhausts_in_s": exhausts_in_s(observed, policy),
        "alerts": [
            {
                "severity": alert.severity,
                "long": name.partition("/")[0],
                "short": name.partition("/")[2],
                "factor": alert.factor,
                "since": rfc3339(alert.since_us),
                "event": alert.seq or None,
            }
            for name, alert in row.state.alerts.items()
        ],
    }


def evaluated(row: Row) -> ev.SloEvaluated:
    """`slo.evaluated`."""
    period = row.observed.period
    return ev.SloEvaluated(
        objective=row.objective.name,
        good=period.good,
        total=period.total,
        shed=period.shed,
        budget_remaining=budget_remaining(period, row.objective.policy.target),
        burn=_burn(row),
    )


def announced(row: Row, decision: Decision, recalled: Recalled) -> ev.EventData:
    """The event that a decision is."""
    name, policy, observed = row.objective.name, row.objective.policy, row.observed
    if isinstance(decision, Alerted):
        return ev.SloBurnAlerted(
            objective=name,
            severity=decision.pair.severity,
            long=decision.pair.long.name,
            short=decision.pair.short.name,
            factor=decision.pair.factor,
            long_burn=decision.long_burn,
            short_burn=decision.short_burn,
            budget_remaining=budget_remaining(observed.period, policy.target),
            exhausts_in_s=exhausts_in_s(observed, policy),
        )
    if isinstance(decision, Cleared):
        return cleared(name, decision, observed.now_us, recalled)
    return ev.SloBudgetExhausted(
        objective=name, target=policy.target, good=decision.period.good, total=decision.period.total
    )


def cleared(objective: str, decision: Cleared, now_us: int, recalled: Recalled) -> ev.SloBurnCleared:
    """`slo.burn_cleared`; time that the machine slept is not part of what it lasted."""
    long, _, short = decision.name.partition("/")
    return ev.SloBurnCleared(
        objective=objective,
        severity=decision.alert.severity,
        long=long,
        short=short,
        factor=decision.alert.factor,
        lasted_s=round(awake_s(decision.alert.since_us, now_us, recalled.slept), 3),
    )


def _burn(row: Row) -> dict[str, float | None]:
    target = row.objective.policy.target
    return {window.name: burn_rate(count, target) for window, count in row.observed.windows.items()}
