"""Judges the objectives every minute, writes down what begins to burn and what ends, and tells whoever acts on it."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC
from typing import Any, Final

import msgspec
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import utc_us
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.follow import Follower
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.projection import FILE, open_to_read
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.slo.burn import Alerted, Cleared, Decision, State, decide, evolve
from lmx_ledger.slo.objective import Objective
from lmx_ledger.slo.recall import EVERY_MODEL, ObjectivesFold, Recalled
from lmx_ledger.slo.report import Row, announced, cleared, evaluated, public, rows_of
from lmx_ledger.slo.tally import Tally

OnAlert = Callable[[str, str, str | None, bool, int | None], None]
"""Name, severity, model (None: all), whether it burns now, and the seq of the event that says so (None: not known)."""

_EVERY_S: Final = 60
_FIRST_S: Final = 1.0
_PATIENCE: Final = 5
"""Failures in a row before it is said."""
_HOUR_US: Final = 3_600_000_000
_FOLD: Final = ObjectivesFold()

_Key = tuple[str, str, str | None]


class Objectives:
    """Two daemons of one home judge alike: what one has told the other one reads, and does not tell again."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        ledger: Ledger,
        reader: Reader,
        notice: Callable[[str], None],
        on_alert: OnAlert = lambda *_: None,
    ) -> None:
        """`notice` is called with one line when they cannot be judged, and when they can again."""
        self._objectives = objectives
        self._ledger = ledger
        self._reader = reader
        self._notice = notice
        self._on_alert = on_alert
        self._file = ledger.path.with_name(FILE)
        self._tally = Tally(objectives)
        self._recalled = Recalled()
        self._follower: Follower | None = None
        self._from_seq = ledger.last_seq
        self._rows = list(rows_of(objectives, self._tally, self._recalled, utc_us()))
        self._on: dict[_Key, int | None] = {}
        self._ended: dict[_Key, int | None] = {}
        self._failed = 0
        self._judged = False
        self._lock = asyncio.Lock()
        self._first: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(timezone=UTC)

    def start(self) -> None:
        """Judge as soon as the rollups have what came before this run, and every minute from then on."""
        # Without a bound of grace: behind a night's sleep it is one run, at once, and no complaint about missed ones.
        self._scheduler.add_job(
            self.evaluate, "interval", seconds=_EVERY_S, coalesce=True, misfire_grace_time=None, max_instances=1
        )
        self._scheduler.start()
        self._first = asyncio.create_task(self._begin())

    async def stop(self) -> None:
        """Judge no more; what is being judged just now is given up."""
        if self._first is not None:
            self._scheduler.shutdown(wait=False)
            self._first.cancel()
            await asyncio.wait([self._first])

    def public(self) -> dict[str, Any]:
        """The answer of `/lmx/slo`, as it was when it was last looked at."""
        return public(self._rows)

    async def refresh(self) -> None:
        """Look, without judging: `public` is then what the rollups say now, if they can be read.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        async with self._lock:
            with contextlib.suppress(sqlite3.Error):
                self._rows = await asyncio.to_thread(self._read, utc_us())

    async def evaluate(self, now_us: int | None = None) -> bool:
        """Judge this minute, or another one; False where that is not possible yet, or not just now."""
        async with self._lock:
            now_us = utc_us() if now_us is None else now_us
            try:
                rows = await asyncio.to_thread(self._read, now_us)
            except (sqlite3.Error, LedgerError) as error:
                self._cannot(str(error))
                return False
            # A history that is being folded anew says nothing before all of it is there.
            if self._tally.seq < self._from_seq:
                return False
            self._can()
            if not self._judged:
                self._judged = True
                await self._clear_unwatched(now_us)
            hourly = self._recalled.evaluated_us // _HOUR_US != now_us // _HOUR_US
            for row in rows:
                await self._judge(row, hourly=hourly)
            if hourly:
                self._recalled = msgspec.structs.replace(self._recalled, evaluated_us=now_us)
            self._rows = [row._replace(state=self._recalled.of(row.objective.name, row.model)) for row in rows]
            self._tell(rows)
            return True

    async def _begin(self) -> None:
        done = False
        while not done:
            done = await self.evaluate()
            await asyncio.sleep(_FIRST_S)

    def _read(self, now_us: int) -> list[Row]:
        """Not for an event loop."""
        if self._follower is None:
            head = self._reader.head()
            history = History(self._ledger.path, self._reader)
            self._recalled = state_at(_FOLD, history, self._file, head)
            self._follower = Follower(self._reader, EventFilter(types=_FOLD.types), head)
        while found := self._follower.advance():
            for event in found:
                self._recalled = _FOLD.evolve(self._recalled, event)
        with closing(open_to_read(self._file)) as connection:
            self._tally.read(connection, now_us, self._recalled.slept)
        return list(rows_of(self._objectives, self._tally, self._recalled, now_us))

    async def _judge(self, row: Row, *, hourly: bool) -> None:
        policy, period = row.objective.policy, row.observed.period
        decisions = decide(row.state, row.observed, policy)
        self._keep(row, evolve(row.state, row.observed, decisions, policy))
        if decisions or (hourly and (period.total or period.shed)):
            cause = self._ledger.emit(_event(evaluated(row), row.objective.name, row.model))
            for decision in decisions:
                data = announced(row, decision, self._recalled)
                seq = await self._ledger.commit(_event(data, row.objective.name, row.model, cause))
                self._note(row, decision, seq)

    def _note(self, row: Row, decision: Decision, seq: int | None) -> None:
        name, model = row.objective.name, row.model
        if isinstance(decision, Alerted) and seq is not None:
            state = self._recalled.of(name, model)
            alert = msgspec.structs.replace(state.alerts[decision.pair.name], seq=seq)
            alerts = {**state.alerts, decision.pair.name: alert}
            self._keep(row, msgspec.structs.replace(state, alerts=alerts))
        elif isinstance(decision, Cleared):
            self._ended[name, decision.alert.severity, model] = seq

    def _keep(self, row: Row, state: State) -> None:
        self._recalled = self._recalled.having(row.objective.name, row.model, state)

    async def _clear_unwatched(self, now_us: int) -> None:
        """Alerts of objectives that are not configured any more would be on for ever."""
        watched = {objective.name for objective in self._objectives}
        for name, states in self._recalled.states.items():
            for key, state in states.items() if name not in watched else ():
                for pair, alert in state.alerts.items():
                    data = cleared(name, Cleared(pair, alert), now_us, self._recalled)
                    await self._ledger.commit(_event(data, name, None if key == EVERY_MODEL else key))
        kept = {name: states for name, states in self._recalled.states.items() if name in watched}
        self._recalled = msgspec.structs.replace(self._recalled, states=kept)

    def _tell(self, rows: Sequence[Row]) -> None:
        """What is on now and was not, and what was and is not: by this daemon's judgement or by another one's.

        An alert that burns no more lasts for people. Whoever acts on it must not: it would refuse whom it could serve,
        and as long as many are refused no alert ends.
        """
        burning = {(row.objective.name, row.model) for row in rows if row.burns_now}
        on: dict[_Key, int | None] = {}
        for name, states in self._recalled.states.items():
            for key, state in states.items():
                model = None if key == EVERY_MODEL else key
                for alert in state.alerts.values() if (name, model) in burning else ():
                    on.setdefault((name, alert.severity, model), alert.seq or None)
        before, self._on = self._on, on
        for new in on.keys() - before.keys():
            self._on_alert(*new, True, on[new])
        for old in before.keys() - on.keys():
            self._on_alert(*old, False, self._ended.pop(old, None))

    def _cannot(self, reason: str) -> None:
        """At once it is no trouble: at the start the file may not be there yet, or somebody writes to it."""
        self._failed += 1
        if self._failed == _PATIENCE:
            self._notice(f"objectives cannot be judged: {reason}; serving goes on, and it is tried again")

    def _can(self) -> None:
        if self._failed >= _PATIENCE:
            self._notice("objectives are judged again")
        self._failed = 0


def _event(data: ev.EventData, objective: str, model: str | None, cause: ev.Cause = None) -> ev.Event:
    return ev.Event(data=data, stream=f"slo:{objective}", model=model, cause=cause)
