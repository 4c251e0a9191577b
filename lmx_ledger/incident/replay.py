"""The past under other rules: what was decided, decided again by the same functions; pure.

Exact: every question that the planner and the guard of memory were asked is in the ledger whole, and so is every
change of the guard's signals. With the rules that were in force the answers must be the recorded ones. With others
each answer says what they would have decided there, of things as they were then: what would have followed from an
answer that differs is not known.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.guard import recorded_memory, signals, stages
from lmx_ledger.guard.recorded import decisions, observations, replayed
from lmx_ledger.guard.stages import CeilingChanged, Off, On, Stage, StageChanged
from lmx_ledger.incident.rules import Course
from lmx_ledger.memory import recorded as plans
from lmx_ledger.memory.plan import Act, Plan

DECISIONS: Final = (
    "paging.planned",
    "guard.threshold_breached",
    "guard.threshold_cleared",
    "guard.stage_changed",
    "guard.context_ceiling_changed",
    "sensor.swap_thrash",
    "sensor.swap_recovered",
    "sensor.sampled",
)
"""The events that have decisions, and what those hang on."""
_SIGNALS_OF_RULES: Final = ("guard.queue_wait", "guard.memory_at", "guard.gpu_at", "guard.gpu_for")


class Compared(NamedTuple):
    """A decision: what the ledger says, and what the rules say; None where one of them says nothing.

    `seq` is the recorded event's, None where there is none. `kind` is `plan`, `memory` or `stage`.
    """

    seq: int | None
    at_us: int
    kind: str
    recorded: str | None
    replayed: str | None

    @property
    def same(self) -> bool:
        """Whether they agree."""
        return self.recorded == self.replayed


def compare(events: Sequence[Recorded], rules: Course) -> list[Compared]:
    """Each recorded decision of one run beside the one of these rules, and those that only the rules come to."""
    found = [*_plans(events, rules), *_memory(events, rules), *_stages(events, rules)]
    return sorted(found, key=lambda one: (one.at_us, one.seq or 0))


def _plans(events: Iterable[Recorded], rules: Course) -> Iterator[Compared]:
    for event in events:
        if event.type != "paging.planned" or (asked := plans.asked(event)) is None:
            continue
        told = _acts(event.data["steps"], event.data["short_by_bytes"])
        if rules.sets("memory.page_at", "memory.page_to"):
            memory = rules.at(event.time_us).config.memory
            asked = asked._replace(policy=asked.policy._replace(page_at=memory.page_at, page_to=memory.page_to))
        if "memory.limit" in rules.given:
            limit = rules.given["memory.limit"]
            # A limit that others had lowered is lowered by as much.
            lowered = max(asked.account.configured - asked.account.limit, 0)
            account = asked.account._replace(limit=max(limit - lowered, 0), configured=limit)
            asked = asked._replace(account=account)
        found: Plan = asked.plan()
        yield Compared(event.seq, event.time_us, "plan", told, _acts(plans.steps_of(found), found.short_by))


def _acts(steps: Iterable[Sequence[Any]], short_by: int) -> str | None:
    """What goes, in words; None: nothing does, and nothing is waited for."""
    acts = [
        f"{model}: {layers} layers, {size:,} bytes out"
        if act == Act.PAGE_OUT.value
        else f"{model}: {act} {size:,} bytes"
        for act, model, size, layers in steps
    ]
    if short_by:
        acts.append(f"wait for {short_by:,} bytes")
    return "; ".join(acts) or None


def _memory(events: Iterable[Recorded], rules: Course) -> Iterator[Compared]:
    for event in events:
        if (asked := recorded_memory.asked(event)) is None:
            continue
        told = _memory_said(event)
        policy = asked.policy
        if rules.sets("memory.page_at", "memory.page_to"):
            memory = rules.at(event.time_us).config.memory
            policy = policy._replace(page_at=memory.page_at, page_to=memory.page_to)
        if "memory.limit" in rules.given:
            asked = asked._replace(observed=asked.observed._replace(configured_bytes=rules.given["memory.limit"]))
        answers = asked._replace(policy=policy).decide()
        agreed = any(recorded_memory.is_of(decision, event) for decision in answers)
        others = "; ".join(type(decision).__name__ for decision in answers) or None
        yield Compared(event.seq, event.time_us, "memory", told, told if agreed else others)


def _memory_said(event: Recorded) -> str:
    name = event.data.get("name")
    return f"{event.type.partition('.')[2]} {name}" if name else event.type.partition(".")[2]


def _stages(events: Sequence[Recorded], rules: Course) -> Iterator[Compared]:
    """By their moments on the guard's clock; the recorded ones have their seq."""
    told = {_said(one): seq for one, seq in _told_stages(events)}
    observed = list(signals_under(events, rules)) if rules.sets(*_SIGNALS_OF_RULES) else list(observations(events))
    # To its last decision: what a sample's moment made due may not be written down yet.
    end_us = max((e.data["at_us"] for e in events if e.type != "sensor.sampled" and e.data.get("at_us")), default=0)
    changes = [(at_us, later.stages) for at_us, later in rules.changes]
    found = {_said(one): one for one in replayed(observed, rules.first.stages, end_us, changes)}
    for said in dict.fromkeys((*told, *found)):
        at_us, words = said
        yield Compared(
            told.get(said), at_us, "stage", words if said in told else None, words if said in found else None
        )


