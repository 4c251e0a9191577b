"""Everything that is told of one incident: its times, who was affected, what may have caused it, its timeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.rank import Hypothesis, rank
from lmx_ledger.incident.series import REFUSALS
from lmx_ledger.incident.state import Incident
from lmx_ledger.incident.timeline import Line, bounds, timeline
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.query import Reader

MOST: Final = 200_000
"""Events of an incident's time that are read; of a longer one the first ones."""
_PAGE: Final = 5_000
_BEFORE: Final = 50_000
"""Where the beginning is sealed away, so many events before the first symptom are looked at."""
_ALL: Final = ("*",)
_SLOW: Final = 3.0
WALKED: Final = 100_000
"""A chain of so many events is walked in well under a second."""


class Window(NamedTuple):
    """The events of an incident's time, oldest first. `cut`: there are more. `sealed`: some came from segments."""

    since_us: int
    until_us: int
    events: list[Recorded]
    cut: bool
    sealed: bool


class Affected(NamedTuple):
    """Whom it hit: requests by what became of them, and the sessions they were of."""

    requests: int
    refused: int
    failed: int
    slow: int
    sessions: int
    usual_ttft_ms: float | None

    def public(self) -> dict[str, Any]:
        """For a program."""
        return dict(self._asdict())


def window(ledger: Path, reader: Reader, incident: Incident, now_us: int) -> Window:
    """Read it; what was sealed meanwhile from its segments.

    Raises:
        LedgerError: the ledger cannot be read, or a segment is not as it was sealed.
    """
    since_us, until_us = bounds(incident, now_us)
    first = reader.events(EventFilter(limit=1))
    if first and first[0].time_us > since_us and History(ledger, reader).sealed_through():
        return _from_segments(ledger, reader, incident, since_us, until_us)
    found: list[Recorded] = []
    after = 0
    while len(found) < MOST:
        page = reader.events(EventFilter(since_us=since_us, until_us=until_us, after=after, limit=_PAGE))
        found += page
        if len(page) < _PAGE:
            return Window(since_us, until_us, found, cut=False, sealed=False)
        after = page[-1].seq
    return Window(since_us, until_us, found, cut=True, sealed=False)


def _from_segments(ledger: Path, reader: Reader, incident: Incident, since_us: int, until_us: int) -> Window:
    history = History(ledger, reader)
    found: list[Recorded] = []
    after, last = max(min(incident.events, default=1) - _BEFORE, 0), max((*incident.events, incident.opened_seq))
    while len(found) < MOST:
        page = history.events(EventFilter(types=_ALL, after=after, limit=_PAGE))
        found += [event for event in page if since_us <= event.time_us < until_us]
        # Behind the last symptom, what is later than the end is the end; a clock that jumped before that is none.
        if len(page) < _PAGE or (page[-1].seq > last and page[-1].time_us > until_us):
            return Window(since_us, until_us, found, cut=False, sealed=True)
        after = page[-1].seq
    return Window(since_us, until_us, found, cut=True, sealed=True)


def affected(events: Sequence[Recorded], incident: Incident) -> Affected:
    """From the moment when it began. Slow: a first token that took thrice as long as it had before."""
    usual = _usual_ttft(events, incident)
    start_us = incident.started_us
    end_us = incident.ended_us if incident.ended_us is not None else max((e.time_us for e in events), default=start_us)
    asked, sessions = set[str](), set[str]()
    refused, failed, slow = 0, 0, 0
    lowered = _lowered(events)
    # A refusal may not know any more whose conversation it is.
    of_session = {event.request: event.session for event in events if event.request and event.session}
    for event in events:
        # Who asked before its end and was answered behind it was hit as well.
        came_us = event.time_us
        if event.type == "request.first_token":
            came_us -= int(event.data["ttft_ms"] * 1e3)
        if event.time_us < start_us or came_us > end_us:
            continue
        hit = False
        match event.type:
            case "request.received":
                asked.add(event.request or "")
            case "request.rejected" if _is_hit(event, lowered):
                refused, hit = refused + 1, True
            case "request.failed":
                failed, hit = failed + 1, True
            case "request.first_token" if usual is not None and event.data["ttft_ms"] > _SLOW * usual:
                slow, hit = slow + 1, True
        if hit:
            asked.add(event.request or "")
            if session := event.session or of_session.get(event.request or ""):
                sessions.add(session)
    return Affected(len(asked), refused, failed, slow, len(sessions), usual)


def _lowered(events: Sequence[Recorded]) -> set[int]:
    """The events that held prompts shorter than they may be otherwise."""
    return {e.seq for e in events if e.type == "guard.context_ceiling_changed" and e.data["to"] < e.data["from"]}


