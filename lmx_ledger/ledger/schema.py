"""The tables, lean: what repeats is interned, what can be derived is not stored.

A million events of served requests must stay under 320 bytes each, so type, boot, model and stream are numbers of
the `name` table; the previous hash is the row before; and a stream that repeats a column is a code (`own_stream`).
"""

from typing import Final

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

REVISION: Final = "0001"
"""The newest migration; a test holds that it is Alembic's head."""

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
    Column("id", Text, nullable=False),
    Column("time_us", Integer, nullable=False),
    Column("boot", Integer, ForeignKey("name.id"), nullable=False),
    Column("type", Integer, ForeignKey("name.id"), nullable=False),
    Column("v", Integer, nullable=False),
    Column("severity", Integer, nullable=False),
    # No foreign key: the codes of `own_stream` are no names.
    Column("stream", Integer, nullable=False),
    Column("request", Text),
    Column("session", Text),
    Column("model", Integer, ForeignKey("name.id")),
    Column("incident", Text),
    Column("cause", Integer),
    Column("data", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_strict=True,
)

Index("event_time", event.c.time_us)
Index("event_type", event.c.type)
for _column in (event.c.request, event.c.session, event.c.model, event.c.incident, event.c.cause):
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


def stream_of(code: int, values: tuple[str | None, ...], names: dict[int, str]) -> str:
    """The stream behind a stored number.

    Raises:
        KeyError: there is no such name.
    """
    return names[code] if code > 0 else f"{STREAM_FIELDS[-code]}:{values[-code]}"
