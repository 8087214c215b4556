"""The server is killed, frozen, full, slow or told to hang up: 503 at once, and normal again without a restart of
ours.
"""

import time
from collections.abc import Iterator
from random import Random

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import (
    by_hand,
    change,
    database_on,
    eventually,
    eventually_here,
    fetch,
    mysql_url,
    opened_mysql,
    opened_wire,
    scalar,
)

from taskcenter.errors import CommitUnknown, StoreUnavailable
from taskcenter.store.connection import Connection, DuplicateKey, StoreFault
from taskcenter.store.mysql import MysqlDatabase


@pytest.fixture(params=["mariadb", "mysql"])
def server(
    request: pytest.FixtureRequest, mariadb_server: PrivateServer, mysql_server: PrivateServer
) -> Iterator[PrivateServer]:
    server = mariadb_server if request.param == "mariadb" else mysql_server
    server.ensure_running()
    yield server
    server.ensure_running()


@pytest.fixture
def url(server: PrivateServer) -> Iterator[str]:
    with database_on(server) as url:
        yield url


async def kind_of(database: MysqlDatabase, sql: str) -> str:
    with pytest.raises(StoreFault) as caught:
        await fetch(database, sql)
    return caught.value.kind


class Writer:
    """Inserts its own numbers one by one, repeating each until it is sure of it; keeps what was acknowledged."""

    def __init__(self, database: MysqlDatabase, number: int) -> None:
        self.database = database
        self.number = number
        self.acknowledged: list[bytes] = []
        self.failures: list[float] = []  # how long each failed call took, in s

    async def run(self, stop: trio.Event) -> None:
        serial = 0
        while not stop.is_set():
            serial += 1
            await self.insert(b"%d-%d" % (self.number, serial), stop)

    async def insert(self, code: bytes, stop: trio.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                await change(self.database, "INSERT INTO item (code, number) VALUES (?, 1)", (code,))
            except DuplicateKey:
                pass  # an earlier try, whose answer was lost, had landed
            except StoreUnavailable:
                self.failures.append(time.monotonic() - began)
                await trio.sleep(0.03)
                continue
            self.acknowledged.append(code)
            return


def all_went_on(writers: list[Writer], before: list[int]) -> bool:
    return all(len(writer.acknowledged) > count for writer, count in zip(writers, before, strict=True))


@pytest.mark.real_time
async def test_killed_three_times_under_load(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=4) as database:
        lane = await database.lane("committer")
        writers = [Writer(database, 0), Writer(database, 1), Writer(database, 2), Writer(lane, 3)]
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for writer in writers:
                nursery.start_soon(writer.run, stop)
            for _ in range(3):
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(server.kill)
                await trio.sleep(0.3)
                before = [len(writer.acknowledged) for writer in writers]
                await trio.to_thread.run_sync(server.start)
                await eventually(lambda before=before: all_went_on(writers, before), 10)  # type: ignore[misc]  # bound now
            stop.set()
        acknowledged = {code for writer in writers for code in writer.acknowledged}
        stored = {row[0] for row in await fetch(database, "SELECT code FROM item")}
        assert len(acknowledged) > 50
        assert acknowledged <= stored
        assert len(stored - acknowledged) <= len(writers)  # each one's last, cut off by the end of the test
        assert max(duration for writer in writers for duration in writer.failures) < 3
        assert database.statistics().in_use == 0


@pytest.mark.real_time
async def test_frozen_and_thawed(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=4, statement_timeout_s=2.0) as database:
        writers = [Writer(database, number) for number in range(6)]
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for writer in writers:
                nursery.start_soon(writer.run, stop)
            await trio.sleep(0.3)
            server.stop_signal()
            await trio.sleep(4)
            server.cont()
            began = time.monotonic()
            before = [len(writer.acknowledged) for writer in writers]
            await eventually(lambda: all_went_on(writers, before), 10)
            assert time.monotonic() - began < 5
            stop.set()
        durations = sorted(duration for writer in writers for duration in writer.failures)
        assert durations[-1] < 2 + 1.8 + 0.5  # what was on its way, after waiting in line
        assert sum(duration > 0.1 for duration in durations) < len(durations) / 3  # the rest are told at once
        stored = {row[0] for row in await fetch(database, "SELECT code FROM item")}
        assert {code for writer in writers for code in writer.acknowledged} <= stored
        statistics = database.statistics()
        assert (statistics.in_use, statistics.waiting) == (0, 0)


@pytest.mark.real_time
async def test_a_frozen_server_is_told_from_a_slow_statement(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=4, statement_timeout_s=8.0) as database:
        assert await scalar(database, "SELECT SLEEP(1.8)") == 0, "the server speaks: the statement may take its time"
        seconds: list[float] = []

        async def ask() -> None:
            began = time.monotonic()
            assert await kind_of(database, "SELECT 1") == "timeout"
            seconds.append(time.monotonic() - began)

        server.stop_signal()
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(ask)
        finally:
            server.cont()
        assert max(seconds) < 4, "1.7 s and some room, but never the statement's 8 s"
        await eventually_here(lambda: can(database), 10)


async def can(database: MysqlDatabase) -> bool:
    try:
        return bool(await scalar(database, "SELECT 1"))
    except StoreUnavailable:
        return False


async def test_a_killed_session_costs_one_block(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=1) as database:

        async def work(connection: Connection) -> None:
            row = await connection.fetch_one("SELECT CONNECTION_ID()")
            assert row is not None
            await connection.execute("INSERT INTO item (word) VALUES ('a')")
            await trio.to_thread.run_sync(server.execute, f"KILL {row[0]}")
            await connection.execute("INSERT INTO item (word) VALUES ('b')")

        with pytest.raises(StoreFault) as caught:
            await database.write(work)
        assert caught.value.kind in ("lost", "server")
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 0


async def test_an_interrupted_statement_is_the_servers_doing(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url) as database, trio.open_nursery() as nursery:
        session = await scalar(database, "SELECT CONNECTION_ID()")

        async def interrupt() -> None:
            await trio.sleep(0.2)
            await trio.to_thread.run_sync(server.execute, f"KILL QUERY {session}")

        nursery.start_soon(interrupt)
        assert await kind_of(database, HEAVY) == "server"


HEAVY = (
    "SELECT COUNT(*) FROM information_schema.collations a, information_schema.collations b,"
    " information_schema.collations c, information_schema.collations d WHERE a.id + b.id + c.id + d.id = -1"
)


@pytest.mark.real_time
async def test_a_slow_statement_is_stopped_by_the_server_before_we_give_up(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, statement_timeout_s=1.0) as database:
        began = time.monotonic()
        assert await kind_of(database, HEAVY) == "timeout"
        assert time.monotonic() - began < 1.5
        busy = [row for row in server.execute("SHOW PROCESSLIST") if row[1] == server.user and row[4] == "Query"]
        assert busy == []
        assert await scalar(database, "SELECT 1") == 1


async def test_no_connection_left_on_the_server(server: PrivateServer, url: str) -> None:
    server.execute(f"ALTER USER {server.user}@'%%' WITH MAX_USER_CONNECTIONS 2")
    try:
        async with opened_wire(url), opened_wire(url):
            database = MysqlDatabase(mysql_url(url))
            with pytest.raises(StoreFault) as caught:
                await database.open()
            assert caught.value.kind == "full"
            await database.aclose()
    finally:
        server.execute(f"ALTER USER {server.user}@'%%' WITH MAX_USER_CONNECTIONS 0")


async def test_a_full_table_is_full(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url) as database:
        await trio.to_thread.run_sync(_make_small_table, url)
        with pytest.raises(StoreFault) as caught:
            await database.write(lambda c: c.insert_many("INSERT INTO small (a) VALUES (?)", [("x" * 200,)] * 20_000))
        assert caught.value.kind == "full"
        assert await change(database, "INSERT INTO item (word) VALUES ('a')") == 1


def _make_small_table(url: str) -> None:
    by_hand(url, "CREATE TABLE small (a VARCHAR(200)) ENGINE=MEMORY MAX_ROWS=100")


async def test_a_repeat_after_commit_unknown_is_left_to_the_caller(url: str) -> None:
    async with opened_mysql(url, rng=Random(1)) as database:
        runs = 0

        async def work(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            raise CommitUnknown("as a lost COMMIT would")

        with pytest.raises(CommitUnknown):
            await database.write(work, attempts=5)
        assert runs == 1
