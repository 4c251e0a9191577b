"""Sums over any window are what a naive count of the events gives, however the rollups were read."""

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.config import Config
from lmx_ledger.core.events import Recorded
from lmx_ledger.slo.asleep import Slept
from lmx_ledger.slo.burn import Count
from lmx_ledger.slo.objective import Objective, objectives_of
from lmx_ledger.slo.rollup import MINUTE_US
from lmx_ledger.slo.tally import Series, Tally
from tests.slo import parts

OBJECTIVES = {
    one.name: one
    for one in objectives_of(
        Config.model_validate({"slo": {"ttft": {"threshold": "1s"}, "availability": {"period": "7d"}}}).slo
    )
}
TTFT, AVAILABILITY = OBJECTIVES["ttft"], OBJECTIVES["availability"]
DAY = 24 * 60


def now_us(minute: float) -> int:
    return int((parts.BEGIN + minute) * MINUTE_US)


def test_series_are_what_was_put_in_last() -> None:
    series = Series()
    for number, count in [
        (5, Count(1, 2, 3)),
        (7, Count(1, 1)),
        (5, Count(2, 2)),
        (6, Count(0, 4, 1)),
        (7, Count(0, 9)),
    ]:
        series.put(number, count)
    assert len(series) == 3
    assert series.sum(5, 7) == Count(2, 15, 1)
    assert series.sum(6, 6) == Count(0, 4, 1)
    assert series.sum(8, 99) == series.sum(7, 6) == Count()
    series.forget(6)
    assert series.sum(6, 7) == Count(0, 13, 1)
    series.put(7, Count(1, 1))
    assert series.sum(6, 9) == Count(1, 5, 1)
    series.forget(100)
    series.put(100, Count(1, 1))
    assert series.sum(100, 100) == Count(1, 1)


def one_event(seq: int, minute: int, model: str, kind: int) -> Recorded:
    makers: list[Callable[[], Recorded]] = [
        lambda: parts.finished(seq, minute, model, ttft_ms=10.0),
        lambda: parts.finished(seq, minute, model, ttft_ms=5_000.0),
        lambda: parts.failed(seq, minute, model),
        lambda: parts.shed(seq, minute),
    ]
    return makers[kind]()


def naive(events: list[Recorded], objective: Objective, model: str | None, first: int, last: int) -> Count:
    good = total = shed = 0
    for event in events:
        if not first <= event.time_us // MINUTE_US <= last:
            continue
        shed += event.type == "request.rejected"
        if model not in {None, event.model}:
            continue
        if event.type == "request.finished":
            good += objective is AVAILABILITY or event.data["ttft_ms"] <= 1_000
            total += 1
        elif event.type == "request.failed" and objective is AVAILABILITY:
            total += 1
    return Count(good, total, shed)


EVENTS = st.lists(st.tuples(st.integers(-4 * DAY, 300), st.sampled_from(["m0", "m1"]), st.integers(0, 3)), max_size=40)


