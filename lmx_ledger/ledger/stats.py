"""Counts and sizes of a ledger."""

from contextlib import closing
from pathlib import Path

import msgspec

from lmx_ledger.ledger.chain import GENESIS
from lmx_ledger.ledger.segment import segments_of
from lmx_ledger.ledger.store import connect_to_read


class TypeStats(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one type in the database, and the bytes of their data."""

    type: str
    events: int
    data_bytes: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Of the whole ledger; `types` are of the database alone, the most frequent first. Hashes in hexadecimal."""

    events: int
    sealed_events: int
    bytes: int
    free_bytes: int
    segments: int
    sealed_bytes: int
    first_us: int | None
    last_us: int | None
    head_seq: int
    head_hash: str
    types: list[TypeStats]


def stats_of(ledger: Path) -> Stats:
    """Read in one snapshot.

    Raises:
        LedgerError: there is no ledger, or none of this program's schema.
    """
    with closing(connect_to_read(ledger)) as connection:
        connection.execute("BEGIN")
        segments = segments_of(connection)
        page, pages, free = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        first_us, last_us = connection.execute("SELECT min(first_us), max(last_us) FROM span").fetchone()
        seq, digest = connection.execute("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1").fetchone() or (
            0,
            GENESIS,
        )
        types = connection.execute(
            "SELECT n.text, count(*), sum(length(CAST(e.data AS BLOB))) FROM event e JOIN name n ON n.id = e.type "
            "GROUP BY e.type ORDER BY 2 DESC, 1"
        ).fetchall()
    return Stats(
        events=seq,
        sealed_events=segments[-1].last_seq if segments else 0,
        bytes=page * pages,
        free_bytes=page * free,
        segments=len(segments),
        sealed_bytes=sum(segment.bytes for segment in segments),
        first_us=min([first_us or segments[0].first_us, segments[0].first_us]) if segments else first_us,
        last_us=last_us,
        head_seq=seq,
        head_hash=digest.hex(),
        types=[TypeStats(type=text, events=count, data_bytes=size) for text, count, size in types],
    )
