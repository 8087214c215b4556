"""The pool: who gets a connection when, and which ones are never lent again."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import (
    ask,
    change,
    database_on,
    descriptors,
    eventually,
    fetch,
    mysql_url,
    opened_mysql,
    opened_wire,
    running,
    scalar,
    sessions,
    waiting_in_vain,
)
from tests.store.fault_proxy import open_proxy
from trio.testing import MockClock, wait_all_tasks_blocked

from taskcenter.store.connection import Connection, StoreFault
from taskcenter.store.mysql import MysqlDatabase
from taskcenter.store.mysql_wire import COM_QUERY


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


async def hold(database: MysqlDatabase, until: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    async def work(connection: Connection) -> None:
        task_status.started()
        await until.wait()

    await database.read(work)


async def test_the_pool_is_bounded_and_waits_in_order(url: str, mock_clock: MockClock) -> None:
    async with opened_mysql(url, pool_size=2, acquire_timeout_s=0.3) as database:
        order: list[int] = []

        async def use(number: int) -> None:
            await scalar(database, "SELECT 1")
            order.append(number)

        release = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(hold, database, release)
            await nursery.start(hold, database, release)
            with waiting_in_vain(mock_clock), pytest.raises(StoreFault) as caught:
                await scalar(database, "SELECT 1")
            assert caught.value.kind == "busy"
            for number in range(5):
                nursery.start_soon(use, number)
                await wait_all_tasks_blocked()
            statistics = database.statistics()
            assert (statistics.size, statistics.in_use, statistics.waiting, statistics.opened_total) == (2, 2, 5, 2)
            lane = await database.lane("heartbeat")
            assert await scalar(lane, "SELECT 1") == 1  # never waits for the pool
            release.set()
        assert sorted(order) == list(range(5))
        assert order[0] in (0, 1)
        assert database.statistics().opened_total == 2
        assert "0/2 in use" in repr(database)


async def test_a_lane_opens_again_after_the_server_ended_it(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url) as database:
        lane = await database.lane("committer")
        first = await scalar(lane, "SELECT CONNECTION_ID()")
        assert await scalar(lane, "SELECT @@wait_timeout") == 10
        assert await scalar(lane, "SELECT CONNECTION_ID()") == first
        server.execute(f"KILL {first}")
        await eventually(lambda: sessions(server) == 1)
        assert await change(lane, "INSERT INTO item (word) VALUES ('a')") == 1
        assert await scalar(lane, "SELECT CONNECTION_ID()") != first


async def test_what_the_server_ended_while_idle_is_not_lent(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url, pool_size=4) as database:
        release = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                await nursery.start(hold, database, release)
            release.set()
        for wire in list(database._pool._idle):
            await wire.command(COM_QUERY + b"SET SESSION wait_timeout = 1")
        await eventually(lambda: sessions(server) == 0)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(change, database, "INSERT INTO item (word) VALUES ('a')")
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 20
        assert database.statistics().errors_total == {}


async def test_closing_leaves_no_session_and_no_descriptor(server: PrivateServer, url: str) -> None:
    await eventually(lambda: sessions(server) == 0)  # what came before is over for the server too
    before = descriptors()
    aborted = global_status(server, "Aborted_clients")
    async with opened_mysql(f"{url}?ssl-mode=disabled") as database:
        lane = await database.lane("a")
        release = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                await nursery.start(hold, database, release)
            await scalar(lane, "SELECT 1")
            release.set()
        assert sessions(server) == 6
    await eventually(lambda: sessions(server) == 0)
    assert descriptors() == before
    assert global_status(server, "Aborted_clients") == aborted


async def test_closing_cuts_off_a_running_block(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url) as database:
        faults: list[str] = []

        async def slow() -> None:
            with pytest.raises(StoreFault) as caught:
                await fetch(database, "SELECT SLEEP(4)")
            faults.append(caught.value.kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await eventually(lambda: running(server))
            await database.aclose()
        assert faults == ["lost"]
        assert database.statistics().in_use == 0


async def test_a_connection_is_replaced_after_its_lifetime(url: str) -> None:
    async with opened_mysql(url) as database:
        first = await scalar(database, "SELECT CONNECTION_ID()")
        for wire in database._pool._idle:
            wire.retire_at = trio.current_time()
        assert await scalar(database, "SELECT CONNECTION_ID()") != first
        assert database.statistics().discarded_total == 1


async def test_bytes_nobody_asked_for_are_never_taken_for_an_answer(server: PrivateServer, url: str) -> None:
    async with open_proxy(server.host, server.port) as proxy, opened_wire(proxy.url(url)) as wire:
        assert await ask(wire, "SELECT 1") == [(1,)]
        await wait_all_tasks_blocked(0.02)
        for link in proxy._links:
            await link.client.send_all(b"\x07\0\0\1\0\0\0\2\0\0\0")  # an OK with the right number
        await wait_all_tasks_blocked(0.02)
        assert wire.surplus()
        with pytest.raises(StoreFault):
            await ask(wire, "SELECT 2")
        assert not wire.sent
        assert not wire.alive


async def test_a_connection_that_ended_before_commit_is_no_riddle(server: PrivateServer, url: str) -> None:
    """The COMMIT was never sent, so nothing was committed: no CommitUnknown."""
    async with opened_mysql(url) as database:

        async def work(connection: Connection) -> None:
            await connection.execute("INSERT INTO item (word) VALUES ('a')")
            row = await connection.fetch_one("SELECT CONNECTION_ID()")
            assert row is not None
            server.execute(f"KILL {row[0]}")
            await eventually(lambda: sessions(server) == 0)

        with pytest.raises(StoreFault) as caught:
            await database.write(work)
        assert caught.value.kind == "lost"
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 0


async def test_a_host_name_is_tried_at_each_of_its_addresses(
    server: PrivateServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two addresses refuses; a name that cannot be resolved is told as that."""
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def answering(host: str, *rest: Any, **more: Any) -> Any:
        if host != "db.example":
            return resolve(host, *rest, **more)
        if more.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        asked.append(threading.current_thread().name)
        return [(socket.AF_INET, 1, 6, "", (address, server.port)) for address in ("127.0.0.3", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answering)
    named = replace(mysql_url(url), host="db.example")
    async with opened_wire(named) as wire:
        assert await ask(wire, "SELECT 1") == [(1,)]
    assert asked != []
    assert threading.main_thread().name not in asked

    def failing(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")

    monkeypatch.setattr(socket, "getaddrinfo", failing)
    with pytest.raises(StoreFault, match="host name cannot be resolved") as caught:
        async with opened_wire(named):
            raise AssertionError("a name without an address gave a session")
    assert caught.value.kind == "refused"
