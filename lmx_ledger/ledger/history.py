"""All events of a ledger for whoever folds them: sealed ones from their segments, the others from the database."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.core.ids import request_id_of
from lmx_ledger.ledger.archive import recorded_of
from lmx_ledger.ledger.chain import GENESIS, Sealed
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.segment import Segment, read, segments_of
from lmx_ledger.ledger.store import connect_to_read

_PAGE: Final = 5_000


class History:
    """Answers as `Reader` does, but that a question for types reaches back into the segments.

    Any other question is one of the database alone, but for `within`. Pages that follow each other cost one walk over
    the segments, whatever their number.
    """

    def __init__(self, ledger: Path, reader: Reader) -> None:
        self._ledger = ledger
        self._reader = reader
        # By types: the seq behind which the walk stands, and the walk.
        self._walks: dict[tuple[str, ...], tuple[int, Iterator[Recorded]]] = {}

    def head(self) -> int:
        """The newest seq; 0 in an empty ledger."""
        return self._reader.head()

    def events(self, wanted: EventFilter) -> Sequence[Recorded]:
        """At most `limit` events of the wanted types behind `after`, ascending.

        Raises:
            LedgerError: the ledger cannot be read, or a segment is not as it was sealed.
        """
        after = wanted.after or 0
        is_fold = bool(wanted.types) and wanted == EventFilter(
            types=wanted.types, after=wanted.after, limit=wanted.limit
        )
        if not is_fold or after >= (sealed := self.sealed_through()):
            return self._reader.events(wanted)
        at, walk = self._walks.pop(wanted.types, (-1, iter(())))
        if at != after:
            walk = self._walk(after, wanted.types)
        found = list(islice(walk, wanted.limit))
        if len(found) == wanted.limit:
            self._walks[wanted.types] = found[-1].seq, walk
            return found
        return found + self._reader.events(replace(wanted, after=sealed, limit=wanted.limit - len(found)))

    def within(self, types: tuple[str, ...], since_us: int, until_us: int, after: int = 0) -> Iterator[Recorded]:
        """Events of those types and of that time (`until_us` is not in it), oldest first, sealed or not.

        Those behind the seq `after`. A page of them at a time is in memory, and only segments of that time are opened.

        Raises:
            LedgerError: the ledger cannot be read, or a segment is not as it was sealed.
        """
        wanted = EventFilter(types=types, since_us=since_us, until_us=until_us, limit=_PAGE)
        while True:
            segments = self._segments()
            if segments and segments[-1].last_seq > after:
                yield from _sealed(self._ledger, segments, replace(wanted, after=after))
                after = segments[-1].last_seq
            page = self._reader.events(replace(wanted, after=after))
            # What is sealed while the page is read is gone from the database, and may be missing in it.
            if self.sealed_through() > after:
                continue
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].seq

    def sealed_through(self) -> int:
        """The last event that is in a segment and no longer in the database; 0 where there is none.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        segments = self._segments()
        return segments[-1].last_seq if segments else 0

    def _segments(self) -> list[Segment]:
        with closing(connect_to_read(self._ledger)) as connection:
            return segments_of(connection)

    def _walk(self, after: int, types: tuple[str, ...]) -> Iterator[Recorded]:
        wanted = EventFilter(types=types, after=after)
        return _sealed(self._ledger, self._segments(), wanted)


class Whole:
    """Answers any question in ascending order as if nothing had ever been sealed.

    What is asked about is read from the segments each time, those of another time left out: for questions that are
    rare. One in descending order is the database's alone.
    """

    def __init__(self, ledger: Path, reader: Reader) -> None:
        self._ledger = ledger
        self._reader = reader

    def events(self, wanted: EventFilter) -> list[Recorded]:
        """At most `limit` events that match.

        Raises:
            LedgerError: the ledger cannot be read, or a segment is not as it was sealed.
        """
        # The database first: what is sealed meanwhile is then in both, and not in neither.
        live = self._reader.events(wanted)
        if wanted.order == "desc":
            return live
        with closing(connect_to_read(self._ledger)) as connection:
            segments = segments_of(connection)
        twice = {event.seq for event in live}
        sealed = (event for event in _sealed(self._ledger, segments, wanted) if event.seq not in twice)
        return (list(islice(sealed, wanted.limit)) + live)[: wanted.limit]


def _sealed(ledger: Path, segments: Sequence[Segment], wanted: EventFilter) -> Iterator[Recorded]:
    """The events of the segments that match, ascending."""
    after = wanted.after or 0
    request = None if wanted.request is None else request_id_of(wanted.request) or wanted.request
    exact = {pattern for pattern in wanted.types if not pattern.endswith("*")}
    prefixes = tuple(pattern[:-1] for pattern in wanted.types if pattern.endswith("*"))

    def matches(event: Sealed) -> bool:
        seq, time_us, boot, kind, _, severity, _, of_request, session, model, incident, cause, _ = event
        kind = kind or ""
        named = (
            (wanted.boot, boot), (request, of_request), (wanted.session, session), (wanted.model, model),
            (wanted.incident, incident), (wanted.cause, cause),
        )  # fmt: skip
        return (
            seq > after
            and (not wanted.types or kind in exact or kind.startswith(prefixes))
            and (wanted.since_us is None or time_us >= wanted.since_us)
            and (wanted.until_us is None or time_us < wanted.until_us)
            and (wanted.severity is None or severity >= wanted.severity)
            and all(asked is None or asked == has for asked, has in named)
        )

    previous = GENESIS
    for segment in segments:
        early = wanted.since_us is not None and segment.last_us < wanted.since_us
        late = wanted.until_us is not None and segment.first_us >= wanted.until_us
        if segment.last_seq > after and not early and not late:
            for event, digest in read(ledger, segment, previous):
                if matches(event):
                    yield recorded_of(event, digest)
        previous = segment.last_hash
