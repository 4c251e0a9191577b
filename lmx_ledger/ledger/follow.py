"""Following a ledger: what has come since, each event once, whoever wrote it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter

PAGE: Final = 500
"""Events that are read at once."""


class Asked(Protocol):
    """Where events are asked for: `Reader`, or a daemon."""

    def head(self) -> int:
        """The newest seq; 0 in an empty ledger."""

    def events(self, wanted: EventFilter) -> Sequence[Recorded]:
        """At most `limit` events behind `after`, ascending."""


class Follower:
    """Reads on behind `seen`. Seqs are given out inside the transaction that stores them, so none appears late."""

    def __init__(self, ledger: Asked, wanted: EventFilter, seen: int) -> None:
        self._ledger = ledger
        self._wanted = replace(wanted, order="asc", limit=PAGE)
        self.seen = seen

    def advance(self) -> Sequence[Recorded]:
        """At most a page of what has come; fewer than `PAGE` means that it was all.

        `seen` moves behind events that were not wanted as well: nothing is scanned twice.

        Raises:
            LedgerError: the ledger cannot be read; the next call goes on from the same place.
        """
        head = self._ledger.head()
        if head <= self.seen:
            return ()
        found = self._ledger.events(replace(self._wanted, after=self.seen))
        # Events that came after the head was asked for may be found already.
        self.seen = found[-1].seq if len(found) == PAGE else max(head, found[-1].seq if found else 0)
        return found
