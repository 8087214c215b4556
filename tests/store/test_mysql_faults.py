"""The network and the server fail: nothing is lost, doubled or mixed up, and nobody waits for long.

How long is told by a clock that the test turns: it stands still while anything goes on, and is put forward only when
everybody waits for what cannot come. So a machine that stalls changes no result here.
"""

from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import (
    IDLE_S,
    by_hand,
    change,
    database_on,
    fetch,
    make_table,
    mysql_url,
    opened_mysql,
    scalar,
    waiting_in_vain,
)
from tests.store.fault_proxy import CommitFault, open_proxy
from trio.testing import MockClock, wait_all_tasks_blocked

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


async def failing(work: Callable[[], Awaitable[object]]) -> tuple[float, str]:
    """How long a call that fails took, in s of the test's clock, and the kind of its failure."""
    began = trio.current_time()
    with pytest.raises(StoreUnavailable) as caught:
        await work()
    kind = caught.value.kind if isinstance(caught.value, StoreFault) else caught.value.code
    return trio.current_time() - began, kind


async def until_it_works(
    clock: MockClock, database: MysqlDatabase, sql: str = "INSERT INTO item (word) VALUES ('again')"
) -> float:
    """Seconds that must pass until a statement goes through again; the clock is put forward after each failure."""
    began = trio.current_time()
    while True:
        try:
            await change(database, sql)
        except StoreUnavailable:
            assert trio.current_time() < began + 30
            clock.jump(0.05)
        else:
            return trio.current_time() - began


# --- the riddle of the lost COMMIT ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault,landed", [("request", False), ("reply", True)])
@pytest.mark.parametrize("lane", [False, True])
async def test_a_lost_commit_is_unknown_and_a_repeat_by_key_is_exact(
    server: PrivateServer, url: str, *, fault: CommitFault, landed: bool, lane: bool, patient_clock: object
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


async def test_a_commit_answered_by_silence_is_unknown_in_time(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    async with open_proxy(server.host, server.port) as proxy:
        async with opened_mysql(proxy.url(url), statement_timeout_s=0.8) as database:
            proxy.commit_fault, proxy.commit_silent = "reply", True

            async def work(connection: Connection) -> None:
                await connection.execute("INSERT INTO item (code) VALUES ('a')")
                mock_clock.autojump_threshold = IDLE_S  # from here on only the silence is waited for

            seconds, kind = await failing(lambda: database.write(work))
            mock_clock.autojump_threshold = float("inf")
            assert (seconds, kind) == (pytest.approx(0.8), "commit_unknown")
            proxy.clear()
            assert await scalar(database, "SELECT COUNT(*) FROM item") == 1


async def test_read_only_in_mid_transaction_is_a_plain_no(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    async with opened_mysql(url) as database:

        async def work(connection: Connection) -> None:
            await connection.execute("INSERT INTO item (word) VALUES ('a')")
            server.execute("SET GLOBAL read_only = 1")

        try:
            assert (await failing(lambda: database.write(work)))[1] == "read_only"
            assert (await failing(lambda: change(database, "INSERT INTO item (word) VALUES ('b')")))[1] == "read_only"
            assert await scalar(database, "SELECT COUNT(*) FROM item") == 0  # reading goes on
        finally:
            server.execute("SET GLOBAL read_only = 0")
        assert await until_it_works(mock_clock, database) < 1
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 1


# --- the network ----------------------------------------------------------------------------------------------------


async def test_an_answer_cut_anywhere_is_no_answer(server: PrivateServer, url: str, mock_clock: MockClock) -> None:
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
            await until_it_works(mock_clock, database, "SELECT 1")
        assert len(kinds) > 20
        assert set(kinds) == {"lost"}
        assert unknown > 0
        await database.aclose()


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


async def test_silence_costs_the_first_their_time_out_and_the_others_little(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    async with open_proxy(server.host, server.port) as proxy:
        limits = {"statement_timeout_s": 1.5, "acquire_timeout_s": 1.0}
        async with opened_mysql(proxy.url(url), pool_size=4, **limits) as database:
            await warm_up(database, 4)
            proxy.black_hole()
            with waiting_in_vain(mock_clock):
                # The first: 1.2 s, then 0.5 s for a look whether the server still speaks to anybody.
                seconds, kind = await failing(lambda: fetch(database, "SELECT 1"))
                assert (seconds, kind) == (pytest.approx(1.7), "timeout")
                # The others are idle and look well; they must answer a ping within 1 s first, and then the word is out.
                seconds, kind = await failing(lambda: fetch(database, "SELECT 1"))
                assert (seconds < 1.4, kind) == (True, "timeout")
                durations = []
                for _ in range(30):
                    durations.append((await failing(lambda: fetch(database, "SELECT 1")))[0])
                    await trio.sleep(0.02)
            assert sum(duration > 0 for duration in durations) <= 3  # one at a time looks again
            proxy.clear()
            assert await until_it_works(mock_clock, database) < 2.5
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


async def test_refused_connections_fail_at_once_and_a_crowd_does_not_knock(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    async with open_proxy(server.host, server.port) as proxy, opened_mysql(proxy.url(url)) as database:
        proxy.refuse()
        proxy.reset_all()
        kinds: list[str] = []

        async def call() -> None:
            seconds, kind = await failing(lambda: fetch(database, "SELECT 1"))
            assert seconds == 0
            kinds.append(kind)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(call)
        assert set(kinds) <= {"refused", "lost"}
        assert len(kinds) == 100
        proxy.accept()
        await wait_all_tasks_blocked(IDLE_S)  # it listens again
        assert await until_it_works(mock_clock, database) < 2


async def test_a_hanging_login_is_given_up_and_looked_for_by_one_alone(
    server: PrivateServer, url: str, mock_clock: MockClock
) -> None:
    async with open_proxy(server.host, server.port) as proxy:
        database = MysqlDatabase(mysql_url(proxy.url(url)), acquire_timeout_s=0.5)
        proxy.black_hole("down")
        durations: list[float] = []

        async def call() -> None:
            seconds, kind = await failing(lambda: fetch(database, "SELECT 1"))
            assert kind == "timeout"
            durations.append(seconds)

        with waiting_in_vain(mock_clock):
            assert await failing(database.open) == (pytest.approx(0.5), "timeout")
            await trio.sleep(1.01)  # the next may look again
            before = proxy.connections_total
            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(call)
        assert proxy.connections_total == before + 1
        assert sorted(durations) == [0.0] * 29 + [pytest.approx(0.5)]
        await database.aclose()
