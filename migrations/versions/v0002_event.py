"""The event table, its names, and the triggers that make it append-only."""

import sqlalchemy as sa
from alembic import op

from lmx_ledger.ledger.schema import AnyValue

revision = "0002"
down_revision = None
branch_labels = None
depends_on = None

_OFTEN = ("request.received", "request.admitted", "request.first_token", "request.finished")

# RAISE(ABORT) holds against OR REPLACE and OR IGNORE too. The insert triggers stop INSERT OR REPLACE by themselves: the
# implicit delete fires no trigger on a connection without recursive_triggers. On events it comes after the insert, for
# half the cost; the statement is undone all the same.
_TRIGGERS = (
    ("event_no_update", "UPDATE ON event"),
    ("event_no_delete", "DELETE ON event"),
    ("event_only_next", "INSERT ON event WHEN NEW.seq <= (SELECT seq FROM head)"),
    ("head_only_on", "UPDATE ON head WHEN NEW.id <> 1 OR NEW.seq <= OLD.seq"),
    ("head_no_delete", "DELETE ON head"),
    ("head_no_insert", "INSERT ON head"),
    ("name_no_update", "UPDATE ON name"),
    ("name_no_delete", "DELETE ON name"),
    ("name_only_new", "INSERT ON name WHEN EXISTS (SELECT 1 FROM name WHERE id = NEW.id OR text = NEW.text)"),
)


def upgrade() -> None:
    op.create_table(
        "name",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False, unique=True),
        sqlite_strict=True,
    )
    op.create_table(
        "event",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("time_us", sa.Integer, nullable=False),
        sa.Column("boot", sa.Integer, sa.ForeignKey("name.id"), nullable=False),
        sa.Column("type", sa.Integer, sa.ForeignKey("name.id"), nullable=False),
        sa.Column("v", sa.Integer, nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        sa.Column("stream", sa.Integer, nullable=False),
        sa.Column("request", AnyValue),
        sa.Column("session", sa.Integer, sa.ForeignKey("name.id")),
        sa.Column("model", sa.Integer, sa.ForeignKey("name.id")),
        sa.Column("incident", sa.Integer, sa.ForeignKey("name.id")),
        sa.Column("cause", sa.Integer),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "span",
        sa.Column("block", sa.Integer, primary_key=True),
        sa.Column("first_us", sa.Integer, nullable=False),
        sa.Column("last_us", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "span_model",
        sa.Column("model", sa.Integer, sa.ForeignKey("name.id"), primary_key=True),
        sa.Column("block", sa.Integer, primary_key=True),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "head",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
    op.execute("INSERT INTO head VALUES (1, 0)")
    op.bulk_insert(
        sa.table("name", sa.column("id"), sa.column("text")),
        [{"id": number, "text": text} for number, text in enumerate(_OFTEN, 1)],
    )
    op.create_index("event_type", "event", ["type"], sqlite_where=sa.text(f"type > {len(_OFTEN)}"))
    for column in ("request", "session", "incident", "cause"):
        op.create_index(f"event_{column}", "event", [column], sqlite_where=sa.text(f"{column} IS NOT NULL"))
    for trigger, act in _TRIGGERS:
        when = "AFTER" if trigger == "event_only_next" else "BEFORE"
        op.execute(f"CREATE TRIGGER {trigger} {when} {act} BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END")


def downgrade() -> None:
    raise NotImplementedError("a ledger only goes forward")
