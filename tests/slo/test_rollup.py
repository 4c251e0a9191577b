"""Any window is the sum of its minutes, and what is asked of it is near what its values say."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.projection import Projections
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place
from lmx_ledger.slo import histogram
from lmx_ledger.slo.rollup import EMPTY, MINUTE_US, NO_MODEL, Rollup, RollupProjection, added, merged, rollups
from tests.recorded import recorded as made
from tests.slo import parts

BEGIN_US = 1_000_000 * MINUTE_US
VALUES = st.lists(st.floats(0.001, 1e7), min_size=1, max_size=60)


def finished(ttft_ms: float | None, cached: int = 0) -> ev.RequestFinished:
    return ev.RequestFinished(
        status=200,
        finish_reason="stop",
        prompt_tokens=100,
        cached_tokens=cached,
        completion_tokens=5,
        queue_ms=0.0,
        ttft_ms=ttft_ms,
        itl_p95_ms=None,
        wall_ms=30.0,
    )


def rollup_of(values: list[float]) -> Rollup:
    total = EMPTY
    for value in values:
        total = added(total, value)
    return total


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Folded from three minutes of two models."""
    path = tmp_path / "ledger.db"
    migrate(path)
    ledger = LedgerFile(path, "NORMAL", "boot")
    moments: list[tuple[float, ev.EventData, str | None]] = [
        (0.0, ev.ModelLoaded(weights_bytes=1, context=1, vocab=1, architecture="a", ms=1234.5), "m0"),
        (0.5, finished(100.0, cached=50), "m0"),
        (0.9, finished(200.0), "m0"),
        (1.0, finished(400.0), "m1"),
        (1.2, finished(None), "m1"),
        (1.3, ev.RequestRejected(status=429, code="queue_full", message="", route=""), None),
        (1.4, ev.RequestFailed(status=500, code="engine_failed", message="", prompt_tokens=1, completion_tokens=0,
                               wall_ms=9.0), "m0"),
        (2.9, finished(800.0), "m0"),
        (2.9, ev.RequestCancelled(phase="decode", reason="client_gone", prompt_tokens=1, completion_tokens=1,
                                  wall_ms=5.0), "m1"),
    ]  # fmt: skip
    ledger.append(
        [
            draft(Place(), ev.Event(data=data, stream="s", model=model), BEGIN_US + int(minute * MINUTE_US))
            for minute, data, model in moments
        ]
    )
    ledger.close()
    reader = Reader.open(path)
    folding = Projections(tmp_path / "projections.db", [RollupProjection()], reader)
    folding.advance()
    folding.close()
    reader.close()
    yield folding.path


def minutes(file: Path, since: float, until: float, sli: str, model: str | None = None) -> Rollup:
    return rollups(file, BEGIN_US + int(since * MINUTE_US), BEGIN_US + int(until * MINUTE_US), model, sli)


def test_a_window_is_the_sum_of_the_minutes_that_it_overlaps(file: Path) -> None:
    whole = minutes(file, 0, 3, "ttft_ms")
    assert (whole.count, whole.sum, whole.least, whole.most, whole.mean) == (4, 1500.0, 100.0, 800.0, 375.0)
    assert minutes(file, 0, 1, "ttft_ms").count == 2
    assert minutes(file, 0.5, 1.001, "ttft_ms").count == 3
    assert minutes(file, 1, 2, "ttft_ms").count == 1
    assert minutes(file, 3, 9, "ttft_ms") == EMPTY
    assert minutes(file, 0, 3, "ttft_ms", "m0").sum == 1100.0
    assert minutes(file, 0, 3, "ttft_ms", "nobody") == EMPTY


@given(st.lists(st.integers(-150, 400), max_size=30), st.integers(-200, 450), st.integers(0, 500))
def test_hours_stand_for_their_minutes_in_any_window(at: list[int], since: int, length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "projections.db"
        projection = RollupProjection()
        with closing(sqlite3.connect(path)) as connection:
            projection.create(connection)
            projection.fold(connection, [recorded(minute, float(minute % 7)) for minute in at], 1)
            connection.commit()
        inside = [float(minute % 7) for minute in at if since <= minute < since + length]
        assert minutes(path, since, since + length, "cold_start_ms") == rollup_of(inside)


def recorded(minute: int, ms: float) -> Recorded:
    return made("model.loaded", {"ms": ms}, time_us=BEGIN_US + minute * MINUTE_US + 17, model="m0")


def test_what_has_no_value_does_not_count_and_zero_does(file: Path) -> None:
    assert minutes(file, 0, 3, "outcome.ok").count == 5
    assert minutes(file, 0, 3, "ttft_ms").count == 4
    assert minutes(file, 0, 3, "itl_p95_ms") == EMPTY
    queue = minutes(file, 0, 3, "queue_ms")
    assert (queue.count, queue.sum, queue.quantile(0.95)) == (5, 0.0, 0.0)
    assert minutes(file, 0, 3, "cached_tokens").sum == 50


def test_every_end_of_a_request_is_counted_by_its_kind(file: Path) -> None:
    assert minutes(file, 0, 3, "outcome.failed.engine_failed", "m0").count == 1
    assert minutes(file, 0, 3, "outcome.rejected.queue_full", NO_MODEL).count == 1
    assert minutes(file, 0, 3, "outcome.cancelled.client_gone", "m1").count == 1
    assert minutes(file, 0, 3, "outcome.failed.*").count == 1
    assert minutes(file, 0, 3, "outcome.*").count == 8
    assert minutes(file, 0, 3, "outcome.").count == 0
    assert minutes(file, 0, 3, "cold_start_ms").sum == 1234.5


def test_before_anything_is_folded_there_is_an_error_and_no_zero(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        rollups(tmp_path / "projections.db", 0, 1, None, "ttft_ms")


@given(st.lists(st.integers(0, 10**6), max_size=60), st.integers(0, 60))
def test_merging_parts_gives_the_whole(values: list[int], cut: int) -> None:
    numbers = [float(value) for value in values]
    assert merged(rollup_of(numbers[:cut]), rollup_of(numbers[cut:])) == rollup_of(numbers)


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_within_a_bucket_of_the_true_one(values: list[float], share: float) -> None:
    found = rollup_of(values).quantile(share)
    assert found is not None
    ordered = sorted(values)
    near = {ordered[min(max(round(share * len(values)) + step, 0), len(values) - 1)] for step in (-1, 0)}
    assert min(near) / 1.05 <= found <= max(near) * 1.05


@given(VALUES, st.floats(0.001, 1e7))
def test_the_share_up_to_a_threshold_is_off_by_its_own_bucket_at_most(values: list[float], threshold: float) -> None:
    found = rollup_of(values).share_up_to(threshold)
    assert found is not None
    low = sum(value <= threshold / 1.05 for value in values) / len(values)
    high = sum(value <= threshold * 1.05 for value in values) / len(values)
    assert low - 1e-9 <= found <= high + 1e-9


@given(st.sampled_from(histogram.BOUNDS), VALUES)
def test_at_a_bound_the_share_is_exact(bound: float, values: list[float]) -> None:
    assume(min(values) <= bound)
    exact = sum(value <= bound for value in values) / len(values)
    assert rollup_of(values).share_up_to(bound) == pytest.approx(exact)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e12])
