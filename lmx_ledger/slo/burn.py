"""When a budget burns: burn rates, what is left, and the alerts; pure, minute by minute.

A burn rate is the share of a window that was not good, over the share that the objective allows (1 - target): at 1 the
budget lasts just the period. The rules of an alert, for each pair of windows:

- It begins when both windows burn faster than the pair's factor, and the long one has at least `min_events`.
- It ends when the short window has burned no faster than that for `clear_after` evaluated minutes in a row, so that an
  alert lasts at least so long and no two of a pair begin within that time.
- A window without data says nothing: no alert begins, none ends, and the minutes in a row are neither more nor fewer.
- Requests refused on purpose are neither good nor bad, so that refusing everybody looks like calm. While they are
  `LARGE_SHARE` or more of the short window's requests, a minute is not calm, and the row begins anew.
- Only evaluated minutes count: time that the machine slept, or the daemon was not there, moves nothing.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from lmx_ledger.slo.windows import Pair, Profile, Window

LARGE_SHARE: Final = 0.2
"""Of a window's requests: so many refused on purpose hide how the others would have fared."""
REFILLED: Final = 0.05
"""A budget that was exhausted can be exhausted anew once so much of it is left."""
_EXACT: Final = 9
"""Digits of a burn rate that are compared: 1 - 0.95 is not quite 0.05."""


class Count(NamedTuple):
    """Requests: good ones, all that count, and those refused on purpose, which are in neither."""

    good: int = 0
    total: int = 0
    shed: int = 0

    @property
    def bad(self) -> int:
        """Those that count and were not good."""
        return self.total - self.good


class Policy(msgspec.Struct, frozen=True):
    """What is promised: `target` (0 to 1) of the requests of the profile's period are good."""

    target: float
    min_events: int
    profile: Profile

    def __post_init__(self) -> None:
        """Held against what can be watched.

        Raises:
            ValueError: even with nothing good the budget would not burn at the fastest pair's factor.
        """
        if self.profile.highest_factor * self.budget >= 1:
            raise ValueError(
                f"with target {self.target:g} the budget burns at {1 / self.budget:.3g}x when nothing is good, and the"
                f" first alert of {self.profile.period.name} is at {self.profile.highest_factor:g}x"
            )

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1 - self.target, 12)


class Observed(msgspec.Struct, frozen=True):
    """What there is to judge at `now_us`: a count for each of the profile's windows, and one for the period."""

    now_us: int
    windows: Mapping[Window, Count]
    period: Count

    @property
    def minute(self) -> int:
        """The minute it is, since the epoch."""
        return self.now_us // 60_000_000


class Alert(msgspec.Struct, frozen=True):
    """One that is on: since when, by which event (0: not known yet), and for how many minutes it has been calm."""

    severity: str
    factor: float
    since_us: int
    seq: int = 0
    calm: int = 0


class State(msgspec.Struct, frozen=True):
    """Alerts by their pair (`1h/5m`), whether the exhaustion was told, and the minute that was evaluated last."""

    alerts: dict[str, Alert] = {}
    exhausted: bool = False
    minute: int = 0


class Alerted(NamedTuple):
    """A pair burns."""

    pair: Pair
    long_burn: float
    short_burn: float


class Cleared(NamedTuple):
    """It does not any more, or there is no such pair any more (another period was configured)."""

    name: str
    alert: Alert


class Exhausted(NamedTuple):
    """Nothing is left of the budget."""

    period: Count


Decision = Alerted | Cleared | Exhausted


def burn_rate(count: Count, target: float) -> float | None:
    """How fast the budget burns; None where there is nothing to judge by."""
    if not count.total:
        return None
    return round(count.bad / count.total / round(1 - target, 12), _EXACT)


def budget_remaining(period: Count, target: float) -> float | None:
    """Which share of the period's budget is left; below 0 where more was bad than is allowed; None without data."""
    burned = burn_rate(period, target)
    return None if burned is None else round(1 - burned, _EXACT)


def exhausts_in_s(observed: Observed, policy: Policy) -> float | None:
    """How long the budget lasts if it burns on as over the first pair's long window; 0: it is gone; None: no end.

    remaining * period / burn, as in the Workbook; at 1x or less it is not used up before it is new.
    """
    left = budget_remaining(observed.period, policy.target)
    if left is None:
        return None
    if left <= 0:
        return 0.0
    burn = burn_rate(observed.windows[policy.profile.pairs[0].long], policy.target)
    if burn is None or burn <= 1:
        return None
    return left * policy.profile.period.minutes * 60 / burn


def decide(state: State, observed: Observed, policy: Policy) -> list[Decision]:
    """What follows from a minute, see the rules above."""
    decisions: list[Decision] = []
    pairs = {pair.name: pair for pair in policy.profile.pairs}
    for name, alert in state.alerts.items():
        if name not in pairs or _calm(alert, pairs[name], state, observed, policy) >= pairs[name].clear_after:
            decisions.append(Cleared(name, alert))
    for pair in policy.profile.pairs:
        if pair.name not in state.alerts and (burning := _burning(pair, observed, policy)) is not None:
            decisions.append(burning)
    if not state.exhausted and observed.period.total >= policy.min_events and _left(observed, policy) <= 0:
        decisions.append(Exhausted(observed.period))
    return decisions


def evolve(state: State, observed: Observed, decisions: list[Decision], policy: Policy) -> State:
    """The state behind that minute, with what was decided in it."""
    pairs = {pair.name: pair for pair in policy.profile.pairs}
    cleared = {decision.name for decision in decisions if isinstance(decision, Cleared)}
    alerts = {
        name: msgspec.structs.replace(alert, calm=_calm(alert, pairs[name], state, observed, policy))
        for name, alert in state.alerts.items()
        if name not in cleared
    }
    for decision in decisions:
        if isinstance(decision, Alerted):
            alerts[decision.pair.name] = Alert(decision.pair.severity, decision.pair.factor, observed.now_us)
    told = state.exhausted or any(isinstance(decision, Exhausted) for decision in decisions)
    return State(alerts, told and _left(observed, policy) < REFILLED, observed.minute)


def _left(observed: Observed, policy: Policy) -> float:
    """Without data all of it: nothing was used up."""
    left = budget_remaining(observed.period, policy.target)
    return 1.0 if left is None else left


def _burning(pair: Pair, observed: Observed, policy: Policy) -> Alerted | None:
    over, lately = observed.windows[pair.long], observed.windows[pair.short]
    long_burn, short_burn = burn_rate(over, policy.target), burn_rate(lately, policy.target)
    if long_burn is None or short_burn is None or over.total < policy.min_events:
        return None
    return Alerted(pair, long_burn, short_burn) if min(long_burn, short_burn) > pair.factor else None


def _calm(alert: Alert, pair: Pair, state: State, observed: Observed, policy: Policy) -> int:
    """For how many minutes in a row it has been calm, with this one."""
    lately = observed.windows[pair.short]
    burn = burn_rate(lately, policy.target)
    if observed.minute == state.minute:
        return alert.calm
    if lately.shed and lately.shed >= LARGE_SHARE * (lately.shed + lately.total):
        return 0
    if burn is None:
        return alert.calm
    return alert.calm + 1 if burn <= pair.factor else 0
