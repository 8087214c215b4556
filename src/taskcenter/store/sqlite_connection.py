"""Blocks of work on one SQLite connection, driven to their end wherever they are: in a worker thread, or in the loop.

The methods of a connection are `async` in name only, so a block's coroutine can never have to wait, and one `next`
runs all of it; anything else it may await is refused. SQLite ends some transactions by itself (disk full, I/O error):
every further statement of such a block is refused, since it would run outside any transaction.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

from taskcenter.errors import CommitUnknown, TaskCenterError
from taskcenter.store.connection import Param, QueryFault, Row, StoreFault, T, Work, plain
from taskcenter.store.sql_text import split_insert
from taskcenter.store.sqlite_file import statement_error

SERVER: Final = f"sqlite {sqlite3.sqlite_version}"
CHUNKS: Final = (64, 8, 1)  # rows of one INSERT: few sizes, so that its prepared form is found again
_INSERT: Final = re.compile(r"\s*(?:INSERT|REPLACE)\b", re.IGNORECASE)
_EXACT: Final = frozenset({str, bytes, int, type(None)})  # need no look at the value


class SqliteConnection:
    """What a block gets; see `connection.Connection`. No method ever suspends."""

    dialect: Final[Literal["sqlite"]] = "sqlite"
    server: Final = SERVER

    def __init__(self, raw: sqlite3.Connection, *, writable: bool) -> None:
        self._raw: sqlite3.Connection | None = raw
        self._writable = writable
        self._insert_id = 0
        self.over: TaskCenterError | None = None  # why no further statement may run

    def end(self) -> None:
        """The block is over: whoever kept the connection gets QueryFault."""
        self._raw = None

    async def execute(self, sql: str, params: Sequence[Param] = ()) -> int:
        self._may_write(sql)
        return self._run(sql, params)[1]

    async def execute_insert_id(self, sql: str, params: Sequence[Param] = ()) -> int:
        self._may_write(sql)
        self._insert_id = 0
        self._run(sql, params)
        return self._insert_id

    async def last_insert_id(self) -> int:
        return self._insert_id

    async def fetch(self, sql: str, params: Sequence[Param] = ()) -> list[Row]:
        return self._run(sql, params)[0]

    async def fetch_one(self, sql: str, params: Sequence[Param] = ()) -> Row | None:
        rows = self._run(sql, params)[0]
        return rows[0] if rows else None

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        self._may_write(sql)
        inserted = start = 0
        while start < len(rows):
            count = next(size for size in CHUNKS if size <= len(rows) - start)
            statement, wanted = _insert_statement(sql, count)
            values: list[Param] = []
            for row in rows[start : start + count]:
                if len(row) != wanted:
                    raise QueryFault(f"{wanted} placeholders, {len(row)} parameters in a row", statement=sql)
                values.extend(row)
            inserted += self._run(statement, values)[1]
            start += count
        return inserted

    def _may_write(self, sql: str) -> None:
        if not self._writable:
            raise QueryFault("a read block may not change anything", statement=sql)

    def _run(self, sql: str, params: Sequence[Param]) -> tuple[list[Row], int]:
        """One statement: its rows, and how many it matched."""
        raw = self._raw
        if raw is None:
            raise QueryFault("a connection was used after its block had ended", statement=sql)
        if self.over is not None:
            raise self.over
        values = [value if type(value) in _EXACT else plain(value) for value in params]
        failure: TaskCenterError
        try:
            cursor = raw.execute(sql, values)
            rows: list[Row] = cursor.fetchall() if cursor.description is not None else []
            matched = max(cursor.rowcount, 0)
            if matched and _INSERT.match(sql):
                self._insert_id = cursor.lastrowid or 0
        except UnicodeEncodeError:
            failure = QueryFault("a text parameter holds a lone surrogate", statement=sql)
        except OverflowError:
            failure = QueryFault("an integer parameter does not fit 64 bits", statement=sql)
        except (sqlite3.Error, sqlite3.Warning) as error:
            failure = statement_error(error, sql, writable=self._writable)
        else:
            if self._writable and not raw.in_transaction:
                self.over = QueryFault("a statement ended the transaction of its block", statement=sql)
                raise self.over
            return rows, matched
        if isinstance(failure, StoreFault) or (self._writable and not raw.in_transaction):
            self.over = failure
        raise failure  # out here, so that the module's words are not chained to it


@lru_cache(maxsize=512)
def _insert_statement(sql: str, count: int) -> tuple[str, int]:
    """The INSERT for `count` rows, and how many values a row has."""
    head, pieces, tail = split_insert(sql)
    row = b"?".join(pieces)
    return (head + b",".join([row] * count) + tail).decode(), len(pieces) - 1


def _drive(work: Work[T], connection: SqliteConnection) -> T:
    """Run a block's coroutine to its end without a loop."""
    steps = work(connection).__await__()
    try:
        next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        connection.end()
    close = getattr(steps, "close", None)
    if close is not None:
        close()
    raise QueryFault("a block on SQLite awaited something other than its connection")


def read_block(work: Work[T], raw: sqlite3.Connection, *, guard: bool) -> T:
    """A read block; `guard` on the writer's connection, which does not refuse changes by itself."""
    if not guard:
        return _drive(work, SqliteConnection(raw, writable=False))
    _control(raw, "PRAGMA query_only=ON")
    try:
        return _drive(work, SqliteConnection(raw, writable=False))
    finally:
        _control(raw, "PRAGMA query_only=OFF")


def write_block(work: Work[T], raw: sqlite3.Connection) -> T:
    """A write block as one transaction."""
    if raw.in_transaction:  # a ROLLBACK that failed
        _control(raw, "ROLLBACK")
    _control(raw, "BEGIN IMMEDIATE")
    connection = SqliteConnection(raw, writable=True)
    try:
        result = _drive(work, connection)
        if connection.over is not None:  # swallowed by the block
            raise connection.over
        _control(raw, "COMMIT")
    except BaseException:
        if raw.in_transaction:
            _control(raw, "ROLLBACK")
        raise
    return result


def _control(raw: sqlite3.Connection, sql: str) -> None:
    """A statement of our own."""
    failure: TaskCenterError | None = None
    try:
        raw.execute(sql)
    except sqlite3.Error as error:
        failure = statement_error(error, sql, writable=True)
    if failure is None:
        return
    if sql == "COMMIT" and isinstance(failure, StoreFault) and failure.kind == "server":
        raise CommitUnknown("the disk failed in a COMMIT; it may have taken effect")
    raise failure
