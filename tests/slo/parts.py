"""Rollups without a ledger: events made up, folded into a real table."""

import sqlite3
from collections.abc import Iterable
from typing import Any

from lmx_ledger.core.events import Recorded
from lmx_ledger.slo.rollup import MINUTE_US, RollupProjection
from tests.recorded import recorded as made

BEGIN = 1_000_000 * 24 * 60
"""A minute at which an hour and a day begin."""


def recorded(seq: int, kind: str, minute: float, model: str | None, **data: Any) -> Recorded:
    return made(kind, data, seq=seq, time_us=int((BEGIN + minute) * MINUTE_US), model=model)


def finished(seq: int, minute: float, model: str | None = "m0", **fields: Any) -> Recorded:
    data = {
        "status": 200,
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "completion_tokens": 1,
        "queue_ms": 0.0,
        "ttft_ms": 100.0,
        "itl_p95_ms": None,
        "wall_ms": 100.0,
    }
    return recorded(seq, "request.finished", minute, model, **{**data, **fields})


def failed(seq: int, minute: float, model: str | None = "m0", status: int = 500) -> Recorded:
    return recorded(seq, "request.failed", minute, model, status=status, code="engine_failed")


def shed(seq: int, minute: float, model: str | None = None) -> Recorded:
    return recorded(seq, "request.rejected", minute, model, status=429, code="queue_full")


class Table:
    """A projections file in memory with nothing but rollups."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE projection (name TEXT, version INTEGER, reached_seq INTEGER)")
        self._rollups = RollupProjection()
        self._rollups.create(self.connection)
        self.reach(0)

    def fold(self, events: Iterable[Recorded]) -> None:
        found = list(events)
        if found:
            self._rollups.fold(self.connection, found, found[-1].seq)
            self.reach(found[-1].seq)

    def reach(self, seq: int) -> None:
        self.connection.execute("DELETE FROM projection")
        self.connection.execute(
            "INSERT INTO projection VALUES (?, ?, ?)", (self._rollups.name, self._rollups.version, seq)
        )
