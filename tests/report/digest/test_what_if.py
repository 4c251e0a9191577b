"""What a change would have made of an hour: estimated where the model can tell, and said where it cannot."""

from pathlib import Path

import msgspec
import pytest

from lmx_ledger.core.config import Config
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.week import WEEK_US, Period, week_before
from lmx_ledger.incident.estimate import estimate_in
from lmx_ledger.incident.losses import HOUR_US, Losses
from lmx_ledger.incident.savings import Change, changes
from lmx_ledger.ledger.history import Whole
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.digest import what_if as what_if_module
from lmx_ledger.report.digest import words
from lmx_ledger.report.digest.model import Figure, WhatIf
from lmx_ledger.report.digest.what_if import WhatIfs
from tests.incident.parts import load, scenario


@pytest.fixture(scope="module")
def flood() -> list[Recorded]:
    """As if nobody had said that it was a rehearsal: what is rehearsed is not in a digest's costs."""
    events, _ = scenario("flood")
    return [
        msgspec.structs.replace(event, data={key: value for key, value in event.data.items() if key != "drill"})
        for event in events
        if not event.type.startswith("drill.")
    ]


@pytest.fixture(scope="module")
def ledger(flood: list[Recorded], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("home") / "ledger.db"
    load(path, flood)
    return path


@pytest.fixture(scope="module")
def whole(ledger: Path) -> Whole:
    return Whole(ledger, Reader.open(ledger))


@pytest.fixture(scope="module")
def period(flood: list[Recorded]) -> Period:
    return week_before(flood[-1].time_us + WEEK_US)


@pytest.fixture(scope="module")
def dearest(flood: list[Recorded]) -> Change:
    """The dearest change that a model can set."""
    losses = Losses()
    for event in flood:
        losses.add(event)
    return next(one for one in changes(losses, Config()) if one.given)


def test_it_is_what_a_replay_of_that_hour_estimates(whole: Whole, period: Period, dearest: Change) -> None:
    found, none = WhatIfs(whole, period).of(dearest)
    assert none is None
    assert found is not None
    since_us = dearest.hour * HOUR_US
    expected = estimate_in(whole, since_us, since_us + HOUR_US, dearest.given)
    told = {one.key: (one.recorded, one.modelled, one.estimated, one.too_rough) for one in found.figures}
    assert told == {
        one.key: (one.recorded, one.modelled, one.estimated, one.too_rough) for one in expected.figures() if one.told
    }
    assert found.share == pytest.approx(dearest.hour_ms / dearest.cost_ms)
    key, value = next(iter(dearest.given.items()))
    assert found.setting.startswith(f"{key} = ")
    assert value.rstrip("s") in found.setting


def row(recorded: float, modelled: float, estimated: float, *, too_rough: bool = False) -> Figure:
    return Figure(
        key="k", name="refused", unit="", recorded=recorded, modelled=modelled, estimated=estimated,
        error=abs(modelled - recorded), too_rough=too_rough,
    )  # fmt: skip


def guess(*figures: Figure) -> WhatIf:
    times = {"since": "2026-03-09T10:00:00.000000Z", "until": "2026-03-09T11:00:00.000000Z"}
    return WhatIf(setting="queue.max_running = 32", share=0.5, figures=list(figures), **times)


def test_a_figure_that_is_too_rough_or_the_same_is_said_to_be() -> None:
    told = guess(row(9.0, 8.0, 2.0), row(9.0, 8.0, 8.0), row(9.0, 8.0, 7.5, too_rough=True))
    assert [one[1:] for one in words.what_if(told)] == [
        ("9", "about 2", "1"), ("9", "the same", "1"), ("9", "too rough to tell", "1")
    ]  # fmt: skip
    assert "2026-03-09 10:00 to 11:00 UTC, 50 % of it" in words.when(told)


def test_where_nothing_can_be_told_there_is_a_sentence_and_no_table() -> None:
    rough, same = guess(row(9.0, 8.0, 7.5, too_rough=True)), guess(row(9.0, 8.0, 8.0))
    assert words.what_if(rough) == words.what_if(same) == []
    assert words.when(rough).endswith("too rough to tell (the model is off: refused by 1).")
    assert words.when(same).endswith("nothing would have changed (the model is off: refused by 1).")


def test_what_no_model_can_set_has_none_and_no_excuse(whole: Whole, period: Period, dearest: Change) -> None:
    assert WhatIfs(whole, period).of(dearest._replace(given={})) == (None, None)


def test_a_setting_that_is_none_is_said(whole: Whole, period: Period, dearest: Change) -> None:
    found, none = WhatIfs(whole, period).of(dearest._replace(given={"queue.max_running": "0"}))
    assert found is None
    assert "is not estimated" in (none or "")


def test_an_hour_with_too_many_events_is_not_put_into_memory(
    whole: Whole, period: Period, dearest: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(what_if_module, "MOST", 20)
    found, none = WhatIfs(whole, period).of(dearest)
    assert found is None
    assert "more than 20 events" in (none or "")


def test_a_model_that_is_far_off_says_nothing(
    tmp_path: Path, flood: list[Recorded], period: Period, dearest: Change
) -> None:
    # Without first tokens it takes everybody to be answered at once.
    load(tmp_path / "ledger.db", [event for event in flood if event.type != "request.first_token"])
    found, none = WhatIfs(Whole(tmp_path / "ledger.db", Reader.open(tmp_path / "ledger.db")), period).of(dearest)
    assert found is None
    assert "is not estimated: the model of the hour in which it cost most is off by" in (none or "")
