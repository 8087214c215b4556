"""The network and the server fail: nothing is lost, doubled or mixed up, and nobody waits for long."""

import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import (
    by_hand,
    change,
    database_on,
    fetch,
    make_table,
    mysql_url,
    opened_mysql,
    scalar,
)
from tests.store.fault_proxy import CommitFault, open_proxy

from taskcenter.errors import CommitUnknown, StoreUnavailable
from taskcenter.store.connection import Connection, DuplicateKey, StoreFault
from taskcenter.store.mysql import MysqlDatabase

TRIALS = 50


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
        yield f"{url}?ssl-mode=disabled"


async def took(work: Callable[[], Awaitable[object]]) -> tuple[float, str]:
    """How long a call that fails took, in s, and the kind of its failure."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await work()
    kind = caught.value.kind if isinstance(caught.value, StoreFault) else caught.value.code
    return time.monotonic() - began, kind


async def until_it_works(database: MysqlDatabase, limit_s: float) -> float:
    """Seconds until a write goes through again."""
    began = time.monotonic()
    with trio.fail_after(limit_s):
        while True:
            try:
                await change(database, "INSERT INTO item (word) VALUES ('again')")
            except StoreUnavailable:
                await trio.sleep(0.05)
            else:
                return time.monotonic() - began


# --- the riddle of the lost COMMIT ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault,landed", [("request", False), ("reply", True)])
@pytest.mark.parametrize("lane", [False, True])
async def test_a_lost_commit_is_unknown_and_a_repeat_by_key_is_exact(
    server: PrivateServer, url: str, fault: CommitFault, landed: bool, lane: bool
) -> None:
    async with open_proxy(server.host, server.port) as proxy, opened_mysql(proxy.url(url)) as database:
        handle = await database.lane("committer") if lane else database
        runs = 0
        for trial in range(TRIALS):
            code = b"%d" % trial

            async def work(connection: Connection, code: bytes = code) -> None:
                nonlocal runs
                runs += 1
                await connection.execute("INSERT INTO item (code, number) VALUES (?, 1)", (code,))

            proxy.commit_fault, proxy.commit_faults_left = fault, 1
            with pytest.raises(CommitUnknown) as caught:
                await handle.write(work)
            assert "COMMIT" in str(caught.value)
            assert caught.value.__cause__ is None
            found = await fetch(handle, "SELECT number FROM item WHERE code = ?", (code,))
            assert bool(found) == landed
            if landed:
                with pytest.raises(DuplicateKey):
                    await handle.write(work)
            else:
                await handle.write(work)
        assert runs == 2 * TRIALS  # never repeated by itself
        assert proxy.commits_eaten == TRIALS
        assert await fetch(database, "SELECT COUNT(*), SUM(number) FROM item") == [(TRIALS, TRIALS)]
        statistics = handle.statistics()
        assert statistics.errors_total == {"commit_unknown": TRIALS}
        assert (statistics.in_use, statistics.waiting) == (0, 0)


async def test_a_commit_answered_by_silence_is_unknown_in_time(server: PrivateServer, url: str) -> None:
    async with open_proxy(server.host, server.port) as proxy:
        async with opened_mysql(proxy.url(url), statement_timeout_s=0.8) as database:
            proxy.commit_fault, proxy.commit_silent = "reply", True
            seconds, kind = await took(lambda: change(database, "INSERT INTO item (code) VALUES ('a')"))
            assert kind == "commit_unknown"
            assert 0.7 < seconds < 2
            proxy.clear()
            assert await scalar(database, "SELECT COUNT(*) FROM item") == 1


async def test_read_only_in_mid_transaction_is_a_plain_no(server: PrivateServer, url: str) -> None:
    async with opened_mysql(url) as database:

        async def work(connection: Connection) -> None:
            await connection.execute("INSERT INTO item (word) VALUES ('a')")
            server.execute("SET GLOBAL read_only = 1")

        try:
            assert (await took(lambda: database.write(work)))[1] == "read_only"
            assert (await took(lambda: change(database, "INSERT INTO item (word) VALUES ('b')")))[1] == "read_only"
            assert await scalar(database, "SELECT COUNT(*) FROM item") == 0  # reading goes on
        finally:
            server.execute("SET GLOBAL read_only = 0")
        assert await until_it_works(database, 2) < 1
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 1


# --- the network ----------------------------------------------------------------------------------------------------


async def test_an_answer_cut_anywhere_is_no_answer(server: PrivateServer, url: str) -> None:
    """A connection that breaks after so many bytes of a transaction's answers: a failure or the right rows."""
    make_table(url)
    by_hand(url, "INSERT INTO item (number, word) VALUES (1, 'one'), (2, 'two'), (3, 'three')")
    rows = [(1, "one"), (2, "two"), (3, "three")]
    async with open_proxy(server.host, server.port) as proxy:
        database = MysqlDatabase(mysql_url(proxy.url(url)))
        await database.open()
        unknown = 0
        kinds: list[str] = []
        for cut in range(0, 400, 3):

            async def work(connection: Connection, cut: int = cut) -> None:
                tag = await connection.fetch("SELECT ?", (cut,))
                assert tag == [(cut,)]
                assert await connection.fetch("SELECT number, word FROM item ORDER BY number") == rows

            await scalar(database, "SELECT 1")  # a connection is there
            proxy.cut_after(cut)
            try:
                await database.write(work)
            except CommitUnknown:
                unknown += 1
            except StoreFault as fault:
                kinds.append(fault.kind)
            proxy.clear()
            proxy.reset_all()
            await until_it_works_reading(database)
        assert len(kinds) > 20
        assert set(kinds) == {"lost"}
        assert unknown > 0
        await database.aclose()


