"""What of a span's requests is good, and which promises cannot be watched."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import StartupError
from lmx_ledger.slo.burn import Count
from lmx_ledger.slo.histogram import bucket_of
from lmx_ledger.slo.objective import INDICATORS, Objective, Rows, Values, judged, objectives_of


def objective(name: str, **fields: object) -> Objective:
    section = Config.model_validate({"slo": {name: fields}}).slo
    return next(one for one in objectives_of(section) if one.name == name)


def values(*found: float) -> Values:
    buckets: dict[int, int] = {}
    for one in found:
        buckets[bucket_of(one)] = buckets.get(bucket_of(one), 0) + 1
    return Values(len(found), min(found), max(found), msgspec.msgpack.encode(buckets))


def count(name: str, rows: Rows, **fields: object) -> Count:
    one = objective(name, **fields)
    return judged(one, one.limit, rows)


def test_every_section_of_the_configuration_has_its_indicator_in_order() -> None:
    assert list(INDICATORS) == list(type(Config().slo).model_fields)
    assert [one.name for one in objectives_of(Config().slo)] == list(INDICATORS)


def test_a_disabled_objective_is_not_watched() -> None:
    section = Config.model_validate({"slo": {"ttft": {"enabled": False}}}).slo
    assert "ttft" not in [one.name for one in objectives_of(section)]


def test_times_are_good_up_to_the_threshold_and_speeds_from_it_on() -> None:
    rows = {"ttft_ms": values(100, 900, 1_100, 9_000), "decode_tps": values(1, 9, 11, 90, 100)}
    assert count("ttft", rows, threshold=1.0) == Count(2, 4)
    assert count("decode_tps", rows, threshold=10.0) == Count(3, 5)
    assert count("ttft", rows, threshold=100.0) == Count(4, 4)
    assert count("ttft", rows, threshold=0.01) == Count(0, 4)


def test_of_no_value_there_is_nothing_to_judge() -> None:
    assert count("ttft", {"outcome.ok": values(1)}) == Count(0, 0, 0)


def test_refusals_on_purpose_are_neither_good_nor_bad_but_of_admission() -> None:
    rows = {"outcome.ok": values(1, 1, 1), "judged.bad": values(1), "judged.shed": values(1, 1), "ttft_ms": values(5)}
    assert count("availability", rows) == Count(3, 4, 2)
    assert count("admission", rows) == Count(4, 6, 0)
    assert count("ttft", rows) == Count(1, 1, 2)
    assert count("cold_start", rows) == Count(0, 0, 0)


def test_misses_of_known_conversations_are_bad_and_others_do_not_count() -> None:
    rows = {"kv.hit": values(1, 1, 1), "kv.missed": values(1), "kv.unknown": values(1, 1)}
    assert count("cache_hit", rows) == Count(3, 4)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=30), st.floats(0.001, 1e3))
def test_a_threshold_is_off_by_a_fortieth_at_most(found: list[float], threshold: float) -> None:
    good = count("ttft", {"ttft_ms": values(*found)}, threshold=threshold).good
    assert sum(one <= threshold * 1e3 / 1.025 for one in found) <= good
    assert good <= sum(one <= threshold * 1e3 * 1.025 for one in found)


@pytest.mark.parametrize(
    ("target", "period", "fix"),
    [
        (0.9, "30d", 'raise it above 0.9306, or set period = "1d"'),
        (0.93, "30d", 'set period = "7d"'),
        (0.85, "30d", 'set period = "1d"'),
        (0.85, "7d", 'raise it above 0.9256, or set period = "1d"'),
        (0.5, "1d", "raise it above 0.8264, or set enabled = false"),
    ],
)
def test_a_target_that_could_never_alert_stops_the_start_and_the_fix_is_said(
    target: float, period: str, fix: str
) -> None:
    with pytest.raises(StartupError) as error:
        objective("ttft", target=target, period=period)
    assert str(error.value).startswith("[slo.ttft] target: with target ")
    assert fix in str(error.value)


@pytest.mark.parametrize(("target", "period"), [(0.9306, "30d"), (0.926, "7d"), (0.83, "1d")])
def test_the_lowest_targets_that_can_be_watched_are(target: float, period: str) -> None:
    assert objective("ttft", target=target, period=period).policy.target == target
