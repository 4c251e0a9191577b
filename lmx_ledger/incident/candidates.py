"""Which settings to ask a replay about, by what an incident's trouble seems to be: a table of rules."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.estimate import Estimator
from lmx_ledger.incident.rules import KEYS
from lmx_ledger.incident.suspect import (
    BAD_CONFIGURATION,
    LONG_PROMPTS,
    PAGING_STORM,
    SESSION_FLOOD,
    SWAP_THRASH,
    THERMAL,
)

KINDS: Final = 2
"""So many hypotheses, the likeliest first, are taken for what it may have been."""
MOST: Final = 4
_PAGE_AT: Final = 0.95
_PAGE_TO: Final = 0.9
_HUNDRED: Final = 100
_FAR: Final = 2
"""Who is so many times as long is of another kind."""

Given = dict[str, str]


def candidates(kinds: Sequence[str], events: Sequence[Recorded], estimator: Estimator) -> list[Given]:
    """The settings, each as a replay is given it; `events` are those of the incident's time, `kinds` as ranked.

    None is one that was in force, and none is there twice.
    """
    found: dict[tuple[tuple[str, str], ...], Given] = {}
    for kind in kinds[:KINDS]:
        for given in _TABLE.get(kind, _nothing)(events, estimator):
            if all(estimator.in_force(key) is not None for key in given):
                found.setdefault(tuple(given.items()), given)
    return list(found.values())[:MOST]


_Rule = Callable[[Sequence[Recorded], Estimator], Iterator[Given]]


def _nothing(_: Sequence[Recorded], __: Estimator) -> Iterator[Given]:
    """No setting that a replay knows of bears on it."""
    yield from ()


def _storm(_: Sequence[Recorded], estimator: Estimator) -> Iterator[Given]:
    """A limit under which all models fit; and later thresholds under the limit that there is."""
    limit, enough = estimator.in_force("memory.limit"), estimator.limit_for_all()
    if limit is not None and enough is not None and enough > limit:
        yield {"memory.limit": str(_rounded_up(enough))}
    if estimator.in_force("memory.page_at") < _PAGE_AT:
        yield {"memory.page_at": str(_PAGE_AT), "memory.page_to": str(_PAGE_TO)}


def _flood(_: Sequence[Recorded], estimator: Estimator) -> Iterator[Given]:
    """Twice as many at once, or twice the patience."""
    yield {"queue.max_running": str(2 * estimator.in_force("queue.max_running"))}
    yield {"guard.queue_wait": f"{2 * estimator.in_force('guard.queue_wait'):g}"}


def _heat(_: Sequence[Recorded], estimator: Estimator) -> Iterator[Given]:
    """A ceiling twice as high, or half, while it is hot."""
    tokens = estimator.in_force("context.safe_mode_tokens")
    for other in (2 * tokens, tokens // 2):
        yield {"context.safe_mode_tokens": str(other)}


def _swap(events: Sequence[Recorded], estimator: Estimator) -> Iterator[Given]:
    """As heat; and a stage that is left sooner."""
    yield from _heat(events, estimator)
    yield {"guard.exit_after": f"{estimator.in_force('guard.exit_after') / 2:g}"}


def _configuration(events: Sequence[Recorded], estimator: Estimator) -> Iterator[Given]:
    """What was changed last, as it had been."""
    changed = [event for event in events if event.type == "config.changed" and not event.data.get("error")]
    for key in changed[-1].data["changed"] if changed else ():
        before: Any = estimator.at(key, changed[-1].time_us - 1) if key in KEYS else None
        if before is not None:
            yield {key: str(before)}


def _long(_: Sequence[Recorded], estimator: Estimator) -> Iterator[Given]:
    """A ceiling that has room for most, and none for those that are far longer, where there are such."""
    sizes = estimator.sizes()
    # Of the longer half: the step where it goes up most.
    steps = list(pairwise(sizes[len(sizes) // 2 :]))
    below, above = max(steps, key=lambda step: step[1] / max(step[0], 1), default=(0, 0))
    if below and above >= _FAR * below:
        # In whole hundreds, as somebody would write it.
        yield {"context.max_tokens": str((below + above) // 2 // _HUNDRED * _HUNDRED)}


_TABLE: Final[Mapping[str, _Rule]] = {
    PAGING_STORM: _storm,
    SESSION_FLOOD: _flood,
    THERMAL: _heat,
    SWAP_THRASH: _swap,
    BAD_CONFIGURATION: _configuration,
    LONG_PROMPTS: _long,
}


def _rounded_up(size: int) -> int:
    """To two digits, as somebody would write it."""
    grain: int = 10 ** max(len(str(size)) - 2, 0)
    return -(-size // grain) * grain
