"""One rule at many values: what each would have decided, and what it would have done to the requests."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from lmx_ledger.incident.estimate import Estimator
from lmx_ledger.incident.outcome import Estimate
from lmx_ledger.incident.replayed import Replayed, Stretch, decided
from lmx_ledger.incident.rules import BadRule, value_of

MOST: Final = 32
"""Values of one sweep."""


class Row(NamedTuple):
    """One value of the rule."""

    value: Any
    replayed: Replayed
    estimate: Estimate

    def public(self) -> dict[str, Any]:
        """For a program; the decisions themselves are counted, not told."""
        told = self.replayed.public()
        return {
            "value": self.value,
            **{name: told[name] for name in ("decisions", "different", "stages_s")},
            "estimate": self.estimate.public(),
        }


class Sweep(NamedTuple):
    """A rule, its value that was in force (None: nobody knows), and a row for each value that was asked about."""

    key: str
    in_force: Any
    rows: list[Row]

    def public(self) -> dict[str, Any]:
        """For a program."""
        return {"key": self.key, "in_force": self.in_force, "rows": [row.public() for row in self.rows]}


def values_of(text: str) -> tuple[str, list[str]]:
    """The key and the values of `KEY=V1,V2,...` or `KEY=FROM..TO/STEPS` (so many values, the ends among them).

    Raises:
        BadRule: it is neither, there is no such key, or it cannot have such a value.
    """
    key, sign, told = (part.strip() for part in text.partition("="))
    if not sign or not key or not told:
        raise BadRule(f"{text!r} is no sweep; write it like memory.page_at=0.7,0.8,0.9 or memory.limit=8GB..24GB/5")
    values = _between(key, told) if ".." in told else [one.strip() for one in told.split(",") if one.strip()]
    if not 1 <= len(values) <= MOST:
        raise BadRule(f"a sweep has 1 to {MOST} values, and {text!r} has {len(values)}")
    for value in values:
        value_of(key, value)
    return key, values


def _between(key: str, told: str) -> list[str]:
    ends, slash, steps = told.partition("/")
    if not slash or not steps.strip().isdigit() or not 2 <= int(steps) <= MOST:
        raise BadRule(f"{told!r} says from where to where, but not in how many values (2 to {MOST}): FROM..TO/STEPS")
    first, last = (value_of(key, end.strip()) for end in ends.split("..", 1))
    count = int(steps)
    found = [first + (last - first) * at / (count - 1) for at in range(count)]
    if isinstance(first, int):
        return [str(round(value)) for value in found]
    return [f"{value:.6g}" for value in found]


def swept(stretch: Stretch, estimator: Estimator, given: Mapping[str, str], key: str, values: Sequence[str]) -> Sweep:
    """A row for each value, beside what else is `given`.

    Raises:
        BadRule: the rule cannot have one of these values.
    """
    rows: list[Row] = []
    for value in dict.fromkeys(values):
        rules = {**given, key: value}
        replayed = decided(stretch, rules)
        rows.append(Row(replayed.given[key], replayed, estimator.estimate(rules)))
    return Sweep(key, estimator.in_force(key), rows)
