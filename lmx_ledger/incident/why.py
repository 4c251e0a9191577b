"""Why a request took as long as it did: its parts, each with the events that made it so, in sentences. Pure."""

from collections.abc import Sequence
from datetime import UTC, tzinfo
from typing import Any, Final, NamedTuple

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.because import Because, Case
from lmx_ledger.incident.evidence import ENDS, Evidence
from lmx_ledger.incident.sentences import ms, plain, sentence
from lmx_ledger.serving import parts as names

_JUMP_MS: Final = 2_000.0
"""By so much the clock of events and the one that durations are taken by may differ: events are stamped in groups."""
_FIRST: Final = (
    names.ADMISSION,
    names.LOAD,
    names.MEMORY,
    names.PAGE_IN,
    names.QUEUE,
    names.RESTORE,
    names.PREFILL,
)
"""Parts that are over when the first token comes."""


class Part(NamedTuple):
    """A part of the time, its share of the whole (0 to 1), and why; `means` says what it is."""

    name: str
    means: str
    ms: float
    share: float
    because: list[Because]


class Why(NamedTuple):
    """The answer. `text` is the whole of it in a sentence or two, `notes` what has to be known before it is read.

    `state`: `finished`, `failed`, `cancelled`, `rejected`, `running` or `lost`. `reckoned`: its parts are made of the
    times of its events, for nothing better is known.
    """

    request: str
    state: str
    model: str | None
    session: str | None
    time_us: int
    wall_ms: float
    ttft_ms: float | None
    parts: list[Part]
    notes: list[Because]
    text: str
    reckoned: bool

    def public(self) -> dict[str, Any]:
        """As JSON: the form of the contract, and more."""
        return {
            "request": self.request,
            "state": self.state,
            "model": self.model,
            "session": self.session,
            "time": rfc3339(self.time_us),
            "wall_ms": self.wall_ms,
            "ttft_ms": self.ttft_ms,
            "parts": [{**part._asdict(), "because": _public(part.because)} for part in self.parts],
            "notes": _public(self.notes),
            "text": self.text,
            "reckoned": self.reckoned,
        }


def why(evidence: Evidence, zone: tzinfo = UTC) -> Why:
    """Explain one request; times of the day are told as in that zone."""
    case = Case(evidence, zone)
    end = case.own(*ENDS)
    first = evidence.own[0]
    state = end.type.removeprefix("request.") if end is not None else evidence.state
    told = dict(end.data.get("parts_ms") or {}) if end is not None else {}
    wall = float(end.data["wall_ms"]) if end is not None and "wall_ms" in end.data else _between(evidence.own)
    reckoned = not told and state != "rejected"
    if reckoned:
        told = _reckoned(evidence, wall)
    known = [name for name in names.PARTS if name in told] + [name for name in told if name not in names.PARTS]
    parts = [
        Part(
            name=name,
            means=names.PARTS.get(name, "of this part nothing is known here"),
            ms=told[name],
            share=round(told[name] / wall, 4) if wall else 0.0,
            because=case.because(name),
        )
        for name in known
    ]
    first_token = case.own("request.first_token")
    ttft = (first_token or end or first).data.get("ttft_ms")
    return Why(
        request=evidence.request,
        state=state,
        model=next((event.model for event in evidence.own if event.model is not None), None),
        session=next((event.session for event in evidence.own if event.session is not None), None),
        time_us=first.time_us,
        wall_ms=wall,
        ttft_ms=ttft,
        parts=parts,
        notes=_notes(case, wall, reckoned=reckoned),
        text=_text(case, zone, end, state, wall, ttft, parts),
        reckoned=reckoned,
    )


def main_part(parts: Sequence[Part]) -> Part | None:
    """The one that took longest; None of none."""
    return max(parts, key=lambda part: part.ms, default=None)


def _between(events: Sequence[Recorded]) -> float:
    return round(max(events[-1].time_us - events[0].time_us, 0) / 1e3, 3)


