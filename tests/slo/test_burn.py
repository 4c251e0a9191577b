"""Alerts to the minute, as the Workbook defines them; and what no sequence of minutes can make them do."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.slo.burn import (
    LARGE_SHARE,
    Alert,
    Alerted,
    Cleared,
    Count,
    Decision,
    Exhausted,
    Observed,
    Policy,
    State,
    budget_remaining,
    burn_rate,
    decide,
    evolve,
    exhausts_in_s,
)
from lmx_ledger.slo.windows import profiles

MONTH = profiles()["30d"]
GOOD, BAD, NOTHING = Count(10, 10), Count(0, 10), Count()
Minutes = Callable[[int], Count]
NEW = State()


def added(counts: Sequence[Count]) -> Count:
    return Count(sum(c.good for c in counts), sum(c.total for c in counts), sum(c.shed for c in counts))


def played(policy: Policy, minutes: Minutes, last: int, state: State = NEW) -> Iterator[tuple[int, list[Decision]]]:
    """Each minute from 1 on with its decisions. What was before minute 1 is asked of `minutes` as well (0 and less)."""
    longest = policy.profile.windows[-1].minutes
    begin = 1 - max(longest, policy.profile.period.minutes)
    sums = [Count()]
    for minute in range(begin, last + 1):
        one = minutes(minute)
        sums.append(Count(*(a + b for a, b in zip(sums[-1], one, strict=True))))

    def over(minute: int, length: int) -> Count:
        high, low = sums[minute - begin + 1], sums[minute - begin + 1 - length]
        return Count(*(a - b for a, b in zip(high, low, strict=True)))

    for minute in range(1, last + 1):
        windows = {window: over(minute, window.minutes) for window in policy.profile.windows}
        observed = Observed(minute * 60_000_000, windows, over(minute, policy.profile.period.minutes))
        decisions = decide(state, observed, policy)
        state = evolve(state, observed, decisions, policy)
        yield minute, decisions


def story(policy: Policy, minutes: Minutes, last: int, state: State = NEW) -> list[tuple[int, str]]:
    """What happened when: `+1h/5m`, `-1h/5m`, `exhausted`."""
    found = []
    for minute, decisions in played(policy, minutes, last, state):
        for decision in decisions:
            match decision:
                case Alerted(pair=pair):
                    found.append((minute, f"+{pair.name}"))
                case Cleared(name=name):
                    found.append((minute, f"-{name}"))
                case Exhausted():
                    found.append((minute, "exhausted"))
    return found


def policy(target: float = 0.99, min_events: int = 1, period: str = "30d") -> Policy:
    return Policy(target, min_events, profiles()[period])


# --- by hand, from the Workbook's definitions: 10 requests a minute for 30 days, good until minute 0 ------------------


def test_a_total_outage_alerts_at_the_minute_that_the_table_says() -> None:
    # 99 % of 30 days: 1 % of 43,200 minutes, 432 minutes of outage, are the budget. After k minutes of outage the share
    # that is bad is over 1h: k/60, over 6h: k/360, over 1d: k/1440, over 3d: k/4320; over the short windows it is more.
    #   page   1h/5m  14.4x: k/60   > 0.144  <=> k >  8.64 -> minute 9
    #   page   6h/30m    6x: k/360  > 0.06   <=> k > 21.6  -> minute 22
    #   ticket 1d/2h     3x: k/1440 > 0.03   <=> k > 43.2  -> minute 44
    #   ticket 3d/6h     1x: k/4320 > 0.01   <=> k > 43.2  -> minute 44
    # and nothing is left when k/43200 reaches 0.01: minute 432.
    assert story(policy(), lambda minute: BAD if minute > 0 else GOOD, 500) == [
        (9, "+1h/5m"),
        (22, "+6h/30m"),
        (44, "+1d/2h"),
        (44, "+3d/6h"),
        (432, "exhausted"),
    ]


def test_a_tenth_that_fails_burns_ten_times_and_never_pages_over_an_hour() -> None:
    # 1 of 10 is bad: 10x. 10 < 14.4, so that 1h/5m never alerts.
    #   page   6h/30m 6x: 0.1 k/360  > 0.06 <=> k > 216 -> minute 217
    #   ticket 1d/2h  3x: 0.1 k/1440 > 0.03 <=> k > 432 -> minute 433
    #   ticket 3d/6h  1x: 0.1 k/4320 > 0.01 <=> k > 432 -> minute 433
    slow = Count(9, 10)
    assert story(policy(), lambda minute: slow if minute > 0 else GOOD, 500) == [
        (217, "+6h/30m"),
        (433, "+1d/2h"),
        (433, "+3d/6h"),
    ]


def test_a_burn_of_just_one_is_what_the_objective_allows() -> None:
    # 1 of 100 is bad: 1x in every window, which is not more than any factor. The budget is then gone, as it should, at
    # the period's end: 30 days of it are minute 43,200; in a month's 1 % less a minute nothing happens.
    just = Count(99, 100)
    assert story(policy(), lambda minute: just if minute > 0 else Count(100, 100), 600) == []


def test_an_alert_clears_when_its_short_window_was_calm_for_minutes_in_a_row() -> None:
    # Outage from minute 1 to 20. 1h/5m alerts at 9 (above). In minute 20 + j the last 5 minutes have 5 - j bad ones:
    # 1/5 > 0.144 at minute 24, and none at 25. Calm at 25, 26, 27, 28, 29: cleared at 29. No other one began (20 < 22).
    assert story(policy(), lambda minute: BAD if 0 < minute <= 20 else GOOD, 300) == [(9, "+1h/5m"), (29, "-1h/5m")]


def test_a_relapse_begins_the_minutes_in_a_row_anew() -> None:
    # As above, with one more bad minute at 28: the last 5 minutes have it until 32, 1/5 > 0.144. Calm at 33 to 37.
    def minutes(minute: int) -> Count:
        return BAD if 0 < minute <= 20 or minute == 28 else GOOD

    assert story(policy(), minutes, 300) == [(9, "+1h/5m"), (37, "-1h/5m")]


def test_a_day_has_the_same_shares_in_shorter_windows() -> None:
    # 90 % of a day: 144 minutes of outage are the budget; the factors of 1d are 5.76, 4.8, 2.4, 1.2.
    #   page   5m/1m   5.76x: k/5   > 0.576 <=> k > 2.88 -> minute 3
    #   page   15m/2m   4.8x: k/15  > 0.48  <=> k > 7.2  -> minute 8
    #   ticket 1h/5m    2.4x: k/60  > 0.24  <=> k > 14.4 -> minute 15
    #   ticket 2h/10m   1.2x: k/120 > 0.12  <=> k > 14.4 -> minute 15
    # Each alert stands for the share of the budget that it stands for in 30 days: 2.88/144 is 2 %, 7.2/144 is 5 %.
    assert story(policy(0.9, period="1d"), lambda minute: BAD if minute > 0 else GOOD, 200) == [
        (3, "+5m/1m"),
        (8, "+15m/2m"),
        (15, "+1h/5m"),
        (15, "+2h/10m"),
        (144, "exhausted"),
    ]


def test_too_few_events_in_the_long_window_do_not_alert() -> None:
    # One request a minute, all bad from minute 1 on, nothing before. With min_events 30 the windows have k requests
    # after k minutes, all of them bad: 30 are there at minute 30, and the budget (of these 30) is exhausted as well.
    bad = Count(0, 1)
    found = story(policy(min_events=30), lambda minute: bad if minute > 0 else NOTHING, 40)
    assert [what for minute, what in found if minute == 30] == ["+1h/5m", "+6h/30m", "+1d/2h", "+3d/6h", "exhausted"]
    assert len(found) == 5


# --- no data, refusals, sleep ---------------------------------------------------------------------------------------


def test_without_data_an_alert_stays_and_none_begins() -> None:
    # Outage for 20 minutes, then nobody asks any more. Until minute 49 the last 30 have bad ones in them, and what is
    # known of 6h is less every minute: 20/(380 - k) > 0.06 <=> k > 46.7: 6h/30m begins at 47, on what there is. From 50
    # on no short window but those of the tickets has data, whose long ones are too long; from 381 on none has. Nothing
    # begins, and what is on stays on for ever.
    def minutes(minute: int) -> Count:
        return GOOD if minute <= 0 else BAD if minute <= 20 else NOTHING

    assert story(policy(), minutes, 2_000) == [(9, "+1h/5m"), (47, "+6h/30m")]


def test_minutes_without_data_neither_count_as_calm_nor_end_the_row() -> None:
    # Good again at 21 to 27 (calm at 25, 26, 27), nothing at 28 to 47: the 5 minutes have data until 31, calm at 28 and
    # 29. Cleared at 29, as without the gap. With nothing from 22 to 60: calm at 25 (of 21 to 25 there is 21, which was
    # good), nothing to judge by from 26 on, and four more calm minutes from 61 on: cleared at 64.
    def gap(begin: int, end: int) -> Minutes:
        def minutes(minute: int) -> Count:
            return BAD if 0 < minute <= 20 else NOTHING if begin <= minute < end else GOOD

        return minutes

    assert story(policy(), gap(28, 48), 300) == [(9, "+1h/5m"), (29, "-1h/5m")]
    of_hour = [told for told in story(policy(), gap(22, 61), 300) if told[1][1:] == "1h/5m"]
    assert of_hour == [(9, "+1h/5m"), (64, "-1h/5m")]


def test_while_many_are_refused_on_purpose_an_alert_does_not_clear() -> None:
    # As the outage of 20 minutes, but from 21 to 60 three of ten are refused and the seven that are let in are good.
    # 30 % of the short window are refused until 60; at 60 + j the 5 minutes have 3 * (5 - j) of 50 - ... requests
    # refused: at 61 12/50, at 62 9/50 = 18 % < 20 %: calm from 62 on, cleared at 66.
    def minutes(minute: int) -> Count:
        if 0 < minute <= 20:
            return BAD
        return Count(7, 7, 3) if 20 < minute <= 60 else GOOD

    assert story(policy(), minutes, 300) == [(9, "+1h/5m"), (66, "-1h/5m")]


def test_refusals_are_in_no_rate_and_do_not_hide_who_was_let_down() -> None:
    # Nine of ten are refused and the tenth fails: 100x of what was let in, at minute 9 as if nobody had been refused.
    def minutes(minute: int) -> Count:
        return Count(0, 10, 90) if minute > 0 else GOOD

    assert story(policy(), minutes, 12) == [(9, "+1h/5m")]


def test_the_same_minute_twice_moves_nothing() -> None:
    windows = dict.fromkeys(MONTH.windows, GOOD)
    on = State({"1h/5m": Alert("page", 14.4, 1, calm=4)})
    observed = Observed(7 * 60_000_000, windows, GOOD)
    before = msgspec.structs.replace(on, minute=7)
    assert decide(before, observed, policy()) == []
    assert evolve(before, observed, [], policy()).alerts == on.alerts
    assert [type(one) for one in decide(on, observed, policy())] == [Cleared]


def test_an_alert_of_a_pair_that_the_period_has_no_more_ends() -> None:
    on = State({"1h/5m": Alert("page", 14.4, 1)})
    week = policy(period="7d")
    observed = Observed(60_000_000, dict.fromkeys(week.profile.windows, NOTHING), NOTHING)
    assert [type(one) for one in decide(on, observed, week)] == [Cleared]


# --- rates and what is left -----------------------------------------------------------------------------------------


def test_rates_and_what_is_left() -> None:
    assert burn_rate(NOTHING, 0.99) is None
    assert burn_rate(Count(90, 100), 0.95) == 2
    assert budget_remaining(Count(98, 100), 0.95) == 0.6
    assert budget_remaining(Count(90, 100), 0.95) == -1
    assert budget_remaining(NOTHING, 0.95) is None


@pytest.mark.parametrize(
    ("period", "hour", "seconds"),
    [
        # Half of the budget left, burning at 10x: 0.5 * 30 days / 10 = 1.5 days.
        (Count(9_950, 10_000), Count(90, 100), 1.5 * 86_400),
        (Count(9_950, 10_000), Count(99, 100), None),
        (Count(9_950, 10_000), NOTHING, None),
        (Count(9_900, 10_000), Count(90, 100), 0),
        (NOTHING, NOTHING, None),
    ],
)
def test_the_time_until_nothing_is_left(period: Count, hour: Count, seconds: float | None) -> None:
    windows = {window: hour if window.name == "1h" else GOOD for window in MONTH.windows}
    assert exhausts_in_s(Observed(0, windows, period), policy()) == seconds


def test_an_exhausted_budget_is_told_once_until_some_of_it_is_back() -> None:
    windows = dict.fromkeys(MONTH.windows, NOTHING)
    state, told = State(), []
    for minute, good in enumerate([9_950, 9_900, 9_800, 9_902, 9_900, 9_910, 9_899], 1):
        observed = Observed(minute * 60_000_000, windows, Count(good, 10_000))
        decisions = decide(state, observed, policy())
        told += [minute for one in decisions if isinstance(one, Exhausted)]
        state = evolve(state, observed, decisions, policy())
    # 9,902 leaves 2 % of it, which is not enough to be told anew at 9,900; 9,910 leaves 10 %.
    assert told == [2, 7]


# --- whatever happens -----------------------------------------------------------------------------------------------

COUNTS = st.one_of(
    st.just(NOTHING),
    st.just(Count(0, 0, 5)),
    st.builds(lambda good, bad, shed: Count(good, good + bad, shed), *[st.integers(0, 5)] * 3),
)
SPANS = st.lists(st.tuples(COUNTS, st.integers(1, 40)), min_size=1, max_size=12)
FEW = st.integers(1, 40)


def spread(spans: list[tuple[Count, int]]) -> list[Count]:
    return [count for count, length in spans for _ in range(length)]


@given(SPANS, FEW)
def test_no_pair_ever_flaps_faster_than_it_is_held(spans: list[tuple[Count, int]], few: int) -> None:
    found = spread(spans)
    one = policy(0.9, few, "1d")
    began: dict[str, int] = {}
    on: set[str] = set()
    for minute, decisions in played(one, lambda m: found[m - 1] if m > 0 else NOTHING, len(found)):
        for decision in decisions:
            if isinstance(decision, Alerted):
                assert decision.pair.name not in on
                assert minute - began.get(decision.pair.name, -999) > decision.pair.clear_after
                on.add(decision.pair.name)
                began[decision.pair.name] = minute
            elif isinstance(decision, Cleared):
                (pair,) = (pair for pair in one.profile.pairs if pair.name == decision.name)
                assert minute - began[decision.name] >= pair.clear_after
                on.remove(decision.name)


@given(SPANS, FEW)
def test_what_begins_and_ends_has_the_evidence_for_it(spans: list[tuple[Count, int]], few: int) -> None:
    found = spread(spans)
    one = policy(0.9, few, "1d")

    def over(minute: int, length: int) -> Count:
        return added(found[max(minute - length, 0) : minute])

    for minute, decisions in played(one, lambda m: found[m - 1] if m > 0 else NOTHING, len(found)):
        for decision in decisions:
            if isinstance(decision, Alerted):
                for window in (decision.pair.long, decision.pair.short):
                    count = over(minute, window.minutes)
                    assert count.bad / count.total > decision.pair.factor * 0.1 - 1e-9
                assert over(minute, decision.pair.long.minutes).total >= few
            elif isinstance(decision, Cleared):
                (pair,) = (pair for pair in one.profile.pairs if pair.name == decision.name)
                count = over(minute, pair.short.minutes)
                assert count.total
                assert count.bad / count.total <= pair.factor * 0.1 + 1e-9
                assert not count.shed or count.shed < LARGE_SHARE * (count.shed + count.total)


@given(SPANS, FEW, st.integers(1, 300), st.integers(1, 200))
def test_evaluations_that_are_missed_move_nothing_by_themselves(
    spans: list[tuple[Count, int]], few: int, at: int, length: int
) -> None:
    """The minutes after a sleep are judged as if it had not been: only their numbers differ."""
    found = spread(spans)
    one = policy(0.9, few, "1d")
    awake, slept = State(), State()
    for minute in range(1, len(found) + 1):
        windows = {w: added(found[max(minute - w.minutes, 0) : minute]) for w in one.profile.windows}
        period = added(found[max(minute - one.profile.period.minutes, 0) : minute])
        shifted = minute + length if minute > at else minute
        decisions = decide(awake, Observed(minute * 60_000_000, windows, period), one)
        others = decide(slept, Observed(shifted * 60_000_000, windows, period), one)
        assert [type(d) for d in decisions] == [type(d) for d in others]
        awake = evolve(awake, Observed(minute * 60_000_000, windows, period), decisions, one)
        slept = evolve(slept, Observed(shifted * 60_000_000, windows, period), others, one)
        assert {n: a.calm for n, a in awake.alerts.items()} == {n: a.calm for n, a in slept.alerts.items()}
