"""`lmx bench ledger`: what an event costs, how soon it is durable, how fast it is found again.

Every figure is about the events of served requests (`served_requests`). Whatever the machine is doing besides, it does
to the baseline as well: both are measured in turns, and the median of the rounds is told.
"""

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.served import MODELS, served_requests
from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import utc_us
from lmx_ledger.daemon.main import projections
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.projection import Projections
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.status import status_projection

ROUNDS: Final = 5
_Item = TypeVar("_Item")
_GROUP: Final = 1_024
_WAITERS: Final = 64
_COMMITS_EACH: Final = 40
_QUESTIONS: Final = 200
_A_DAY: Final = 1_000_000
_MOMENTS: Final = 40
_EVENT_GAP_US: Final = 86_400
"""Between two events of a generated history: a million of them are a day."""


def measure(folder: Path, *, events: int, say: Callable[[str], None]) -> list[Figure]:
    """All figures, over a history of so many events, in an empty folder on the disk in question; `say` gets progress.

    Raises:
        OSError, sqlite3.Error: the disk cannot be used.
    """
    say(f"appending, {ROUNDS} rounds beside a bare executemany")
    figures = list(append_figures(folder, min(events, 100_000)))
    say("emitting, on one thread while the writer works on another")
    figures.append(emit_figure(folder))
    say(f"committing, {_WAITERS} at once, every group synced")
    figures.extend(commit_figures(folder))
    say(f"writing a history of {events:,} events")
    history = folder / "history.db"
    figures.append(write_history(history, events))
    say("asking it")
    figures.extend(query_figures(history))
    say("verifying it")
    figures.append(verify_figure(history))
    say("folding it")
    figures.extend(fold_figures(history, folder / "projections.db"))
    return figures


def in_groups(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of so many, the last one shorter."""
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def append_figures(folder: Path, events: int) -> Iterator[Figure]:
    """Events per second from `emit` to durable, and their ratio to the same rows in a table without index."""
    load = list(islice(served_requests(), events))
    ours, bare = [], []
    rows: list[tuple[object, ...]] = []
    for number in range(ROUNDS):
        path = folder / f"append-{number}.db"
        ours.append(len(load) / _append(path, load))
        rows = rows or _rows_of(path)
        bare.append(len(rows) / _bare(folder / f"bare-{number}.db", rows))
    rate, base = quantile(ours, 0.5), quantile(bare, 0.5)
    told = f"bare executemany of the same rows, no index: {base:,.0f} events/s"
    yield Figure("append", rate, "events/s", bound=50_000, baseline=told)
    yield Figure("append / bare executemany", quantile([a / b for a, b in zip(ours, bare, strict=True)], 0.5), "x", 0.3)


def _append(path: Path, load: Sequence[ev.Event]) -> float:
    ledger = Ledger.open(path, boot="bench", synchronous="NORMAL", capacity=len(load) + 1)
    began = time.perf_counter()
    for event in load:
        ledger.emit(event)
    if not ledger.close(600):
        raise OSError(f"{path}: {ledger.lost} events could not be written ({ledger.error})")
    return time.perf_counter() - began


def _rows_of(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM event").fetchall()


def _bare(path: Path, rows: Sequence[tuple[object, ...]]) -> float:
    columns = ", ".join("seq INTEGER PRIMARY KEY" if n == 0 else f"c{n}" for n in range(len(rows[0])))
    insert = f"INSERT INTO bare VALUES ({', '.join('?' * len(rows[0]))})"  # noqa: S608 - constants
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"CREATE TABLE bare ({columns})")
        began = time.perf_counter()
        for group in in_groups(rows, _GROUP):
            connection.execute("BEGIN")
            connection.executemany(insert, group)
            connection.execute("COMMIT")
        return time.perf_counter() - began


def emit_figure(folder: Path) -> Figure:
    """What one `emit` takes from the thread that calls it; bursts of 200, as a step's events come, with pauses."""
    took = []
    load = list(islice(served_requests(), 20_000))
    ledger = Ledger.open(folder / "emit.db", boot="bench", synchronous="NORMAL")
    for burst in in_groups(load, 200):
        began = time.perf_counter()
        for event in burst:
            ledger.emit(event)
        took.append((time.perf_counter() - began) / len(burst) * 1e6)
        time.sleep(0.005)
    ledger.close(60)
    return Figure("emit", quantile(took, 0.5), "us", bound=2, better="lower", baseline="the median of bursts of 200")


def commit_figures(folder: Path) -> Iterator[Figure]:
    """How long `commit` takes with synchronous FULL, beside what the disk takes for the sync alone."""
    ledger = Ledger.open(folder / "commit.db", boot="bench", synchronous="FULL")
    load = served_requests()
    took: list[float] = []

    async def client() -> None:
        for _ in range(_COMMITS_EACH):
            event, began = next(load), time.perf_counter()
            await ledger.commit(event, within_s=60)
            took.append((time.perf_counter() - began) * 1e3)

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(_WAITERS)))

    asyncio.run(clients())
    ledger.close(60)
    synced = _sync_times(folder / "sync")
    told = f"the disk's own sync of 4 KB: p50 {quantile(synced, 0.5):.2f} ms, p99 {quantile(synced, 0.99):.2f} ms"
    yield Figure("commit p50, FULL, 64 at once", quantile(took, 0.5), "ms", better="lower")
    yield Figure("commit p99, FULL, 64 at once", quantile(took, 0.99), "ms", 10, "lower", told)


