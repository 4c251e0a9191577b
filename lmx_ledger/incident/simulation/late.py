"""Which share of the first tokens came late by a moment: what an alert of a model of a run is held against."""

import math
from bisect import bisect_right

from lmx_ledger.core.slo_section import SloSection

TTFT = "ttft"
QUEUE_WAIT = "queue_wait"


class Late:
    """First tokens in the order in which they came, by objective, of each model and of all (None)."""

    def __init__(self, slo: SloSection) -> None:
        self._most_ms = {TTFT: slo.ttft.threshold * 1e3, QUEUE_WAIT: slo.queue_wait.threshold * 1e3}
        self._at: dict[str | None, list[float]] = {}
        self._late: dict[tuple[str, str | None], list[int]] = {}

    def add(self, at_s: float, model: str, ttft_ms: float, waited_ms: float) -> None:
        """One more, no earlier than those before."""
        for name in (None, model):
            self._at.setdefault(name, []).append(at_s)
            for objective, ms in ((TTFT, ttft_ms), (QUEUE_WAIT, waited_ms)):
                so_far = self._late.setdefault((objective, name), [0])
                so_far.append(so_far[-1] + (ms > self._most_ms[objective]))

    def of(self, objective: str, model: str | None, at_s: float, since_s: float = -math.inf) -> float | None:
        """The share up to that moment, of those behind `since_s`; None where there was none."""
        times = self._at.get(model, [])
        first, last = bisect_right(times, since_s), bisect_right(times, at_s)
        if first == last:
            return None
        late = self._late[objective, model]
        return (late[last] - late[first]) / (last - first)
