"""Where events are read: from a daemon over HTTP, or from the ledger file where none answers; and how to follow."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, home_folder
from lmx_ledger.cli.display import note
from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter

_PAGE: Final = 1000
_POLL_S: Final = 0.3
_EXACT: Final = ("request", "session", "model", "incident", "cause", "after", "limit", "order")


class Source(Protocol):
    """A place where events can be asked for."""

    def page(self, wanted: EventFilter) -> list[Recorded]:
        """At most `limit` (1000) events."""

    def head(self) -> int:
        """The newest seq; 0 in an empty ledger."""


class HttpSource:
    """A daemon's `/lmx/events`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def page(self, wanted: EventFilter) -> list[Recorded]:
        """At most `limit` events.

        Raises:
            Failure: as `Connection.get`, or the answer holds no events.
        """
        params: dict[str, Any] = {name: value for name in _EXACT if (value := getattr(wanted, name)) is not None}
        if wanted.types:
            params["type"] = list(wanted.types)
        if wanted.severity is not None:
            params["severity"] = wanted.severity.label
        for name, moment_us in (("since", wanted.since_us), ("until", wanted.until_us)):
            if moment_us is not None:
                params[name] = rfc3339(moment_us)
        answer = self._connection.get("/lmx/events", params)
        try:
            return [Recorded.of_public(event) for event in answer["events"]]
        except (KeyError, TypeError, ValueError) as error:
            raise Failure(
                f"{self._connection.url} answers with events that this lmx cannot read ({error!r}); is it as new?"
            ) from None

    def head(self) -> int:
        """The newest seq."""
        return max((event.seq for event in self.page(EventFilter(order="desc", limit=1))), default=0)


class FileSource:
    """The ledger file, read-only."""

    def __init__(self, file: Path) -> None:
        """Open it.

        Raises:
            StartupError: it is missing or no ledger.
        """
        from lmx_ledger.ledger.query import Reader  # noqa: PLC0415 - HTTP does without SQLAlchemy

        self._reader = Reader.open(file)

    def page(self, wanted: EventFilter) -> list[Recorded]:
        """At most `limit` events.

        Raises:
            StartupError: the file cannot be read any more.
        """
        return self._reader.events(wanted)

    def head(self) -> int:
        """The newest seq."""
        return self._reader.head()


def open_source(connection: Connection, home: Path | None) -> Source:
    """The daemon, or the ledger file (and a note that says so).

    Raises:
        NoDaemon: there is neither.
        StartupError: the file is no ledger.
    """
    if connection.answers():
        return HttpSource(connection)
    file = ledger_file(connection, home)
    source = FileSource(file)
    note_file(connection, file)
    return source


def ledger_file(connection: Connection, home: Path | None) -> Path:
    """The ledger to read where no daemon answers.

    Raises:
        NoDaemon: there is none either.
    """
    if not connection.is_local:
        raise NoDaemon(f"no daemon at {connection.url}; check --url")
    file = home_folder(home) / "ledger.db"
    if not file.exists():
        raise NoDaemon(
            f"no daemon at {connection.url} and no ledger at {file}; start one with lmx serve start, or name its --home"
        )
    return file


def note_file(connection: Connection, file: Path) -> None:
    """Say that the file is read, once it could be opened."""
    note(f"no daemon at {connection.url}; reading {file}")


def collect(source: Source, wanted: EventFilter, count: int | None) -> tuple[list[Recorded], bool]:
    """Up to `count` events (None: all) in the order of `wanted`, page by page; and whether there are more."""
    found: list[Recorded] = []
    while True:
        room = _PAGE if count is None else min(_PAGE, count + 1 - len(found))
        page = source.page(replace(wanted, limit=room))
        found += page
        if count is not None and len(found) > count:
            return found[:count], True
        if len(page) < room:
            return found, False
        wanted = replace(wanted, after=page[-1].seq)


def newest(source: Source, wanted: EventFilter, count: int | None) -> tuple[list[Recorded], bool]:
    """The last `count` events, oldest first; and whether earlier ones were left out."""
    found, cut = collect(source, replace(wanted, order="desc"), count)
    return found[::-1], cut


def sealed_before(source: Source, since_us: int | None) -> int:
    """The last event that was sealed away and may belong to a question that reaches back to `since_us`; 0: none."""
    first = source.page(EventFilter(limit=1))
    if not first or (since_us is not None and since_us >= first[0].time_us):
        return 0
    return first[0].seq - 1


def follow(source: Source, wanted: EventFilter, back: int | None) -> Iterator[Recorded]:
    """The last `back` events (None: all that are wanted), then each new one as it comes, without end.

    A daemon that goes away is waited for: its successor goes on in the same ledger.
    """
    seen = source.head()
    yield from (event for event in newest(source, wanted, back)[0] if event.seq <= seen)
    waiting = False
    while True:
        time.sleep(_POLL_S)
        try:
            # The cheap question first: a rare type must not cost a scan of everything since its last event each time.
            head = source.head()
            fresh = collect(source, replace(wanted, after=seen), None)[0] if head > seen else []
        except Failure as error:
            # A connection that breaks off while the daemon stops is no end either.
            if not waiting:
                note(f"{str(error).partition(';')[0]} any more; waiting for it to come back (Ctrl-C ends)")
            waiting = True
            continue
        waiting = False
        yield from fresh
        seen = max(head, seen, *(event.seq for event in fresh))
