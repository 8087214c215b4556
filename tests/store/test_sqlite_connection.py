"""The embedded store's blocks: threads that are never left, cancellation, time-outs, virtual time."""

import contextlib
import contextvars
import sqlite3
import threading
from typing import Any

import pytest
import trio
from tests.store.connection_kit import TABLES, by_hand, change, executing, fetch, scalar
from tests.store.sqlite_kit import SLOW, opened_file, our_threads
from trio.testing import MockClock

from taskcenter.store.connection import Connection, DuplicateKey, LockConflict, QueryFault, StoreFault
from taskcenter.store.sqlite import SqliteDatabase

# --- blocks ------------------------------------------------------------------------------------------------------


async def test_a_block_may_await_its_connection_alone(database: SqliteDatabase) -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO item (word) VALUES ('lost')")
        await Odd()

    for run in (database.write, (await database.lane("test")).write):
        with pytest.raises(QueryFault, match="something other than its connection"):
            await run(work)
    assert await scalar(database, "SELECT COUNT(*) FROM item") == 0


async def test_a_statement_that_ends_the_transaction_is_caught(database: SqliteDatabase) -> None:
    for sql in ("COMMIT", "ROLLBACK"):

        async def work(connection: Connection, sql: str = sql) -> None:
            await connection.execute("INSERT INTO item (word) VALUES ('a')")
            await connection.execute(sql)

        with pytest.raises(QueryFault, match="ended the transaction"):
            await database.write(work)
        assert await change(database, "DELETE FROM item") in (0, 1)


async def test_a_transaction_that_sqlite_ended_does_not_go_on_outside(database: SqliteDatabase) -> None:
    await change(database, "INSERT INTO item (code) VALUES (x'61')")

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO item (word) VALUES ('before')")
        with pytest.raises(DuplicateKey):
            await connection.execute("INSERT OR ROLLBACK INTO item (code) VALUES (x'61')")
        with contextlib.suppress(DuplicateKey):  # the same error again, for whatever comes next
            await connection.execute("INSERT INTO item (word) VALUES ('outside')")

    with pytest.raises(DuplicateKey):
        await database.write(work)
    assert await scalar(database, "SELECT COUNT(*) FROM item") == 1


async def test_context_variables_reach_a_block(database: SqliteDatabase) -> None:
    request_id = contextvars.ContextVar[str]("request_id")
    request_id.set("r-1")

    async def work(connection: Connection) -> str:
        return request_id.get()

    assert (await database.read(work), await database.write(work)) == ("r-1", "r-1")


