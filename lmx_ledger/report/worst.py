"""The requests that took longest, and what each of them mostly waited for, as events tell it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.model import Request
from lmx_ledger.report.requests import Seen
from lmx_ledger.report.text import counted, figure

MOST: Final = 10
NOTHING: Final[Mapping[str, "Reason"]] = MappingProxyType({})


class _Span(NamedTuple):
    from_us: int
    until_us: int
    seq: int


class Reason(NamedTuple):
    """Why one took its time, and the events that say so."""

    text: str
    because: Sequence[int]


def slowest_of(requests: Sequence[Seen]) -> list[Seen]:
    """At most ten, the longest wall time first."""
    ended = [seen for seen in requests if seen.wall_ms is not None]
    ended.sort(key=lambda seen: (-(seen.wall_ms or 0.0), seen.id))
    return ended[:MOST]


def worst_of(
    requests: Sequence[Seen], events: Sequence[Recorded], reasons: Mapping[str, Reason] = NOTHING
) -> list[Request]:
    """The slowest ones. Of whom there is no reason by id, one is made of what these events tell."""
    pages = _page_ins(events)
    return [_told(seen, pages.get(seen.model or "", []), reasons.get(seen.id)) for seen in slowest_of(requests)]


def _page_ins(events: Sequence[Recorded]) -> dict[str, list[_Span]]:
    """When the weights of a model were on their way in."""
    spans: dict[str, list[_Span]] = defaultdict(list)
    for event in events:
        if event.type == "paging.in_finished":
            began = event.time_us - int(event.data.get("ms", 0.0) * 1000)
            spans[event.model or ""].append(_Span(began, event.time_us, event.seq))
    return spans


def _told(seen: Seen, pages: Sequence[_Span], known: Reason | None) -> Request:
    queue, prefill, decode = seen.parts
    reason, because = _reason(seen, pages) if known is None else (known.text, list(known.because))
    return Request(
        id=seen.id,
        model=seen.model,
        session=seen.session,
        outcome=f"{seen.outcome} ({seen.code})" if seen.code else seen.outcome,
        wall_ms=round(seen.wall_ms or 0.0, 1),
        ttft_ms=seen.ttft_ms,
        queue_ms=round(queue, 1),
        prefill_ms=round(prefill, 1),
        decode_ms=round(decode, 1),
        reason=reason,
        because=because,
    )


def _reason(seen: Seen, pages: Sequence[_Span]) -> tuple[str, list[int]]:
    """What took most of its time, and the events that say so."""
    queue, prefill, decode = seen.parts
    end = seen.end_us or 0
    began = end - int((seen.wall_ms or 0.0) * 1000)
    admitted = began + int(queue * 1000)
    inside = [span for span in pages if span.until_us > began and span.from_us < admitted]
    paging = sum(min(span.until_us, admitted) - max(span.from_us, began) for span in inside) / 1000
    lost = min(seen.cost_ms, prefill)
    speed = seen.completion_tokens / decode * 1000 if decode > 0 else 0.0
    behind = f" at position {seen.position}" if seen.position else ""
    missed = f"{seen.missed}, because of {seen.breaker}" if seen.breaker else seen.missed
    causes: list[tuple[float, str, list[int | None]]] = [
        (
            min(paging, queue),
            f"its model's weights had to come back from disk ({figure(paging, 'ms')})",
            [span.seq for span in inside],
        ),
        (
            queue - min(paging, queue),
            f"it waited in line{behind} ({figure(queue, 'ms')})",
            [seen.seqs.get("request.queued"), seen.seqs.get("request.admitted")],
        ),
        (
            lost,
            f"what had been computed was computed again ({missed}; {figure(lost, 'ms')})",
            [seen.seqs.get("kv.missed")],
        ),
        (
            prefill - lost,
            f"its prompt of {counted(seen.prompt_tokens, 'token')} was read ({figure(prefill, 'ms')})",
            [seen.seqs.get("request.first_token")],
        ),
        (
            min(seen.gap_ms, decode),
            f"nothing came for {figure(seen.gap_ms, 'ms')} ({seen.resumed_why.replace('_', ' ')})",
            [seen.seqs.get("request.resumed")],
        ),
        (
            decode - min(seen.gap_ms, decode),
            f"{counted(seen.completion_tokens, 'token')} were written at {speed:.1f} per second",
            [seen.seqs.get("request.finished")],
        ),
    ]
    _, text, seqs = max(causes, key=lambda one: one[0])
    if seen.outcome == "failed":
        text = f"failed ({seen.code}): {seen.message[:160]}; until then {text}"
        seqs = [*seqs, seen.seqs.get("request.failed")]
    return text, sorted({seq for seq in seqs if seq is not None})[:5]
