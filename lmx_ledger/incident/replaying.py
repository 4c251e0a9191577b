"""A replay, whole: the decisions of a time decided again, and an estimate of what would have followed from them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.incident.estimate import estimator_in
from lmx_ledger.incident.outcome import Estimate
from lmx_ledger.incident.replayed import Asked, Replayed, decided, read
from lmx_ledger.incident.rules import BEARS_ON
from lmx_ledger.incident.sweep import Sweep, swept, values_of


class Answer(NamedTuple):
    """The exact part, the estimate, and the rows of a sweep, where one was asked for."""

    since_us: int
    until_us: int
    replayed: Replayed
    estimate: Estimate
    sweep: Sweep | None = None

    @property
    def _swept(self) -> tuple[str, ...]:
        return () if self.sweep is None else (self.sweep.key,)

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/replay`."""
        return {
            "since": rfc3339(self.since_us),
            "until": rfc3339(self.until_us),
            "bears_on": {key: list(BEARS_ON[key]) for key in (*self.replayed.given, *self._swept)},
            **self.replayed.public(),
            "estimate": self.estimate.public(),
            "sweep": None if self.sweep is None else self.sweep.public(),
        }


def answer(ledger: Asked, since_us: int, until_us: int, given: Mapping[str, str], sweep: str | None = None) -> Answer:
    """Of that time of the ledger, under those rules; and one of them at each value of a sweep (`values_of`).

    Raises:
        BadRule: a key that cannot be set, or not so.
        LedgerError: the ledger cannot be read.
    """
    wanted = values_of(sweep) if sweep is not None else None
    stretch = read(ledger, since_us, until_us)
    replayed = decided(stretch, given)
    estimator = estimator_in(ledger, since_us, until_us)
    rows = swept(stretch, estimator, given, *wanted) if wanted is not None else None
    return Answer(since_us, until_us, replayed, estimator.estimate(given), rows)
