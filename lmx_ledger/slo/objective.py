"""Objectives: what the configuration promises, and what of a span's rollups is good, bad, or refused on purpose."""

from collections.abc import Mapping
from math import log2
from typing import Final, NamedTuple

import msgspec

from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.slo_section import ObjectiveSection, SloSection
from lmx_ledger.slo.burn import Count, Policy
from lmx_ledger.slo.histogram import BOUNDS
from lmx_ledger.slo.windows import profiles

_SHED: Final = "judged.shed"
_decode: Final = msgspec.msgpack.Decoder(dict[int, int]).decode


class Values(msgspec.Struct, frozen=True, gc=False):
    """A rollup's row of one indicator; `buckets` as they are stored."""

    count: int
    least: float
    most: float
    buckets: bytes


Rows = Mapping[str, Values]
"""What one span of one model has, by indicator."""


class Indicator(NamedTuple):
    """Which indicators are good and bad: counted, or by the value of one of them, in `unit`s.

    `slower`: a value is good where it is at most the threshold, else where it is more. `sheds`: whoever was refused on
    purpose would have counted.
    """

    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    value: str = ""
    unit: str = ""
    slower: bool = True
    sheds: bool = True


INDICATORS: Final[dict[str, Indicator]] = {
    "ttft": Indicator(value="ttft_ms", unit="s"),
    "itl": Indicator(value="itl_p95_ms", unit="s"),
    "decode_tps": Indicator(value="decode_tps", unit="tokens/s", slower=False),
    "prefill_tps": Indicator(value="prefill_tps", unit="tokens/s", slower=False),
    "availability": Indicator(good=("outcome.ok",), bad=("judged.bad",)),
    "admission": Indicator(good=("outcome.ok", "judged.bad"), bad=(_SHED,), sheds=False),
    "cold_start": Indicator(value="cold_start_ms", unit="s", sheds=False),
    "cache_hit": Indicator(good=("kv.hit",), bad=("kv.missed",)),
    "queue_wait": Indicator(value="queue_ms", unit="s"),
}
"""By the names of `[slo.*]`."""

NEEDED: Final = tuple(
    sorted({_SHED} | {name for one in INDICATORS.values() for name in (*one.good, *one.bad, one.value) if name})
)
"""All indicators that any objective reads."""


class Objective(msgspec.Struct, frozen=True):
    """One promise. `threshold` is in the indicator's unit (seconds, tokens per second), None where there is none."""

    name: str
    policy: Policy
    threshold: float | None

    @property
    def indicator(self) -> Indicator:
        """What it is about."""
        return INDICATORS[self.name]

    @property
    def limit(self) -> float:
        """The bucket bound that stands for the threshold, in the rollups' unit (ms, tokens per second); 0 without one.

        The nearest one, at most 2.2 % off. Whole buckets are good or bad then: an hour is the sum of its minutes.
        """
        if self.threshold is None:
            return 0.0
        value = self.threshold * (1e3 if self.indicator.unit == "s" else 1)
        return min(BOUNDS, key=lambda bound: abs(log2(bound) - log2(value)))


def objectives_of(section: SloSection) -> tuple[Objective, ...]:
    """Those that are enabled, in the order of the configuration.

    Raises:
        StartupError: one could never alert; the message says which, and which target or period would do.
    """
    found = []
    for name in INDICATORS:
        one: ObjectiveSection = getattr(section, name)
        if one.enabled:
            try:
                policy = Policy(one.target, one.min_events, profiles()[one.period])
            except ValueError as error:
                raise StartupError(f"[slo.{name}] target: {error}; {_fix(one)}") from None
            found.append(Objective(name, policy, getattr(one, "threshold", None)))
    return tuple(found)


def _fix(section: ObjectiveSection) -> str:
    def least(period: str) -> float:
        return 1 - 1 / profiles()[period].highest_factor

    raised = f"raise it above {least(section.period):.4g}"
    shorter = [name for name in profiles() if least(name) < min(section.target, least(section.period))]
    if not shorter:
        return f"{raised}, or set enabled = false"
    return f'{raised}, or set period = "{shorter[0]}"'


def judged(objective: Objective, limit: float, rows: Rows) -> Count:
    """What a span's rollups are for the objective; `limit` is `objective.limit`, asked once."""
    kind = objective.indicator
    shed = _count(rows, (_SHED,)) if kind.sheds else 0
    if not kind.value:
        good = _count(rows, kind.good)
        return Count(good, good + _count(rows, kind.bad), shed)
    values = rows.get(kind.value)
    if values is None:
        return Count(0, 0, shed)
    at_most = _up_to(values, limit)
    return Count(at_most if kind.slower else values.count - at_most, values.count, shed)


def _count(rows: Rows, names: tuple[str, ...]) -> int:
    return sum(rows[name].count for name in names if name in rows)


def _up_to(values: Values, limit: float) -> int:
    """How many are at or below a bucket's bound: exact."""
    if values.most <= limit:
        return values.count
    if values.least > limit:
        return 0
    last = BOUNDS.index(limit)
    return sum(count for bucket, count in _decode(values.buckets).items() if bucket <= last)
