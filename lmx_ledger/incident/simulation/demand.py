"""What was asked of a run, when, and how much of a worker's time it took: its requests, to be served again; pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.simulation.machine import Outage
from lmx_ledger.serving.parts import ADMISSION, CLIENT, DECODE, LOAD, MEMORY, PAGE_IN, PREFILL, QUEUE, RESTORE, TOOLS
from lmx_ledger.serving.too_long import tokens_told

TYPES: Final = ("request.*",)
ANSWERED: Final = "answered"
REFUSED: Final = "refused"
FAILED: Final = "failed"
LEFT: Final = "left"
BACKPRESSURE: Final = "backpressure"
QUEUE_FULL: Final = "queue_full"
TOO_LONG: Final = "context_length_exceeded"
NO_MEMORY: Final = "insufficient_memory"
INVALID: Final = "invalid_request"
DECIDED: Final = frozenset({BACKPRESSURE, QUEUE_FULL, TOO_LONG, NO_MEMORY})
"""Refusals that hang on the rules; any other one is repeated as it was."""
WAITING: Final = (QUEUE, MEMORY, LOAD, PAGE_IN)
"""The parts of a request's time in which it only waits."""
_LEAST_TOKENS: Final = 16
"""Of fewer no speed is taken."""
_LONGEST_THOUGHT_S: Final = 60.0
"""Who comes later behind an answer does not come because of it."""
_SPREAD: Final = 0.05
"""Where company differed by less, nobody knows what it costs."""


class Job(NamedTuple):
    """One request. `lead_s` goes by before it joins the line, `fetch_s` while kept KV is fetched for it; `read_s` and
    `drawn_s` are the worker's own time for its prompt, and for its answer while it draws no other one.

    It came so many seconds (`think_s`) `behind` the end of another one of its conversation, where there is one.
    `room` are the tokens of prompt and answer. `fate` is what became of it: of a refusal with its `code`, of one that
    was not answered to the end with when that was (`left_s` behind its arrival). `counts`: it came in the time that is
    asked about. `ttft_ms` and `waited_ms` are as recorded.
    """

    id: str
    model: str
    session: str | None
    came_s: float
    lead_s: float
    fetch_s: float
    size: int
    priority: int
    prompt: int
    room: int
    read_s: float
    drawn_s: float
    fate: str
    code: str = ""
    left_s: float | None = None
    counts: bool = True
    ttft_ms: float | None = None
    waited_ms: float = 0.0
    behind: str | None = None
    think_s: float = 0.0


class Speed(NamedTuple):
    """Milliseconds for a token that is read, and one that is drawn alone; each other answer beside it makes that
    slower by the share `company`.
    """

    read_ms: float
    draw_ms: float
    company: float


@dataclass
class _Seen:
    """A request as its events tell of it."""

    id: str
    received: Recorded
    admitted: Recorded | None = None
    first: Recorded | None = None
    end: Recorded | None = None

    @property
    def model(self) -> str:
        return self.received.model or ""

    @property
    def session(self) -> str | None:
        for event in (self.received, self.admitted, self.end):
            if event is not None and event.session is not None:
                return event.session
        return None

    @property
    def ended_us(self) -> int:
        return self.end.time_us if self.end is not None else self.received.time_us

    @property
    def served(self) -> bool:
        return self.end is not None and self.end.type == "request.finished" and self.first is not None

    @property
    def parts(self) -> Mapping[str, float]:
        """Where its time went; older ledgers do not say more than how long it stood in line."""
        data = self.data
        if data.get("parts_ms") or self.end is None or "queue_ms" not in data:
            return data.get("parts_ms") or {}
        first = data["ttft_ms"] if data["ttft_ms"] is not None else data["wall_ms"]
        prefill = max(first - data["queue_ms"], 0.0)
        return {QUEUE: data["queue_ms"], PREFILL: prefill, DECODE: max(data["wall_ms"] - first, 0.0)}

    @property
    def data(self) -> Mapping[str, Any]:
        return self.end.data if self.end is not None else {}

    @property
    def computed(self) -> int:
        """Tokens of its prompt that were read."""
        return max(int(self.data.get("prompt_tokens", 0)) - int(self.data.get("cached_tokens", 0)), 0)

    @property
    def read_ms(self) -> float:
        return self.parts.get(PREFILL, 0.0)

    @property
    def drawn(self) -> tuple[int, int] | None:
        """From its first token to its last, in microseconds."""
        if not self.served or self.first is None or self.end is None:
            return None
        behind_us = int((self.parts.get(CLIENT, 0.0) + self.parts.get(TOOLS, 0.0)) * 1e3)
        return self.first.time_us, max(self.end.time_us - behind_us, self.first.time_us + 1)


