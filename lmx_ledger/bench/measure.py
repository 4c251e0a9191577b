"""Figures: what was measured, beside what is asked of it and what it is compared with."""

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Figure(NamedTuple):
    """One measured value.

    `bound` is the requirement and `better` its direction; None where there is none. `baseline` says in words what was
    measured in the same run to read the figure by.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    better: Literal["higher", "lower"] = "higher"
    baseline: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the requirement is met; None where there is none."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.better == "higher" else self.value <= self.bound


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies, by nearest rank.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
