"""The server is killed, frozen, full, slow or told to hang up: 503 at once, and normal again without a restart of
ours.
"""

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
    running,
    scalar,
    sessions,
    waiting_in_vain,
)
from trio.testing import MockClock

from taskcenter.errors import CommitUnknown, StoreUnavailable
from taskcenter.store.connection import Connection, DuplicateKey, StoreFault
from taskcenter.store.mysql import MysqlDatabase

TOO_LONG_S = 30.0  # for a statement that nobody will answer


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
        self.failures: list[str] = []  # what each failed call was told

    async def run(self, stop: trio.Event) -> None:
        serial = 0
        while not stop.is_set():
            serial += 1
            await self.insert(b"%d-%d" % (self.number, serial), stop)

    async def insert(self, code: bytes, stop: trio.Event) -> None:
        while not stop.is_set():
            try:
                await change(self.database, "INSERT INTO item (code, number) VALUES (?, 1)", (code,))
            except DuplicateKey:
                pass  # an earlier try, whose answer was lost, had landed
            except StoreUnavailable as error:
                self.failures.append(str(error))
                await trio.sleep(0.03)
                continue
            self.acknowledged.append(code)
            return


async def all_go_on(writers: list[Writer], *, by: int = 1) -> None:
    """Wait until each of them has written so many rows more."""
    before = [len(writer.acknowledged) for writer in writers]
    await eventually(lambda: all(len(w.acknowledged) >= n + by for w, n in zip(writers, before, strict=True)))


async def all_fail(writers: list[Writer], *, times: int = 1) -> None:
    """Wait until so many calls more of each have failed. Whoever waits for his answer from the dead comes too late."""
    before = [len(writer.failures) for writer in writers]
    await eventually(
        lambda: all(len(w.failures) >= n + times for w, n in zip(writers, before, strict=True)), TOO_LONG_S / 2
    )


@pytest.mark.real_time
async def test_killed_three_times_under_load(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=4, statement_timeout_s=TOO_LONG_S) as database:
        lane = await database.lane("committer")
        writers = [Writer(database, 0), Writer(database, 1), Writer(database, 2), Writer(lane, 3)]
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for writer in writers:
                nursery.start_soon(writer.run, stop)
            for _ in range(3):
                await all_go_on(writers, by=5)
                await trio.to_thread.run_sync(server.kill)
                await all_fail(writers)
                await trio.to_thread.run_sync(server.start)
                await all_go_on(writers)
            stop.set()
        acknowledged = {code for writer in writers for code in writer.acknowledged}
        stored = {row[0] for row in await fetch(database, "SELECT code FROM item")}
        assert acknowledged <= stored
        assert len(stored - acknowledged) <= len(writers)  # each one's last, cut off by the end of the test
        assert database.statistics().in_use == 0


@pytest.mark.real_time
async def test_frozen_and_thawed(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=4, statement_timeout_s=TOO_LONG_S) as database:
        writers = [Writer(database, number) for number in range(6)]
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for writer in writers:
                nursery.start_soon(writer.run, stop)
            await all_go_on(writers, by=5)
            server.stop_signal()
            await all_fail(writers, times=20)
            server.cont()
            await all_go_on(writers)
            stop.set()
        told = [failure for writer in writers for failure in writer.failures]
        at_once = sum("a moment ago" in failure for failure in told)
        assert at_once > len(told) * 2 / 3  # the others waited for an answer, in line, or looked again for all
        stored = {row[0] for row in await fetch(database, "SELECT code FROM item")}
        assert {code for writer in writers for code in writer.acknowledged} <= stored
        statistics = database.statistics()
        assert (statistics.in_use, statistics.waiting) == (0, 0)


async def test_a_frozen_server_is_told_from_a_slow_statement(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    async with opened_mysql(url, pool_size=4, statement_timeout_s=8.0) as database:
        seconds: list[float] = []

        async def ask_slowly() -> None:
            assert await scalar(database, "SELECT SLEEP(1.8)") == 0, "the server speaks: it may take its time"

        async def ask() -> None:
            began = trio.current_time()
            assert await kind_of(database, "SELECT 1") == "timeout"
            seconds.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_slowly)
            await eventually(lambda: running(server))
            mock_clock.jump(1.3)  # time to look whether it speaks; the clock stands still for as long as that takes
        server.stop_signal()
        try:
            with waiting_in_vain(mock_clock):
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(ask)
        finally:
            server.cont()
        assert max(seconds) < 2, "1.7 s, and never the statement's 8 s"
        mock_clock.rate = 1
        await eventually_here(lambda: can(database))


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


async def test_an_interrupted_statement_is_the_servers_doing(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    async with opened_mysql(url, statement_timeout_s=TOO_LONG_S) as database, trio.open_nursery() as nursery:
        session = await scalar(database, "SELECT CONNECTION_ID()")

        async def interrupt() -> None:
            await eventually(lambda: session in running(server))
            await trio.to_thread.run_sync(server.execute, f"KILL QUERY {session}")

        nursery.start_soon(interrupt)
        assert await kind_of(database, HEAVY) == "server"


HEAVY = (
    "SELECT COUNT(*) FROM information_schema.collations a, information_schema.collations b,"
    " information_schema.collations c, information_schema.collations d WHERE a.id + b.id + c.id + d.id = -1"
)


@pytest.mark.real_time
async def test_a_slow_statement_is_stopped_by_the_server_before_we_give_up(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    mock_clock.rate = 0.05  # the server's own clock goes as ever: it has 20 s to stop what may take 0.9 s
    async with opened_mysql(url, statement_timeout_s=1.0) as database:
        began = trio.current_time()
        assert await kind_of(database, HEAVY) == "timeout"
        assert trio.current_time() - began < 0.9, "it was not we who gave up"
        assert running(server) == []
        assert await scalar(database, "SELECT 1") == 1


async def test_no_connection_left_on_the_server(server: PrivateServer, url: str) -> None:
    await eventually(lambda: sessions(server) == 0)  # what came before is over for the server too
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
