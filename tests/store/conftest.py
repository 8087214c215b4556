"""A migrated database on each store, and a store on it with one business."""

from collections.abc import AsyncIterator

import pytest
from tests.store.store_kit import add_business, opened_store

from taskcenter.store import migrate
from taskcenter.store.sql_store import SqlStore


@pytest.fixture
def migrated_url(database_url: str) -> str:
    """URL of a database with this release's schema."""
    migrate.up(database_url)
    return database_url


@pytest.fixture
async def bare_store(migrated_url: str) -> AsyncIterator[SqlStore]:
    """An open store, empty."""
    async with opened_store(migrated_url) as store:
        yield store


@pytest.fixture
async def store(bare_store: SqlStore) -> SqlStore:
    """An open store with the business `shop`."""
    await add_business(bare_store)
    return bare_store