async def until_it_works_reading(database: MysqlDatabase) -> None:
    with trio.fail_after(3):
        while True:
            try:
                await scalar(database, "SELECT 1")
            except StoreUnavailable:
                await trio.sleep(0.02)
            else:
                return


async def test_slices_of_one_byte_and_latency_only_cost_time(server: PrivateServer, url: str) -> None:
    async with open_proxy(server.host, server.port) as proxy:
        proxy.slice_bytes = 1
        async with opened_mysql(proxy.url(url)) as database:
            rows = [(b"%d" % i, "w\u00e9" * 50) for i in range(50)]
            await database.write(lambda c: c.insert_many("INSERT INTO item (code, word) VALUES (?, ?)", rows))
            assert await fetch(database, "SELECT code, word FROM item ORDER BY id") == rows
            proxy.clear()
            proxy.latency_s, proxy.jitter_s = 0.02, 0.02
            assert await scalar(database, "SELECT COUNT(*) FROM item") == 50


@pytest.mark.real_time
async def test_silence_costs_the_first_their_time_out_and_the_others_little(server: PrivateServer, url: str) -> None:
    async with open_proxy(server.host, server.port) as proxy:
        limits = {"statement_timeout_s": 1.5, "acquire_timeout_s": 1.0}
        async with opened_mysql(proxy.url(url), pool_size=4, **limits) as database:
            await warm_up(database, 4)
            proxy.black_hole()
            seconds, kind = await took(lambda: fetch(database, "SELECT 1"))
            assert (1.4 < seconds < 2.5, kind) == (True, "timeout")
            # The others are idle, and look well; they must answer a ping first, within 1 s, and then the word is out.
            seconds, kind = await took(lambda: fetch(database, "SELECT 1"))
            assert (seconds < 1.4, kind) == (True, "timeout")
            slow = 0
            for _ in range(30):
                slow += (await took(lambda: fetch(database, "SELECT 1")))[0] > 0.05
                await trio.sleep(0.02)
            assert slow <= 3  # one at a time looks again
            proxy.clear()
            assert await until_it_works(database, 5) < 2.5
            statistics = database.statistics()
            assert (statistics.in_use, statistics.waiting) == (0, 0)


async def warm_up(database: MysqlDatabase, connections: int) -> None:
    """Open so many connections at once, and give them back."""
    ready = trio.Event()
    waiting = 0

    async def work(connection: Connection) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == connections:
            ready.set()
        await ready.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(database.read, work)


async def test_refused_connections_fail_at_once_and_a_crowd_does_not_knock(server: PrivateServer, url: str) -> None:
    async with open_proxy(server.host, server.port) as proxy, opened_mysql(proxy.url(url)) as database:
        proxy.refuse()
        proxy.reset_all()
        kinds: list[str] = []

        async def call() -> None:
            seconds, kind = await took(lambda: fetch(database, "SELECT 1"))
            assert seconds < 1
            kinds.append(kind)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(call)
        assert set(kinds) <= {"refused", "lost"}
        assert len(kinds) == 100
        proxy.accept()
        assert await until_it_works(database, 3) < 2


async def test_a_hanging_login_is_given_up_and_looked_for_by_one_alone(server: PrivateServer, url: str) -> None:
    async with open_proxy(server.host, server.port) as proxy:
        database = MysqlDatabase(mysql_url(proxy.url(url)), acquire_timeout_s=0.5)
        proxy.black_hole("down")
        seconds, kind = await took(database.open)
        assert (0.4 < seconds < 1.5, kind) == (True, "timeout")
        await trio.sleep(1.01)  # the next may look again
        before = proxy.connections_total
        durations: list[float] = []

        async def call() -> None:
            durations.append((await took(lambda: fetch(database, "SELECT 1")))[0])

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(call)
        assert proxy.connections_total == before + 1
        assert sum(duration > 0.2 for duration in durations) == 1
        await database.aclose()
