"""A cancellation at any await leaves no open transaction, no half packet and no lost place (RELIABILITY.md §1.4, row
15).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from random import Random

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import (
    IDLE_S,
    by_hand,
    change,
    database_on,
    descriptors,
    eventually,
    fetch,
    fetching,
    lock_waits,
    opened_mysql,
    scalar,
    sessions,
    waiting_in_vain,
)
from tests.store.fault_proxy import FaultProxy, open_proxy
from trio.testing import MockClock, wait_all_tasks_blocked

from taskcenter.errors import Conflict, StoreUnavailable
from taskcenter.store.connection import Connection
from taskcenter.store.mysql import MysqlDatabase

INSERT = "INSERT INTO item (code, number) VALUES (?, ?)"


@pytest.fixture(params=["mariadb", "mysql"])
def server(request: pytest.FixtureRequest, mariadb_server: PrivateServer, mysql_server: PrivateServer) -> PrivateServer:
    server = mariadb_server if request.param == "mariadb" else mysql_server
    server.ensure_running()
    return server


@pytest.fixture(params=["disabled", "required"], ids=["plain", "tls"])
def url(request: pytest.FixtureRequest, server: PrivateServer) -> Iterator[str]:
    with database_on(server) as url:
        yield f"{url}?ssl-mode={request.param}"


@asynccontextmanager
async def behind_proxy(server: PrivateServer, url: str) -> AsyncIterator[tuple[MysqlDatabase, FaultProxy]]:
    async with open_proxy(server.host, server.port) as proxy, opened_mysql(proxy.url(url), pool_size=1) as database:
        yield database, proxy


def open_transactions(server: PrivateServer) -> int:
    return int(server.execute("SELECT COUNT(*) FROM information_schema.innodb_trx")[0][0])


async def settled(server: PrivateServer) -> None:
    """Wait until the server has no transaction open."""
    await eventually(lambda: not open_transactions(server))


async def nothing_is_left(server: PrivateServer, url: str, database: MysqlDatabase) -> None:
    """The next user of the pool commits for himself alone; nothing of the cancelled block is there."""
    await settled(server)
    assert database.statistics().in_use == 0
    assert await change(database, INSERT, (b"next", 1)) == 1
    await settled(server)
    seen = await trio.to_thread.run_sync(by_hand, url, "SELECT code FROM item ORDER BY id")
    assert seen == [(b"next",)]


async def cancelled_at(
    reached: trio.Event, run: Callable[[], Awaitable[object]], clock: MockClock | None = None
) -> None:
    """Cancel `run` where it stands when `reached` is set. With a `clock` it waits there for what does not come."""
    with ExitStack() as afterwards, trio.CancelScope() as scope:

        async def cancel() -> None:
            await reached.wait()
            await wait_all_tasks_blocked(IDLE_S)
            if clock is not None:
                afterwards.enter_context(waiting_in_vain(clock))
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await run()
    assert scope.cancelled_caught


async def test_while_connecting(server: PrivateServer, url: str, passing_clock: MockClock) -> None:
    async with behind_proxy(server, url) as (database, proxy):
        for cut in (10, 100):
            proxy.reset_all()
            await wait_all_tasks_blocked(IDLE_S)
            proxy.cut_after(cut)
            with pytest.raises(StoreUnavailable):
                await change(database, INSERT, (b"cut", 1))
            proxy.clear()
            passing_clock.jump(1.01)  # the pool's pause after a failed login
        proxy.black_hole("down")
        await cancelled_at(proxy.held, lambda: change(database, INSERT, (b"cancelled", 1)), passing_clock)
        proxy.clear()
        await nothing_is_left(server, url, database)


async def test_while_sending_half_a_statement(server: PrivateServer, url: str, passing_clock: MockClock) -> None:
    async with behind_proxy(server, url) as (database, proxy):
        proxy.black_hole("up")

        async def work(connection: Connection) -> None:
            await connection.execute(INSERT, (b"cancelled", 1))

        await cancelled_at(proxy.held, lambda: database.write(work), passing_clock)  # in BEGIN
        proxy.clear()
        big = b"x" * 3_000_000

        async def send_big(connection: Connection) -> None:
            await connection.execute(INSERT, (b"cancelled", 1))
            proxy.black_hole("up")
            await connection.execute("UPDATE item SET raw = ?", (big,))

        await cancelled_at(proxy.held, lambda: database.write(send_big), passing_clock)
        proxy.clear()
        await nothing_is_left(server, url, database)
        assert database.statistics().discarded_total == 2


async def test_while_waiting_for_an_answer(server: PrivateServer, url: str, passing_clock: MockClock) -> None:
    async with behind_proxy(server, url) as (database, proxy):

        async def work(connection: Connection) -> None:
            await connection.execute(INSERT, (b"cancelled", 1))
            proxy.black_hole("down")
            await connection.execute(INSERT, (b"cancelled too", 1))

        await cancelled_at(proxy.held, lambda: database.write(work), passing_clock)
        proxy.clear()
        await nothing_is_left(server, url, database)


async def test_in_the_block_between_statements(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=1) as database:
        reached = trio.Event()

        async def work(connection: Connection) -> None:
            await connection.execute(INSERT, (b"cancelled", 1))
            reached.set()
            await trio.sleep_forever()

        await cancelled_at(reached, lambda: database.write(work))
        await nothing_is_left(server, url, database)
        assert database.statistics().discarded_total == 0


async def test_while_a_lock_is_waited_for(server: PrivateServer, url: str) -> None:
    """The server goes on waiting for the lock, at most 3 s; then it sees that we have gone."""
    async with opened_mysql(url, pool_size=2) as database:
        waits = trio.Event()
        await change(database, INSERT, (b"row", 1))

        async def holder(connection: Connection) -> None:
            await connection.execute("UPDATE item SET number = 2")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell_when_it_waits)
                await cancelled_at(waits, lambda: change(database, "UPDATE item SET number = 3"))

        async def tell_when_it_waits() -> None:
            await eventually(lambda: lock_waits(server))
            waits.set()

        await database.write(holder)
        await settled(server)
        assert await fetch(database, "SELECT number FROM item") == [(2,)]


async def test_in_commit(server: PrivateServer, url: str, passing_clock: MockClock) -> None:
    """Held off for half a second; a COMMIT that takes longer is given up, and is there or is not, as a whole."""
    async with behind_proxy(server, url) as (database, proxy):
        held_at = 0.0

        async def work(connection: Connection) -> None:
            nonlocal held_at
            await connection.execute(INSERT, (b"a", 1))
            await connection.execute(INSERT, (b"b", 1))
            proxy.black_hole("down")
            passing_clock.rate = 0
            held_at = trio.current_time()

        await cancelled_at(proxy.held, lambda: database.write(work), passing_clock)
        assert trio.current_time() - held_at == pytest.approx(0.5)
        proxy.clear()
        await settled(server)
        assert await scalar(database, "SELECT COUNT(*) FROM item") in (0, 2)


async def test_a_quick_commit_is_not_lost_to_a_cancellation(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=1) as database:
        with trio.CancelScope() as scope:

            async def work(connection: Connection) -> str:
                await connection.execute(INSERT, (b"a", 1))
                scope.cancel()
                return "committed"

            result = await database.write(work)
        assert result == "committed"
        assert scope.cancel_called
        assert database.statistics().discarded_total == 0
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 1


async def test_in_rollback(server: PrivateServer, url: str, passing_clock: MockClock) -> None:
    async with behind_proxy(server, url) as (database, proxy):

        async def work(connection: Connection) -> None:
            await connection.execute(INSERT, (b"cancelled", 1))
            proxy.black_hole()
            raise Conflict("some_code", "a refusal of ours")

        await cancelled_at(proxy.held, lambda: database.write(work), passing_clock)
        proxy.clear()
        await nothing_is_left(server, url, database)


async def test_a_refusal_of_ours_costs_no_connection(url: str) -> None:
    async with opened_mysql(url, pool_size=1) as database:

        async def work(connection: Connection) -> None:
            await connection.execute(INSERT, (b"a", 1))
            raise Conflict("some_code", "a refusal of ours")

        first = await scalar(database, "SELECT CONNECTION_ID()")
        for _ in range(5):
            with pytest.raises(Conflict):
                await database.write(work)
        assert await scalar(database, "SELECT CONNECTION_ID()") == first
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 0


async def test_while_waiting_in_line_and_in_a_ping(server: PrivateServer, url: str, passing_clock: MockClock) -> None:
    async with behind_proxy(server, url) as (database, proxy):
        at_once = trio.Event()
        at_once.set()

        async def holder(connection: Connection) -> None:
            for _ in range(3):
                await cancelled_at(at_once, lambda: database.read(fetching("SELECT 1")))

        await database.write(holder)
        database._outage.suspect_at = trio.current_time() + 60  # whoever is idle must answer a ping
        proxy.black_hole()
        await cancelled_at(proxy.held, lambda: change(database, INSERT, (b"cancelled", 1)), passing_clock)
        assert database.statistics().discarded_total == 1
        proxy.clear()
        database._outage.suspect_at = float("-inf")
        await nothing_is_left(server, url, database)


@pytest.mark.real_time
async def test_a_storm_of_cancellations(server: PrivateServer, url: str) -> None:
    """Clients vanish after 0 to 50 ms: what was acknowledged is there, whole; nothing is open; the storm ends well."""
    rng = Random(5)
    acknowledged: list[int] = []
    cancelled = 0

    async with opened_mysql(url, pool_size=8) as database:
        await scalar(database, "SELECT 1")
        before = descriptors()

        async def client(number: int) -> None:
            nonlocal cancelled
            serial = number
            while len(acknowledged) < 300 or cancelled < 300:
                serial += 1000

                async def work(connection: Connection, serial: int = serial) -> None:
                    await connection.execute(INSERT, (b"%da" % serial, serial))
                    if serial % 3 == 0:
                        await connection.fetch("SELECT COUNT(*) FROM item WHERE number = ?", (serial,))
                    await connection.execute(INSERT, (b"%db" % serial, serial))
                    if serial % 7 == 0:
                        raise Conflict("some_code", "a refusal of ours")

                with trio.move_on_after(rng.uniform(0, 0.05)) as scope:
                    try:
                        await database.write(work)
                        acknowledged.append(serial)
                    except (Conflict, StoreUnavailable):
                        continue
                cancelled += scope.cancelled_caught

        with trio.fail_after(150):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(client, number)
        await settled(server)
        statistics = database.statistics()
        assert (statistics.in_use, statistics.waiting) == (0, 0)
        counts: dict[int, int] = dict(await fetch(database, "SELECT number, COUNT(*) FROM item GROUP BY number"))
        assert statistics.opened_total < cancelled / 2  # the storm does not go into logins
        assert {counts.get(serial) for serial in acknowledged} == {2}
        assert set(counts.values()) == {2}
        assert descriptors() <= before + 8
        idle = len(database._pool._idle)
        assert idle <= 8
        await eventually(lambda: sessions(server) == idle)
