"""What the guard's signals are made of, read off the daemon as it is now."""

from collections.abc import Mapping
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.budget import Budget
from lmx_ledger.daemon.guarding import Figure
from lmx_ledger.daemon.heat_watch import HeatWatch
from lmx_ledger.daemon.watch import MemoryWatch
from lmx_ledger.guard.signals import BURN, GPU, MEMORY_FULL, QUEUE_WAIT, SWAP, THERMAL
from lmx_ledger.serving.models import ModelTable

ADMISSION: Final = "admission"
"""The objective that deliberate refusals burn."""
PAGE: Final = "page"
"""The severity of alerts that the guard acts on; a ticket can wait for a person."""


class Figures:
    """Of one daemon."""

    def __init__(
        self, table: ModelTable, accounts: Accounts, budget: Budget, watch: MemoryWatch, heat: HeatWatch
    ) -> None:
        self._table, self._accounts, self._budget, self._watch, self._heat = table, accounts, budget, watch, heat
        self._burning: dict[tuple[str, str | None], ev.Cause] = {}

    def on_alert(self, objective: str, severity: str, model: str | None, on: bool, seq: int | None) -> None:
        """An objective's alert is on and its budget burns, or one of both is over."""
        if objective == ADMISSION:
            # What the guard refuses burns it: to refuse more because of that would never end.
            return
        if severity == PAGE and on:
            self._burning[objective, model] = seq
        elif severity == PAGE:
            self._burning.pop((objective, model), None)

    def __call__(self) -> Mapping[str, Figure]:
        """All of them, now."""
        account, watch, heat = self._accounts.account(), self._watch, self._heat
        share = account.used / account.limit if account.limit else 1.0
        # A GPU that is busy does what it is for; it is trouble where somebody waits for it.
        waiting = any(model.queue.waiting for model in self._table.all())
        return {
            QUEUE_WAIT: Figure(max((model.queue.wait_s() for model in self._table.all()), default=0.0)),
            MEMORY_FULL: Figure(share if self._budget.wanted else 0.0, watch.breach),
            SWAP: Figure(float(watch.thrashing), watch.thrashed),
            THERMAL: Figure(float(heat.throttled), heat.cause),
            GPU: Figure(heat.gpu_busy if waiting else 0.0),
            BURN: Figure(float(len(self._burning)), next(iter(self._burning.values()), None)),
        }
