"""One MySQL connection and the pool: sessions, what a statement may do to them, who gets a connection when."""

from collections.abc import Iterator

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import (
    ask,
    by_hand,
    change,
    database_on,
    eventually,
    fetch,
    lock_waits,
    make_table,
    opened_mysql,
    opened_wire,
    scalar,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from taskcenter.store.connection import Connection, LockConflict, QueryFault
from taskcenter.store.mysql_refusal import Refusal
from taskcenter.store.mysql_wire import COM_QUERY, SQL_MODE


@pytest.fixture(params=["mariadb", "mysql"])
def server(request: pytest.FixtureRequest, mariadb_server: PrivateServer, mysql_server: PrivateServer) -> PrivateServer:
    server = mariadb_server if request.param == "mariadb" else mysql_server
    server.ensure_running()
    return server


@pytest.fixture
def url(server: PrivateServer) -> Iterator[str]:
    with database_on(server) as url:
        yield url


def global_status(server: PrivateServer, name: str) -> int:
    return int(server.execute(f"SHOW GLOBAL STATUS LIKE '{name}'")[0][1])


# --- the session -------------------------------------------------------------------------------------------------


async def test_every_session_is_set_up(url: str) -> None:
    async with opened_wire(url, statement_timeout_s=4.0, wait_timeout_s=33, lock_wait_timeout_s=2) as wire:
        level = "tx_isolation" if wire.is_mariadb else "transaction_isolation"
        limit = "max_statement_time" if wire.is_mariadb else "max_execution_time"
        wanted = {
            level: "READ-COMMITTED", "time_zone": "+00:00", "autocommit": 1, "innodb_lock_wait_timeout": 2,
            "wait_timeout": 33, "character_set_client": "utf8mb4", "character_set_connection": "utf8mb4",
            "character_set_results": "utf8mb4", limit: 3.6 if wire.is_mariadb else 3600,
        }  # fmt: skip
        names = list(wanted)
        seen = (await ask(wire, "SELECT " + ", ".join(f"@@SESSION.{name}" for name in names)))[0]
        assert dict(zip(names, seen, strict=True)) == wanted
        modes = set((await ask(wire, "SELECT @@SESSION.sql_mode"))[0][0].split(","))
        assert set(SQL_MODE.split(",")) <= modes
        assert wire.max_allowed_packet == (await ask(wire, "SELECT @@max_allowed_packet"))[0][0]
        assert "in step" in repr(wire)


async def test_a_wire_is_opened_once(url: str) -> None:
    async with opened_wire(url) as wire:
        with pytest.raises(QueryFault, match="make a new one"):
            await wire.open()
        assert await ask(wire, "SELECT 1") == [(1,)]


async def test_a_warning_costs_no_round_trip(server: PrivateServer, url: str) -> None:
    async with opened_wire(url) as wire:
        before = global_status(server, "Com_show_warnings")
        assert await ask(wire, "SELECT CAST('x1' AS SIGNED), 1 / 0") == [(0, None)]
        assert (await ask(wire, "SELECT @@warning_count"))[0][0] == 2
        assert global_status(server, "Com_show_warnings") == before


async def test_strict_mode_refuses_what_does_not_fit(url: str) -> None:
    async with opened_mysql(url) as database:
        by_hand(url, "CREATE TABLE narrow (a VARCHAR(3), b TINYINT) CHARSET utf8mb4")
        for sql in ("INSERT INTO narrow (a) VALUES ('abcd')", "INSERT INTO narrow (b) VALUES (1000)"):
            with pytest.raises(QueryFault):
                await change(database, sql)


async def test_no_second_result_and_no_second_statement(url: str) -> None:
    """The driver's result loop would spin for ever without a checkpoint (trap b); here the server refuses."""
    by_hand(url, "CREATE PROCEDURE two() BEGIN SELECT 1; SELECT 2; END")
    make_table(url)
    async with opened_wire(url) as wire:
        for sql in (
            "CALL two()",
            "SELECT 1; SELECT 2",
            "DO 1; DELETE FROM item",
            "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE item",
        ):
            assert isinstance(await wire.command(COM_QUERY + sql.encode()), Refusal)
        assert await ask(wire, "SELECT 1") == [(1,)]


async def test_packets_beyond_16_megabytes(server: PrivateServer, url: str) -> None:
    size = 20 << 20
    before = server.execute("SELECT @@GLOBAL.max_allowed_packet")[0][0]
    server.execute("SET GLOBAL max_allowed_packet = 67108864")
    try:
        async with opened_mysql(url) as database:
            for length in (size, (1 << 24) - 2 - 50, (1 << 24) - 1, 1 << 24):
                value = b"%d" % length * (length // len(b"%d" % length))
                assert await change(database, "INSERT INTO item (raw) VALUES (?)", (value,)) == 1
                assert (await fetch(database, "SELECT raw, 1 FROM item"))[0] == (value, 1)
                await change(database, "DELETE FROM item")
            for edge in range((1 << 24) - 4, (1 << 24) + 3):  # a statement that ends at the border of a frame
                filler = " " * (edge - len("SELECT 7") - 1)
                assert await scalar(database, "SELECT 7" + filler) == 7
    finally:
        server.execute(f"SET GLOBAL max_allowed_packet = {before}")


async def test_a_statement_the_server_would_not_take_is_not_sent(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url) as database:
        limit = await scalar(database, "SELECT @@max_allowed_packet")
        with pytest.raises(QueryFault, match="max_allowed_packet"):
            await change(database, "INSERT INTO item (raw) VALUES (?)", (b"x" * limit,))
        assert await scalar(database, "SELECT 1") == 1
        assert database.statistics().opened_total == 1


# --- transactions ------------------------------------------------------------------------------------------------


async def test_a_statement_that_commits_by_itself_is_caught(url: str) -> None:
    async with opened_mysql(url) as database:

        async def work(connection: Connection) -> None:
            await connection.execute("INSERT INTO item (word) VALUES ('a')")
            await connection.execute("CREATE TABLE other (a INT)")

        with pytest.raises(QueryFault, match="ended the transaction"):
            await database.write(work)


async def test_a_deadlock_is_run_again(url: str) -> None:
    async with opened_mysql(url) as database:
        await change(database, "INSERT INTO item (id, number) VALUES (1, 0), (2, 0)")
        runs, both = [0, 0], trio.Event()

        async def cross(first: int, second: int) -> None:
            async def work(connection: Connection) -> None:
                runs[first - 1] += 1
                await connection.execute("UPDATE item SET number = number + 1 WHERE id = ?", (first,))
                if all(runs):
                    both.set()
                await both.wait()
                await connection.execute("UPDATE item SET number = number + 1 WHERE id = ?", (second,))

            await database.write(work)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cross, 1, 2)
            nursery.start_soon(cross, 2, 1)
        assert sorted(runs) == [1, 2]
        assert await fetch(database, "SELECT number FROM item") == [(2,), (2,)]
        assert database.statistics().errors_total == {"lock": 1}
        assert database.statistics().discarded_total == 0


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_lost_lock_ends_the_transaction_even_when_the_block_goes_on(url: str, swallow: bool) -> None:
    """1205 leaves the transaction open on the server (RELIABILITY.md §1.8): nothing of it may stay, or go on."""
    async with opened_mysql(url) as database, opened_wire(url) as holder:
        await change(database, "INSERT INTO item (id, number) VALUES (1, 0)")
        await ask(holder, "BEGIN")
        await ask(holder, "UPDATE item SET number = 9 WHERE id = 1")
        runs = 0

        async def work(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            await connection.execute("INSERT INTO item (number) VALUES (77)")
            try:
                await connection.fetch("SELECT number FROM item WHERE id = 1 FOR UPDATE NOWAIT")
            except LockConflict:
                if not swallow:
                    raise
                with pytest.raises(LockConflict):
                    await connection.execute("INSERT INTO item (number) VALUES (78)")

        with pytest.raises(LockConflict):
            await database.write(work, attempts=2)
        assert runs == 2
        await ask(holder, "ROLLBACK")
        assert await fetch(database, "SELECT number FROM item") == [(0,)]
        await database.write(work, attempts=2)
        assert await fetch(database, "SELECT number FROM item ORDER BY id") == [(0,), (77,)]
        assert database.statistics().discarded_total == 0


@pytest.mark.real_time
async def test_a_real_lock_wait_ends_and_nobody_waits_for_it_twice(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    more = "UPDATE item SET number = number + 1 WHERE id = 1"
    async with opened_mysql(url) as database, opened_wire(url) as holder:
        await change(database, "INSERT INTO item (id, number) VALUES (1, 0)")
        await ask(holder, "BEGIN")
        await ask(holder, "UPDATE item SET number = 9 WHERE id = 1")

        async def time_passes() -> None:
            await eventually(lambda: lock_waits(server))
            mock_clock.jump(1.1)  # our clock's share of the server's 3 s: no repeat is worth while

        async with trio.open_nursery() as nursery:
            nursery.start_soon(time_passes)
            with pytest.raises(LockConflict, match="lock wait"):
                await change(database, more)
        assert database.statistics().errors_total["lock"] == 1
        await ask(holder, "COMMIT")
        assert await change(database, more) == 1, "its session goes on"
        assert await fetch(database, "SELECT number FROM item") == [(10,)]


async def test_one_connection_is_not_for_two_tasks(url: str) -> None:
    async with opened_mysql(url) as database:

        async def work(connection: Connection) -> list[str]:
            faults = []

            async def slow() -> None:
                assert await connection.fetch("SELECT SLEEP(0.2)") == [(0,)]

            async def second() -> None:
                try:
                    await connection.fetch("SELECT 1")
                except QueryFault as fault:
                    faults.append(str(fault))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow)
                await wait_all_tasks_blocked()
                nursery.start_soon(second)
            return faults

        assert await database.read(work) == ["a connection is used by two tasks at once"]
        assert database.statistics().discarded_total == 0
