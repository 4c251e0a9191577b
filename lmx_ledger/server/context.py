"""What every route needs of the running daemon."""

from dataclasses import dataclass
from typing import Protocol

from lmx_ledger.core.config import Config
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.service import Serving


class DaemonState(Protocol):
    """What a status page asks of the process."""

    @property
    def state(self) -> str:
        """`starting`, `running`, `draining` or `stopping`."""

    @property
    def uptime_s(self) -> float:
        """Seconds since the process began."""

    @property
    def limit_bytes(self) -> int:
        """The memory limit in force."""

    @property
    def used_bytes(self) -> int:
        """What the workers hold of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Handed to each blueprint. `rules_seq` is the seq of this boot's `config.loaded`."""

    serving: Serving
    ledger: Ledger
    reader: Reader
    config: Config
    daemon: DaemonState
    boot: str
    rules_seq: int
    started_s: int
