"""Follows the ledger, decides which symptoms are which incident, writes that down, and remembers it by the ledger."""

import asyncio
from collections.abc import Callable
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import mono_ns, utc_us
from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import Conflict, NotFound
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.ids import new_ulid
from lmx_ledger.core.settings import Settings
from lmx_ledger.incident.announce import announced, of_incident, opened
from lmx_ledger.incident.dating import LOOK_BACK_S, Began, began
from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.incident.lifecycle import Decision, Opened, Policy, decide
from lmx_ledger.incident.state import CLOSED, Incident, State
from lmx_ledger.ledger.causes import event_at
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.follow import Follower
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.lock import CheckpointLock
from lmx_ledger.ledger.projection import FILE
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.ledger.writer import Ledger

_EVERY_S: Final = 1.0
_WITHIN_S: Final = 5.0
_PATIENCE: Final = 5
"""Failures in a row before it is said."""
_WINDOW: Final = 20_000
"""Events before a symptom in which its beginning is looked for, at most."""
_FOLD: Final = IncidentsFold()
_LOST_NS: Final = 60 * 10**9


class Incidents:
    """One per daemon. Of several daemons of one home one decides, the others follow; see `_lock`."""

    def __init__(
        self, ledger: Ledger, reader: Reader, settings: Settings, notice: Callable[[str], None] = lambda _: None
    ) -> None:
        """`notice` is called with one line when the ledger cannot be followed, and when it can again."""
        self._ledger, self._reader, self._notice = ledger, reader, notice
        self._policy = Policy()
        self._state = State()
        self._follower: Follower | None = None
        # Whoever decides holds it, so that no symptom becomes two incidents; the kernel frees it with its holder.
        self._lock = CheckpointLock(ledger.path.with_name("incidents"))
        self._turn = asyncio.Lock()
        self._noted_ns = mono_ns()
        self._gone_us = 0
        self._pending: tuple[ev.Ticket, int] | None = None
        self._failed = 0
        settings.follow(self._apply)

    def _apply(self, config: Config) -> None:
        section = config.incidents
        self._policy = Policy(
            resolve_s=section.resolve_after, reopen_s=section.reopen_within, close_s=section.close_after
        )

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY_S)

    def stop(self) -> None:
        """Another daemon of this home may decide."""
        self._lock.release()

    async def state(self) -> State:
        """All incidents, as the ledger has them now.

        Raises:
            LedgerError: it cannot be read.
        """
        async with self._turn:
            await asyncio.to_thread(self._read)
            return self._state

    async def look(self) -> None:
        """Once: read what has come, decide, write down."""
        async with self._turn:
            self._lock.take()
            try:
                await asyncio.to_thread(self._read)
                while self._lock.held and not self._is_pending() and (decisions := self._decide()):
                    for decision in decisions:
                        event = await asyncio.to_thread(self._event_of, decision)
                        await self._write(event)
            except LedgerError as error:
                self._cannot(str(error))
            else:
                self._can()

    async def acknowledge(self, name: str, cause: ev.Cause) -> Incident:
        """Somebody looks after it.

        Raises:
            NotFound, Conflict: there is none, or several begin so; it is over.
        """
        incident = await self.find(name)
        if incident.status == CLOSED or incident.into is not None:
            raise Conflict(f"{incident.id} is {incident.status}; there is nothing to look after any more")
        if incident.acknowledged_us is None:
            await self._order(incident, ev.IncidentAcknowledged(via="http"), cause)
        return await self.find(incident.id)

    async def close(self, name: str, cause: ev.Cause) -> Incident:
        """Nothing more is done about it.

        Raises:
            NotFound, Conflict: there is none, or several begin so; it is part of another one.
        """
        incident = await self.find(name)
        if incident.into is not None:
            raise Conflict(f"{incident.id} is part of {incident.into}; close that one")
        if incident.status != CLOSED:
            await self._order(incident, ev.IncidentClosed(reason="operator"), cause)
        return await self.find(incident.id)

    async def find(self, name: str) -> Incident:
        """By id, a beginning of one, or `last`.

        Raises:
            NotFound: there is no such incident.
            Conflict: several begin so.
            LedgerError: the ledger cannot be read.
        """
        state = await self.state()
        try:
            found = state.find(name)
        except LookupError as error:
            raise Conflict(str(error)) from None
        if found is None:
            raise NotFound(f"there is no incident {name[:80]!r}; the known ones: lmx incidents list")
        return found

    def without_report(self, since_us: int) -> list[Incident]:
        """Those that are over, since then or later, and are not written down as they ended; the oldest first.

        Of a daemon that does not decide about incidents: none.
        """
        if not self._lock.held or self._is_pending():
            return []
        over = [one for one in self._state.all() if one.lacks_report]
        return [one for one in reversed(over) if max(one.resolved_us or 0, one.closed_us or 0) >= since_us]

    async def reported(self, incident: Incident, data: ev.IncidentReportWritten) -> None:
        """Its postmortem is written."""
        await self._order(incident, data, incident.opened_seq)

    async def _order(self, incident: Incident, data: ev.EventData, cause: ev.Cause) -> None:
        async with self._turn:
            await self._write(of_incident(incident.id, data, cause))

    # --- on another thread -------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._follower is None:
            head = self._reader.head()
            history = History(self._ledger.path, self._reader)
            self._state = state_at(_FOLD, history, self._ledger.path.with_name(FILE), head)
            self._follower = Follower(self._reader, EventFilter(types=_FOLD.types), head)
            # How long nobody ran, as far as a clock can tell that may have been set meanwhile.
            self._gone_us = max(utc_us() - self._state.time_us, 0) if self._state.time_us else 0
            self._noted_ns = mono_ns()
        while found := self._follower.advance():
            for event in found:
                self._state = _FOLD.evolve(self._state, event)
            self._gone_us, self._noted_ns = 0, mono_ns()

    def _event_of(self, decision: Decision) -> ev.Event:
        if not isinstance(decision, Opened):
            return announced(decision, self._policy)
        first = event_at(self._reader, decision.symptom.seq)
        start = Began(decision.symptom.time_us) if first is None else self._began(first)
        return opened(decision, f"inc_{new_ulid()}", start)

    def _began(self, symptom: Recorded) -> Began:
        cause = event_at(self._reader, symptom.cause) if symptom.cause is not None else None
        since_us = symptom.time_us - LOOK_BACK_S * 1_000_000
        found: list[Recorded] = []
        while len(found) < _WINDOW:
            after = found[-1].seq if found else symptom.seq
            page = self._reader.events(EventFilter(since_us=since_us, after=after, order="desc", limit=5_000))
            found += page
            if len(page) < 5_000:
                break
        return began(symptom, cause, found[::-1])

    # --- on the loop -------------------------------------------------------------------------------------------------

    def _decide(self) -> list[Decision]:
        now_us = self._state.at_us + self._gone_us + (mono_ns() - self._noted_ns) // 1_000
        return decide(self._state, now_us, self._policy)

    async def _write(self, event: ev.Event) -> None:
        """And read it: what is decided next is decided with that."""
        ticket = self._ledger.emit(event)
        if await self._ledger.seq_of(ticket, within_s=_WITHIN_S) is None:
            self._pending = (ticket, mono_ns())
            return
        await asyncio.to_thread(self._read)

    def _is_pending(self) -> bool:
        """Whether what was decided is still on its way to the ledger: it must not be decided again meanwhile."""
        if self._pending is None:
            return False
        ticket, since_ns = self._pending
        seq = ticket.seq
        if (seq is not None and self._follower is not None and self._follower.seen >= seq) or (
            seq is None and mono_ns() - since_ns > _LOST_NS
        ):
            self._pending = None
        return self._pending is not None

    def _cannot(self, reason: str) -> None:
        self._failed += 1
        if self._failed == _PATIENCE:
            self._notice(f"incidents cannot be followed: {reason}; serving goes on, and it is tried again")

    def _can(self) -> None:
        if self._failed >= _PATIENCE:
            self._notice("incidents are followed again")
        self._failed = 0
