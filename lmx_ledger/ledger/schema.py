"""The tables, lean: what repeats is interned, what can be derived is not stored.

A million events of served requests must stay under 320 bytes each, so type, boot, session, model, incident and
stream are numbers of the `name` table; a request is 16 bytes; an event's id is made of its time and hash; the
previous hash is the row before; a stream that repeats a column is a code (`own_stream`); and time has no index of
every event, but the first and last moment of each block of them (`span`), nor has the model (`span_model`).
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

REVISION: Final = "0003"
"""The newest migration; a test holds that it is Alembic's head."""
OLDEST: Final = "0002"
"""The first migration. What stood before it was never released, and its events are sealed in another form."""


class AnyValue(sa.types.UserDefinedType[bytes | str]):
    """SQLite's ANY: what is put in comes out as it was."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "ANY"


metadata: Final = MetaData()

name: Final = Table(
    "name",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("text", Text, nullable=False, unique=True),
    sqlite_strict=True,
)

event: Final = Table(
    "event",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("time_us", Integer, nullable=False),
    Column("boot", Integer, ForeignKey("name.id"), nullable=False),
    Column("type", Integer, ForeignKey("name.id"), nullable=False),
    Column("v", Integer, nullable=False),
    Column("severity", Integer, nullable=False),
    # No foreign key: the codes of `own_stream` are no names.
    Column("stream", Integer, nullable=False),
    Column("request", AnyValue),
    Column("session", Integer, ForeignKey("name.id")),
    Column("model", Integer, ForeignKey("name.id")),
    Column("incident", Integer, ForeignKey("name.id")),
    Column("cause", Integer),
    Column("data", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_strict=True,
)

span: Final = Table(
    "span",
    metadata,
    Column("block", Integer, primary_key=True),
    Column("first_us", Integer, nullable=False),
    Column("last_us", Integer, nullable=False),
    sqlite_strict=True,
)
"""Between which moments the events of seq // BLOCK were written. What is asked by time begins there: an index of every
moment would cost 19 bytes an event. It can be made again from the events, and `verify` compares it with them."""

span_model: Final = Table(
    "span_model",
    metadata,
    Column("model", Integer, ForeignKey("name.id"), primary_key=True),
    Column("block", Integer, primary_key=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""In which blocks a model has events. Nearly every event has one of a few models: an index of them all would cost a
tenth of an append."""

BLOCK: Final = 512

head: Final = Table(
    "head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("seq", Integer, nullable=False),
    sqlite_strict=True,
)
"""One row: the seq of the last group. At or below it nothing can be inserted, so nothing be replaced; a trigger that
asked the event table itself would cost a tenth of an append."""

OFTEN: Final = ("request.received", "request.admitted", "request.first_token", "request.finished")
"""Types that every request has. They are the first names, 1 to 4, and not worth an index: all others have one."""

segment: Final = Table(
    "segment",
    metadata,
    Column("first_seq", Integer, primary_key=True),
    Column("last_seq", Integer, nullable=False),
    Column("first_us", Integer, nullable=False),
    Column("last_us", Integer, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("file", Text, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("bytes", Integer, nullable=False),
    sqlite_strict=True,
)
"""What was sealed into files, see `segment.py`. Only events that a row covers can be deleted."""

Index("event_type", event.c.type, sqlite_where=event.c.type > len(OFTEN))
for _column in (event.c.request, event.c.session, event.c.incident, event.c.cause):
    Index(f"event_{_column.name}", _column, sqlite_where=_column.is_not(None))

STREAM_FIELDS: Final = ("request", "session", "model", "incident")
"""`request:<request>` and the like are stored as 0, -1, -2, -3; any other stream is a name (1 and up)."""


def own_stream(stream: str, values: tuple[str | None, ...]) -> int | None:
    """The code of a stream that only repeats one of the event's own `STREAM_FIELDS`; None for any other stream."""
    for place, field in enumerate(STREAM_FIELDS):
        value = values[place]
        if value is not None and stream == f"{field}:{value}":
            return -place
    return None


def own_stream_of(code: int, values: tuple[str | None, ...]) -> str:
    """The stream behind a code of `own_stream`.

    Raises:
        IndexError: there is no such code.
    """
    return f"{STREAM_FIELDS[-code]}:{values[-code]}"
