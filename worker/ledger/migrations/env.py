"""Runs the migrations on the connection that `worker.ledger.database.migrate` hands over."""

from alembic import context

from worker.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,
)
context.run_migrations()
