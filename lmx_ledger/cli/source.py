"""Where events are read: from a daemon over HTTP, or from the ledger file where none answers; and how to follow."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, home_folder
from lmx_ledger.cli.display import harmless, note
from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter

if TYPE_CHECKING:
    from lmx_ledger.incident.bundle.opened import Opened
    from lmx_ledger.ledger.query import Reader

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


@dataclass(frozen=True, slots=True)
class Ground:
    """What is read where no daemon answers: a ledger's `file`, or the temporary one of a bundle."""

    file: Path
    reader: "Reader"
    bundle: "Opened | None" = None

    @property
    def now_us(self) -> int:
        """Up to when it tells: now, or the end of the bundle's time."""
        return utc_us() if self.bundle is None else self.bundle.manifest.until_us

    def distrusted(self) -> str | None:
        """Why it is not to be relied on, if it is not: the whole ledger is looked at, of a bundle what it says of that.

        Raises:
            StartupError: it cannot be read.
        """
        from lmx_ledger.incident.account import distrust  # noqa: PLC0415

        if self.bundle is None:
            return distrust(self.reader, walk=True)
        broken = self.bundle.manifest.broken_from
        return None if broken is None else f"the one behind this bundle is not as it was written from event {broken} on"


@contextmanager
def opened(connection: Connection, home: Path | None) -> "Iterator[Ground]":
    """The ledger file, read-only, because no daemon answers; a note says so.

    Raises:
        NoDaemon: there is none either.
        StartupError: it is no ledger.
    """
    from lmx_ledger.ledger.query import Reader  # noqa: PLC0415 - HTTP does without SQLAlchemy

    file = ledger_file(connection, home)
    reader = Reader.open(file)
    note_file(connection, file)
    try:
        yield Ground(file, reader)
    finally:
        reader.close()


@contextmanager
def opened_bundle(file: Path) -> "Iterator[Ground]":
    """A bundle, verified; a note says what it is.

    Raises:
        StartupError: it is none, or not as it was written.
        Failure: it holds what this program cannot make anything of.
    """
    from lmx_ledger.incident.bundle.opened import open_bundle  # noqa: PLC0415 - as above

    with open_bundle(file) as bundle:
        manifest = bundle.manifest
        cut = "; it has only the first of the incident's events" if manifest.cut else ""
        note(harmless(f"{file} verifies: {bundle.incident.id}, redacted, up to {manifest.until}{cut}"))
        try:
            yield Ground(bundle.ledger, bundle.reader, bundle)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # Its seal is right, so nobody altered it: somebody made it so.
            raise Failure(harmless(f"{file} holds what this lmx cannot read ({error!r}); is it as new?")) from None


def bundle_named(name: str) -> Path | None:
    """The file, where an incident is named by one: a bundle. What reads like an incident's id, or `last`, is that.

    `./NAME` is a file in any case, and so is what has a dot or a folder in it.
    """
    if name == "last" or _INCIDENT.fullmatch(name):
        return None
    file = Path(name)
    return file if file.exists() or _OF_FILE.search(name) else None


_INCIDENT: Final = re.compile(r"(inc_)?[0-9A-HJKMNP-TV-Z]{1,26}", re.ASCII | re.IGNORECASE)
_OF_FILE: Final = re.compile(r"[./\\]")


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