def _reckoned(evidence: Evidence, wall: float) -> dict[str, float]:
    """Of a request whose end says nothing of its parts, or that has none: from the times that its events tell."""
    data = {event.type: event.data for event in evidence.own}
    queue = min(float(data.get("request.admitted", {}).get("queue_ms", wall)), wall)
    ttft = min(float(data.get("request.first_token", {}).get("ttft_ms", wall)), wall)
    found = {names.QUEUE: queue, names.PREFILL: max(ttft - queue, 0.0), names.DECODE: max(wall - ttft, 0.0)}
    return {part: round(value, 3) for part, value in found.items() if value > 0}


def _notes(case: Case, wall: float, *, reckoned: bool) -> list[Because]:
    """What goes before the answer, the most serious first."""
    evidence, notes = case.evidence, []
    if evidence.broken_at is not None:
        notes.append(
            Because(
                evidence.broken_at,
                f"the ledger is not as it was written from event {evidence.broken_at} on: what follows may be wrong "
                "(lmx ledger verify)",
            )
        )
    last = evidence.own[-1]
    if evidence.state == "running":
        notes.append(Because(last.seq, "it is still running: this is what is known so far"))
    elif evidence.state == "lost":
        notes.append(
            Because(last.seq, "it has no end: its daemon ended before it did; this is what was known until then")
        )
    if last.type in ENDS and abs(_between(evidence.own) - wall) > max(_JUMP_MS, wall / 10) and wall:
        said = _between(evidence.own) if last.time_us > evidence.own[0].time_us else 0.0
        notes.append(
            Because(
                last.seq,
                f"this machine's clock was set, or slept, between its events (they lie {ms(said)} apart); durations "
                "here are of a clock that nobody can set",
            )
        )
    if reckoned and evidence.state == "ended":
        notes.append(Because(last.seq, "how its time went was not measured then; it is reckoned from its events"))
    drill = next((event for event in evidence.own if "drill" in event.data), None)
    if drill is not None:
        notes.append(Because(drill.data["drill"], "a rehearsal was going on: some of this was made up for it"))
    return [*notes, *case.degraded(), *case.meanwhile()]


def _text(
    case: Case,
    zone: tzinfo,
    end: Recorded | None,
    state: str,
    wall: float,
    ttft: float | None,
    parts: Sequence[Part],
) -> str:
    main = main_part(parts)
    if end is not None and end.type == "request.rejected":
        slowest = case.evidence.slowest
        example = f" The slowest of them, {slowest.request}: {why(slowest, zone).text}" if slowest is not None else ""
        return case.refused(end) + example
    lead = case.lead(main.name) if main is not None else ""
    if end is not None and end.type == "request.failed":
        told = f"it failed after {ms(wall)}: {plain(end.data['message'])}"
        return _sentence(told if main is None else f"{told}; most of that time ({ms(main.ms)}) {lead}")
    prefix = ""
    if end is not None and end.type == "request.cancelled":
        prefix = f"it was given up after {ms(wall)} ({case.given_up(end)}); "
    elif state == "running":
        prefix = f"{ms(wall)} so far; "
    elif state == "lost":
        prefix = f"{ms(wall)} up to its last event; "
    if main is None:
        return _sentence(f"{prefix}nothing is known of how its time went")
    before = sum(part.ms for part in parts if part.name in _FIRST)
    if not prefix and ttft is not None and main.name in _FIRST and before >= wall / 2:
        return _sentence(f"{ms(ttft)} to first token: {lead}")
    whole = "" if prefix else f"{ms(wall)} in all, "
    return _sentence(f"{prefix}{whole}most of it ({ms(main.ms)}): {lead}")


def _sentence(text: str) -> str:
    return text.strip().removesuffix(".").removesuffix(":") + "."


def _public(because: Sequence[Because]) -> list[dict[str, Any]]:
    return [{"seq": one.seq, "text": one.text} for one in because]


__all__ = ["Because", "Part", "Why", "main_part", "sentence", "why"]
