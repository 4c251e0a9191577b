"""Traffic and error budgets of a stretch of time, from its rollups; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from lmx_ledger.report.digest.model import Budget, ModelDays, Traffic
from lmx_ledger.report.digest.sums import OUTCOME, Sums, Tables, Told
from lmx_ledger.report.text import CODE, plain
from lmx_ledger.slo.burn import Count, burn_rate
from lmx_ledger.slo.objective import Objective, Values, judged
from lmx_ledger.slo.recall import EVERY_MODEL
from lmx_ledger.slo.rollup import NO_MODEL, Rollup

MODELS: Final = 20
"""So many are told one by one, those that were asked most."""
OTHERS: Final = "others"
NOT_NAMED: Final = "(no model)"
_REFUSED: Final = f"{OUTCOME}rejected."
_FAILED: Final = f"{OUTCOME}failed."
_CANCELLED: Final = f"{OUTCOME}cancelled."
_encode: Final = msgspec.msgpack.encode


def traffic_of(name: str, rows: Mapping[str, Rollup]) -> Traffic:
    """What became of the requests of which these are the rollups."""
    refused, failed = _by_code(rows, _REFUSED), _by_code(rows, _FAILED)
    answered = _count(rows, f"{OUTCOME}ok")
    cancelled = sum(row.count for sli, row in rows.items() if sli.startswith(_CANCELLED))
    return Traffic(
        name=name,
        requests=answered + cancelled + sum(refused.values()) + sum(failed.values()),
        answered=answered,
        refused=refused,
        failed=failed,
        cancelled=cancelled,
        prompt_tokens=_total(rows, "prompt_tokens"),
        completion_tokens=_total(rows, "completion_tokens"),
        ttft_p95_ms=_p95(rows, "ttft_ms"),
        itl_p95_ms=_p95(rows, "itl_p95_ms"),
    )


def models_of(tables: Tables, days: Sequence[int]) -> tuple[list[Traffic], list[ModelDays]]:
    """Each model's traffic, and its requests by day; those that were asked most first, the rest as one."""
    asked = {model: sum(tables.ended.get((model, day), 0) for day in days) for model in tables.models}
    ranked = sorted((model for model in asked if asked[model]), key=lambda model: (-asked[model], model))
    rows, by_day = list[Traffic](), list[ModelDays]()
    for model in ranked[:MODELS]:
        name = NOT_NAMED if model == NO_MODEL else model
        rows.append(traffic_of(name, tables.models[model]))
        by_day.append(ModelDays(model=name, requests=[tables.ended.get((model, day), 0) for day in days]))
    if rest := ranked[MODELS:]:
        left = [sum(tables.ended.get((model, day), 0) for model in rest) for day in days]
        by_day.append(ModelDays(model=f"{OTHERS} ({len(rest)})", requests=left))
    return rows, by_day


def budgets_of(
    objectives: Sequence[Objective], now: Sums, tables: Tables, before: Mapping[str, Mapping[str, Rollup]] | None
) -> list[Budget]:
    """Of each objective that was judged: of all models, and of each that has burned some of it or alerted.

    `before` has the rollups of the time before by model; None where there is none.
    """
    found = []
    for objective in objectives:
        limit = objective.limit
        counts = {model: _judged(objective, limit, rows) for model, rows in tables.models.items()}
        earlier = {model: _judged(objective, limit, rows) for model, rows in (before or {}).items()}
        told = now.told.get((objective.name, EVERY_MODEL))
        count = _added(counts.values())
        if count.total or count.shed or told is not None:
            found.append(_budget(objective, None, count, _added(earlier.values()), told))
        for model in sorted(model for model in counts if model != NO_MODEL):
            told = now.told.get((objective.name, model))
            if counts[model].bad or (told is not None and (told.alerts or told.exhausted)):
                found.append(_budget(objective, model, counts[model], earlier.get(model, Count()), told))
    return found


def _budget(objective: Objective, model: str | None, count: Count, before: Count, told: Told | None) -> Budget:
    target = objective.policy.target
    return Budget(
        objective=objective.name,
        model=model,
        target=target,
        period=objective.policy.profile.period.name,
        good=count.good,
        total=count.total,
        shed=count.shed,
        burned=burn_rate(count, target),
        burned_before=burn_rate(before, target),
        left=None if told is None else told.last,
        left_before=None if told is None else told.first,
        fastest=None if told is None else told.fastest,
        window=None if told is None else told.window,
        alerts=0 if told is None else told.alerts,
        exhausted=told is not None and told.exhausted,
    )


def _judged(objective: Objective, limit: float, rows: Mapping[str, Rollup]) -> Count:
    values = {sli: Values(row.count, row.least, row.most, _encode(row.buckets)) for sli, row in rows.items()}
    return judged(objective, limit, values)


def _added(counts: Iterable[Count]) -> Count:
    good = total = shed = 0
    for count in counts:
        good, total, shed = good + count.good, total + count.total, shed + count.shed
    return Count(good, total, shed)


def _by_code(rows: Mapping[str, Rollup], prefix: str) -> dict[str, int]:
    found = {plain(sli.removeprefix(prefix), CODE): row.count for sli, row in rows.items() if sli.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def _count(rows: Mapping[str, Rollup], sli: str) -> int:
    return rows[sli].count if sli in rows else 0


def _total(rows: Mapping[str, Rollup], sli: str) -> int:
    return round(rows[sli].sum) if sli in rows else 0


def _p95(rows: Mapping[str, Rollup], sli: str) -> float | None:
    value = rows[sli].quantile(0.95) if sli in rows else None
    return None if value is None else round(value, 3)
