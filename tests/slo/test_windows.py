"""The pairs of windows.toml are the Workbook's, and what cannot alert is no pair."""

import pytest

from lmx_ledger.slo.windows import Pair, Profile, Window, profiles


def test_thirty_days_are_the_workbooks_table() -> None:
    found = [(pair.severity, pair.name, pair.factor) for pair in profiles()["30d"].pairs]
    assert found == [("page", "1h/5m", 14.4), ("page", "6h/30m", 6), ("ticket", "1d/2h", 3), ("ticket", "3d/6h", 1)]


@pytest.mark.parametrize("name", ["7d", "1d"])
def test_shorter_periods_keep_the_share_of_the_budget_that_an_alert_stands_for(name: str) -> None:
    whole, short = profiles()["30d"], profiles()[name]
    for one, other in zip(whole.pairs, short.pairs, strict=True):
        assert other.severity == one.severity
        spent = one.factor * one.long.minutes / whole.period.minutes
        assert other.factor * other.long.minutes / short.period.minutes == pytest.approx(spent)
        assert other.long.minutes < one.long.minutes


@pytest.mark.parametrize("profile", profiles().values(), ids=lambda profile: profile.period.name)
def test_every_profile_has_seven_windows_and_short_ones_about_a_twelfth_of_the_long(profile: Profile) -> None:
    assert len(profile.windows) == 7
    assert [window.minutes for window in profile.windows] == sorted(window.minutes for window in profile.windows)
    for pair in profile.pairs:
        assert 5 <= pair.long.minutes / pair.short.minutes <= 13
        assert pair.clear_after <= 2 * pair.short.minutes


def test_what_could_never_alert_or_flaps_is_refused() -> None:
    hour, minute = Window.parse("1h"), Window.parse("1m")
    with pytest.raises(ValueError, match="not shorter"):
        Pair("page", minute, hour, 14.4, 5)
    with pytest.raises(ValueError, match="no budget before its time"):
        Pair("page", hour, minute, 0.9, 5)
    with pytest.raises(ValueError, match="flaps"):
        Pair("page", hour, minute, 14.4, 0)
    with pytest.raises(ValueError, match="in whole minutes"):
        Window.parse("90s")
    one = Pair("page", hour, minute, 14.4, 5)
    with pytest.raises(ValueError, match="order"):
        Profile(Window.parse("1d"), (one, one))
    with pytest.raises(ValueError, match="longer than the period"):
        Profile(Window.parse("30m"), (one,))
    with pytest.raises(ValueError, match="higher factor"):
        Profile(Window.parse("1d"), (one, Pair("page", Window.parse("2h"), minute, 20, 5)))
