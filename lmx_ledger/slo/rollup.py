"""Minute rollups: what each minute's requests add up to, per model and indicator; objectives read these, not events.

Of each (minute, model, indicator): count, sum, least, most and a histogram. Indicators are

- the fields of `request.finished` that have a value, and what follows from them: `decode_tps`, `prefill_tps`;
- `cold_start_ms` of a load;
- `outcome.*`, where every request counts 1: `outcome.ok`, `outcome.failed.CODE`, `outcome.rejected.CODE`,
  `outcome.cancelled.REASON`;
- what those that were not answered mean: `judged.bad` (the server's fault), `judged.shed` (refused on purpose);
- `kv.hit`, `kv.missed`, and `kv.unknown`: misses that are nobody's fault.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

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
_NOBODYS_FAULT: Final = frozenset({"new_session", "too_short"})
_LEAST_COMPUTED: Final = 64
"""Of fewer tokens the time to the first one is mostly that of a single step."""
_SHED: Final = 429
_HONEST: Final = 507
"""What can never fit is said so: neither good nor bad."""
_CUT_OFF: Final = frozenset({"server_error", "daemon_stopped"})
"""Ends of a request that its client did not choose."""
_decode: Final = msgspec.msgpack.Decoder(dict[int, int]).decode
_encode: Final = msgspec.msgpack.encode
MINUTE: Final = 1
HOUR: Final = 60
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
    version: Final = 3
    types: Final = (
        "request.finished",
        "request.failed",
        "request.rejected",
        "request.cancelled",
        "model.loaded",
        "kv.hit",
        "kv.missed",
    )

    def create(self, connection: sqlite3.Connection) -> None:
        """One row per span (of a minute, of an hour), model and indicator; `buckets` is msgpack of bucket to count.

        `seq` is the last event that touched it: who has read up to a seq asks for the rows behind it.
        """
        connection.execute(
            f"CREATE TABLE {table_of(self)} (minutes INTEGER NOT NULL, number INTEGER NOT NULL, model TEXT NOT NULL,"
            " sli TEXT NOT NULL, count INTEGER NOT NULL, sum REAL NOT NULL, least REAL NOT NULL, most REAL NOT NULL,"
            " buckets BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (minutes, number, model, sli))"
            " STRICT, WITHOUT ROWID"
        )
        connection.execute(f"CREATE INDEX {table_of(self)}_seq ON {table_of(self)} (minutes, seq)")

    def fold(self, connection: sqlite3.Connection, events: Sequence[Recorded], seq: int) -> None:  # noqa: ARG002
        """Add each event to its minute and its hour, one by one in their order: no sum depends on the pages."""
        table = table_of(self)
        changed = folded(events, lambda key: stored(connection, table, key))
        connection.executemany(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own table's name
            [(*key, r.count, r.sum, r.least, r.most, _encode(r.buckets), seq) for key, (r, seq) in changed.items()],
        )


def folded(events: Iterable[Recorded], before: Callable[[Key], Rollup]) -> dict[Key, tuple[Rollup, int]]:
    """The rows that these events touch, as they are behind them, with the last of those; `before`: as they were."""
    changed: dict[Key, tuple[Rollup, int]] = {}
    for event in events:
        minute = event.time_us // MINUTE_US
        for sli, value in values_of(event):
            for minutes in (MINUTE, HOUR):
                key = (minutes, minute // minutes, event.model or NO_MODEL, sli)
                known = changed.get(key)
                changed[key] = added(known[0] if known else before(key), value), event.seq
    return changed


def values_of(event: Recorded) -> Iterator[tuple[str, float]]:
    """The indicators that an event has a value of; what is null does not count."""
    data = event.data
    match event.type:
        case "request.finished":
            yield "outcome.ok", 1
            for field in _OF_FINISHED:
                if (value := data.get(field)) is not None:
                    yield field, value
            yield from _speeds(data)
        case "request.failed" | "request.rejected":
            yield f"outcome.{event.type.removeprefix('request.')}.{data['code']}", 1
            status = data["status"]
            if status == _SHED:
                yield "judged.shed", 1
            elif status >= 500 and status != _HONEST:
                yield "judged.bad", 1
        case "request.cancelled":
            yield f"outcome.cancelled.{data['reason']}", 1
            if data["reason"] in _CUT_OFF:
                yield "judged.bad", 1
        case "model.loaded":
            yield "cold_start_ms", data["ms"]
        case "kv.hit":
            yield "kv.hit", 1
        case "kv.missed":
            yield "kv.unknown" if data["reason"] in _NOBODYS_FAULT else "kv.missed", 1


def _speeds(data: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tokens per second of an answer behind its first token, and of the part of its prompt that was computed."""
    ttft_ms = data.get("ttft_ms")
    if ttft_ms is None:
        return
    decode_ms, prefill_ms = data["wall_ms"] - ttft_ms, ttft_ms - data["queue_ms"]
    if data["completion_tokens"] >= 2 and decode_ms > 0:
        yield "decode_tps", (data["completion_tokens"] - 1) / (decode_ms / 1e3)
    computed = data["prompt_tokens"] - data["cached_tokens"]
    if computed >= _LEAST_COMPUTED and prefill_ms > 0:
        yield "prefill_tps", computed / (prefill_ms / 1e3)


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
    first_hour, behind_hour = -(-first // HOUR), behind // HOUR
    if first_hour >= behind_hour:
        return [(MINUTE, first, behind)]
    return [
        (MINUTE, first, first_hour * HOUR),
        (HOUR, first_hour, behind_hour),
        (MINUTE, behind_hour * HOUR, behind),
    ]


def stored(connection: sqlite3.Connection, table: str, key: Key) -> Rollup:
    """The row of that key; `EMPTY` where there is none."""
    row = connection.execute(
        f"SELECT count, sum, least, most, buckets FROM {table}"  # noqa: S608 - our own table's name
        " WHERE minutes = ? AND number = ? AND model = ? AND sli = ?",
        key,
    ).fetchone()
    return _of_row(row) if row else EMPTY


def _of_row(row: tuple[int, float, float, float, bytes]) -> Rollup:
    count, total, least, most, buckets = row
    return Rollup(count, total, least, most, _decode(buckets))
