"""Alembic's entry: runs the chosen steps on the connection that `store.migrate` opened, locked and will commit."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
