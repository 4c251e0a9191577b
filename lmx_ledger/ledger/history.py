"""All events of a ledger for whoever folds them: sealed ones from their segments, the others from the database."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.archive import recorded_of
from lmx_ledger.ledger.chain import GENESIS
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.segment import Segment, read, segments_of
from lmx_ledger.ledger.store import connect_to_read


class History:
    """Answers as `Reader` does, but that a question for types reaches back into the segments.

    Any other question is one of the database alone. Pages that follow each other cost one walk over the segments,
    whatever their number.
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
        exact = {pattern for pattern in types if not pattern.endswith("*")}
        prefixes = tuple(pattern[:-1] for pattern in types if pattern.endswith("*"))
        previous = GENESIS
        for segment in self._segments():
            if segment.last_seq > after:
                for event, digest in read(self._ledger, segment, previous):
                    kind = event[3] or ""
                    if event[0] > after and (kind in exact or kind.startswith(prefixes)):
                        yield recorded_of(event, digest)
            previous = segment.last_hash
