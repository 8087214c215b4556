"""The schema's steps, for Alembic; `taskcenter.store.migrate` runs them."""