def test_values_beyond_every_bucket_still_count(value: float) -> None:
    one = rollup_of([value])
    assert (one.count, one.quantile(0.5), one.share_up_to(value)) == (1, value, 1.0)


def test_of_nothing_there_is_no_mean_no_quantile_and_no_share() -> None:
    assert (EMPTY.mean, EMPTY.quantile(0.5), EMPTY.share_up_to(1.0)) == (None, None, None)


def folded(*events: Recorded) -> sqlite3.Connection:
    table = parts.Table()
    table.fold(events)
    return table.connection


def sums(*events: Recorded) -> dict[str, tuple[int, float]]:
    rows = folded(*events).execute("SELECT sli, count, sum FROM rollup_v3 WHERE minutes = 1")
    return {sli: (count, total) for sli, count, total in rows}


def test_speeds_are_of_what_was_made_and_computed() -> None:
    fields: dict[str, Any] = {"prompt_tokens": 300, "cached_tokens": 100, "completion_tokens": 11}
    found = sums(parts.finished(1, 0, queue_ms=500.0, ttft_ms=1500.0, wall_ms=3500.0, **fields))
    # 10 tokens behind the first one in 2 s, and 200 computed tokens in 1 s behind the queue.
    assert (found["decode_tps"], found["prefill_tps"]) == ((1, 5.0), (1, 200.0))


@pytest.mark.parametrize(
    ("fields", "speeds"),
    [
        ({"completion_tokens": 1}, {"prefill_tps"}),
        ({"prompt_tokens": 163, "cached_tokens": 100}, {"decode_tps"}),
        ({"ttft_ms": None}, set()),
        ({"ttft_ms": 500.0, "queue_ms": 500.0, "wall_ms": 500.0}, set()),
    ],
)
def test_without_anything_to_measure_there_is_no_speed(fields: dict[str, Any], speeds: set[str]) -> None:
    whole: dict[str, Any] = {
        "prompt_tokens": 300,
        "completion_tokens": 11,
        "queue_ms": 0.0,
        "ttft_ms": 1000.0,
        "wall_ms": 3000.0,
    }
    found = sums(parts.finished(1, 0, **{**whole, **fields}))
    assert {"decode_tps", "prefill_tps"} & set(found) == speeds


def test_misses_that_are_nobodys_fault_have_a_name_of_their_own() -> None:
    reasons = ["new_session", "too_short", "diverged", "evicted", "busy"]
    missed = [parts.recorded(n, "kv.missed", 0, "m0", reason=reason) for n, reason in enumerate(reasons, 1)]
    found = sums(*missed, parts.recorded(9, "kv.hit", 0, "m0"))
    assert found == {"kv.unknown": (2, 2.0), "kv.missed": (3, 3.0), "kv.hit": (1, 1.0)}


def test_who_was_not_answered_is_bad_refused_on_purpose_or_neither() -> None:
    found = folded(
        *(parts.failed(n, 0, status=status) for n, status in enumerate([500, 503, 507, 429], 1)),
        *(parts.recorded(10 + n, "request.rejected", 0, None, status=status, code="c")
          for n, status in enumerate([400, 401, 404, 413, 429, 503, 507])),
        *(parts.recorded(20 + n, "request.cancelled", 0, "m0", reason=reason)
          for n, reason in enumerate(["client_gone", "client_stalled", "server_error", "daemon_stopped"])),
    )  # fmt: skip
    rows = sorted(found.execute("SELECT model, sli, count FROM rollup_v3 WHERE minutes = 1 AND sli LIKE 'judged%'"))
    # 500 and 503, and the two that were cut off; of no model 503.
    assert rows == [("", "judged.bad", 1), ("", "judged.shed", 1), ("m0", "judged.bad", 4), ("m0", "judged.shed", 1)]


def test_a_row_has_the_seq_of_the_last_event_that_touched_it() -> None:
    table = parts.Table()
    table.fold([parts.finished(3, 0), parts.finished(5, 0), parts.finished(8, 1)])
    rows = table.connection.execute("SELECT number, seq FROM rollup_v3 WHERE minutes = 1 AND sli = 'outcome.ok'")
    assert sorted(rows) == [(parts.BEGIN, 5), (parts.BEGIN + 1, 8)]
