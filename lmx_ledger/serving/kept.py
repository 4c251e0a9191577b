"""What a request is told, and the ledger, of the KV that was kept for it: a hit, or a miss with its reason and cost."""

from typing import Final, NamedTuple

from lmx_ledger.core import events as ev
from lmx_ledger.engine.protocol import Restored
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.prompt import Prepared
from lmx_ledger.session import breakers
from lmx_ledger.session.explain import Explanation, Place, Reason, Seen, explain
from lmx_ledger.session.table import Head, Turn

_BEFORE: Final = 40
_BEHIND: Final = 24
"""Tokens around the place where two prompts part, of which it is told what differs."""


class KvNote(NamedTuple):
    """`event` for the ledger, `header` for the client; `corrupt` and `cause` are what made it so."""

    event: ev.KvHit | ev.KvMissed
    header: str
    corrupt: ev.KvCorrupt | None
    cause: ev.Cause


class Parted(NamedTuple):
    """Where a prompt left the conversation: which message, whose, and what changed."""

    message_index: int | None
    role: str | None
    breaker: str | None


def note(
    model: ServedModel, turn: Turn, prepared: Prepared, place: Place, restored: Restored, prefill_tps: float | None
) -> KvNote:
    """Explain what the worker said when it began."""
    assert model.kv is not None  # noqa: S101 - the caller has asked
    lost = restored.lost
    seen = Seen(
        prompt=len(prepared.prompts[0]),
        reused=restored.tokens,
        lost=lost.reason if lost is not None else None,
        beside=turn.beside,
        unusable=_unusable(model),
        borrowed=restored.borrowed,
    )
    nearest = turn.nearest(place, model.kv_block)
    known, head = nearest if nearest is not None else (None, None)
    told = explain(seen, known, place, model.kv_block)
    if told.reason is None:
        hit = ev.KvHit(
            reused_tokens=told.reused,
            computed_tokens=told.recomputed,
            read_bytes=restored.read_bytes,
            ms=round(restored.ms, 3),
        )
        return KvNote(hit, "hit", None, None)
    parted = _parted(told, head, prepared, model) if told.reason is Reason.DIVERGED else Parted(None, None, None)
    missed = ev.KvMissed(
        reason=told.reason.value,
        reused_tokens=told.reused,
        recomputed_tokens=told.recomputed,
        lost_tokens=told.lost,
        diverged_at=told.diverged_at,
        message_index=parted.message_index,
        role=parted.role,
        breaker=parted.breaker,
        cost_ms=round(told.lost / prefill_tps * 1e3, 3) if prefill_tps else None,
    )
    header = "partial" if told.reused else f"miss;reason={told.reason.value}"
    if lost is not None and told.reason is Reason.CORRUPT:
        return KvNote(missed, header, ev.KvCorrupt(bytes=lost.bytes, files=[], reason="it does not verify"), None)
    cause = model.evictions.get(lost.turn) if lost is not None and told.reason is Reason.EVICTED else None
    return KvNote(missed, header, None, cause)


def _unusable(model: ServedModel) -> Reason | None:
    """What was found when the files were opened, where that may be why something is not there."""
    assert model.kv is not None  # noqa: S101 - as above
    if model.kv.error is not None or model.kv.broken_bytes:
        return Reason.CORRUPT
    return Reason.FORMAT_CHANGED if model.kv.foreign else None


def _parted(told: Explanation, head: Head | None, prepared: Prepared, model: ServedModel) -> Parted:
    at = told.diverged_at
    if head is None or at is None or not head.beginning.messages:
        return Parted(None, None, None)
    before, now = head.beginning, prepared.what
    if before.tools != now.tools:
        return Parted(None, "tools", breakers.name_of_tools(before.tools, now.tools).value)
    index = breakers.first_different(before.messages, now.messages)
    if index >= len(now.messages):
        # It goes back to an earlier message: nothing was changed, there is only less of it.
        return Parted(len(now.messages) - 1, now.roles[-1], None)
    role, breaker = now.roles[index], None
    if head.ids is not None:
        around = slice(max(at - _BEFORE, 0), at + _BEHIND)
        old, new = _decoded(model, head.ids[around].tolist()), _decoded(model, prepared.prompts[0][around])
        marks = (model.dialect.think_start, model.dialect.think_end)
        breaker = breakers.name(old, new, role, reasons=any(mark and mark in old for mark in marks)).value
    return Parted(index, role, breaker)


def _decoded(model: ServedModel, ids: list[int]) -> str:
    assert model.text is not None  # noqa: S101 - it has rendered the prompt
    return model.text.tokenizer.decode(ids, skip_special_tokens=False)