def _sync_times(path: Path) -> list[float]:
    took = []
    with path.open("wb") as file:
        for _ in range(200):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1e3)
    return took


def write_history(path: Path, events: int) -> Figure:
    """A ledger of so many events, a million a day, up to now; the figure is its bytes per event."""
    migrate(path)
    file = LedgerFile(path, "NORMAL", "bench")
    time_us = utc_us() - events * _EVENT_GAP_US
    for group in in_groups(islice(served_requests(), events), _GROUP):
        drafts = []
        for event in group:
            time_us += _EVENT_GAP_US
            drafts.append(draft(Place(), event, time_us))
        file.append(drafts)
    file.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Figure(f"size at {events:,} events", path.stat().st_size / events, "bytes/event", 320, "lower")


def query_figures(path: Path) -> Iterator[Figure]:
    """The median time of a question, each about something drawn at random."""
    reader, rng = Reader.open(path), random.Random(1)  # noqa: S311 - a load, not a secret
    head = reader.head()
    (first,) = reader.events(EventFilter(limit=1))
    (last,) = reader.events(EventFilter(limit=1, order="desc"))
    drawn = [reader.events(EventFilter(after=rng.randrange(head), limit=1))[0] for _ in range(_QUESTIONS)]
    questions: dict[str, list[EventFilter]] = {
        "by request": [EventFilter(request=event.request) for event in drawn],
        "by session": [EventFilter(session=event.session) for event in drawn],
        "by incident": [EventFilter(incident=f"inc_{n}") for n in range(_QUESTIONS)],
        "by model": [EventFilter(model=rng.choice(MODELS), order="desc") for _ in drawn],
    }
    for what, asked in questions.items():
        yield Figure(f"{what}, p50", _median_ms(reader, asked), "ms", bound=1, better="lower")
    windows = []
    for _ in range(_QUESTIONS):
        since = rng.randrange(first.time_us, max(last.time_us - 10_000_000, first.time_us + 1))
        windows.append(EventFilter(since_us=since, until_us=since + 10_000_000, limit=1_000))
    yield Figure("10 seconds of it, p50", _median_ms(reader, windows), "ms", bound=10, better="lower")
    reader.close()


def _median_ms(reader: Reader, asked: Sequence[EventFilter]) -> float:
    took = []
    for question in asked:
        began = time.perf_counter()
        reader.events(question)
        took.append((time.perf_counter() - began) * 1e3)
    return quantile(took, 0.5)


def verify_figure(path: Path) -> Figure:
    """Events of the chain that are checked in a second.

    Raises:
        ValueError: the ledger that was just written does not verify.
    """
    reader = Reader.open(path)
    began = time.perf_counter()
    verdict = reader.verify()
    took = time.perf_counter() - began
    reader.close()
    if not verdict.ok:
        raise ValueError(f"event {verdict.bad_seq}: {verdict.reason}")
    return Figure("verify", verdict.events / took, "events/s", bound=200_000)


def fold_figures(path: Path, snapshots: Path) -> Iterator[Figure]:
    """How long it takes to fold all of it once, and then to know the state of any moment of its last day."""
    reader = Reader.open(path)
    folded = Projections(snapshots, projections(), reader)
    began = time.perf_counter()
    while folded.advance():
        pass
    took = time.perf_counter() - began
    folded.close()
    head, rng, fold = reader.head(), random.Random(2), status_projection()  # noqa: S311 - a load, not a secret
    yield Figure("fold of everything, once", head / took, "events/s")
    moments = [head, *(rng.randrange(max(head - _A_DAY, 1), head) for _ in range(_MOMENTS))]
    times = []
    for seq in moments:
        began = time.perf_counter()
        state_at(fold, reader, snapshots, seq)
        times.append((time.perf_counter() - began) * 1e3)
    reader.close()
    told = f"the slowest of {len(moments)} moments within the last {min(_A_DAY, head):,} events"
    yield Figure("state of a moment, from a snapshot", max(times), "ms", 1_000, "lower", told)
