"""Which events a bundle has: all that a report, a replay or an explanation of what happened in its time asks for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import replayed
from lmx_ledger.incident.account import window
from lmx_ledger.incident.evidence import ENDS
from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.incident.state import Incident
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.projection import FILE
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError, LedgerUnusable

_PAGE: Final = 5_000
_OF_RUN: Final = (*replayed.TYPES, "daemon.started", "daemon.ready", "daemon.stopped")
"""Of a run that is in the incident's time, from its beginning on: which signals were on is told by those before."""
_STARTED: Final = "daemon.started"
_CRASHED: Final = "daemon.crash_detected"
_ALL: Final = ("*",)
_RECEIVED: Final = "request.received"
_REFUSED: Final = "request.rejected"
_MOST_OF_REQUEST: Final = 1_000
_MOST_CUT_SHORT: Final = 5_000
_NEAR: Final = 1_000
_AROUND: Final = 50_000
"""So many events before and behind the incident's own are looked at for the rest of its requests."""
_TRIES: Final = 3
_DEEPEST: Final = 100
"""Steps back to the first cause."""


class NoIncident(LedgerError):
    """There is none of that id; the message says where they are."""


class Gathered(NamedTuple):
    """The incident as of the ledger's event `head_seq`, its time, and the events, by ascending seq.

    `cut`: there are more in its time than are read of one.
    """

    incident: Incident
    since_us: int
    until_us: int
    cut: bool
    events: list[Recorded]


class _Ledger:
    """Up to one event: what was written behind it is not there."""

    def __init__(self, ledger: Path, reader: Reader, head_seq: int) -> None:
        self.path, self.reader, self.head_seq = ledger, reader, head_seq
        self._history = History(ledger, reader)
        self._sealed = self._history.sealed_through()

    def where(self) -> tuple[int, int]:
        """Up to which event it is sealed, and the first one that is not."""
        first = self.reader.events(EventFilter(limit=1))
        return self._history.sealed_through(), first[0].seq if first else 0

    def of_types(self, types: Sequence[str], after: int = 0) -> Iterator[Recorded]:
        """Behind that event, oldest first, sealed ones included."""
        wanted = EventFilter(types=tuple(types), after=after, limit=_PAGE)
        while page := self._history.events(wanted):
            yield from (event for event in page if event.seq <= self.head_seq)
            if len(page) < _PAGE or page[-1].seq >= self.head_seq:
                return
            wanted = replace(wanted, after=page[-1].seq)

    def of_runs(self, boots: Sequence[str], until_us: int) -> Iterator[Recorded]:
        """What a replay reads of these runs, from their beginning to that moment."""
        old = set(boots) if self._sealed else set[str]()
        for boot in boots:
            if self.reader.events(EventFilter(types=(_STARTED,), boot=boot, limit=1)):
                old.discard(boot)
            if boot not in old:
                yield from self._of_run(boot, until_us)
        if old:
            # They began in what is sealed by now, where nothing leads to them.
            yield from (e for e in self.of_types(_OF_RUN) if e.boot in old and e.time_us < until_us)

    def _of_run(self, boot: str, until_us: int) -> Iterator[Recorded]:
        after: int | None = 0
        while after is not None:
            page = self.reader.events(
                EventFilter(types=_OF_RUN, boot=boot, until_us=until_us, after=after, limit=_PAGE)
            )
            yield from (event for event in page if event.seq <= self.head_seq)
            after = page[-1].seq if len(page) == _PAGE else None

    def of_requests(self, requests: Sequence[str], first: int, last: int) -> Iterator[Recorded]:
        """Their events from `first` to `last`."""
        last = min(last, self.head_seq)
        for request in requests:
            found = self.reader.events(EventFilter(request=request, after=first - 1, limit=_MOST_OF_REQUEST))
            yield from (event for event in found if event.seq <= last)
        if requests and first <= self._sealed:
            mine = set(requests)
            for event in self.of_types(_ALL, first - 1):
                if event.seq > min(last, self._sealed):
                    return
                if event.request in mine:
                    yield event

    def at(self, seqs: Iterable[int]) -> Iterator[Recorded]:
        """The events of these seqs, those that there are."""
        wanted, seen = {seq for seq in seqs if 0 < seq <= self.head_seq}, 0
        for seq in sorted(wanted):
            if seq > self._sealed:
                yield from (e for e in self.reader.events(EventFilter(after=seq - 1, limit=1)) if e.seq == seq)
            elif seq > seen:
                # A segment is read from its beginning, so that each page of one is asked for once.
                page = self._history.events(EventFilter(types=_ALL, after=seq - 1, limit=_PAGE))
                seen = page[-1].seq if page else seq
                yield from (event for event in page if event.seq <= self._sealed and event.seq in wanted)


