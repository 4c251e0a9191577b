"""All parts of a running daemon, made and made known to each other; what each works on in the background."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from lmx_ledger.core.config import Config, ModelSection
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.budget import Budget
from lmx_ledger.daemon.drills import Drills
from lmx_ledger.daemon.figures import Figures
from lmx_ledger.daemon.guarding import Guard
from lmx_ledger.daemon.heat_watch import HeatWatch
from lmx_ledger.daemon.incidents import Incidents
from lmx_ledger.daemon.objectives import Objectives
from lmx_ledger.daemon.on_request import OnRequest
from lmx_ledger.daemon.paging import Pager
from lmx_ledger.daemon.reports import Reports
from lmx_ledger.daemon.residency import Residency
from lmx_ledger.daemon.standby import Standby
from lmx_ledger.daemon.supervisor import ModelKeeper, Supervisor
from lmx_ledger.daemon.terminal import warn
from lmx_ledger.daemon.watch import MemoryWatch
from lmx_ledger.daemon.weekly import Weekly
from lmx_ledger.guard import thermal
from lmx_ledger.guard.memory import Policy
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.memory.limit import limit_bytes
from lmx_ledger.memory.shared import SharedAccount
from lmx_ledger.sensor.choose import choose
from lmx_ledger.sensor.drilled import Rehearsable
from lmx_ledger.server.metrics import Metrics, Sources
from lmx_ledger.serving.models import ModelTable, ServedModel
from lmx_ledger.serving.queue import AdmissionQueue
from lmx_ledger.serving.service import Serving
from lmx_ledger.slo.objective import Objective
from lmx_ledger.store import embedded

Work = Callable[[], Coroutine[Any, Any, None]]


class Parts:
    """Of one daemon. Nothing runs before it is told to.

    Raises, when made:
        ScriptError: the script of readings is none.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, reader: Reader, promised: Sequence[Objective], *, boot: str, url: str
    ) -> None:
        """`promised` are the objectives; `url` is where this daemon is reached."""
        config = settings.now
        self.table = ModelTable(_models(config))
        settings.follow(lambda config: self.table.hold_waiting(config.queue.max_waiting))
        self.serving = Serving(self.table, ledger, settings)
        self.pager = Pager(ledger)
        self.shared = SharedAccount(config.home, boot)
        self.accounts = Accounts(self.table, settings, self.pager, self.shared, self._configured_bytes)
        self.budget = self.serving.memory = Budget(self.accounts, self.table, ledger, settings, self.pager)
        standby = Standby(ledger, config.engine.blas) if config.engine.standby else None
        keepers = [
            ModelKeeper(model, self.serving, ledger, config, budget=self.budget, standby=standby)
            for model in self.table.all()
        ]
        self.supervisor = Supervisor(keepers, standby)
        self.residency = Residency(
            self.serving, self.supervisor, ledger, settings, self.budget, self.accounts, self.pager
        )
        self.serving.shelf = OnRequest(self.serving, self.residency, settings)
        self._settings = settings

        sensors = Rehearsable.of(choose(config.sensors.script))
        self.watch = self.accounts.guard = MemoryWatch(
            sensors.memory,
            self.accounts,
            self.budget,
            ledger,
            every_s=config.sensors.every,
            policy=Policy(page_at=config.memory.page_at, page_to=config.memory.page_to),
        )
        self.heat = HeatWatch(
            sensors.heat,
            ledger,
            every_s=config.sensors.every,
            policy=thermal.Policy(cool_s=config.guard.cool_after),
        )
        self.figures = Figures(self.table, self.accounts, self.budget, self.watch, self.heat)
        self.objectives = Objectives(promised, ledger, reader, warn, self.figures.on_alert)
        self.guard = self.serving.gate = Guard(self.table, ledger, settings, self.figures, self.residency)
        self.heat.on_change = self.guard.wake
        self.drills = Drills(
            self.table,
            ledger,
            self.accounts,
            self.guard,
            sensors,
            self.heat,
            enabled=config.drills.enabled,
            url=url,
            settings=settings,
        )
        self.incidents = Incidents(ledger, reader, settings, warn)
        self.reports = Reports(self.incidents, settings, ledger.path, warn)
        self.weekly = Weekly(ledger.path, reader, lambda: settings.now.reports, warn)
        self.metrics = Metrics(
            Sources(
                serving=self.serving,
                memory=self.budget,
                guard=self.guard,
                objectives=self.objectives,
                heat=self.heat.figures,
                ledger=ledger.figures,
            )
        )
        ledger.on_event, self.serving.rates.on_gaps = self.metrics.on_event, self.metrics.on_gaps

    @property
    def works(self) -> list[Work]:
        """What is to be kept up for as long as the daemon runs."""
        return [
            self.budget.run,
            self.watch.run,
            self.heat.run,
            self.guard.run,
            self.incidents.run,
            self.weekly.run,
            self.residency.unload_unused_for_ever,
        ]

    async def stop(self) -> None:
        """End what is under way, and every worker."""
        self.reports.stop()
        await self.objectives.stop()
        await self.drills.close()
        await self.guard.stop()
        await self.pager.stop()
        await self.supervisor.stop()
        self.incidents.stop()
        self.shared.close()

    def _configured_bytes(self) -> int:
        return limit_bytes(self._settings.now.memory.limit, self.supervisor.recommended_bytes)


def _models(config: Config) -> list[ServedModel]:
    named = config.models or [ModelSection(id=embedded.ID, path=str(embedded.FOLDER))]
    return [
        ServedModel(
            one.id,
            one.path,
            one.aliases,
            AdmissionQueue(config.queue.max_running, config.queue.max_waiting),
            priority=one.priority,
            pinned=one.pin,
            ttl_s=one.ttl,
        )
        for one in named
    ]
