"""A plan as the ledger has it: what the planner was asked, so that it can be asked again, under other rules too."""

import math
from typing import Any, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.memory.plan import Account, Line, Need, Plan, Policy, plan


class Asked(NamedTuple):
    """A question to the planner, whole: it has no other inputs."""

    account: Account
    need: Need
    policy: Policy
    now_s: float

    def plan(self) -> Plan:
        """The answer."""
        return plan(self.account, self.need, self.policy, self.now_s)

    def told(self) -> dict[str, Any]:
        """As JSON, for an event's `account`. JSON has no infinity: of a moment that is one, null stands for -inf."""
        lines = [
            {
                **line._asdict(),
                "layers": list(line.layers),
                "came_s": _finite(line.came_s),
                "used_s": _finite(line.used_s),
            }
            for line in self.account.lines
        ]
        return {
            **self.account._asdict(),
            "lines": lines,
            "need": self.need._asdict(),
            "policy": self.policy._asdict(),
            "now_s": self.now_s,
        }


def asked(event: Recorded) -> Asked | None:
    """What the planner was asked for that `paging.planned`; None where an operator ordered it, and nobody was."""
    told = event.data.get("account") or {}
    if "need" not in told:
        return None
    lines = tuple(
        Line(
            **{
                **line,
                "layers": tuple(line["layers"]),
                "came_s": _infinite(line["came_s"]),
                "used_s": _infinite(line["used_s"]),
            }
        )
        for line in told["lines"]
    )
    account = Account(told["limit"], told["reserve"], lines, told["others"], told["configured"])
    return Asked(account, Need(**told["need"]), Policy(**told["policy"]), told["now_s"])


def steps_of(found: Plan) -> list[list[Any]]:
    """As `paging.planned` has them."""
    return [[step.act.value, step.model, step.bytes, step.layers] for step in found.steps]


def _finite(moment_s: float) -> float | None:
    return None if moment_s == -math.inf else min(moment_s, _NEVER_S)


def _infinite(moment_s: float | None) -> float:
    if moment_s is None:
        return -math.inf
    return math.inf if moment_s >= _NEVER_S else moment_s


_NEVER_S = 1e15
"""Stands for a moment that has not come: an infinite one."""
