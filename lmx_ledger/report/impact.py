"""Who was hit, and how: requests by model and session, and what it cost the objectives' budgets."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.model import Budget, Impact, Promises
from lmx_ledger.report.requests import Seen, percentile
from lmx_ledger.report.text import CODE, plain

SESSIONS: Final = 15
"""So many that were affected are told one by one, those hit hardest first."""
NO_MODEL: Final = "(no model)"
NO_SESSION: Final = "(no session)"


class Hit(msgspec.Struct, frozen=True):
    """All of it."""

    total: Impact
    by_model: list[Impact]
    sessions: list[Impact]
    others: Impact | None
    sessions_in_all: int
    sessions_affected: int


def hit_by(requests: Sequence[Seen], promises: Promises) -> Hit:
    """Of everybody, by model, and by session."""
    models: dict[str, list[Seen]] = defaultdict(list)
    sessions: dict[str, list[Seen]] = defaultdict(list)
    for seen in requests:
        models[seen.model or NO_MODEL].append(seen)
        sessions[seen.session or NO_SESSION].append(seen)
    # Of those hit alike whoever came first, not by name: a bundle has other names, and tells the same.
    ranked = sorted(((_harm(of, promises), name, of) for name, of in sessions.items()), key=lambda one: -one[0])
    told = [one for one in ranked[:SESSIONS] if one[0]]
    rest = [seen for _, _, of in ranked[len(told) :] for seen in of]
    return Hit(
        impact_of("all", requests, promises),
        [impact_of(name, of, promises) for name, of in sorted(models.items())],
        [impact_of(name, of, promises) for _, name, of in told],
        impact_of("others", rest, promises) if rest else None,
        len(sessions),
        sum(1 for harm, _, _ in ranked if harm),
    )


def impact_of(name: str, requests: Sequence[Seen], promises: Promises) -> Impact:
    """What became of these."""
    outcomes = Counter(seen.outcome for seen in requests)
    return Impact(
        name=name,
        requests=len(requests),
        answered=outcomes["answered"],
        slow=sum(seen.is_slow(promises.ttft_ms, promises.itl_ms) for seen in requests),
        refused=_by_code(requests, "refused"),
        failed=_by_code(requests, "failed"),
        cancelled=outcomes["cancelled"],
        resumed=sum(1 for seen in requests if seen.resumed),
        recomputed_tokens=sum(seen.recomputed_tokens for seen in requests),
        ttft_p95_ms=percentile([seen.ttft_ms for seen in requests if seen.ttft_ms is not None], 0.95),
        wall_p95_ms=percentile([seen.wall_ms for seen in requests if seen.wall_ms is not None], 0.95),
    )


def harmed(impact: Impact) -> int:
    """Requests that were refused or failed, were late, or went on only after a pause."""
    return sum(impact.refused.values()) + sum(impact.failed.values()) + impact.slow + impact.resumed


def _harm(requests: Sequence[Seen], promises: Promises) -> int:
    return sum(
        3 * (seen.outcome == "failed")
        + 2 * (seen.outcome == "refused")
        + bool(seen.resumed)
        + seen.is_slow(promises.ttft_ms, promises.itl_ms)
        for seen in requests
    )


def _by_code(requests: Sequence[Seen], outcome: str) -> dict[str, int]:
    return dict(sorted(Counter(plain(seen.code, CODE) for seen in requests if seen.outcome == outcome).items()))


def budgets_of(events: Sequence[Recorded], inside: Sequence[Recorded]) -> list[Budget]:
    """What each objective's budget was before and after those `inside`, those that burned most first."""
    first = inside[0].seq if inside else 0
    last = inside[-1].seq if inside else 0
    told: dict[tuple[str, str], list[Recorded]] = defaultdict(list)
    for event in events:
        if event.type.startswith("slo.") and "objective" in event.data:
            told[event.data["objective"], event.model or ""].append(event)
    found = [_budget(name, model or None, _around(of, first, last)) for (name, model), of in sorted(told.items())]
    return sorted(found, key=lambda one: -(one.burned or 0.0))


def _around(events: Sequence[Recorded], first: int, last: int) -> list[Recorded]:
    """The last one before, all of the incident's, and the first one behind it."""
    before, after = [e for e in events if e.seq < first], [e for e in events if e.seq > last]
    return [*before[-1:], *(e for e in events if first <= e.seq <= last), *after[:1]]


def _budget(objective: str, model: str | None, events: Sequence[Recorded]) -> Budget:
    left = [e.data["budget_remaining"] for e in events if e.data.get("budget_remaining") is not None]
    rates = [(rate, window) for e in events for window, rate in e.data.get("burn", {}).items() if rate is not None]
    rates += [(e.data["short_burn"], e.data["short"]) for e in events if e.type == "slo.burn_alerted"]
    fastest = max(rates, default=(None, None), key=lambda one: (one[0] or 0.0, one[1] or ""))
    before, after = (left[0], left[-1]) if left else (None, None)
    return Budget(
        objective=objective,
        model=model,
        before=before,
        after=after,
        burned=round(before - after, 9) if before is not None and after is not None and len(left) > 1 else None,
        fastest=fastest[0],
        window=fastest[1],
        alerts=sum(1 for e in events if e.type == "slo.burn_alerted"),
        exhausted=any(e.type == "slo.budget_exhausted" for e in events),
    )
