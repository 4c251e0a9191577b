"""Runs the migrations on the connection that the ledger hands over; there is no other way to run them.

Quiet by intent: no logging is configured, because this runs inside the daemon's start.
"""

from alembic import context

from lmx_ledger.ledger.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("migrations run when the ledger is opened: lmx_ledger.ledger.store.migrate(path)")

# render_as_batch stays off: a batch copies the table, and the event table must never be copied.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=False)
with context.begin_transaction():
    context.run_migrations()
