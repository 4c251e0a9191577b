"""Where events are read: from the daemon that answers, else from the ledger file, read-only."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, Refused, home_folder
from lmx_ledger.cli.display import note
from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.ledger.query import EventFilter, Reader
from lmx_ledger.ledger.store import LedgerMissing

_PAGE: Final = 1000
_POLL_S: Final = 0.5
_NAMES: Final = ("request", "session", "model", "incident", "cause")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a command asks for: the ledger's filter, without cursor and page size."""

    types: tuple[str, ...] = ()
    request: str | None = None
    session: str | None = None
    model: str | None = None
    incident: str | None = None
    severity: Severity | None = None
    cause: int | None = None
    since_us: int | None = None
    until_us: int | None = None
    order: Literal["asc", "desc"] = "asc"


Source = Callable[[EventFilter], list[Recorded]]
"""Answers one filter with one page."""


def open_source(connection: Connection, home: Path | None) -> Source:
    """The daemon, or the file of the home where none answers (and a note that says so).

    Raises:
        NoDaemon: there is neither.
        LedgerError: there is a file that cannot be read.
    """
    if connection.answers():
        return lambda wanted: [_recorded(event) for event in connection.get("/lmx/events", _query(wanted))["events"]]
    path = home_folder(home) / "ledger.db"
    if not connection.is_local:
        raise NoDaemon(f"no daemon answers at {connection.url}; the ledger of this machine is not its ledger")
    try:
        reader = Reader.open(path)
    except LedgerMissing:
        raise NoDaemon(
            f"no daemon answers at {connection.url}, and there is no ledger at {path}; "
            "start one with `lmx serve start`, or name it with --url or --home"
        ) from None
    note(f"no daemon answers at {connection.url}; reading {path}")
    return reader.events


def collect(source: Source, wanted: Wanted, count: int) -> tuple[list[Recorded], bool]:
    """The first `count` in the order asked, and whether there are more."""
    found: list[Recorded] = []
    while len(found) <= count:
        size = min(_PAGE, count + 1 - len(found))
        page = source(_filter(wanted, after=found[-1].seq if found else None, limit=size))
        found += page
        if len(page) < size:
            break
    return found[:count], len(found) > count


def newest(source: Source, wanted: Wanted, count: int) -> tuple[list[Recorded], bool]:
    """The last `count`, oldest first, and whether there are more before them."""
    found, cut = collect(source, _backwards(wanted), count)
    return found[::-1], cut


def follow(source: Source, wanted: Wanted, back: int | None) -> Iterator[Recorded]:
    """What matches already (all of it, or the last `back`), then what comes, without gap or repeat, until Ctrl-C."""
    last = 0
    found = collect(source, wanted, 10**9)[0] if back is None else newest(source, wanted, back)[0]
    if not found and (head := source(EventFilter(order="desc", limit=1))):
        last = head[0].seq
    while True:
        for event in found:
            last = event.seq
            yield event
        if not found:
            time.sleep(_POLL_S)
        try:
            found = source(_filter(wanted, after=last, limit=_PAGE))
        except Failure as failure:
            if isinstance(failure, Refused):
                raise
            # A daemon that restarts is back in a moment; its events are waiting in the ledger.
            found = []


def _backwards(wanted: Wanted) -> Wanted:
    fields: dict[str, Any] = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__}
    return Wanted(**{**fields, "order": "desc"})


def _filter(wanted: Wanted, *, after: int | None, limit: int) -> EventFilter:
    fields: dict[str, Any] = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__}
    return EventFilter(**fields, after=after, limit=limit)


def _query(wanted: EventFilter) -> list[tuple[str, str]]:
    pairs = [("type", kind) for kind in wanted.types]
    pairs += [(name, str(value)) for name in _NAMES if (value := getattr(wanted, name)) is not None]
    if wanted.severity is not None:
        pairs.append(("severity", wanted.severity.label))
    moments = (("since", wanted.since_us), ("until", wanted.until_us))
    pairs += [(name, rfc3339(at)) for name, at in moments if at is not None]
    if wanted.after is not None:
        pairs.append(("after", str(wanted.after)))
    return [*pairs, ("order", wanted.order), ("limit", str(wanted.limit))]


def _recorded(event: dict[str, Any]) -> Recorded:
    fields = {name: value for name, value in event.items() if name not in {"time", "severity"}}
    return Recorded(time_us=parse_rfc3339(event["time"]), severity=Severity.parse(event["severity"]), **fields)
