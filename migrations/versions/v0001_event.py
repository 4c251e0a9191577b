"""The event table, its names, and the triggers that make it append-only."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# RAISE(ABORT) holds against OR REPLACE and OR IGNORE too. The insert trigger stops INSERT OR REPLACE by itself: the
# implicit delete fires no trigger on a connection without recursive_triggers.
_TRIGGERS = (
    ("event_no_update", "UPDATE ON event"),
    ("event_no_delete", "DELETE ON event"),
    ("event_only_next", "INSERT ON event WHEN NEW.seq <= (SELECT coalesce(max(seq), 0) FROM event)"),
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
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("time_us", sa.Integer, nullable=False),
        sa.Column("boot", sa.Integer, sa.ForeignKey("name.id"), nullable=False),
        sa.Column("type", sa.Integer, sa.ForeignKey("name.id"), nullable=False),
        sa.Column("v", sa.Integer, nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        sa.Column("stream", sa.Integer, nullable=False),
        sa.Column("request", sa.Text),
        sa.Column("session", sa.Text),
        sa.Column("model", sa.Integer, sa.ForeignKey("name.id")),
        sa.Column("incident", sa.Text),
        sa.Column("cause", sa.Integer),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("event_time", "event", ["time_us"])
    op.create_index("event_type", "event", ["type"])
    for column in ("request", "session", "model", "incident", "cause"):
        op.create_index(f"event_{column}", "event", [column], sqlite_where=sa.text(f"{column} IS NOT NULL"))
    for trigger, act in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger} BEFORE {act} BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END")


def downgrade() -> None:
    raise NotImplementedError("a ledger only goes forward")