def _told_stages(events: Sequence[Recorded]) -> Iterator[tuple[StageChanged | CeilingChanged, int]]:
    for event in events:
        for one in decisions([event]):
            yield one, event.seq


def _said(one: StageChanged | CeilingChanged) -> tuple[int, str]:
    if isinstance(one, StageChanged):
        why = (
            f" ({', '.join(name for name, _ in one.reasons)})" if one.after is not Stage.NORMAL and one.reasons else ""
        )
        return one.at_us, f"stage {one.before.label} -> {one.after.label}{why}"
    return one.at_us, f"context ceiling {one.before:,} -> {one.after:,}"


def signals_under(events: Iterable[Recorded], rules: Course) -> Iterator[On | Off]:
    """The signals under other thresholds, of the figures that are in the ledger: each change, and every ten seconds."""
    state, figures = signals.State(), dict[str, float | None]()
    for event in events:
        data = event.data
        if event.type.startswith("guard.threshold_") and data["name"] in signals.SIGNALS:
            figures[data["name"]], at_us = data["value"], data["at_us"]
        elif event.type == "sensor.sampled" and data.get("figures"):
            figures = {**dict.fromkeys(signals.SIGNALS, 0.0), **data["figures"]}
            # Older ledgers have the wall's time alone, which is ahead by what the machine slept.
            at_us = data.get("at_us") or event.time_us
        else:
            continue
        observed, thresholds = signals.Observed(at_us, dict(figures)), rules.at(event.time_us).thresholds
        found = signals.decide(state, observed, thresholds)
        state = signals.evolve(state, observed, thresholds)
        for decision in found:
            state = signals.evolve(state, decision, thresholds)
            if isinstance(decision, signals.Breached):
                yield On(decision.at_us, decision.name, decision.value)
            else:
                yield Off(decision.at_us, decision.name)


def held_s(compared: Iterable[Compared], since_us: int, until_us: int, *, as_replayed: bool) -> dict[str, float]:
    """Seconds of that time in each raised stage of one run, as recorded or as replayed."""
    changes: list[tuple[int, str]] = []
    for one in compared:
        said = one.replayed if as_replayed else one.recorded
        if one.kind == "stage" and said is not None and said.startswith("stage "):
            changes.append((one.at_us, said.partition(" -> ")[2].partition(" ")[0]))
    held: dict[str, float] = {}
    # One that has not ended lasts to the end.
    for (at_us, stage), (left_us, _) in itertools.pairwise([*changes, (until_us, "")]):
        inside_us = min(left_us, until_us) - max(at_us, since_us)
        if stage != stages.Stage.NORMAL.label and inside_us > 0:
            held[stage] = held.get(stage, 0.0) + inside_us / 1e6
    return held
