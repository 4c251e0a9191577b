"""What it costs to judge the objectives: over 30 days of rollups, for the first time, and then minute by minute."""

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from lmx_ledger.bench.measure import Figure
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.config import Config
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.ledger.projection import open_to_read
from lmx_ledger.ledger.store import connect
from lmx_ledger.slo.burn import decide, evolve
from lmx_ledger.slo.objective import Objective, objectives_of
from lmx_ledger.slo.recall import Recalled
from lmx_ledger.slo.report import rows_of
from lmx_ledger.slo.rollup import MINUTE_US, RollupProjection
from lmx_ledger.slo.tally import Tally

DAYS: Final = 30
ROUNDS: Final = 20
MODELS: Final = ("qwen3-8b", "lmx-demo")
_DAY_MINUTES: Final = 1_440
_PAGE: Final = 60
"""Minutes that are folded in one transaction."""


def measure_objectives(folder: Path, days: int = DAYS) -> list[Figure]:
    """The first reading, and the median of 20 minutes after it, each with every objective of every model judged.

    Raises:
        OSError, sqlite3.Error: the disk cannot be used.
    """
    objectives = objectives_of(Config().slo)
    rng = random.Random(5)  # noqa: S311 - a load, not a secret
    file = folder / "projections.db"
    now = utc_us() // MINUTE_US
    seq, rollups = _write(file, rng, now - days * _DAY_MINUTES, now)
    tally, recalled = Tally(objectives), Recalled()
    cold_s, recalled = _judge(file, tally, recalled, objectives, now)
    steady_s = []
    for minute in range(now + 1, now + 1 + ROUNDS):
        seq = _fold(file, rng, range(minute, minute + 1), seq)
        took_s, recalled = _judge(file, tally, recalled, objectives, minute)
        steady_s.append(took_s)
    judged = len(objectives) * (1 + len(MODELS))
    told = f"{len(objectives)} objectives, {len(MODELS)} models and all: {judged}, 7 windows each; {rollups:,} rollups"
    steady = statistics.median(steady_s)
    return [
        Figure(f"objectives over {days} days: a minute's judgement", steady * 1e3, "ms", 20.0, "lower", told),
        Figure(f"objectives over {days} days: the first one", cold_s * 1e3, "ms", baseline="nothing in memory before"),
    ]


def _judge(
    file: Path, tally: Tally, recalled: Recalled, objectives: tuple[Objective, ...], minute: int
) -> tuple[float, Recalled]:
    """As the daemon does, but for what it writes down."""
    began, now_us = time.perf_counter(), minute * MINUTE_US
    with closing(open_to_read(file)) as connection:
        tally.read(connection, now_us)
    for row in rows_of(objectives, tally, recalled, now_us):
        policy = row.objective.policy
        state = evolve(row.state, row.observed, decide(row.state, row.observed, policy), policy)
        recalled = recalled.having(row.objective.name, row.model, state)
    return time.perf_counter() - began, recalled


def _write(file: Path, rng: random.Random, first: int, last: int) -> tuple[int, int]:
    """Two answers a minute of each model, some slow and some failed; the last seq, and how many rows that makes."""
    projection = RollupProjection()
    file.touch(mode=0o600)
    with closing(connect(file, "NORMAL")) as connection:
        connection.execute("CREATE TABLE projection (name TEXT, version INTEGER, reached_seq INTEGER)")
        projection.create(connection)
        connection.execute("INSERT INTO projection VALUES (?, ?, 0)", (projection.name, projection.version))
    seq = 0
    for begin in range(first, last + 1, _PAGE):
        seq = _fold(file, rng, range(begin, min(begin + _PAGE, last + 1)), seq)
    with closing(open_to_read(file)) as connection:
        (rollups,) = connection.execute(f"SELECT count(*) FROM rollup_v{projection.version}").fetchone()  # noqa: S608
    return seq, rollups


def _fold(file: Path, rng: random.Random, minutes: range, seq: int) -> int:
    events = list(_events(rng, minutes, seq))
    with closing(connect(file, "NORMAL")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        RollupProjection().fold(connection, events, events[-1].seq)
        connection.execute("UPDATE projection SET reached_seq = ?", (events[-1].seq,))
        connection.execute("COMMIT")
    return events[-1].seq


def _events(rng: random.Random, minutes: range, seq: int) -> Iterator[Recorded]:
    for minute in minutes:
        for model in (*MODELS, *MODELS):
            kind, data = _end(rng)
            for one, fields in ((kind, data), ("kv.hit", {}) if rng.random() < 0.9 else ("kv.missed", _MISS)):
                seq += 1
                yield Recorded(
                    seq=seq,
                    id="",
                    time_us=minute * MINUTE_US + rng.randrange(MINUTE_US),
                    boot="",
                    type=one,
                    v=1,
                    severity=Severity.INFO,
                    stream="",
                    request=None,
                    session=None,
                    model=model,
                    incident=None,
                    cause=None,
                    data=fields,
                )


_MISS: Final = {"reason": "evicted"}


def _end(rng: random.Random) -> tuple[str, dict[str, Any]]:
    if rng.random() < 0.005:
        return "request.failed", {"status": 500, "code": "engine_failed"}
    queue_ms, ttft_ms = rng.expovariate(1 / 20), rng.lognormvariate(6, 1)
    return "request.finished", {
        "prompt_tokens": rng.randrange(100, 4_000),
        "cached_tokens": 0,
        "completion_tokens": 200,
        "queue_ms": queue_ms,
        "ttft_ms": queue_ms + ttft_ms,
        "itl_p95_ms": rng.lognormvariate(3, 0.5),
        "wall_ms": queue_ms + ttft_ms + 200 * rng.lognormvariate(2.5, 0.3),
    }
