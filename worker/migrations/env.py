"""Runs the ledger's migrations on the connection that `worker.ledger.migrate` hands over."""

from alembic import context

from worker.ledger_table import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,
)
context.run_migrations()
