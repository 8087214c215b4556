"""The embedded store: one SQLite file behind the `Database` interface.

One connection writes, in its own thread, fed one block at a time; two or more others read, each in its own. WAL mode
lets them go on side by side, `synchronous=FULL` puts every commit on the disk before it is answered. A block takes one
hop to the thread and back, however many statements it has.

With `in_loop=True` everything runs on one connection in the event loop: no thread, so that virtual time works.

On failure a block is rolled back. A block that was handed over runs to its end even when its caller is cancelled, so
its outcome is known; a read is stopped when it is cancelled or takes too long. A COMMIT that fails with an I/O error
may or may not be on the disk: `CommitUnknown`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Final, Literal

import trio

from taskcenter.store.connection import (
    ACQUIRE_TIMEOUT_S,
    STATEMENT_TIMEOUT_S,
    LockConflict,
    Observe,
    PoolStatistics,
    QueryFault,
    StoreFault,
    T,
    Work,
)
from taskcenter.store.gate import Gate
from taskcenter.store.repeat import Repeater
from taskcenter.store.sqlite_connection import SERVER, read_block, write_block
from taskcenter.store.sqlite_file import MEMORY, FileLock, connect
from taskcenter.store.sqlite_worker import Executor, Inline, Job, Worker

CLOSE_S: Final = 10.0


class SqliteDatabase:
    """One file, served by this process alone.

    `durable=False` skips the wait for the disk: for simulations. `path` may be ":memory:" with `in_loop` only.
    """

    dialect: Final[Literal["sqlite"]] = "sqlite"
    server: Final = SERVER

    def __init__(
        self,
        path: str,
        *,
        in_loop: bool = False,
        readers: int = 2,
        busy_timeout_s: float = 1.5,
        acquire_timeout_s: float = ACQUIRE_TIMEOUT_S,
        read_timeout_s: float = STATEMENT_TIMEOUT_S,
        durable: bool = True,
        rng: Random | None = None,
        observe: Observe | None = None,
    ) -> None:
        if path == MEMORY and not in_loop:
            raise QueryFault("a database in memory is one connection, which only in_loop has")
        self._path = path
        self._acquire_timeout_s = acquire_timeout_s
        self._read_timeout_s = read_timeout_s
        self._connect = partial(connect, path, busy_timeout_s=0 if in_loop else busy_timeout_s, durable=durable)
        self._repeater = Repeater(rng)
        self._observe = observe
        self._lock: FileLock | None = None
        self._writer: Executor = Inline() if in_loop else Worker("sqlite-writer")
        self._readers: list[Executor] = [] if in_loop else [Worker(f"sqlite-reader-{i}") for i in range(readers)]
        self._free = list(self._readers)  # the read gate counts the same
        self._write_gate = Gate(1)
        self._read_gate = Gate(len(self._readers))
        self._state: Literal["new", "open", "closed"] = "new"
        self._opened_total = 0
        self._lock_held_at = -math.inf  # when another process's lock was last waited for in vain

    async def open(self) -> None:
        """Lock the file and make all connections. Raises ConfigError or StoreFault; may then be called again."""
        if self._state != "new":
            return
        lock = None if self._path == MEMORY else FileLock(self._path)
        started: list[Executor] = []
        try:
            for executor in (self._writer, *self._readers):
                await executor.start(partial(self._connect, reader=executor is not self._writer))
                started.append(executor)
        except BaseException:
            with trio.CancelScope(shield=True):
                for executor in started:
                    await executor.stop()
            if lock is not None:
                lock.release()
            raise
        self._lock, self._state, self._opened_total = lock, "open", len(started)

    async def aclose(self) -> None:
        """Let running blocks end, refuse waiting ones, close the file and unlock it."""
        was, self._state = self._state, "closed"
        if was != "open":
            return
        places = [self._write_gate, *[self._read_gate] * len(self._readers)]
        with trio.move_on_after(CLOSE_S, shield=True):
            for gate in places:
                await gate.enter(CLOSE_S, urgent=True)
            for executor in (*self._readers, self._writer):  # the last one folds the log into the file
                await executor.stop()
            for gate in places:
                gate.leave()  # to those who waited, and are refused now
        if self._lock is not None:
            self._lock.release()

    async def lane(self, name: str) -> SqliteLane:
        """A handle whose blocks overtake all waiting ones; it reads on the writer's connection: no reader delays it."""
        return SqliteLane(self, name)

    def statistics(self) -> PoolStatistics:
        gates = (self._write_gate, self._read_gate)
        return PoolStatistics(
            size=sum(gate.capacity for gate in gates),
            in_use=sum(gate.in_use for gate in gates),
            waiting=sum(gate.waiting for gate in gates),
            opened_total=self._opened_total,
            discarded_total=0,
            errors_total=dict(self._repeater.errors_total),
        )

    def __repr__(self) -> str:
        return f"<SqliteDatabase {self._path!r} {self._state}, writer {self._write_gate}, readers {self._read_gate}>"

    async def read(self, work: Work[T]) -> T:
        return await self._repeater.once(partial(self._timed, "read", partial(self._read, work)))

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        return await self.write_as(work, attempts=attempts, urgent=False)

    async def write_as(self, work: Work[T], *, attempts: int, urgent: bool) -> T:
        """`write`; an urgent one overtakes the others."""
        once = partial(self._on_writer, partial(write_block, work), urgent=urgent, stoppable=False)
        return await self._repeater.repeat(partial(self._timed, "write", once), attempts)

    async def read_urgently(self, work: Work[T]) -> T:
        """`read` on the writer's connection, before whatever else waits for it."""
        once = partial(self._on_writer, partial(read_block, work, guard=True), urgent=True, stoppable=True)
        return await self._repeater.once(partial(self._timed, "read", once))

    async def _timed(self, kind: Literal["read", "write"], run: Callable[[], Awaitable[T]]) -> T:
        began = trio.current_time()
        result = await run()
        if self._observe is not None:
            self._observe(kind, trio.current_time() - began)
        return result

    async def _read(self, work: Work[T]) -> T:
        if not self._readers:
            return await self._on_writer(partial(read_block, work, guard=True), urgent=False, stoppable=True)
        await self._enter(self._read_gate, urgent=False)
        try:
            executor = self._free.pop()
            try:
                return await self._run(executor, partial(read_block, work, guard=False), stoppable=True)
            finally:
                self._free.append(executor)
        finally:
            self._read_gate.leave()

    async def _on_writer(self, job: Job[T], *, urgent: bool, stoppable: bool) -> T:
        asked_at = trio.current_time()
        await self._enter(self._write_gate, urgent=urgent)
        try:
            if asked_at < self._lock_held_at:
                raise LockConflict("another process holds the database file's lock")  # nobody waits for it twice
            try:
                return await self._run(self._writer, job, stoppable=stoppable)
            except LockConflict:
                self._lock_held_at = trio.current_time()
                raise
        finally:
            self._write_gate.leave()

    async def _enter(self, gate: Gate, *, urgent: bool) -> None:
        self._check_open()
        if not await gate.enter(self._acquire_timeout_s, urgent=urgent):
            raise StoreFault("busy", "all connections to the database file are in use")

    def _check_open(self) -> None:
        if self._state != "open":
            raise StoreFault("closed", "the database file is not open")

    async def _run(self, executor: Executor, job: Job[T], *, stoppable: bool) -> T:
        """Run a job on a connection that is ours now. A read that takes too long ends with StoreFault("timeout")."""
        self._check_open()  # it may have been closed while we waited
        if not stoppable:
            return await executor.run(job, stoppable=False)
        try:
            with trio.move_on_after(self._read_timeout_s):
                return await executor.run(job, stoppable=True)
        except StoreFault as error:
            if error.kind == "timeout":
                await trio.lowlevel.checkpoint_if_cancelled()  # stopped by the caller's cancellation, not by ours
            raise
        raise StoreFault("timeout", "a read of the database took too long")


class SqliteLane:
    """See `SqliteDatabase.lane`. Opened and closed with its database."""

    dialect: Final[Literal["sqlite"]] = "sqlite"
    server: Final = SERVER

    def __init__(self, database: SqliteDatabase, name: str) -> None:
        self._database = database
        self._name = name

    async def open(self) -> None:
        await self._database.open()

    async def aclose(self) -> None:
        """Nothing of its own to close."""

    async def lane(self, name: str) -> SqliteLane:
        return await self._database.lane(name)

    async def read(self, work: Work[T]) -> T:
        return await self._database.read_urgently(work)

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        return await self._database.write_as(work, attempts=attempts, urgent=True)

    def statistics(self) -> PoolStatistics:
        """Of the whole database: a lane has no connection of its own."""
        return self._database.statistics()

    def __repr__(self) -> str:
        return f"<SqliteLane {self._name} of {self._database!r}>"