def _is_hit(refusal: Recorded, lowered: set[int]) -> bool:
    """Whether a refusal is the server's trouble rather than the request's own."""
    return refusal.data["status"] in REFUSALS or refusal.cause in lowered


def worst(events: Sequence[Recorded], incident: Incident) -> str | None:
    """The request that it hit hardest: one that failed, else of what happened to more of them (a late first token, or a
    refusal) the longest, or the last, else the slowest one.
    """
    end_us = incident.ended_us if incident.ended_us is not None else max((e.time_us for e in events), default=0)
    lowered, usual = _lowered(events), _usual_ttft(events, incident)
    failed, refused, slow, whole = [list[tuple[float, str]]() for _ in range(4)]
    for event in events:
        wall_ms = float(event.data.get("wall_ms", 0.0))
        if event.request is None or event.time_us < incident.started_us or event.time_us - wall_ms * 1e3 > end_us:
            continue
        match event.type:
            case "request.failed":
                failed.append((float(event.seq), event.request))
            case "request.rejected" if _is_hit(event, lowered):
                refused.append((float(event.seq), event.request))
            case "request.finished":
                ttft_ms = event.data["ttft_ms"] or 0.0
                whole.append((wall_ms, event.request))
                if usual is not None and ttft_ms > _SLOW * usual:
                    slow.append((ttft_ms, event.request))
    found = failed or max(slow, refused, key=len) or whole
    return max(found)[1] if found else None


def _usual_ttft(events: Sequence[Recorded], incident: Incident) -> float | None:
    """The median of those before it began, in milliseconds; None where there were none."""
    before = sorted(
        float(event.data["ttft_ms"])
        for event in events
        if event.type == "request.first_token" and event.time_us < incident.started_us
    )
    return before[len(before) // 2] if before else None


def hypotheses(found: Window, incident: Incident) -> list[Hypothesis]:
    """See `rank`."""
    return rank(found.events, incident, found.since_us, found.until_us)


def lines(found: Window, incident: Incident) -> list[Line]:
    """See `timeline`."""
    return timeline(found.events, incident)


def distrust(reader: Reader, *, walk: bool) -> str | None:
    """Why the ledger's word is not to be relied on, if it is not: by its last verification, or (`walk`) looked at now.

    Raises:
        LedgerError: it cannot be read.
    """
    if walk and reader.head() <= WALKED:
        verdict = reader.verify()
        return None if verdict.ok else f"it is not as it was written from event {verdict.bad_seq} on: {verdict.reason}"
    last = reader.events(EventFilter(types=("ledger.verified",), order="desc", limit=1))
    if last and not last[0].data["ok"]:
        return f"it is not as it was written from event {last[0].data['bad_seq']} on: {last[0].data['reason']}"
    return None


def told(incident: Incident, found: Window, openers: Sequence[Recorded], distrusted: str | None) -> dict[str, Any]:
    """`/lmx/incidents/{id}`: the incident, what opened it, whom it hit, what may have caused it."""
    return {
        "ledger_distrusted": distrusted,
        **incident.public(),
        "times": times(incident),
        "opened_by": [event.public() for event in openers],
        "affected": affected(found.events, incident).public(),
        "worst": worst(found.events, incident),
        "hypotheses": [one.public() for one in hypotheses(found, incident)],
        "window": window_of(found),
    }


def told_timeline(incident: Incident, found: Window, distrusted: str | None) -> dict[str, Any]:
    """`/lmx/incidents/{id}/timeline`."""
    return {
        "ledger_distrusted": distrusted,
        "incident": incident.public(),
        "lines": [line.public(incident.started_us) for line in lines(found, incident)],
        "window": window_of(found),
    }


def window_of(found: Window) -> dict[str, Any]:
    """What was read."""
    return {"events": len(found.events), "cut": found.cut, "sealed": found.sealed}


def times(incident: Incident) -> dict[str, float | None]:
    """Seconds from the beginning to each step; None where it is not there yet."""
    steps = {
        "detect_s": incident.detected_us,
        "acknowledge_s": incident.acknowledged_us,
        "mitigate_s": incident.mitigated_us,
        "resolve_s": incident.resolved_us,
        "close_s": incident.closed_us,
    }
    return {
        name: None if at_us is None else round(max(at_us - incident.started_us, 0) / 1e6, 3)
        for name, at_us in steps.items()
    }


def openers(ledger: Path, reader: Reader, incident: Incident, found: Window) -> list[Recorded]:
    """The symptoms' events, as far as they were found."""
    wanted = set(incident.events)
    mine = {event.seq: event for event in found.events if event.seq in wanted}
    for seq in sorted(wanted - mine.keys()):
        for event in History(ledger, reader).events(EventFilter(types=_ALL, after=seq - 1, limit=1)):
            if event.seq == seq:
                mine[seq] = event
    return [mine[seq] for seq in sorted(mine)]