async def test_another_process_with_the_lock_is_waited_for_and_then_given_up(
    path: str, threaded: SqliteDatabase
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    runs = 0

    async def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1

    try:
        with pytest.raises(LockConflict):
            await threaded.write(work, attempts=2)
        assert await scalar(threaded, "SELECT COUNT(*) FROM item") == 0
        assert runs == 0
    finally:
        other.execute("ROLLBACK")
        other.close()
    await threaded.write(work)
    assert runs == 1


# --- threads, cancellation, time ---------------------------------------------------------------------------------


async def test_a_block_in_a_thread_does_not_hold_the_loop(path: str) -> None:
    """Also: a lane and the writer do not wait for busy readers."""
    async with opened_file(path, read_timeout_s=60) as database, trio.open_nursery() as nursery:
        lane = await database.lane("heartbeat")
        for _ in range(2):
            nursery.start_soon(fetch, database, SLOW)
        await trio.testing.wait_all_tasks_blocked()
        for ticks in range(1, 11):
            await change(lane, "INSERT INTO item (word) VALUES ('a')")
            assert await scalar(lane, "SELECT COUNT(*) FROM item") == ticks
        assert database.statistics().in_use == 2
        assert our_threads() == ["sqlite-writer", "sqlite-reader-0", "sqlite-reader-1"]
        nursery.cancel_scope.cancel()


async def test_a_read_that_takes_too_long_is_ended(threaded: SqliteDatabase) -> None:
    for _ in range(2):
        with pytest.raises(StoreFault) as caught:
            await fetch(threaded, SLOW)
        assert caught.value.kind == "timeout"
    assert await scalar(threaded, "SELECT COUNT(*) FROM item") == 0


async def test_a_cancelled_read_is_stopped(path: str) -> None:
    database = SqliteDatabase(path, readers=1, read_timeout_s=60)
    await database.open()
    with trio.fail_after(30):
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await fetch(database, SLOW)
            assert scope.cancelled_caught
        assert await scalar(database, "SELECT 1") == 1  # the flag was for that read alone
    assert database.statistics().errors_total == {}
    await database.aclose()


async def test_a_write_that_was_handed_over_runs_to_its_end(threaded: SqliteDatabase) -> None:
    inside, go_on = threading.Event(), threading.Event()

    async def work(connection: Connection) -> str:
        inside.set()
        await connection.execute("INSERT INTO item (word) VALUES ('a')")
        assert go_on.wait(10)
        return "done"

    results: list[str] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                results.append(await threaded.write(work))
                await trio.sleep_forever()

            nursery.start_soon(run)
            await trio.to_thread.run_sync(inside.wait, 10)
            scope.cancel()
            go_on.set()
    assert scope.cancelled_caught
    assert results == ["done"]  # its outcome was known, then the cancellation was delivered
    assert await scalar(threaded, "SELECT COUNT(*) FROM item") == 1


async def test_a_write_still_in_line_can_be_cancelled(threaded: SqliteDatabase) -> None:
    go_on = threading.Event()

    async def work(connection: Connection) -> None:
        assert go_on.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(threaded.write, work)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.05) as scope:
            await change(threaded, "INSERT INTO item (word) VALUES ('never')")
        assert scope.cancelled_caught
        order: list[str] = []

        async def write(handle: Any, name: str) -> None:
            await change(handle, "INSERT INTO item (word) VALUES (?)", (name,))
            order.append(name)

        lane = await threaded.lane("committer")
        for handle, name in ((threaded, "first"), (threaded, "second"), (lane, "lane")):
            nursery.start_soon(write, handle, name)
            await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert order == ["lane", "first", "second"]
    assert threaded.statistics().in_use == 0


async def test_a_full_line_is_refused_in_time(path: str) -> None:
    database = SqliteDatabase(path, acquire_timeout_s=0.05)
    await database.open()
    go_on = threading.Event()

    async def work(connection: Connection) -> None:
        assert go_on.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, work)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreFault) as caught:
            await database.write(executing("SELECT 1"))
        assert caught.value.kind == "busy"
        go_on.set()
    await database.aclose()


async def test_closing_lets_running_blocks_end_and_refuses_waiting_ones(path: str) -> None:
    database = SqliteDatabase(path)
    await database.open()
    await change(database, TABLES["sqlite"])
    inside, go_on = threading.Event(), threading.Event()
    outcomes: list[str] = []

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO item (word) VALUES ('a')")
        inside.set()
        assert go_on.wait(10)

    async def write(name: str, block: Any) -> None:
        try:
            await database.write(block)
            outcomes.append(f"{name} done")
        except StoreFault as fault:
            outcomes.append(f"{name} {fault.kind}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "running", work)
        await trio.to_thread.run_sync(inside.wait, 10)
        nursery.start_soon(write, "waiting", executing("DELETE FROM item"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(database.aclose)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert sorted(outcomes) == ["running done", "waiting closed"]
    assert our_threads() == []
    assert by_hand(f"sqlite:///{path}", "SELECT word FROM item") == [("a",)]


async def test_virtual_time_runs_on_an_in_loop_store(autojump_clock: MockClock) -> None:
    database = SqliteDatabase(":memory:", in_loop=True)
    await database.open()
    await change(database, TABLES["sqlite"])
    began = trio.current_time()

    async def tick(number: int) -> None:
        for _ in range(100):
            await trio.sleep(36)
            await change(database, "INSERT INTO item (number) VALUES (?)", (number,))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(tick, number)
    assert trio.current_time() - began == pytest.approx(3600)
    assert await fetch(database, "SELECT COUNT(*), COUNT(DISTINCT number) FROM item") == [(500, 5)]
    assert our_threads() == []
    await database.aclose()
    with pytest.raises(QueryFault):
        SqliteDatabase(":memory:")
