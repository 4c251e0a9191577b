"""Some events of a ledger as a file of their own that `Reader` reads, each with the seq that it has there."""

from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.append import Names, store
from lmx_ledger.ledger.event_id import digest_of, request_key
from lmx_ledger.ledger.schema import own_stream
from lmx_ledger.ledger.store import connect, migrate

_AT_ONCE: Final = 2_000


def write_excerpt(path: Path, events: Iterable[Recorded]) -> None:
    """Make the file of these events, in ascending order of their seqs; there may be gaps.

    What `Reader` gives back is what was put in, ids included. It is no chain: what stood between them is not there, so
    neither `verify` nor `broken_in` say anything of such a file.

    Raises:
        ValueError: seqs do not ascend, an event's id is none, or a number is beyond 64 bits.
        LedgerError, sqlite3.Error: the file cannot be made or written.
    """
    migrate(path)
    with closing(connect(path, "NORMAL")) as connection:
        names, coming, last = Names(), iter(events), 0
        connection.execute("BEGIN IMMEDIATE")
        while some := list(islice(coming, _AT_ONCE)):
            names.begin(connection)
            rows = [_row(event, names) for event in some]
            for row in rows:
                if row[0] <= last:
                    raise ValueError(f"event {row[0]} comes behind event {last}")
                last = row[0]
            try:
                store(connection, names, rows)
            except OverflowError as error:
                raise ValueError(f"a number is beyond 64 bits ({error})") from None
            names.committed()
        connection.execute("COMMIT")


def _row(event: Recorded, names: Names) -> tuple[Any, ...]:
    own = own_stream(event.stream, (event.request, event.session, event.model, event.incident))
    return (
        event.seq,
        event.time_us,
        names[event.boot],
        names[event.type],
        event.v,
        int(event.severity),
        names[event.stream] if own is None else own,
        None if event.request is None else request_key(event.request),
        None if event.session is None else names[event.session],
        None if event.model is None else names[event.model],
        None if event.incident is None else names[event.incident],
        event.cause,
        msgspec.json.encode(event.data).decode(),
        digest_of(event.id),
    )
