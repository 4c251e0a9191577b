"""Reads from the projections file which rollups have changed, a whole span at a time."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Final

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.projection import table_of
from lmx_ledger.slo.objective import NEEDED, Rows, Values
from lmx_ledger.slo.rollup import RollupProjection, folded, stored

Models = Mapping[str, Rows]
Span = tuple[int, Models]
"""The number of a span (of minutes, or of hours), and what it has by model: all of it, not only what changed."""

_PROJECTION: Final = RollupProjection()
_TABLE: Final = table_of(_PROJECTION)
_SELECT: Final = f"SELECT number, model, sli, count, least, most, buckets FROM {_TABLE}"  # noqa: S608 - our own table
_SLIS: Final = ", ".join(f"'{name}'" for name in NEEDED)
_encode: Final = msgspec.msgpack.encode


def reached(connection: sqlite3.Connection) -> int:
    """The seq up to which events are in the rollups; 0 before the first."""
    row = connection.execute(
        "SELECT reached_seq FROM projection WHERE name = ? AND version = ?", (_PROJECTION.name, _PROJECTION.version)
    ).fetchone()
    return int(row[0]) if row else 0


def changed(connection: sqlite3.Connection, minutes: int, first: int, since: int) -> Iterator[Span]:
    """The spans of so many minutes, in order, from the first on that events behind `since` touched, but none before
    the number `first`. What has changed are the newest ones, so that hardly any other is among them.
    """
    if since:
        # By itself SQLite would walk the numbers up from the oldest until one has such a seq.
        lowest = f"SELECT min(number) FROM {_TABLE} INDEXED BY {_TABLE}_seq WHERE minutes = ? AND seq > ?"  # noqa: S608
        (touched,) = connection.execute(lowest, (minutes, since)).fetchone()
        if touched is None:
            return
        first = max(first, touched)
    rows = connection.execute(
        f"{_SELECT} WHERE minutes = ? AND number >= ? AND sli IN ({_SLIS}) ORDER BY number", (minutes, first)
    )
    for number, found in groupby(rows, key=itemgetter(0)):
        yield number, _by_model(found)


def with_events(connection: sqlite3.Connection, events: Iterable[Recorded]) -> dict[tuple[int, int], Models]:
    """The spans that these events touch (minutes of one, its number), as they will be once those are folded as well."""
    ahead = folded(events, lambda key: stored(connection, _TABLE, key))
    spans: dict[tuple[int, int], dict[str, dict[str, Values]]] = {}
    for minutes, number in sorted({key[:2] for key in ahead}):
        rows = connection.execute(f"{_SELECT} WHERE minutes = ? AND number = ? AND sli IN ({_SLIS})", (minutes, number))
        spans[minutes, number] = _by_model(rows)
    for (minutes, number, model, sli), (row, _) in ahead.items():
        values = Values(row.count, row.least, row.most, _encode(row.buckets))
        spans[minutes, number].setdefault(model, {})[sli] = values
    return dict(spans)


def _by_model(rows: Iterable[tuple[int, str, str, int, float, float, bytes]]) -> dict[str, dict[str, Values]]:
    models: dict[str, dict[str, Values]] = {}
    for _, model, sli, count, least, most, buckets in rows:
        models.setdefault(model, {})[sli] = Values(count, least, most, buckets)
    return models
