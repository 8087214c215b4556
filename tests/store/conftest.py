"""A migrated database on each store, and a store on it with one business."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.store.sqlite_kit import opened_file
from tests.store.store_kit import add_business, database_of, opened_store, own_shards, vault
from tests.store.unanswered import UnansweredDatabase
from trio.testing import MockClock

from taskcenter.store import migrate
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.sqlite import SqliteDatabase


@pytest.fixture
def passing_clock(mock_clock: MockClock) -> MockClock:
    """A clock that goes as the real one does, until the test turns it."""
    mock_clock.rate = 1
    return mock_clock


@pytest.fixture
def patient_clock(mock_clock: MockClock) -> MockClock:
    """A clock ten times slower than the servers': our time-outs wait for a server that the machine has stalled."""
    mock_clock.rate = 0.1
    return mock_clock


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


@pytest.fixture
async def unanswered(migrated_url: str) -> AsyncIterator[tuple[SqlStore, UnansweredDatabase]]:
    """A store with the business `shop`, and the database under it that can lose the answers to COMMIT."""
    database = UnansweredDatabase(database_of(open_store(migrated_url, vault())))
    store = SqlStore(database, vault())
    await store.open()
    try:
        await add_business(store)
        yield store, database
    finally:
        await store.aclose()


@pytest.fixture
async def two(migrated_url: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Two stores on one database, with the business `shop`; its shard is owned at term 1."""
    async with opened_store(migrated_url) as one:
        await add_business(one)
        await own_shards(one)
        if migrated_url.startswith("sqlite"):
            yield one, one
            return
        async with opened_store(migrated_url) as other:
            yield one, other


# --- the embedded database alone -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where an embedded database may be made."""
    return str(tmp_path / "taskcenter.db")


@pytest.fixture(params=[False, True], ids=["threads", "in_loop"])
async def database(request: pytest.FixtureRequest, path: str) -> AsyncIterator[SqliteDatabase]:
    """The embedded database, in threads and in the loop."""
    async with opened_file(path, in_loop=request.param) as made:
        yield made


@pytest.fixture
async def threaded(path: str) -> AsyncIterator[SqliteDatabase]:
    """The embedded database in threads, with little patience."""
    async with opened_file(path, read_timeout_s=0.5, busy_timeout_s=0.1, acquire_timeout_s=30) as made:
        yield made
