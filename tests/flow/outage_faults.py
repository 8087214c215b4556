"""What may befall a MySQL-protocol server and the way to it. Each fault lasts as long as its block.

A fault is named for what the service meets; what is done for it is done to a real server or a real connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

import pymysql
import trio
from tests.flow.file_faults import full
from tests.servers import PrivateServer
from tests.store.fault_proxy import FaultProxy

Fault = Callable[["Site"], AbstractAsyncContextManager[None]]
_GONE: Final = (pymysql.err.OperationalError, pymysql.err.InternalError, pymysql.err.InterfaceError)


@dataclass(frozen=True, slots=True)
class Site:
    """Where faults strike: the server, and the proxy that the service reaches it by."""

    server: PrivateServer
    proxy: FaultProxy
    url: str  # past the proxy

    @property
    def database(self) -> str:
        return self.url.partition("?")[0].rpartition("/")[2]


async def _in_thread(work: Callable[..., Any], *args: Any) -> Any:
    return await trio.to_thread.run_sync(work, *args)


# --- the server -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def killed(site: Site) -> AsyncIterator[None]:
    """SIGKILL, and started again."""
    await _in_thread(site.server.kill)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await _in_thread(site.server.start)


@asynccontextmanager
async def frozen(site: Site) -> AsyncIterator[None]:
    """SIGSTOP: connections stay open, new ones are taken by the kernel, nothing is answered."""
    await _in_thread(site.server.stop_signal)
    try:
        yield
    finally:
        site.server.cont()


@asynccontextmanager
async def read_only(site: Site) -> AsyncIterator[None]:
    """1290."""
    await _in_thread(site.server.execute, "SET GLOBAL read_only = 1")
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await _in_thread(site.server.execute, "SET GLOBAL read_only = 0")


@asynccontextmanager
async def sessions_killed(site: Site) -> AsyncIterator[None]:
    """2006 and 2013: whatever session the service has is ended, ten times a second."""
    async with _repeated(partial(_in_thread, _kill_sessions, site), 0.1):
        yield


@asynccontextmanager
async def no_connection_left(site: Site) -> AsyncIterator[None]:
    """1040: others hold all of `max_connections`."""
    most = int(site.server.execute("SELECT @@max_connections")[0][0])
    await _in_thread(site.server.execute, "SET GLOBAL max_connections = 12")
    held: list[Any] = []
    try:
        with trio.move_on_after(2):
            while len(held) < 12:
                await _in_thread(_kill_sessions, site, held)
                with suppress(*_GONE):
                    while True:
                        held.append(await _in_thread(_connect, site))
        yield
    finally:
        with trio.CancelScope(shield=True):
            await _in_thread(site.server.execute, f"SET GLOBAL max_connections = {most}")
            for connection in held:
                connection.close()


@asynccontextmanager
async def disk_full(site: Site) -> AsyncIterator[None]:
    """1114, 1021, 1030: the disk the server's data lie on (`file_faults.on_small_disk`) has no byte left."""
    async with full(site.server.datadir):
        yield


def _connect(site: Site) -> Any:
    server = site.server
    return pymysql.connect(host=server.host, port=server.port, user=server.user, password=server.password)


