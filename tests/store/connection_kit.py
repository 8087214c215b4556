"""What the tests of the two stores' connections share."""

import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pymysql
import trio
from tests.servers import PrivateServer
from trio.testing import MockClock

from taskcenter.store.connection import Connection, Database, Param, Row
from taskcenter.store.mysql import MysqlDatabase
from taskcenter.store.mysql_auth import tls_context
from taskcenter.store.mysql_rows import Answer
from taskcenter.store.mysql_wire import COM_QUERY, Wire, WireSettings
from taskcenter.store.sqlite import SqliteDatabase
from taskcenter.store.url import MysqlUrl, SqliteUrl, parse_database_url

T = TypeVar("T")
PATIENCE_S = 30.0  # for what comes at once, or within a few s, on a machine that does not stand still
IDLE_S = 0.05  # of real time without any event
TABLES = {
    "mysql": (
        "CREATE TABLE item (id BIGINT AUTO_INCREMENT PRIMARY KEY, code VARBINARY(128) NULL UNIQUE, word MEDIUMTEXT,"
        " raw LONGBLOB, number BIGINT, ratio DOUBLE) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    ),
    "sqlite": (
        "CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, code BLOB UNIQUE, word TEXT, raw BLOB,"
        " number INTEGER, ratio REAL)"
    ),
}


def mysql_url(url: str) -> MysqlUrl:
    parsed = parse_database_url(url)
    assert isinstance(parsed, MysqlUrl)
    return parsed


def by_hand(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement on a synchronous connection of its own, past everything that is tested here."""
    parsed = parse_database_url(url)
    if isinstance(parsed, SqliteUrl):
        with closing(sqlite3.connect(parsed.path, isolation_level=None)) as connection:
            return list(connection.execute(sql).fetchall())
    p = parsed
    server = pymysql.connect(
        host=p.host, port=p.port, user=p.user, password=p.password, database=p.database, autocommit=True
    )
    with closing(server), server.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def make_table(url: str) -> None:
    by_hand(url, TABLES["sqlite" if url.startswith("sqlite") else "mysql"])


def make_database(url: str, **limits: Any) -> MysqlDatabase | SqliteDatabase:
    parsed = parse_database_url(url)
    if isinstance(parsed, SqliteUrl):
        return SqliteDatabase(parsed.path, **limits)
    return MysqlDatabase(parsed, **limits)


@asynccontextmanager
async def opened(url: str, **limits: Any) -> AsyncIterator[MysqlDatabase | SqliteDatabase]:
    """An open database with the table `item`, closed at the end of the block."""
    await trio.to_thread.run_sync(make_table, url)  # the way there may lead through a proxy in this loop
    database = make_database(url, **limits)
    await database.open()
    try:
        yield database
    finally:
        await database.aclose()


@asynccontextmanager
async def opened_mysql(url: str, **limits: Any) -> AsyncIterator[MysqlDatabase]:
    async with opened(url, **limits) as database:
        assert isinstance(database, MysqlDatabase)
        yield database


def executing(sql: str, params: Sequence[Param] = ()) -> Callable[[Connection], Awaitable[int]]:
    async def work(connection: Connection) -> int:
        return await connection.execute(sql, params)

    return work


def fetching(sql: str, params: Sequence[Param] = ()) -> Callable[[Connection], Awaitable[list[Row]]]:
    async def work(connection: Connection) -> list[Row]:
        return await connection.fetch(sql, params)

    return work


async def fetch(database: Database, sql: str, params: Sequence[Param] = ()) -> list[Row]:
    return await database.read(fetching(sql, params))


async def change(database: Database, sql: str, params: Sequence[Param] = (), *, attempts: int = 3) -> int:
    return await database.write(executing(sql, params), attempts=attempts)


async def scalar(database: Database, sql: str, params: Sequence[Param] = ()) -> Any:
    return (await fetch(database, sql, params))[0][0]


@asynccontextmanager
async def opened_wire(url: str | MysqlUrl, **settings: Any) -> AsyncIterator[Wire]:
    """One connection, logged in; killed at the end of the block."""
    parsed = mysql_url(url) if isinstance(url, str) else url
    wire = Wire(parsed, WireSettings(**settings), tls_context(parsed), trio.CapacityLimiter(2))
    await wire.open()
    try:
        yield wire
    finally:
        wire.kill()


async def ask(wire: Wire, sql: str) -> list[Row]:
    """The rows of one statement."""
    answer = await wire.command(COM_QUERY + sql.encode())
    assert isinstance(answer, Answer), answer
    return answer.rows or []


@contextmanager
def database_on(server: PrivateServer) -> Iterator[str]:
    """The URL of an empty database, dropped at the end of the block."""
    url = server.create_database()
    try:
        yield url
    finally:
        server.drop_database(url)


@contextmanager
def waiting_in_vain(clock: MockClock) -> Iterator[None]:
    """In the block no server answers: the clock stands still while anything goes on, then leaps to a deadline."""
    rate, clock.rate = clock.rate, 0
    clock.autojump_threshold = IDLE_S
    try:
        yield
    finally:
        clock.autojump_threshold = float("inf")
        clock.rate = rate


async def eventually(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait, in a thread, for what another process or another task brings about; whatever clock the test has."""

    def wait() -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, f"it did not come about in {timeout_s} s"
            time.sleep(0.02)

    await trio.to_thread.run_sync(wait)


async def eventually_here(condition: Callable[[], Awaitable[object]], timeout_s: float = PATIENCE_S) -> None:
    """The same, for a condition that asks the store."""
    with trio.fail_after(timeout_s):
        while not await condition():
            await trio.sleep(0.02)


def sessions(server: PrivateServer) -> int:
    """Connections of the service's account that the server knows of."""
    return sum(row[1] == server.user for row in server.execute("SHOW PROCESSLIST"))


def running(server: PrivateServer) -> list[int]:
    """Those of them that are amid a statement."""
    return [row[0] for row in server.execute("SHOW PROCESSLIST") if row[1] == server.user and row[4] == "Query"]


def lock_waits(server: PrivateServer) -> int:
    """Transactions that wait for a lock."""
    asked = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    return int(server.execute(asked)[0][0])


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))
