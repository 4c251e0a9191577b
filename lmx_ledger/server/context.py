"""What every route needs of the running daemon."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.config import Config
from lmx_ledger.core.settings import Settings
from lmx_ledger.engine.protocol import Paged
from lmx_ledger.incident.state import Incident, State
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.service import Serving


class DaemonState(Protocol):
    """What a status page asks of the process."""

    @property
    def state(self) -> str:
        """`starting`, `running`, `draining` or `stopping`."""

    @property
    def uptime_s(self) -> float:
        """Seconds since the process began."""


class Paging(Protocol):
    """Weights that go on an operator's order."""

    async def page_out(self, model: ServedModel, need: int, cause: ev.Cause) -> Paged:
        """Let go of layers until so many bytes are free (0: of all).

        Raises:
            Conflict: it has work, or no weights in memory, or what had to be written could not be.
        """


class Residency(Protocol):
    """Models that come and go on an operator's order."""

    async def load(self, model: ServedModel, cause: ev.Cause) -> None:
        """Until all of it is in memory.

        Raises:
            LmxError: it does not fit, or cannot be loaded.
        """

    async def unload(self, model: ServedModel, cause: ev.Cause) -> None:
        """End its worker.

        Raises:
            Conflict: it is pinned, or has work in flight, or is not loaded.
        """

    async def reload(self, model: ServedModel, cause: ev.Cause) -> None:
        """Read its files anew.

        Raises:
            LmxError: it is pinned, has work in flight, or cannot be served any more.
        """

    async def pin(self, model: ServedModel, cause: ev.Cause, *, pinned: bool) -> None:
        """Whether its weights may leave memory to make room."""


class Memory(Protocol):
    """The account of memory."""

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/memory`."""


class Guard(Protocol):
    """The stages in which trouble is met."""

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/guard`."""


class DrillOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rehearsal that is asked for. What a kind has no use for must be left out.

    `gpu_drop`: share by which the GPU's clock drops. `limit`: share of the memory limit that others leave.
    `bytes_per_s`: how fast the disk seems. `sessions`: how many flood in. `model`: whose worker; None: the first one's.
    """

    kind: str
    for_s: float = 60.0
    gpu_drop: float | None = None
    limit: float | None = None
    bytes_per_s: int | None = None
    sessions: int | None = None
    model: str | None = None


class Drills(Protocol):
    """Rehearsals, one at a time."""

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/drills`."""

    async def start(self, order: DrillOrder, cause: ev.Cause) -> None:
        """Begin one.

        Raises:
            Conflict: drills are not enabled, or one goes on.
            InvalidRequest: there is no such kind, or it takes no such argument.
        """

    async def stop(self) -> None:
        """End the one that goes on, if one does."""


class Metrics(Protocol):
    """What is scraped."""

    def exposition(self) -> tuple[bytes, str]:
        """The text, and its content type."""


class Objectives(Protocol):
    """What is promised, and how much of it may still be missed."""

    async def refresh(self) -> None:
        """Look at the rollups.

        Raises:
            LedgerError: the ledger cannot be read.
        """

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/slo`."""


class Incidents(Protocol):
    """What is wrong, and was."""

    async def state(self) -> State:
        """All of them.

        Raises:
            LedgerError: the ledger cannot be read.
        """

    async def find(self, name: str) -> Incident:
        """By id, a beginning of one, or `last`.

        Raises:
            NotFound, Conflict: there is none, or several begin so.
            LedgerError: the ledger cannot be read.
        """

    async def acknowledge(self, name: str, cause: ev.Cause) -> Incident:
        """Somebody looks after it.

        Raises:
            NotFound, Conflict: there is none, or it is closed.
        """

    async def close(self, name: str, cause: ev.Cause) -> Incident:
        """Nothing more is done about it.

        Raises:
            NotFound, Conflict: there is none, or it is part of another one.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Handed to each blueprint."""

    serving: Serving
    ledger: Ledger
    reader: Reader
    settings: Settings
    daemon: DaemonState
    paging: Paging
    residency: Residency
    memory: Memory
    guard: Guard
    drills: Drills
    metrics: Metrics
    objectives: Objectives
    incidents: Incidents
    boot: str
    started_s: int

    @property
    def config(self) -> Config:
        """The configuration in force; not to be kept, the next one may come at any time."""
        return self.settings.now

    @property
    def rules_seq(self) -> int:
        """The seq of the `config.loaded` or `config.changed` that put it in force."""
        return self.settings.rules_seq
