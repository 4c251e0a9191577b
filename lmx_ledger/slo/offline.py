"""Objectives as they stand where no daemon answers: from the ledger and what was folded of it, read-only."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.follow import Asked, Follower
from lmx_ledger.ledger.projection import is_of, open_to_read
from lmx_ledger.slo.objective import Objective
from lmx_ledger.slo.recall import ObjectivesFold
from lmx_ledger.slo.report import Row, rows_of
from lmx_ledger.slo.rollup import RollupProjection
from lmx_ledger.slo.tally import Tally


def offline(ledger: Asked, projections: Path, objectives: Sequence[Objective], now_us: int) -> list[Row]:
    """What was folded, and the events behind that.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    recalled = state_at(ObjectivesFold(), ledger, projections, ledger.head())
    tally = Tally(objectives)
    connection, reached = _rollups(ledger, projections)
    with closing(connection):
        tally.read(connection, now_us, recalled.slept, _behind(ledger, reached))
    return list(rows_of(objectives, tally, recalled, now_us))


def _rollups(ledger: Asked, file: Path) -> tuple[sqlite3.Connection, int]:
    """The rollups and up to where they go; empty ones where there are none of this ledger that can be read."""
    try:
        connection = open_to_read(file)
    except sqlite3.Error:
        return _empty(), 0
    projection = RollupProjection()
    try:
        row = connection.execute(
            "SELECT reached_seq, reached_id FROM projection WHERE name = ? AND version = ?",
            (projection.name, projection.version),
        ).fetchone()
    except sqlite3.Error:
        row = None
    if row is not None and is_of(ledger, *row):
        return connection, int(row[0])
    connection.close()
    return _empty(), 0


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE projection (name TEXT, version INTEGER, reached_seq INTEGER) STRICT")
    RollupProjection().create(connection)
    return connection


def _behind(ledger: Asked, seq: int) -> Iterator[Recorded]:
    follower = Follower(ledger, EventFilter(types=RollupProjection.types), seq)
    while follower.seen < ledger.head():
        before = follower.seen
        yield from follower.advance()
        if follower.seen == before:
            return
