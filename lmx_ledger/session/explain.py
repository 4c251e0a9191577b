"""Why a prompt was computed although some of it had been computed before: a pure decision, in the contract's words."""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from lmx_ledger.engine.kv.chain import LEAST_TOKENS


class Reason(enum.StrEnum):
    """Of a miss.

    `paged`: it was in the memory of a worker that is gone, and not on disk. `busy`: a request in flight is computing
    it, or another process, which has the files, has it in its memory.
    """

    NEW_SESSION = "new_session"
    DIVERGED = "diverged"
    EVICTED = "evicted"
    PAGED = "paged"
    MODEL_CHANGED = "model_changed"
    TEMPLATE_CHANGED = "template_changed"
    FORMAT_CHANGED = "format_changed"
    CORRUPT = "corrupt"
    TOO_SHORT = "too_short"
    BUSY = "busy"


class Place(NamedTuple):
    """Where KV is computed and kept: all of it must be the same for one prompt's KV to be another's.

    Fingerprint of the weights, name of the form in which it is kept ("" where it is not), hash of the chat template,
    and the worker's process.
    """

    fingerprint: str
    form: str
    template: str
    worker: int


class Known(NamedTuple):
    """What is known of the conversation's last state that is nearest to the prompt.

    `tokens` it consists of, of which the prompt begins with `shared`; None: that cannot be told any more, because the
    prompt does not begin with all of them and they are not at hand.
    """

    tokens: int
    shared: int | None
    place: Place
    on_disk: bool


class Seen(NamedTuple):
    """What the worker said when it began: how much it reused of how much, and what became of more.

    `beside` is how much the prompt shares with one that is in flight; `unusable`: files were damaged or foreign when
    they were opened, as the reason that stands for that; `borrowed`: another process has the files, and may have more
    in its memory.
    """

    prompt: int
    reused: int
    lost: str | None = None
    beside: int = 0
    unusable: Reason | None = None
    borrowed: bool = False


class Explanation(NamedTuple):
    """A hit, or a miss for a reason. `lost` tokens were computed that had been computed before.

    `diverged_at` is the token where the prompt left what was known.
    """

    hit: bool
    reason: Reason | None
    reused: int
    recomputed: int
    lost: int
    diverged_at: int | None


def explain(seen: Seen, known: Known | None, place: Place, block: int) -> Explanation:
    """A hit is where all but the last block (or less) of the prompt was reused, or of what was known of it."""
    reused, fresh = seen.reused, seen.prompt - seen.reused
    shared = reused
    if known is not None:
        shared = max(reused, known.shared if known.shared is not None else 0)
    # More of it is being computed for another request than was ever kept.
    busy = seen.beside > shared and seen.beside - reused > block
    whole = known is not None and known.tokens - shared <= block and shared - reused <= block and not busy
    diverged_at = shared if known is not None and shared < min(known.tokens, seen.prompt) else None
    if reused and (fresh <= block or whole):
        return Explanation(hit=True, reason=None, reused=reused, recomputed=fresh, lost=0, diverged_at=None)

    def missed(reason: Reason, lost: int = 0, at: int | None = None) -> Explanation:
        return Explanation(hit=False, reason=reason, reused=reused, recomputed=fresh, lost=max(lost, 0), diverged_at=at)

    if seen.prompt <= LEAST_TOKENS:
        return missed(Reason.TOO_SHORT)
    if busy:
        return missed(Reason.BUSY, seen.beside - reused)
    if known is None:
        return missed(Reason.NEW_SESSION)
    before = min(known.tokens, seen.prompt) - reused
    if known.place.fingerprint != place.fingerprint:
        return missed(Reason.MODEL_CHANGED, before)
    if known.place.form != place.form:
        return missed(Reason.FORMAT_CHANGED, before)
    if known.place.template != place.template and shared < known.tokens:
        return missed(Reason.TEMPLATE_CHANGED, before, diverged_at)
    if shared < LEAST_TOKENS and known.tokens < LEAST_TOKENS:
        return missed(Reason.TOO_SHORT, before)
    if (shared > reused or seen.lost is not None) and (lost := _why_lost(seen, known, place)) is not None:
        return missed(lost, shared - reused, diverged_at)
    if diverged_at is not None:
        return missed(Reason.DIVERGED, before, diverged_at)
    return missed(_why_lost(seen, known, place) or Reason.EVICTED, shared - reused)


def _why_lost(seen: Seen, known: Known, place: Place) -> Reason | None:
    """Of what the prompt and the conversation have in common and was not there."""
    if seen.lost is not None:
        return Reason(seen.lost)
    if known.place.worker != place.worker:
        if not known.on_disk:
            return Reason.BUSY if seen.borrowed else Reason.PAGED
        return seen.unusable or Reason.EVICTED
    return None


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with; by halves, for they may be long and are alike mostly."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
