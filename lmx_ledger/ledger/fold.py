"""Folds: pure `evolve(state, event) -> state`, kept as snapshots, so that the state of any moment is soon at hand."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.follow import Asked, Follower
from lmx_ledger.ledger.projection import StateLost, is_of, open_to_read

_S = TypeVar("_S")

SNAPSHOT_EVERY: Final = 10_000
"""Between two snapshots that are kept lie at most twice as many events: 0.3 s of folding."""
_RUNS: Final = 8
"""Runs that are remembered without an end. One that was killed and that nobody noticed must not stay for ever."""
_STARTED: Final = "daemon.started"
_STOPPED: Final = "daemon.stopped"
_CRASHED: Final = "daemon.crash_detected"


class Fold(Protocol[_S]):
    """A state that is folded from events: pure, without clock and I/O; `state` is its type, known to msgspec."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def types(self) -> tuple[str, ...]: ...
    @property
    def state(self) -> Any: ...

    def initial(self) -> _S:
        """Before the first event."""

    def evolve(self, state: _S, event: Recorded) -> _S:
        """After one more; `state` itself is not changed."""


class RunFold(Protocol[_S]):
    """As `Fold`, of one run of a daemon: the events of another run are never its business."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def types(self) -> tuple[str, ...]: ...
    @property
    def state(self) -> Any: ...

    def initial(self, before: _S | None) -> _S:
        """Of a run that begins; `before` is how the run that ended last has ended, for what is inherited."""

    def evolve(self, state: _S, event: Recorded) -> _S:
        """After one more; the last one is its `daemon.stopped`, or the `daemon.crash_detected` that tells of it."""


class Runs(msgspec.Struct, Generic[_S], frozen=True):
    """The states of the runs (by boot, in the order of their start) that go on, and of the one that ended last."""

    running: dict[str, _S] = {}
    ended: _S | None = None
    ended_boot: str = ""


class PerBoot(Generic[_S]):
    """A fold of runs: two daemons on one ledger fold each other's events, each into its own run's state."""

    def __init__(self, fold: RunFold[_S]) -> None:
        self._fold = fold
        self.name, self.version = fold.name, fold.version
        self.types = tuple(dict.fromkeys((_STARTED, _STOPPED, _CRASHED, *fold.types)))
        runs: Any = Runs
        self.state = runs[fold.state]

    def initial(self) -> Runs[_S]:
        """No run yet."""
        return Runs()

    def evolve(self, state: Runs[_S], event: Recorded) -> Runs[_S]:
        """The event belongs to the run that wrote it; that a run crashed was written by a later one."""
        crashed = event.type == _CRASHED
        boot = event.data["boot"] if crashed else event.boot
        run = state.running.get(boot)
        if run is None:
            if crashed or boot == state.ended_boot:
                return state
            run = self._fold.initial(state.ended)
        run = self._fold.evolve(run, event)
        if crashed or event.type == _STOPPED:
            rest = {other: known for other, known in state.running.items() if other != boot}
            return Runs(rest, run, boot)
        running = {**state.running, boot: run}
        if len(running) > _RUNS:
            del running[next(iter(running))]
        return Runs(running, state.ended, state.ended_boot)


class Folded(Generic[_S]):
    """A fold as a projection: its state is stored after each page; of every `SNAPSHOT_EVERY` events one is kept."""

    def __init__(self, fold: Fold[_S]) -> None:
        self._fold = fold
        self.name, self.version, self.types = fold.name, fold.version, fold.types

    def create(self, connection: sqlite3.Connection) -> None:
        """It has no table of its own."""

    def fold(self, connection: sqlite3.Connection, events: Sequence[Recorded], seq: int) -> None:
        """See `Projection`."""
        before, state = nearest(connection, self._fold, seq)
        for event in events:
            state = self._fold.evolve(state, event)
        if before // SNAPSHOT_EVERY == seq // SNAPSHOT_EVERY:
            connection.execute(
                "DELETE FROM snapshot WHERE name = ? AND version = ? AND seq = ?", (self.name, self.version, before)
            )
        connection.execute(
            "INSERT INTO snapshot VALUES (?, ?, ?, ?)", (self.name, self.version, seq, msgspec.msgpack.encode(state))
        )


def nearest(connection: sqlite3.Connection, fold: Fold[_S], seq: int) -> tuple[int, _S]:
    """The last stored state up to that seq, and its own seq; 0 and the initial state where there is none.

    Raises:
        StateLost: it cannot be read.
        sqlite3.Error: the file cannot be read.
    """
    row = connection.execute(
        "SELECT seq, state FROM snapshot WHERE name = ? AND version = ? AND seq <= ? ORDER BY seq DESC LIMIT 1",
        (fold.name, fold.version, seq),
    ).fetchone()
    if row is None:
        return 0, fold.initial()
    try:
        state: _S = msgspec.msgpack.decode(row[1], type=fold.state)
    except msgspec.DecodeError as error:
        raise StateLost(f"the snapshot of {fold.name} at event {row[0]} cannot be read ({error})") from None
    return row[0], state


def state_at(fold: Fold[_S], ledger: Asked, snapshots: Path, seq: int) -> _S:
    """The state after that event, from the nearest snapshot, or from the first event where there is none of use.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    reached, state = _snapshot(fold, ledger, snapshots, seq)
    follower = Follower(ledger, EventFilter(types=fold.types), reached)
    while follower.seen < seq:
        before = follower.seen
        for event in follower.advance():
            if event.seq > seq:
                return state
            state = fold.evolve(state, event)
        if follower.seen == before:
            break
    return state


def _snapshot(fold: Fold[_S], ledger: Asked, snapshots: Path, seq: int) -> tuple[int, _S]:
    """Snapshots only save time: any trouble with them costs a fold from the beginning, and is no error."""
    try:
        with closing(open_to_read(snapshots)) as connection:
            reached = connection.execute(
                "SELECT reached_seq, reached_id FROM projection WHERE name = ? AND version = ?",
                (fold.name, fold.version),
            ).fetchone()
            if reached is not None and is_of(ledger, *reached):
                return nearest(connection, fold, seq)
    except (sqlite3.Error, StateLost):
        return 0, fold.initial()
    return 0, fold.initial()