@given(EVENTS, st.lists(st.integers(0, 40), max_size=4), st.integers(300, 900))
def test_every_window_is_a_naive_count_however_often_it_was_read(
    found: list[tuple[int, str, int]], cuts: list[int], now: int
) -> None:
    events = [one_event(seq, *one) for seq, one in enumerate(found, 1)]
    table, tally = parts.Table(), Tally(list(OBJECTIVES.values()))
    at = sorted({0, *(min(cut, len(events)) for cut in cuts), len(events)})
    tally.read(table.connection, now_us(now))
    for begin, end in pairwise(at):
        table.fold(events[begin:end])
        tally.read(table.connection, now_us(now))
    last = parts.BEGIN + now
    for objective in (TTFT, AVAILABILITY):
        for model in (None, "m0", "m1"):
            observed = tally.observed(objective, model, now_us(now))
            for window, count in observed.windows.items():
                assert count == naive(events, objective, model, last - window.minutes + 1, last)
            hours = objective.policy.profile.period.minutes // 60
            first = (last // 60 - hours + 1) * 60
            assert observed.period == naive(events, objective, model, first, last)


@given(EVENTS, st.integers(0, 40))
def test_events_that_are_not_folded_yet_count_as_if_they_were(found: list[tuple[int, str, int]], cut: int) -> None:
    events = [one_event(seq, *one) for seq, one in enumerate(found, 1)]
    whole, part = parts.Table(), parts.Table()
    whole.fold(events)
    part.fold(events[:cut])
    one, other = Tally([TTFT, AVAILABILITY]), Tally([TTFT, AVAILABILITY])
    one.read(whole.connection, now_us(400))
    other.read(part.connection, now_us(400), events=events[cut:])
    for objective in (TTFT, AVAILABILITY):
        for model in (None, "m0", "m1"):
            assert one.observed(objective, model, now_us(400)) == other.observed(objective, model, now_us(400))


def test_who_was_refused_before_a_model_was_looked_for_may_have_meant_any() -> None:
    table, tally = parts.Table(), Tally([TTFT])
    table.fold([parts.finished(1, 0, "m0"), parts.shed(2, 0), parts.shed(3, 0, "m1")])
    tally.read(table.connection, now_us(0))
    counts = {model: tally.observed(TTFT, model, now_us(0)).period for model in (None, "m0", "m1")}
    assert counts == {None: Count(1, 1, 2), "m0": Count(1, 1, 1), "m1": Count(0, 0, 2)}
    assert tally.models == ["m0", "m1"]


def test_a_night_is_in_no_window_and_its_morning_is_judged_by_the_evening() -> None:
    # Ten minutes with a slow answer each, eight hours of sleep, and two minutes: the last hour awake has all twelve.
    table, tally = parts.Table(), Tally([TTFT])
    evening, morning = range(10), range(490, 492)
    table.fold([parts.finished(n, m, "m0", ttft_ms=5e3) for n, m in enumerate([*evening, *morning], 1)])
    slept = [Slept(now_us(10), now_us(490))]
    tally.read(table.connection, now_us(491), slept)
    windows = {w.name: c for w, c in tally.observed(TTFT, None, now_us(491), slept).windows.items()}
    assert (windows["5m"], windows["1h"]) == (Count(0, 5), Count(0, 12))
    awake = {w.name: c for w, c in tally.observed(TTFT, None, now_us(491)).windows.items()}
    assert (awake["5m"], awake["1h"]) == (Count(0, 2), Count(0, 2))


def test_a_file_that_is_folded_anew_takes_nothing_away() -> None:
    whole, tally = parts.Table(), Tally([TTFT])
    events = [parts.finished(seq, seq, "m0") for seq in range(1, 9)]
    whole.fold(events)
    tally.read(whole.connection, now_us(20))
    before = tally.observed(TTFT, None, now_us(20))
    again = parts.Table()
    tally.read(again.connection, now_us(20))
    again.fold(events[:3])
    tally.read(again.connection, now_us(20))
    assert (tally.seq, tally.observed(TTFT, None, now_us(20))) == (8, before)
    again.fold([*events[3:], parts.finished(9, 20, "m0")])
    tally.read(again.connection, now_us(20))
    assert tally.observed(TTFT, None, now_us(20)).period == Count(9, 9)


def test_what_is_older_than_the_windows_is_forgotten() -> None:
    table, tally = parts.Table(), Tally([TTFT])
    table.fold([parts.finished(1, 0, "m0")])
    tally.read(table.connection, now_us(0))
    assert tally.observed(TTFT, None, now_us(0)).period == Count(1, 1)
    later = now_us(31 * DAY)
    tally.read(table.connection, later)
    assert tally.observed(TTFT, None, later).period == Count()
    # A clock that is set back finds nothing where it was.
    assert tally.observed(TTFT, None, now_us(0)).period == Count()