@dataclass
class Demand:
    """The requests in the order in which they came, and how fast each model's worker serves such.

    `known` are the conversations (session, model) that had been answered before.
    """

    jobs: list[Job] = field(default_factory=list)
    speeds: dict[str, Speed] = field(default_factory=dict)
    known: frozenset[tuple[str, str]] = frozenset()


def demand(events: Iterable[Recorded], base_us: int, since_us: int, until_us: int, outages: Sequence[Outage]) -> Demand:
    """Of one run's events, oldest first. Seconds count from `base_us`; what came in [`since_us`, `until_us`) counts.

    What had ended before `base_us` is no job, but its conversation is known. What has not ended is left out. What a
    refused one would have taken is taken from those that were served: its length is all that is known of it.
    """
    seen = [one for one in _seen(events).values() if one.end is not None]
    out = [one for one in seen if not _hit(one, outages, base_us)]
    company = {one.id: others for model in {one.model for one in out} for one, others in _company(out, model)}
    speeds = {model: _speed([one for one in out if one.model == model], company) for model in {s.model for s in seen}}
    typical = _Typical([one for one in out if one.served])
    fine = {one.id for one in out}
    before = [one for one in seen if one.ended_us < base_us]
    known = frozenset((one.session, one.model) for one in before if one.served and one.session is not None)
    jobs = [
        _job(
            one, base_us, since_us, until_us, speeds[one.model], typical, company.get(one.id, 0.0), fine=one.id in fine
        )
        for one in seen
        if one.ended_us >= base_us
    ]
    ends = {one.id: (one.ended_us - base_us) / 1e6 for one in seen}
    return Demand(_in_turn(sorted(jobs, key=lambda job: (job.came_s, job.id)), ends), speeds, known)


def _in_turn(jobs: Sequence[Job], ends: Mapping[str, float]) -> list[Job]:
    """Who asks behind an answer asks behind it: each behind the last one of its conversation that ended before it came,
    and that nobody else is behind.
    """
    found: list[Job] = []
    free: dict[str, list[tuple[float, str]]] = {}
    for job in jobs:
        # Whoever names no conversation is behind nobody.
        before = free.setdefault(job.session or job.id, [])
        ended = [one for one in before if 0 <= job.came_s - one[0] <= _LONGEST_THOUGHT_S]
        last_s, last = max(ended, default=(job.came_s, None))
        if last is not None:
            before.remove((last_s, last))
        before.append((ends[job.id], job.id))
        found.append(job._replace(behind=last, think_s=job.came_s - last_s))
    return found


def _seen(events: Iterable[Recorded]) -> dict[str, _Seen]:
    found: dict[str, _Seen] = {}
    for event in events:
        if event.request is None:
            continue
        if event.type == "request.received":
            found[event.request] = _Seen(event.request, event)
        elif (one := found.get(event.request)) is not None:
            match event.type:
                case "request.admitted":
                    one.admitted = event
                case "request.first_token":
                    one.first = one.first or event
                case "request.finished" | "request.cancelled" | "request.failed" | "request.rejected":
                    one.end = event
    return found


def _hit(one: _Seen, outages: Sequence[Outage], base_us: int) -> bool:
    """Whether its worker was away while it had the request: then its time says nothing of how fast that is."""
    begin = ((one.admitted or one.received).time_us - base_us) / 1e6
    end = (one.end.time_us - base_us) / 1e6 if one.end is not None else begin
    return any(out.model == one.model and out.from_s < end and out.until_s > begin for out in outages)


def _company(seen: Sequence[_Seen], model: str) -> list[tuple[_Seen, float]]:
    """Of each answer of a model: how many others were drawn beside it, on the average of its time."""
    mine = [(one, times) for one in seen if one.model == model and (times := one.drawn) is not None]
    edges = sorted([(start, 1) for _, (start, _) in mine] + [(end, -1) for _, (_, end) in mine])
    area, at, count = {}, 0, 0
    total = 0.0
    for edge, step in edges:
        total += count * (edge - at)
        at, count = edge, count + step
        area[edge] = total
    return [(one, max((area[end] - area[start]) / (end - start) - 1, 0.0)) for one, (start, end) in mine]


