"""Behind a restart alerts are as the ledger has them, however often they were told."""

from typing import Any

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.slo.asleep import Slept
from lmx_ledger.slo.burn import Alert, State
from lmx_ledger.slo.recall import ObjectivesFold, Recalled
from lmx_ledger.slo.rollup import MINUTE_US
from tests.slo import parts

FOLD = ObjectivesFold()
NEW = Recalled()


def at(minute: float) -> int:
    return int((parts.BEGIN + minute) * MINUTE_US)


def alerted(seq: int, minute: float, model: str | None = None, **data: Any) -> Recorded:
    fields = {"objective": "ttft", "severity": "page", "long": "1h", "short": "5m", "factor": 14.4}
    return parts.recorded(seq, "slo.burn_alerted", minute, model, **{**fields, **data})


def cleared(seq: int, minute: float, model: str | None = None) -> Recorded:
    return parts.recorded(
        seq, "slo.burn_cleared", minute, model, objective="ttft", severity="page", long="1h", short="5m", factor=14.4
    )


def exhausted(seq: int, minute: float) -> Recorded:
    return parts.recorded(seq, "slo.budget_exhausted", minute, None, objective="ttft")


def evaluated(seq: int, minute: float, left: float | None) -> Recorded:
    return parts.recorded(seq, "slo.evaluated", minute, None, objective="ttft", budget_remaining=left)


def folded(*events: Recorded, state: Recalled = NEW) -> Recalled:
    for event in events:
        state = FOLD.evolve(state, event)
    return state


def test_what_alerted_is_on_until_it_is_cleared() -> None:
    state = folded(alerted(4, 1), alerted(5, 1, "m0"), alerted(6, 2, long="6h", short="30m", factor=6.0))
    assert state.of("ttft", None).alerts == {
        "1h/5m": Alert("page", 14.4, at(1), 4),
        "6h/30m": Alert("page", 6.0, at(2), 6),
    }
    state = folded(cleared(7, 3), state=state)
    assert list(state.of("ttft", None).alerts) == ["6h/30m"]
    assert list(state.of("ttft", "m0").alerts) == ["1h/5m"]
    assert state.of("itl", None) == State()


def test_what_is_told_twice_began_with_the_first_and_keeps_its_calm_minutes() -> None:
    state = folded(alerted(4, 1))
    known = state.of("ttft", None)
    calm = {name: msgspec.structs.replace(alert, calm=3) for name, alert in known.alerts.items()}
    state = state.having("ttft", None, msgspec.structs.replace(known, alerts=calm))
    assert folded(alerted(9, 5), state=state) == state


def test_an_alert_whose_event_was_late_gets_its_seq_from_the_ledger() -> None:
    late = Recalled().having("ttft", None, State({"1h/5m": Alert("page", 14.4, at(1.5))}))
    assert folded(alerted(4, 1), state=late).of("ttft", None).alerts["1h/5m"] == Alert("page", 14.4, at(1), 4)


def test_an_exhausted_budget_is_not_told_again_until_some_is_back() -> None:
    assert folded(exhausted(1, 0)).of("ttft", None).exhausted
    assert folded(exhausted(1, 0), evaluated(2, 1, 0.01)).of("ttft", None).exhausted
    assert not folded(exhausted(1, 0), evaluated(2, 1, 0.2)).of("ttft", None).exhausted
    assert folded(evaluated(2, 1, None)).evaluated_us == at(1)


def test_sleep_is_remembered_once() -> None:
    woke = parts.recorded(1, "sensor.woke", 480, None, slept_s=480 * 60.0)
    again = parts.recorded(2, "sensor.woke", 481, None, slept_s=480 * 60.0)
    assert folded(woke).slept == (Slept(at(0), at(480)),)
    assert folded(woke, again).slept == (Slept(at(0), at(481)),)


def test_the_state_can_be_kept_as_a_snapshot() -> None:
    state = folded(alerted(4, 1, "m0"), exhausted(5, 2), parts.recorded(6, "sensor.woke", 480, None, slept_s=60.0))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=FOLD.state) == state
