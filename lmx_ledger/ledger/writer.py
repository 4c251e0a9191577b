"""The one that appends: events come from any thread, a single writer thread commits them in groups."""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Self

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import mono_ns, utc_us
from lmx_ledger.ledger.append import Draft, Unwritable, draft
from lmx_ledger.ledger.file import LedgerFile, Strayed
from lmx_ledger.ledger.store import LedgerUnusable, Synchronous, migrate
from lmx_ledger.ledger.ticket import Place, Waiter, wake
from lmx_ledger.ledger.trouble import Trouble

CAPACITY: Final = 65_536
"""Events that may wait in memory; the next one is lost, counted, and owned up to."""

_GROUP: Final = 1_024
_WINDOW_S: Final = 0.002
_TEND_S: Final = 5.0
_FIRST_BACKOFF_S: Final = 0.02
_LONGEST_BACKOFF_S: Final = 1.0

_Item = tuple[Place, ev.Event, int, int | None]
_Marker = Future[bool]


class Ledger:
    """The writing end of a ledger file. Several processes may each hold one on the same file.

    When the file cannot be written (a full disk, a file that was taken away), events wait in memory up to the bound,
    `error` says why, and `notice` gets one line when that begins and one when it is over. What does not fit is
    counted, and recorded as `ledger.dropped` when there is a file again; `close` is False and `lost` says how many when
    there is none by then.
    """

    def __init__(self, file: LedgerFile, boot: str, capacity: int, notice: Callable[[str], None]) -> None:
        self._file = file
        self._boot = boot
        self._capacity = capacity
        self._last_seq = file.head_seq
        self._trouble = Trouble(notice)
        self.on_event: Callable[[ev.Event], None] | None = None
        """Told of each event, on the thread that emits it: not to wait for anything."""
        self.drill: int | None = None
        """While it is set, what is emitted has it in its data, as `drill`: the event that began a rehearsal."""
        self._queue: queue.SimpleQueue[_Item | _Marker | None] = queue.SimpleQueue()
        self._in_hand = 0
        self._lock = threading.Lock()
        self._late = 0
        self._lost = 0
        self._reason = ""
        self._closing = threading.Event()
        self._give_up_ns = 0
        self._gave_up = False
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        boot: str,
        synchronous: Synchronous,
        capacity: int = CAPACITY,
        notice: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Make or migrate the file and start the writer thread. At most `capacity` events wait in memory.

        `notice` is called on the writer's thread, with one line for whoever operates the daemon.

        Raises:
            LedgerUnusable: it cannot be made or written, is no ledger, or comes from a newer program.
        """
        migrate(path)
        try:
            ledger = cls(LedgerFile(path, synchronous, boot), boot, capacity, notice)
        except sqlite3.Error as error:
            raise LedgerUnusable(f"{path}: cannot be used as a ledger: {error}") from None
        ledger._thread.start()
        return ledger

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def boot(self) -> str:
        """The run whose events these are."""
        return self._boot

    @property
    def last_seq(self) -> int:
        """The newest event that this writer has committed (at first: that the file had)."""
        return self._last_seq

    @property
    def queue_depth(self) -> int:
        """Events that are not committed yet."""
        return self._queue.qsize() + self._in_hand

    @property
    def error(self) -> str | None:
        """Why nothing can be written just now; None when all is well."""
        return self._trouble.error

    @property
    def lost(self) -> int:
        """Events that are not in the file and never will be, and of which no `ledger.dropped` in it tells."""
        return self._lost

    def figures(self) -> dict[str, float]:
        """For `/metrics`."""
        return {
            "lmx_ledger_seq": self.last_seq,
            "lmx_ledger_queue": self.queue_depth,
            "lmx_ledger_lost": self.lost,
        }

    def emit(self, event: ev.Event) -> ev.Ticket:
        """Record without waiting, from any thread. Never raises: what does not fit is counted and owned up to."""
        return self._put(Place(), event)

    async def commit(self, event: ev.Event, *, within_s: float = 0.25) -> int | None:
        """Record, and return the seq once it is durable.

        None when that takes longer (or the event is lost): the caller acts all the same, the event still goes in,
        and `ledger.dropped` says afterwards that it was late.
        """
        place, waiter = Place(), Waiter.here()
        place.wait(waiter)
        self._put(place, event)
        return await self._wait(place, waiter, within_s, late=True)

    async def seq_of(self, ticket: ev.Ticket, *, within_s: float = 0.25) -> int | None:
        """The seq of an event emitted earlier, once it is durable; None when that takes longer or it is lost."""
        if not isinstance(ticket, Place):
            return ticket.seq
        waiter = Waiter.here()
        with self._lock:
            if ticket.seq is not None or ticket.lost:
                return ticket.seq
            ticket.wait(waiter)
        return await self._wait(ticket, waiter, within_s, late=False)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything emitted so far is durable; False when it is not by then. Not for an event loop."""
        try:
            return self._mark().result(timeout_s)
        except TimeoutError:
            return False

    async def aflush(self, timeout_s: float) -> bool:
        """`flush` for an event loop."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(self._mark())
        except TimeoutError:
            return False

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what is still here and stop; False when that was not possible in time. A second call only waits."""
        with self._lock:
            first = not self._closing.is_set()
            if first:
                self._give_up_ns = mono_ns() + int(timeout_s * 1e9)
                self._closing.set()
        if first:
            self._queue.put(None)
        self._thread.join()
        return not self._gave_up

    def _mark(self) -> _Marker:
        marker: _Marker = Future()
        if self._closing.is_set():
            marker.set_result(not self._gave_up and not self.queue_depth)
        else:
            self._queue.put(marker)
        return marker

    def _put(self, place: Place, event: ev.Event) -> Place:
        if self.on_event is not None:
            self.on_event(event)
        if self._closing.is_set():
            self._lose([place], "the ledger was closed")
        elif self._queue.qsize() >= self._capacity:
            self._lose([place], f"{self._capacity} events were waiting")
        else:
            self._queue.put((place, event, utc_us(), self.drill))
        return place

    def _lose(self, places: Iterable[Place], reason: str) -> None:
        results: list[tuple[Waiter, int | None]] = []
        with self._lock:
            for place in places:
                self._lost += 1
                place.lost = True
                results.extend((waiter, None) for waiter in place.told())
            self._reason = self._reason or reason
        wake(results)

    async def _wait(self, place: Place, waiter: Waiter, within_s: float, *, late: bool) -> int | None:
        try:
            async with asyncio.timeout(within_s):
                return await waiter.future
        except TimeoutError:
            with self._lock:
                if place.seq is None and not place.lost:
                    place.late = place.late or late
                return place.seq

    # --- on the writer thread ---

    def _run(self) -> None:
        group: list[_Item] = []
        markers: list[_Marker] = []
        open_ = True
        while open_ or group:
            if open_:
                open_ = self._gather(group, markers)
            self._in_hand = len(group)
            if not self._write(self._drafts(group)):
                self._gave_up = True
                self._lose([place for place, _, _, _ in group if place.seq is None and not place.lost], self._reason)
                break
            self._in_hand = 0
            group = self._confession()
            if not group:
                _settle(markers, durable=True)
        self._forsake_queue(markers)
        self._file.close()

    def _gather(self, group: list[_Item], markers: list[_Marker]) -> bool:
        """Fill the group with what there is, waiting for the first event; False once the ledger is to be closed."""
        waited = bool(group)
        while len(group) < _GROUP:
            try:
                item = self._queue.get(block=not group, timeout=_TEND_S)
            except queue.Empty:
                if not group:
                    self._file.tend()
                    continue
                if waited:
                    break
                # One sleep instead of one wake-up per event, which would cost the emitting thread.
                waited = True
                time.sleep(_WINDOW_S)
                continue
            if item is None:
                return False
            if isinstance(item, Future):
                markers.append(item)
                break
            group.append(item)
            waited = waited or bool(item[0].waiters)
        return True

    def _drafts(self, group: list[_Item]) -> list[Draft]:
        drafts = []
        for place, event, time_us, drill in group:
            try:
                drafts.append(draft(place, event, time_us, drill))
            except Unwritable as error:
                self._lose([place], str(error))
        return drafts

    def _write(self, drafts: list[Draft]) -> bool:
        """Write until it is written; False when the ledger was closed and that could not be done in time."""
        backoff_s, began = _FIRST_BACKOFF_S, mono_ns()
        while drafts:
            try:
                self._file.append(drafts)
            except (sqlite3.DataError, OverflowError) as error:
                # One event's value is too large for the file: find it, keep the others.
                if len(drafts) > 1:
                    middle = len(drafts) // 2
                    return self._write(drafts[:middle]) and self._write(drafts[middle:])
                self._lose([drafts[0].place], f"{drafts[0].type} could not be stored: {error}")
                return True
            except (sqlite3.Error, Strayed) as error:
                with self._lock:
                    self._reason = str(error)
                self._trouble.failed(error, began, self._capacity)
                if self._closing.is_set():
                    if mono_ns() > self._give_up_ns:
                        return False
                    time.sleep(_FIRST_BACKOFF_S)
                else:
                    self._closing.wait(backoff_s)
                    backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            else:
                self._resolve(drafts)
                self._trouble.succeeded(self._last_seq)
                self._trouble.signing(self._file.signing_error)
                break
        return True

    def _resolve(self, drafts: list[Draft]) -> None:
        results: list[tuple[Waiter, int | None]] = []
        with self._lock:
            for d in drafts:
                place = d.place
                place.seq = place.planned
                if place.late:
                    self._late += 1
                if place.waiters:
                    results.extend((waiter, place.seq) for waiter in place.told())
            self._last_seq = drafts[-1].place.planned or self._last_seq
        wake(results)

    def _confession(self) -> list[_Item]:
        """What was late or lost since the last time, as an event; nothing if all went well."""
        with self._lock:
            late, lost, reason = self._late, self._lost, self._reason
            self._late, self._lost, self._reason = 0, 0, ""
        if not late and not lost:
            return []
        data = ev.LedgerDropped(late=late, lost=lost, reason=reason or "the disk was slower than the caller would wait")
        return [(Place(), ev.Event(data=data, stream="ledger"), utc_us(), None)]

    def _forsake_queue(self, markers: list[_Marker]) -> None:
        """After the last write: whoever still waits is told that it will not happen."""
        left: list[Place] = []
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, Future):
                markers.append(item)
            elif item is not None:
                left.append(item[0])
        self._gave_up = self._gave_up or bool(left)
        self._lose(left, "the ledger was closed")
        _settle(markers, durable=False)
        self._in_hand = 0


def _settle(markers: list[_Marker], *, durable: bool) -> None:
    for marker in markers:
        if marker.set_running_or_notify_cancel():
            marker.set_result(durable)
    markers.clear()