def _speed(seen: Sequence[_Seen], company: Mapping[str, float]) -> Speed:
    served = [one for one in seen if one.served]
    read = [one.read_ms / one.computed for one in served if one.computed >= _LEAST_TOKENS]
    drawn = [
        (company[one.id], one.parts.get(DECODE, 0.0) / (one.data["completion_tokens"] - 1))
        for one in served
        if one.data["completion_tokens"] > 1 and one.id in company
    ]
    each = median(each for _, each in drawn) if drawn else 0.0
    slower = _slower(drawn)
    usual = 1 + slower * median(others for others, _ in drawn) if drawn else 1.0
    return Speed(median(read) if read else 0.0, each / usual, slower)


def _slower(drawn: Sequence[tuple[float, float]]) -> float:
    """By which share of what a token takes alone each other answer makes it slower: least squares, 0 to 1."""
    if len(drawn) < 3:
        return 0.0
    mean_x = math.fsum(x for x, _ in drawn) / len(drawn)
    mean_y = math.fsum(y for _, y in drawn) / len(drawn)
    spread = math.fsum((x - mean_x) ** 2 for x, _ in drawn)
    if spread / len(drawn) < _SPREAD:
        return 0.0
    rise = math.fsum((x - mean_x) * (y - mean_y) for x, y in drawn) / spread
    alone = mean_y - rise * mean_x
    return min(max(rise / alone, 0.0), 1.0) if alone > 0 else 0.0


class _Typical:
    """What requests that were served are like, for those that were not."""

    def __init__(self, served: Sequence[_Seen]) -> None:
        per_char = [
            one.data["prompt_tokens"] / one.received.data["chars"] for one in served if one.received.data["chars"]
        ]
        shares = [one.computed / one.data["prompt_tokens"] for one in served if one.data["prompt_tokens"]]
        self._per_char = median(per_char) if per_char else 0.25
        self._computed = median(shares) if shares else 1.0
        self._answers = sorted(one.data["completion_tokens"] for one in served)

    def prompt(self, one: _Seen) -> int:
        """Tokens of its prompt, by its length."""
        told = int(one.data.get("prompt_tokens", 0)) or (one.admitted.data["prompt_tokens"] if one.admitted else 0)
        told = told or tokens_told(one.data.get("message", "")) or 0
        return told or max(round(one.received.data["chars"] * self._per_char), 1)

    def computed(self, one: _Seen, prompt: int) -> int:
        """Tokens of that prompt that would have to be read."""
        return one.computed if one.served else round(prompt * self._computed)

    def answer(self, one: _Seen) -> int:
        """Tokens of its answer: as many as others got, and no more than it asked for."""
        asked = (one.received.data.get("sampling") or {}).get("max_tokens")
        usual = self._answers[len(self._answers) // 2] if self._answers else 1
        return usual if asked is None else min(usual, int(asked))


def _job(
    one: _Seen,
    base_us: int,
    since_us: int,
    until_us: int,
    speed: Speed,
    typical: _Typical,
    company: float,
    *,
    fine: bool,
) -> Job:
    received, end, parts = one.received, one.end, one.parts
    assert end is not None  # noqa: S101 - who has not ended is no job
    fate = {
        "request.finished": ANSWERED,
        "request.failed": FAILED,
        "request.cancelled": LEFT,
        "request.rejected": REFUSED,
    }[end.type]
    prompt = typical.prompt(one)
    measured = fine and one.served
    tokens = int(end.data.get("completion_tokens", 0)) if fate == ANSWERED else typical.answer(one)
    if measured:
        read_ms = one.read_ms
        drawn_ms = parts.get(DECODE, 0.0) / (1 + speed.company * company)
    else:
        read_ms = typical.computed(one, prompt) * speed.read_ms
        drawn_ms = max(tokens - 1, 0) * speed.draw_ms
    size = int((received.data.get("sampling") or {}).get("n") or 1)
    return Job(
        id=one.id,
        model=one.model,
        session=one.session,
        came_s=(received.time_us - base_us) / 1e6,
        lead_s=parts.get(ADMISSION, 0.0) / 1e3,
        fetch_s=parts.get(RESTORE, 0.0) / 1e3 if measured else 0.0,
        size=one.admitted.data["choices"] if one.admitted is not None else size,
        priority=received.data.get("priority", 0),
        prompt=prompt,
        room=prompt + tokens,
        read_s=read_ms / 1e3,
        drawn_s=drawn_ms / 1e3,
        fate=fate,
        code=end.data.get("code", "") if fate == REFUSED else "",
        left_s=(end.time_us - received.time_us) / 1e6 if fate in {LEFT, FAILED} else None,
        counts=since_us <= received.time_us < until_us,
        ttft_ms=end.data.get("ttft_ms"),
        waited_ms=math.fsum(parts.get(part, 0.0) for part in WAITING),
    )
