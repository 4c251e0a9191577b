"""What the guard's signals are made of, read off the daemon as it is now."""

from collections.abc import Mapping
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.budget import Budget
from lmx_ledger.daemon.guarding import Figure
from lmx_ledger.daemon.watch import MemoryWatch
from lmx_ledger.guard.signals import BURN, MEMORY_FULL, QUEUE_WAIT, SWAP
from lmx_ledger.serving.models import ModelTable

PAGE: Final = "page"
"""The severity of alerts that the guard acts on; a ticket can wait for a person."""


class Figures:
    """Of one daemon."""

    def __init__(self, table: ModelTable, accounts: Accounts, budget: Budget, watch: MemoryWatch) -> None:
        self._table, self._accounts, self._budget, self._watch = table, accounts, budget, watch
        self._burning: dict[tuple[str, str | None], ev.Cause] = {}

    def on_alert(self, objective: str, severity: str, model: str | None, *, on: bool, seq: ev.Cause) -> None:
        """An objective burns its budget, or does not any more."""
        if severity == PAGE and on:
            self._burning[objective, model] = seq
        elif severity == PAGE:
            self._burning.pop((objective, model), None)

    def __call__(self) -> Mapping[str, Figure]:
        """All of them, now."""
        account, watch = self._accounts.account(), self._watch
        share = account.used / account.limit if account.limit else 1.0
        return {
            QUEUE_WAIT: Figure(max((model.queue.wait_s() for model in self._table.all()), default=0.0)),
            MEMORY_FULL: Figure(share if self._budget.wanted else 0.0, watch.breach),
            SWAP: Figure(float(watch.thrashing), watch.thrashed),
            BURN: Figure(float(len(self._burning)), next(iter(self._burning.values()), None)),
        }
