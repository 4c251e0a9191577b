"""Why a prompt, or part of it, was computed again: the miss in words, and what took the KV that it lacked. Pure."""

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any, Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.evidence import Evidence
from lmx_ledger.incident.sentences import clock, plain, purpose

_REASONS: Final = {
    "new_session": "this session is new, and nothing of it had been computed before",
    "too_short": "so short a prompt is not kept",
    "busy": "what it begins with was just being computed for another request",
    "corrupt": "this session's KV was damaged on disk, and was not used",
    "model_changed": "the model's weights are others than this session's KV was made with",
    "template_changed": "the model's chat template is another one than this session's KV was made with",
    "format_changed": "this session's KV is kept in another form than the one that is used now",
}
_TAKERS: Final = {
    "evicted": ("paging.planned", "kv.evicted"),
    "paged": ("engine.exited", "model.unloaded"),
    "corrupt": ("kv.corrupt",),
    "model_changed": ("model.loaded",),
    "format_changed": ("kv.evicted", "model.loaded"),
}


def computed(missed: Recorded) -> str:
    """How much of the prompt: `31,204 of 31,400 tokens re-computed`."""
    fresh, reused = missed.data["recomputed_tokens"], missed.data["reused_tokens"]
    return f"{fresh:,} of {fresh + reused:,} tokens {'re-' if missed.data['lost_tokens'] else ''}computed"


def reason(evidence: Evidence, missed: Recorded, zone: tzinfo) -> str:
    """Why, as what follows "because"."""
    data = missed.data
    match data["reason"]:
        case "evicted":
            return f"this session's KV was evicted{_by(evidence, taker(evidence, missed), zone)}"
        case "paged":
            took = taker(evidence, missed)
            when = f" at {clock(took.time_us, zone)}" if took is not None else ""
            return f"this session's KV was in the memory of a worker that ended{when}, and not on disk"
        case "diverged":
            at = f" at token {data['diverged_at']:,}" if data["diverged_at"] is not None else ""
            return f"this prompt left what was known of its session{at}{_where(data)}"
    return _REASONS.get(data["reason"], f"of {plain(data['reason'])}")


def taker(evidence: Evidence, missed: Recorded) -> Recorded | None:
    """What took the KV that was missed: what the miss says, else the last event since then that may have.

    Pieces that go when the request itself needs room for its own go because a plan had left so little of it.
    """
    direct = next(iter(reversed(evidence.chains.get(missed.seq, ()))), None)
    told = direct if direct is not None and direct.type in {"kv.evicted", "kv.corrupt"} else None
    if missed.data["reason"] == "evicted":
        plans = [event for event in evidence.before if event.type == "paging.planned"]
        others = {one.request for one in causes_in(evidence, told)} - {None, evidence.request} if told else set()
        if plans and not others:
            return max(plans, key=lambda plan: _kept_of(plan, missed.model))
    kinds = _TAKERS.get(missed.data["reason"], ())
    return told or next((event for event in reversed(evidence.before) if event.type in kinds), None)


def _kept_of(plan: Recorded, model: str | None) -> int:
    """Bytes of that model's KV at rest that a plan had go."""
    return sum(step[2] for step in plan.data.get("steps") or () if step[0] == "kept" and step[1] == model)


def _by(evidence: Evidence, took: Recorded | None, zone: tzinfo) -> str:
    if took is None:
        return ""
    # The nearest first: the event, and what made it happen.
    chain = [took, *reversed(causes_in(evidence, took))]
    plan = next((event for event in chain if event.type == "paging.planned"), None)
    asked = next((event for event in chain if event.request not in {None, evidence.request}), None)
    if plan is not None and plan.seq in evidence.wants:
        wanted = evidence.wants[plan.seq]
        asked = wanted if wanted.request != evidence.request else None
    at = f" at {clock(took.time_us, zone)}"
    if plan is not None:
        whose = f", which request {plain(asked.request)} asked for" if asked is not None else ""
        return f"{at} {purpose(str(plan.data['reason']), plan.model)} (plan {plan.seq}){whose}"
    if asked is not None:
        return f"{at} to make room for what request {plain(asked.request)} left"
    ordered = any(event.type == "operator.commanded" for event in chain)
    return at + (" because an operator wanted it" if ordered else " for lack of room")


def causes_in(evidence: Evidence, event: Recorded) -> list[Recorded]:
    """What made an event happen, the first cause first: gathered for it, or for one that it made happen."""
    if event.seq in evidence.chains:
        return list(evidence.chains[event.seq])
    for chain in evidence.chains.values():
        if any(one.seq == event.seq for one in chain):
            return [one for one in chain if one.seq < event.seq]
    return []


def _where(data: Mapping[str, Any]) -> str:
    index, role, breaker = data["message_index"], data["role"], data["breaker"]
    told = f", in message {index} ({plain(role)})" if index is not None else f", in the {plain(role)}" if role else ""
    return told + (f": {plain(str(breaker).replace('_', ' '))}" if breaker else "")
