"""What made an event happen, and what it made happen: the chain of causes, walked both ways."""

from collections import deque
from typing import Final, Protocol

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter

LONGEST: Final = 100
"""Steps back to the first cause. A cause is older than its effect, so a true chain ends; an altered one might not."""


class Asked(Protocol):
    """Where events are asked for."""

    def events(self, wanted: EventFilter) -> list[Recorded]:
        """At most `limit` events."""


def event_at(ledger: Asked, seq: int) -> Recorded | None:
    """The event of that seq; None if there is none."""
    found = ledger.events(EventFilter(after=seq - 1, limit=1))
    return found[0] if found and found[0].seq == seq else None


def causes_of(ledger: Asked, event: Recorded) -> list[Recorded]:
    """Why it happened: the first cause, what that made happen, and so on up to the direct cause."""
    chain: list[Recorded] = []
    at = event
    while at.cause is not None and at.cause < at.seq and len(chain) < LONGEST:
        before = event_at(ledger, at.cause)
        if before is None:
            break
        chain.append(before)
        at = before
    return chain[::-1]


def effects_of(ledger: Asked, event: Recorded, limit: int) -> list[Recorded]:
    """What came of it: direct effects, their effects, and so on, the nearer ones first, at most `limit`."""
    found: list[Recorded] = []
    waiting = deque([event])
    while waiting and len(found) < limit:
        at = waiting.popleft()
        direct = ledger.events(EventFilter(cause=at.seq, after=at.seq, limit=limit - len(found)))
        found += direct
        waiting += direct
    return found
