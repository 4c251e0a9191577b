"""All events of a ledger for whoever folds them: sealed ones from their segments, the others from the database."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.archive import recorded_of
from lmx_ledger.ledger.chain import GENESIS
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
        if not is_fold or after >= (sealed := self._sealed()):
            return self._reader.events(wanted)
        at, walk = self._walks.pop(wanted.types, (-1, iter(())))
        if at != after:
            walk = self._walk(self._segments(), after, wanted.types)
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
                for event in self._walk(segments, after, types, (since_us, until_us)):
                    if since_us <= event.time_us < until_us:
                        yield event
                after = segments[-1].last_seq
            page = self._reader.events(replace(wanted, after=after))
            # What is sealed while the page is read is gone from the database, and may be missing in it.
            if self._sealed() > after:
                continue
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].seq

    def _sealed(self) -> int:
        segments = self._segments()
        return segments[-1].last_seq if segments else 0

    def _segments(self) -> list[Segment]:
        with closing(connect_to_read(self._ledger)) as connection:
            return segments_of(connection)

    def _walk(
        self, segments: Sequence[Segment], after: int, types: tuple[str, ...], during: tuple[int, int] | None = None
    ) -> Iterator[Recorded]:
        """Those behind a seq; of segments that have nothing of a time `during` which is asked for no file is opened."""
        exact = {pattern for pattern in types if not pattern.endswith("*")}
        prefixes = tuple(pattern[:-1] for pattern in types if pattern.endswith("*"))
        previous = GENESIS
        for segment in segments:
            elsewhen = during is not None and (segment.last_us < during[0] or segment.first_us >= during[1])
            if segment.last_seq > after and not elsewhen:
                for event, digest in read(self._ledger, segment, previous):
                    kind = event[3] or ""
                    if event[0] > after and (kind in exact or kind.startswith(prefixes)):
                        yield recorded_of(event, digest)
            previous = segment.last_hash