def gather(ledger: Path, reader: Reader, incident_id: str, head_seq: int) -> Gathered:
    """Of that incident, from the ledger as it was when `head_seq` was its newest event.

    Nothing but these decides: no clock is read, and what came later changes nothing.

    Raises:
        NoIncident: there was none of that id.
        LedgerError: the ledger cannot be read, or a segment is not as it was sealed.
    """
    for _ in range(_TRIES):
        source = _Ledger(ledger, reader, head_seq)
        before = source.where()
        found = _gathered(source, incident_id)
        # What went into a segment meanwhile may have been missed in both places.
        if source.where() == before:
            if found is None:
                raise NoIncident(f"there is no incident {incident_id[:80]!r}; the known ones: lmx incidents list")
            return found
    raise LedgerUnusable(f"{ledger} is just being archived; try again when that is done")


def _gathered(source: _Ledger, incident_id: str) -> Gathered | None:
    ledger, reader, head_seq = source.path, source.reader, source.head_seq
    state = state_at(IncidentsFold(), History(ledger, reader), ledger.with_name(FILE), head_seq)
    known = {one.id: one for one in state.all()}
    newest = next(source.at([head_seq]), None)
    if incident_id not in known or newest is None:
        return None
    incident = known[incident_id]
    # What is open lasts to the last thing that is known.
    found = window(ledger, reader, incident, newest.time_us + 1)
    inside = [event for event in found.events if event.seq <= head_seq]
    wanted = _Found(inside)
    boots = list(dict.fromkeys(event.boot for event in inside))
    told = _of_family(source, _family(known, incident))
    wanted.add(told)
    symptoms = {seq for event in told for seq in event.data.get("events", ())}
    symptoms |= {*incident.events, *([incident.drill] if incident.drill else [])}
    wanted.add(source.at(wanted.missing(symptoms)))
    if inside:
        first, last = inside[0].seq, inside[-1].seq
        wanted.add(source.of_requests(_cut_short(inside), max(first - _AROUND, 1), last + _AROUND))
        wanted.add(e for e in source.of_types((_CRASHED,), first - 1) if e.data["boot"] in boots)
    # Before the runs: a run's plans were made for requests that are none of this incident's.
    _add_causes(source, wanted)
    wanted.add(source.of_runs(boots, found.until_us))
    return Gathered(incident, found.since_us, found.until_us, found.cut, wanted.events())


class _Found:
    """Events, each once."""

    def __init__(self, events: Iterable[Recorded]) -> None:
        self._by_seq = {event.seq: event for event in events}

    def add(self, events: Iterable[Recorded]) -> list[Recorded]:
        """The ones among them that were not there yet."""
        new = {event.seq: event for event in events if event.seq not in self._by_seq}
        self._by_seq |= new
        return list(new.values())

    def missing(self, seqs: Iterable[int]) -> set[int]:
        """Those of them that are not there."""
        return {seq for seq in seqs if seq not in self._by_seq}

    def events(self) -> list[Recorded]:
        """By ascending seq."""
        return [self._by_seq[seq] for seq in sorted(self._by_seq)]


def _family(known: Mapping[str, Incident], incident: Incident) -> list[Incident]:
    """It, and those that are one with it."""
    family, coming = dict[str, Incident](), [incident.id]
    while coming:
        one = known.get(coming.pop())
        if one is not None and one.id not in family:
            family[one.id] = one
            coming += [*one.merged, *([one.into] if one.into else [])]
    return list(family.values())


def _of_family(source: _Ledger, family: Sequence[Incident]) -> list[Recorded]:
    """What was written of them."""
    ids = {one.id for one in family}
    first = min(one.opened_seq for one in family)
    return [event for event in source.of_types(("incident.*",), first - 1) if event.incident in ids]


def _cut_short(events: Sequence[Recorded]) -> list[str]:
    """Requests of which there may be more before or behind these events; without it nothing would explain them.

    Those without a beginning or an end, and those near either end: what they leave is written behind them. Who was
    refused at the door has nothing but that.
    """
    came, over, all_ = set[str](), set[str](), dict[str, None]()
    for event in events:
        if event.request is None:
            continue
        all_[event.request] = None
        if event.type == _RECEIVED:
            came.add(event.request)
        elif event.type in ENDS:
            over.add(event.request)
            if event.type == _REFUSED:
                came.add(event.request)
    near = {event.request for event in (*events[:_NEAR], *events[-_NEAR:])}
    return [one for one in all_ if one in near or one not in came or one not in over][:_MOST_CUT_SHORT]


def _add_causes(source: _Ledger, found: _Found) -> None:
    """What made them happen, and who wanted what was planned, back to the first cause."""
    coming = found.events()
    for _ in range(_DEEPEST):
        wanted = {event.cause for event in coming if event.cause is not None}
        wanted |= {seq for event in coming if isinstance(seq := event.data.get("wanted_by"), int)}
        if not (coming := found.add(source.at(found.missing(wanted)))):
            return
