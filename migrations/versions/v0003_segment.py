"""Sealed segments, and leave to delete what one of them has. The event table is not touched."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TRIGGERS = (
    ("event_no_delete", "DELETE ON event WHEN OLD.seq > (SELECT coalesce(max(last_seq), 0) FROM segment)"),
    ("segment_no_update", "UPDATE ON segment"),
    ("segment_no_delete", "DELETE ON segment"),
    (
        "segment_only_next",
        "INSERT ON segment WHEN NEW.first_seq <> (SELECT coalesce(max(last_seq), 0) FROM segment) + 1 "
        "OR NEW.last_seq < NEW.first_seq OR NEW.last_seq > (SELECT seq FROM head) "
        "OR NEW.last_hash IS NOT (SELECT hash FROM event WHERE seq = NEW.last_seq)",
    ),
)


def upgrade() -> None:
    op.create_table(
        "segment",
        sa.Column("first_seq", sa.Integer, primary_key=True),
        sa.Column("last_seq", sa.Integer, nullable=False),
        sa.Column("first_us", sa.Integer, nullable=False),
        sa.Column("last_us", sa.Integer, nullable=False),
        sa.Column("last_hash", sa.LargeBinary, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sqlite_strict=True,
    )
    op.execute("DROP TRIGGER event_no_delete")
    for trigger, act in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger} BEFORE {act} BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END")


def downgrade() -> None:
    raise NotImplementedError("a ledger only goes forward")
