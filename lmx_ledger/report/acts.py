"""What the guard did, and whether its symptom was better for it: before, during and after each act."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.guard.recorded import RECOVERED
from lmx_ledger.guard.stages import Stage
from lmx_ledger.report.model import Act
from lmx_ledger.report.symptoms import CLOCK, FIRST, FULL, OF_SIGNAL, SWAP, Symptom, Symptoms, reading_of
from lmx_ledger.report.text import counted, figure, listed

MOST: Final = 25
"""So many acts are told; stages and safe mode before single models."""
_LEAST_US: Final = 60_000_000
_LONGEST_US: Final = 600_000_000
"""Before and after an act are as long as it lasted, within these."""
_ONE_ACT_US: Final = 120_000_000
"""Page-outs that follow each other within this are one act."""
_BETTER: Final = 0.8
_DOES: Final = {
    "backpressure": "Backpressure (new sessions were refused)",
    "shedding": "Shedding (models of low priority were put out of memory)",
    "restart": "Restart (workers were replaced, their sessions kept)",
}


class _Found(NamedTuple):
    rank: int
    at_us: int
    ended_us: int | None
    seq: int
    what: str
    why: str
    symptom: Symptom
    read: float | None = None


def acts_of(events: Sequence[Recorded], inside: Sequence[Recorded]) -> tuple[list[Act], int]:
    """The acts that began `inside` the incident, in their order, and how many more there were that are not told.

    `events` are those before and behind it, too: what the symptoms are held against.
    """
    first, last = (inside[0].seq, inside[-1].seq) if inside else (0, 0)
    symptoms = Symptoms(events)
    rows = [e for e in events if e.type.startswith(("guard.", "paging.planned", "paging.out_finished", "engine.rest"))]
    found = [*_stages(rows), *_ceilings(rows), *_single(rows), *_pages(rows)]
    found = sorted(one for one in found if first <= one.seq <= last)
    told = sorted(found[:MOST], key=lambda one: one.seq)
    return [_held_against(one, symptoms) for one in told], len(found) - len(told)


def _stages(events: Sequence[Recorded]) -> Iterator[_Found]:
    changes = [event for event in events if event.type == "guard.stage_changed"]
    for number, event in enumerate(changes):
        after, before = _stage(event.data["to"]), _stage(event.data["from"])
        if after <= before:
            continue
        ended = next((e.time_us for e in changes[number + 1 :] if _stage(e.data["to"]) < after), None)
        reasons = [str(reason) for reason in event.data.get("reasons", [])]
        symptom = next((OF_SIGNAL[reason] for reason in reasons if reason in OF_SIGNAL), FIRST)
        read = next((v for r in reasons if (v := reading_of(r, event.data.get("readings", {}))) is not None), None)
        what = _DOES.get(event.data["to"], event.data["to"])
        yield _Found(0, event.time_us, ended, event.seq, what, listed(reasons) or "-", symptom, read)


def _stage(label: str) -> int:
    return {stage.label: int(stage) for stage in Stage}.get(label, 0)


def _ceilings(events: Sequence[Recorded]) -> Iterator[_Found]:
    changes = [event for event in events if event.type == "guard.context_ceiling_changed"]
    for number, event in enumerate(changes):
        reason = str(event.data["reason"])
        if reason == RECOVERED:
            continue
        ended = next((e.time_us for e in changes[number + 1 :] if e.data["reason"] == RECOVERED), None)
        what = f"Safe mode (prompt and answer of at most {event.data['to']:,} tokens)"
        symptom = SWAP if reason.endswith("swap") else CLOCK
        yield _Found(0, event.time_us, ended, event.seq, what, reason, symptom)


def _single(events: Sequence[Recorded]) -> Iterator[_Found]:
    for number, event in enumerate(events):
        if event.type == "guard.model_shed":
            what = f"Shedding of {event.model} (so that {event.data['primary']} kept its memory)"
            yield _Found(1, event.time_us, None, event.seq, what, "shedding", FULL)
        elif event.type == "guard.restart_requested":
            later = (e for e in events[number + 1 :] if e.type == "engine.restarted" and e.model == event.model)
            ended = next((e.time_us for e in later), None)
            what = f"Replacement of the worker of {event.model}"
            yield _Found(1, event.time_us, ended, event.seq, what, str(event.data["reason"]).replace("_", " "), FIRST)


def _pages(events: Sequence[Recorded]) -> Iterator[_Found]:
    """Making room, as often as it was done in a row."""
    plans = [e for e in events if e.type == "paging.planned" and e.data["victims"] and e.data["reason"] != "asked"]
    outs = [(e.seq, e.data.get("bytes", 0)) for e in events if e.type == "paging.out_finished"]
    begins = [
        number
        for number, plan in enumerate(plans)
        if not number or abs(plan.time_us - plans[number - 1].time_us) > _ONE_ACT_US
    ]
    for begin, end in pairwise([*begins, len(plans)]):
        group = plans[begin:end]
        victims = sorted({str(victim) for plan in group for victim in plan.data["victims"]})
        last = max(plan.time_us for plan in group)
        after = bisect_left(outs, (plans[end].seq,)) if end < len(plans) else len(outs)
        out = sum(size for _, size in outs[bisect_left(outs, (group[0].seq,)) : after])
        what = (
            f"Paging (weights of {listed(victims)} left memory: {counted(len(group), 'plan')}, {figure(out, 'bytes')})"
        )
        why = listed(sorted({str(plan.data["reason"]).replace("_", " ") for plan in group}))
        yield _Found(2, group[0].time_us, last, group[0].seq, what, f"room for: {why}", FULL)


def _held_against(act: _Found, symptoms: Symptoms) -> Act:
    symptom = act.symptom if symptoms.known(act.symptom) or act.read is not None else FIRST
    last_us = act.at_us + _LONGEST_US if act.ended_us is None else max(act.ended_us, act.at_us)
    around = min(max(last_us - act.at_us, _LEAST_US), _LONGEST_US)
    before = symptoms.between(symptom, act.at_us - around, act.at_us)
    if before is None and symptom is act.symptom:
        before = act.read
    during = symptoms.between(symptom, act.at_us, max(last_us, act.at_us + 1_000_000))
    after = None if act.ended_us is None else symptoms.between(symptom, last_us, last_us + around)
    helped, said = _helped(before, during, after, falls=symptom.falls)
    figures = ", ".join(
        f"{figure(value, symptom.unit)} {when}"
        for value, when in ((before, "before"), (during, "during"), (after, "after"))
        if value is not None
    )
    return Act(
        time=rfc3339(act.at_us),
        ended=None if act.ended_us is None else rfc3339(last_us),
        seq=act.seq,
        what=act.what,
        why=act.why,
        figure=symptom.name,
        before=_rounded(before),
        during=_rounded(during),
        after=_rounded(after),
        unit=symptom.unit,
        helped=helped,
        text=f"{symptom.name} {figures}; {said}" if figures else f"nothing tells of the {symptom.name}; {said}",
    )


def _helped(before: float | None, during: float | None, after: float | None, *, falls: bool) -> tuple[str, str]:
    """Yes, no or unclear, and how that is said. What is better only behind the act may have got so by itself."""
    then = after if during is None else during
    if before is None or then is None:
        return "unclear", "whether it helped cannot be told"
    if _better(before, then, falls=falls):
        return "yes", "it got better"
    if after is not None and _better(before, after, falls=falls):
        return "unclear", "it got better only once the act was over"
    worse = then >= before if falls else then <= before
    return ("no", "it got no better") if worse else ("unclear", "it got hardly better")


def _better(before: float, then: float, *, falls: bool) -> bool:
    return then <= before * _BETTER if falls else then * 0.95 >= before


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
