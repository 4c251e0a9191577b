"""Minute rollups: what each minute's requests add up to, per model and indicator; objectives read these, not events.

Of each (minute, model, indicator): count, sum, least, most and a histogram. Indicators are the fields of
`request.finished` that have a value, `cold_start_ms` of a load, and `outcome.*`, where every request counts 1:
`outcome.ok`, and `outcome.failed.CODE`, `outcome.rejected.CODE`, `outcome.cancelled.REASON`.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.projection import open_to_read, table_of
from lmx_ledger.slo import histogram

MINUTE_US: Final = 60_000_000
NO_MODEL: Final = ""
"""The model of requests that were refused before one was looked for."""

_OF_FINISHED: Final = (
    "ttft_ms",
    "itl_p95_ms",
    "wall_ms",
    "queue_ms",
    "completion_tokens",
    "prompt_tokens",
    "cached_tokens",
)
_decode: Final = msgspec.msgpack.Decoder(dict[int, int]).decode
_encode: Final = msgspec.msgpack.encode
_MINUTE: Final = 1
_HOUR: Final = 60
"""Whole hours are kept beside their minutes: thirty days of minutes would take a second to merge."""

Key = tuple[int, int, str, str]
"""How many minutes long, how many such spans since the epoch, model, indicator."""


class Rollup(msgspec.Struct, frozen=True):
    """What some values of one indicator add up to; `least` and `most` are 0 where there are none."""

    count: int
    sum: float
    least: float
    most: float
    buckets: dict[int, int]

    @property
    def mean(self) -> float | None:
        """None of nothing."""
        return self.sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The value that this share (0 to 1) of the values does not exceed, within 4.4 %; None of nothing."""
        value = histogram.quantile(self.buckets, share)
        return None if value is None else min(max(value, self.least), self.most)

    def share_up_to(self, threshold: float) -> float | None:
        """Which share of the values is at or below it, as near as the buckets tell; None of nothing."""
        if not self.count:
            return None
        if threshold >= self.most:
            return 1.0
        return 0.0 if threshold < self.least else histogram.count_up_to(self.buckets, threshold) / self.count


EMPTY: Final = Rollup(0, 0.0, 0.0, 0.0, {})


class RollupProjection:
    """See `ledger.projection.Projection`."""

    name: Final = "rollup"
    version: Final = 2
    types: Final = ("request.finished", "request.failed", "request.rejected", "request.cancelled", "model.loaded")

    def create(self, connection: sqlite3.Connection) -> None:
        """One row per span (of a minute, of an hour), model and indicator; `buckets` is msgpack of bucket to count."""
        connection.execute(
            f"CREATE TABLE {table_of(self)} (minutes INTEGER NOT NULL, number INTEGER NOT NULL, model TEXT NOT NULL,"
            " sli TEXT NOT NULL, count INTEGER NOT NULL, sum REAL NOT NULL, least REAL NOT NULL, most REAL NOT NULL,"
            " buckets BLOB NOT NULL, PRIMARY KEY (minutes, number, model, sli)) STRICT, WITHOUT ROWID"
        )

    def fold(self, connection: sqlite3.Connection, events: Sequence[Recorded], seq: int) -> None:  # noqa: ARG002
        """Add each event to its minute and its hour, one by one in their order: no sum depends on the pages."""
        table = table_of(self)
        changed: dict[Key, Rollup] = {}
        for event in events:
            minute = event.time_us // MINUTE_US
            for sli, value in values_of(event):
                for minutes in (_MINUTE, _HOUR):
                    key = (minutes, minute // minutes, event.model or NO_MODEL, sli)
                    before = changed.get(key) or _stored(connection, table, key)
                    changed[key] = added(before, value)
        connection.executemany(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own table's name
            [(*key, r.count, r.sum, r.least, r.most, _encode(r.buckets)) for key, r in changed.items()],
        )


def values_of(event: Recorded) -> Iterator[tuple[str, float]]:
    """The indicators that an event has a value of; what is null does not count."""
    data = event.data
    match event.type:
        case "request.finished":
            yield "outcome.ok", 1
            for field in _OF_FINISHED:
                if (value := data.get(field)) is not None:
                    yield field, value
        case "request.failed" | "request.rejected":
            yield f"outcome.{event.type.removeprefix('request.')}.{data['code']}", 1
        case "request.cancelled":
            yield f"outcome.cancelled.{data['reason']}", 1
        case "model.loaded":
            yield "cold_start_ms", data["ms"]


def added(before: Rollup, value: float) -> Rollup:
    """With one value more."""
    bucket = histogram.bucket_of(value)
    return Rollup(
        before.count + 1,
        before.sum + value,
        min(before.least, value) if before.count else value,
        max(before.most, value) if before.count else value,
        {**before.buckets, bucket: before.buckets.get(bucket, 0) + 1},
    )


def merged(one: Rollup, other: Rollup) -> Rollup:
    """Both together."""
    if not one.count or not other.count:
        return one if one.count else other
    buckets = dict(one.buckets)
    for bucket, count in other.buckets.items():
        buckets[bucket] = buckets.get(bucket, 0) + count
    return Rollup(
        one.count + other.count,
        one.sum + other.sum,
        min(one.least, other.least),
        max(one.most, other.most),
        buckets,
    )


def rollups(file: Path, since_us: int, until_us: int, model: str | None, sli: str) -> Rollup:
    """All minutes that overlap `since_us` (included) to `until_us` (not), merged; `model` None: of all models.

    `sli` may end in `*`: `outcome.failed.*`. `file` is the projections file.

    Raises:
        sqlite3.Error: there is no such file, nothing was folded yet, or it cannot be read.
    """
    exact = not sli.endswith("*")
    text = sli.removesuffix("*")
    query = (
        f"SELECT count, sum, least, most, buckets FROM {table_of(RollupProjection())}"  # noqa: S608 - our own table's name
        " WHERE minutes = ? AND number >= ? AND number < ? AND (? IS NULL OR model = ?) AND substr(sli, 1, ?) = ?"
        " ORDER BY number, model, sli"
    )
    length = 1_000 if exact else len(text)
    first, behind = since_us // MINUTE_US, -(-until_us // MINUTE_US)
    total = EMPTY
    with closing(open_to_read(file)) as connection:
        for span in _spans(first, behind):
            for row in connection.execute(query, (*span, model, model, length, text)):
                total = merged(total, _of_row(row))
    return total


def _spans(first: int, behind: int) -> list[tuple[int, int, int]]:
    """Those minutes, as few rows as can be: how long, the first, and the one behind the last."""
    first_hour, behind_hour = -(-first // _HOUR), behind // _HOUR
    if first_hour >= behind_hour:
        return [(_MINUTE, first, behind)]
    return [
        (_MINUTE, first, first_hour * _HOUR),
        (_HOUR, first_hour, behind_hour),
        (_MINUTE, behind_hour * _HOUR, behind),
    ]


def _stored(connection: sqlite3.Connection, table: str, key: Key) -> Rollup:
    row = connection.execute(
        f"SELECT count, sum, least, most, buckets FROM {table}"  # noqa: S608 - our own table's name
        " WHERE minutes = ? AND number = ? AND model = ? AND sli = ?",
        key,
    ).fetchone()
    return _of_row(row) if row else EMPTY


def _of_row(row: tuple[int, float, float, float, bytes]) -> Rollup:
    count, total, least, most, buckets = row
    return Rollup(count, total, least, most, _decode(buckets))
