"""What can be asked of the ledger. Apart from the queries: a client over HTTP needs the words, not SQLAlchemy."""

from dataclasses import dataclass
from typing import Literal

from lmx_ledger.core.events import Severity

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events, all conditions together.

    `types` are alternatives; one may end in `*` (`paging.*`). `request` may be in any vendor's clothes
    (`chatcmpl-...`). `severity` is the least one. `since_us` is included, `until_us` is not. `after` is the seq of
    the last event already seen: later ones in ascending order, earlier ones in descending order.
    """

    types: tuple[str, ...] = ()
    request: str | None = None
    session: str | None = None
    model: str | None = None
    incident: str | None = None
    severity: Severity | None = None
    cause: int | None = None
    since_us: int | None = None
    until_us: int | None = None
    boot: str | None = None
    after: int | None = None
    order: Order = "asc"
    limit: int = 100