def _kill_sessions(site: Site, but: list[Any] | None = None) -> None:
    """Those on the service's database; `but`: none of these."""
    spared = {connection.thread_id() for connection in but or ()}
    with suppress(*_GONE), closing(site.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW PROCESSLIST")
        for row in cursor.fetchall():
            if row[3] == site.database and row[0] not in spared:
                with suppress(*_GONE):
                    cursor.execute(f"KILL {row[0]}")


# --- others who use the database ------------------------------------------------------------------------------------


@asynccontextmanager
async def rows_locked(site: Site) -> AsyncIterator[None]:
    """1205: somebody's open transaction has locked all tasks and ledgers."""
    connection = await _in_thread(site.server.connect, site.database)
    try:
        await _in_thread(_lock_all, connection)
        yield
    finally:
        with trio.CancelScope(shield=True):
            await _in_thread(connection.close)


def _lock_all(connection: Any) -> None:
    """Again until it is not the victim of a deadlock itself."""
    with connection.cursor() as cursor:
        while True:
            with suppress(*_GONE):
                cursor.execute("BEGIN")
                cursor.execute("SELECT business_id FROM business_ledger FOR UPDATE")
                cursor.execute("SELECT id FROM tasks FOR UPDATE")
                return


@asynccontextmanager
async def deadlocks(site: Site) -> AsyncIterator[None]:
    """1213: somebody locks ledgers and tasks in the other order, and has changed so much that we are the victim."""
    async with _repeated(partial(_in_thread, _cross, site), 0.05):
        yield


def _cross(site: Site) -> None:
    with suppress(*_GONE), closing(site.server.connect(site.database)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS weight (a INT) ENGINE=InnoDB")
        cursor.execute("BEGIN")
        cursor.execute(f"INSERT INTO weight VALUES {','.join(['(1)'] * 2000)}")
        cursor.execute("SELECT business_id FROM business_ledger FOR UPDATE")
        cursor.execute("SELECT SLEEP(0.05)")
        cursor.execute("SELECT id FROM tasks WHERE status IN ('pending', 'running') FOR UPDATE")
        cursor.execute("ROLLBACK")


def deadlocks_so_far(server: PrivateServer) -> int:
    """By the server's own count."""
    if server.kind == "mariadb":
        return int(server.execute("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")[0][1])
    rows = server.execute("SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'")
    return int(rows[0][0])


# --- the way to it --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def refused(site: Site) -> AsyncIterator[None]:
    """Nobody listens, and open connections are reset."""
    site.proxy.refuse()
    site.proxy.reset_all()
    async with _cleared(site):
        yield


@asynccontextmanager
async def black_hole(site: Site) -> AsyncIterator[None]:
    """Nothing passes and nothing closes."""
    site.proxy.black_hole()
    async with _cleared(site):
        yield


@asynccontextmanager
async def half_open(site: Site) -> AsyncIterator[None]:
    """The server hears and does what it is told; its answers are lost, and so is the news when it ends a session."""
    site.proxy.black_hole("down")
    async with _cleared(site):
        yield


@asynccontextmanager
async def late(site: Site) -> AsyncIterator[None]:
    """Each answer takes 0.2 to 0.3 s longer."""
    site.proxy.latency_s, site.proxy.jitter_s = 0.1, 0.05
    async with _cleared(site):
        yield


@asynccontextmanager
async def sliced(site: Site) -> AsyncIterator[None]:
    """Seven bytes at a time."""
    site.proxy.slice_bytes, site.proxy.slice_pause_s = 7, 0.0005
    async with _cleared(site):
        yield


@asynccontextmanager
async def reset(site: Site) -> AsyncIterator[None]:
    """All connections are reset, four times a second."""

    async def work() -> None:
        site.proxy.reset_all()

    async with _cleared(site), _repeated(work, 0.25):
        yield


@asynccontextmanager
async def cut(site: Site) -> AsyncIterator[None]:
    """Connections are cut in the middle of a packet, in turn of a request and of an answer."""
    rng = Random(14)

    async def arm() -> None:
        site.proxy.cut_after(rng.randrange(1, 3000), rng.choice(("up", "down")))

    async with _cleared(site), _repeated(arm, 0.1):
        yield


@asynccontextmanager
async def commits_lost(site: Site) -> AsyncIterator[None]:
    """One COMMIT in three is eaten, or its answer is, and the connection with it."""
    site.proxy.commit_fault, site.proxy.commit_share = "either", 0.3
    async with _cleared(site):
        yield


@asynccontextmanager
async def _cleared(site: Site) -> AsyncIterator[None]:
    try:
        yield
    finally:
        site.proxy.clear()


@asynccontextmanager
async def _repeated(work: Callable[[], Awaitable[object]], every_s: float) -> AsyncIterator[None]:
    async def run() -> None:
        while True:
            await work()
            await trio.sleep(every_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield
        nursery.cancel_scope.cancel()


FAULTS: Final[tuple[Fault, ...]] = (
    refused, killed, frozen, black_hole, half_open, late, sliced, reset, cut, commits_lost, sessions_killed,
    deadlocks, rows_locked, read_only, no_connection_left, disk_full,
)  # fmt: skip
