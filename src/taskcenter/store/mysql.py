"""MySQL and MariaDB behind the `Database` interface: transactions, their repetition, the fate of a connection.

A connection goes back to the pool only after a COMMIT or ROLLBACK that the server has confirmed, and only when the
block ended well, with one of our own errors, or by a cancellation between two commands. Anything unforeseen, and a
cancellation or failure in the middle of a command, costs the connection: closing it is the one ROLLBACK that cannot
itself be cancelled or lost. An error of the server that says more about the server than about the statement (read
only, full, shutting down, killed) costs it too, because the next connection may well reach a better one.

Why a cancelled block is not simply made to pay with its connection: under a storm of cancellations (clients that hang
up) nearly all time went into logins that were themselves cancelled; 3 s of 60 such clients over TLS had 22 commits.

A COMMIT that is cancelled after half a second without an answer ends as the cancellation: its outcome is nobody's to
know. One whose answer is lost otherwise is `CommitUnknown`; one that was never sent is not.

A transaction that the server has ended (deadlock) or that must end (lock wait) refuses every further statement of its
block: the server would run them outside any transaction. So a block that swallows such an error still does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final, Literal

import trio

from taskcenter.errors import CommitUnknown, TaskCenterError
from taskcenter.store.connection import (
    ACQUIRE_TIMEOUT_S,
    STATEMENT_TIMEOUT_S,
    LockConflict,
    Observe,
    Param,
    PoolStatistics,
    QueryFault,
    Row,
    StoreFault,
    T,
    Work,
)
from taskcenter.store.mysql_auth import tls_context
from taskcenter.store.mysql_errors import commit_error, refused, statement_error
from taskcenter.store.mysql_pool import Outage, Pool, PoolSettings
from taskcenter.store.mysql_refusal import Refusal
from taskcenter.store.mysql_rows import Answer
from taskcenter.store.mysql_text import render, render_insert
from taskcenter.store.mysql_wire import COM_QUERY, IN_TRANSACTION, Wire, WireSettings
from taskcenter.store.mysql_witness import Witness
from taskcenter.store.repeat import Repeater
from taskcenter.store.url import MysqlUrl

BEGIN: Final = COM_QUERY + b"BEGIN"
COMMIT: Final = COM_QUERY + b"COMMIT"
ROLLBACK: Final = COM_QUERY + b"ROLLBACK"
INSERT_BYTES: Final = 1 << 22  # a longer multi-row INSERT is split; the server may allow less
_READS: Final = re.compile(r"[\s(]*(?:SELECT|WITH|SHOW|EXPLAIN)\b", re.IGNORECASE)
WAIT_TIMEOUT_S: Final = 10  # a frozen instance's locks are freed after this (RELIABILITY.md §1.7)


class MysqlConnection:
    """What a block gets; see `connection.Connection`."""

    dialect: Final[Literal["mysql"]] = "mysql"

    def __init__(self, wire: Wire, *, writable: bool) -> None:
        self._wire: Wire | None = wire
        self._writable = writable
        self._insert_id = 0
        self.server = wire.server
        self.over: TaskCenterError | None = None  # why no further statement may run

    @property
    def reusable(self) -> bool:
        """Whether what went wrong so far, if anything, is no reason to give the wire up."""
        return not isinstance(self.over, StoreFault) or isinstance(self.over, LockConflict)

    def end(self) -> None:
        """The block is over: whoever kept the connection gets QueryFault."""
        self._wire = None

    async def execute(self, sql: str, params: Sequence[Param] = ()) -> int:
        self._may_write(sql)
        return (await self._ask(render(sql, params), sql)).affected

    async def execute_insert_id(self, sql: str, params: Sequence[Param] = ()) -> int:
        self._may_write(sql)
        return (await self._ask(render(sql, params), sql)).insert_id

    async def last_insert_id(self) -> int:
        return self._insert_id

    async def fetch(self, sql: str, params: Sequence[Param] = ()) -> list[Row]:
        if not _READS.match(sql):
            self._may_write(sql)
        rows = (await self._ask(render(sql, params), sql)).rows
        return [] if rows is None else rows

    async def fetch_one(self, sql: str, params: Sequence[Param] = ()) -> Row | None:
        rows = await self.fetch(sql, params)
        return rows[0] if rows else None

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        self._may_write(sql)
        limit = min(INSERT_BYTES, self._wire.max_allowed_packet - 1) if self._wire is not None else INSERT_BYTES
        inserted = 0
        for statement in render_insert(sql, rows, limit):
            inserted += (await self._ask(statement, sql)).affected
        return inserted

    def _may_write(self, sql: str) -> None:
        if not self._writable:
            raise QueryFault("a read block may not change anything", statement=sql)

    async def _ask(self, statement: bytes, sql: str) -> Answer:
        """One statement and its answer. Sets `over` when no other one may follow."""
        wire = self._wire
        if wire is None:
            raise QueryFault("a connection was used after its block had ended", statement=sql)
        if self.over is not None:
            raise self.over
        if len(statement) >= wire.max_allowed_packet:
            words = f"a statement of {len(statement)} bytes exceeds max_allowed_packet={wire.max_allowed_packet}"
            raise QueryFault(words, statement=sql)
        try:
            answer = await wire.command(COM_QUERY + statement)
        except StoreFault as error:
            self.over = error
            raise
        if isinstance(answer, Refusal):
            refusal = statement_error(answer, sql)
            if isinstance(refusal, StoreFault):
                self.over = refusal
            raise refusal
        if self._writable and not answer.status & IN_TRANSACTION:
            self.over = QueryFault("a statement ended the transaction of its block", statement=sql)
            raise self.over
        if answer.insert_id:
            self._insert_id = answer.insert_id
        return answer


class MysqlDatabase:
    """A pool on one MySQL-protocol server, or a lane of it. Raises ConfigError for unusable TLS files.

    `statement_timeout_s` bounds each answer, `acquire_timeout_s` getting a connection. A lane has `pool_size` 1.
    """

    dialect: Final[Literal["mysql"]] = "mysql"

    def __init__(
        self,
        url: MysqlUrl,
        *,
        pool_size: int = 8,
        acquire_timeout_s: float = ACQUIRE_TIMEOUT_S,
        connect_timeout_s: float = 5.0,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        wait_timeout_s: int = WAIT_TIMEOUT_S,
        rng: Random | None = None,
        observe: Observe | None = None,
        outage: Outage | None = None,
        name: str = "pool",
    ) -> None:
        self._url = url
        self._name = name
        self._observe = observe
        self._acquire_timeout_s = acquire_timeout_s
        self._repeater = Repeater(rng)
        self._context = tls_context(url)
        self._lookups = trio.CapacityLimiter(4)
        self._wire_settings = WireSettings(connect_timeout_s, statement_timeout_s, wait_timeout_s=wait_timeout_s)
        limits = PoolSettings(pool_size, acquire_timeout_s, idle_limit_s=wait_timeout_s * 0.75)
        self._witness = Witness(self._new_look)
        self._outage = Outage(self._repeater.rng) if outage is None else outage
        self._pool = Pool(self._new_wire, limits, self._repeater.rng, self._outage)
        self._lanes: list[MysqlDatabase] = []
        self.server = "mysql"  # kind and version from the first connection on

    def _new_wire(self) -> Wire:
        return Wire(self._url, self._wire_settings, self._context, self._lookups, self._witness)

    def _new_look(self) -> Wire:
        return Wire(self._url, self._wire_settings, self._context, self._lookups)

    async def open(self) -> None:
        """Make one connection, to see that it can be done. Raises StoreFault; may be called again."""
        wire = await self._pool.acquire()
        self.server = wire.server
        self._pool.release(wire, clean=True)

    async def aclose(self) -> None:
        """Close all connections, of the lanes too. Blocks under way fail."""
        for lane in self._lanes:
            await lane.aclose()
        self._pool.close()

    async def lane(self, name: str) -> MysqlDatabase:
        """A handle with one connection of its own, made when first needed and whenever the server has ended it."""
        s = self._wire_settings
        lane = MysqlDatabase(
            self._url,
            pool_size=1,
            acquire_timeout_s=self._acquire_timeout_s,
            connect_timeout_s=s.connect_timeout_s,
            statement_timeout_s=s.statement_timeout_s,
            wait_timeout_s=s.wait_timeout_s,
            rng=self._repeater.rng,
            observe=self._observe,
            outage=self._outage,
            name=name,
        )
        self._lanes.append(lane)
        return lane

    def statistics(self) -> PoolStatistics:
        """Of this handle's own connections, without the lanes'."""
        seen = self._pool.statistics()
        return replace(seen, errors_total=dict(self._repeater.errors_total))

    def __repr__(self) -> str:
        seen = self._pool.statistics()
        return f"<MysqlDatabase {self._name} {self._url}, {seen.in_use}/{seen.size} in use, {seen.waiting} waiting>"

    async def read(self, work: Work[T]) -> T:
        return await self._repeater.once(partial(self._read, work))

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        return await self._repeater.repeat(partial(self._transaction, work), attempts)

    async def _read(self, work: Work[T]) -> T:
        wire = await self._pool.acquire()
        began = trio.current_time()
        connection = MysqlConnection(wire, writable=False)
        clean = False
        try:
            result = await work(connection)
            clean = connection.reusable
        except (TaskCenterError, trio.Cancelled):
            clean = connection.reusable
            raise
        finally:
            connection.end()
            self._pool.release(wire, clean=clean, suspect=_silent(connection))
        if self._observe is not None:
            self._observe("read", trio.current_time() - began)
        return result

    async def _transaction(self, work: Work[T]) -> T:
        wire = await self._begin()
        began = trio.current_time()
        connection = MysqlConnection(wire, writable=True)
        clean = False
        try:
            try:
                result = await work(connection)
                if connection.over is not None:  # swallowed by the block
                    raise connection.over
            except (TaskCenterError, trio.Cancelled):
                clean = connection.reusable and await _roll_back(wire)
                raise
            await _commit(wire)
            clean = True
        finally:
            connection.end()
            self._pool.release(wire, clean=clean, suspect=_silent(connection))
        if self._observe is not None:
            self._observe("write", trio.current_time() - began)
        return result

    async def _begin(self) -> Wire:
        """A wire with an open transaction. One that had died while idle is replaced once: nothing ran on it yet."""
        wire = await self._pool.acquire()
        try:
            await self._begin_on(wire)
        except StoreFault as error:
            if error.kind not in ("lost", "server"):
                raise
        else:
            return wire
        wire = await self._pool.acquire(fresh=True)
        await self._begin_on(wire)
        return wire

    async def _begin_on(self, wire: Wire) -> None:
        """BEGIN. Whatever else comes of it, the wire is given back."""
        fault: StoreFault | None = None
        begun = False
        try:
            answer = await wire.command(BEGIN)
            begun = isinstance(answer, Answer) and bool(answer.status & IN_TRANSACTION)
            if not begun:
                fault = refused(answer.errno if isinstance(answer, Refusal) else 0)
        except StoreFault as error:
            fault = error
        finally:
            if not begun:
                self._pool.release(wire, clean=fault is None, suspect=fault is not None)  # cancelled: nothing was sent
        if fault is not None:
            raise fault


def _silent(connection: MysqlConnection) -> bool:
    """Whether the wire broke or timed out, which throws doubt on the others."""
    return isinstance(connection.over, StoreFault) and connection.over.kind in ("lost", "timeout", "server")


async def _roll_back(wire: Wire) -> bool:
    """Whether the server has confirmed a ROLLBACK."""
    if not wire.in_step:
        return False
    try:
        return isinstance(await wire.command(ROLLBACK, settle=True), Answer) and wire.at_rest
    except StoreFault:
        return False  # the connection is gone, and the transaction with it


async def _commit(wire: Wire) -> None:
    """Raises CommitUnknown when the answer is lost, or is an error that does not rule the commit out."""
    try:
        answer = await wire.command(COMMIT, settle=True)
    except StoreFault:
        if not wire.sent:
            raise
        raise CommitUnknown("the database's answer to COMMIT was lost; it may have taken effect") from None
    if isinstance(answer, Refusal):
        raise commit_error(answer)
