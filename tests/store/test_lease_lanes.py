"""On a server: what holds a shard's or an instance's row holds up no heartbeat, and every session is a short one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import eventually, lock_waits
from tests.store.store_kit import SHARD, database_of, opened_store, own_shards

from taskcenter.store import migrate
from taskcenter.store.connection import Connection, LockConflict
from taskcenter.store.sql_store import SqlStore

SESSION = {
    "isolation": "READ-COMMITTED", "innodb_lock_wait_timeout": 3, "wait_timeout": 10, "time_zone": "+00:00",
    "autocommit": 1,
}  # fmt: skip


@pytest.fixture(params=["mariadb", "mysql"])
def server(request: pytest.FixtureRequest) -> PrivateServer:
    found: PrivateServer = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
async def store(server: PrivateServer) -> AsyncIterator[SqlStore]:
    url = server.create_database()
    migrate.up(url)
    async with opened_store(url) as opened:
        yield opened


async def session_of(connection: Connection) -> dict[str, object]:
    """What RELIABILITY.md §2 asks of every session."""
    isolation = "transaction_isolation" if (await is_mysql(connection)) else "tx_isolation"
    names = [isolation, "innodb_lock_wait_timeout", "wait_timeout", "time_zone", "autocommit", "sql_mode"]
    row = await connection.fetch_one("SELECT " + ", ".join(f"@@SESSION.{name}" for name in names))
    assert row is not None
    seen = dict(zip(["isolation", *names[1:]], row, strict=True))
    assert "STRICT_TRANS_TABLES" in str(seen.pop("sql_mode"))
    return seen


async def is_mysql(connection: Connection) -> bool:
    row = await connection.fetch_one("SELECT VERSION()")
    assert row is not None
    return "MariaDB" not in row[0]


async def test_every_session_frees_its_locks_soon(store: SqlStore) -> None:
    """The API's too: a frozen create holds its business's counters, which every outcome and recovery needs."""
    database = database_of(store)
    for lane in (database, await database.lane("heart")):
        assert await lane.read(session_of) == SESSION


async def test_an_update_that_changes_nothing_still_tells_what_it_found(store: SqlStore) -> None:
    """FOUND_ROWS: a guarded UPDATE that is repeated has matched, not missed."""
    await own_shards(store)

    async def same(connection: Connection) -> int:
        return await connection.execute("UPDATE shards SET term = term WHERE shard = ?", (SHARD,))

    assert await database_of(store).write(same) == 1


async def test_a_heart_beats_while_a_burial_or_a_takeover_waits_for_a_row(server: PrivateServer) -> None:
    url = server.create_database()
    migrate.up(url)
    async with opened_store(url) as mine, opened_store(url) as frozen:
        for name in ("me", "frozen"):
            await mine.leases.register(
                name, address=None, host_identity=name, ttl_ms=-1 if name == "frozen" else 60_000
            )
        held, release = trio.Event(), trio.Event()

        async def hold(connection: Connection) -> None:
            await connection.execute("UPDATE instances SET seq = seq + 1 WHERE id = 'frozen'")
            held.set()
            await release.wait()

        ended: list[str] = []

        async def reaped() -> bool:
            try:
                assert await mine.leases.reap([]) == ["frozen"]
            except LockConflict:
                return False
            return True

        async def bury() -> None:
            while not await reaped():  # a row waited for in vain is not waited for again by itself
                pass
            ended.append("burial")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database_of(frozen).write, hold)
            await held.wait()
            nursery.start_soon(bury)
            await eventually(lambda: lock_waits(server))
            for _ in range(5):
                assert await mine.leases.heartbeat("me", ttl_ms=60_000) is not None
                ended.append("beat")
            release.set()
        assert ended == ["beat"] * 5 + ["burial"]
