"""The plans of the statements that a verb really sends: a database that notes them, and EXPLAIN in one form."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.store.wrapped import WrappedDatabase

from taskcenter.store import schema
from taskcenter.store.connection import Connection, Database, Dialect, Param, Row, T, Work

Statement = tuple[str, tuple[Param, ...]]


@dataclass
class NotingConnection:
    """A connection that notes each statement and passes it on."""

    inner: Connection
    noted: list[Statement]

    @property
    def dialect(self) -> Dialect:
        return self.inner.dialect

    @property
    def server(self) -> str:
        return self.inner.server

    async def execute(self, sql: str, params: Sequence[Param] = ()) -> int:
        self.noted.append((sql, tuple(params)))
        return await self.inner.execute(sql, params)

    async def execute_insert_id(self, sql: str, params: Sequence[Param] = ()) -> int:
        self.noted.append((sql, tuple(params)))
        return await self.inner.execute_insert_id(sql, params)

    async def last_insert_id(self) -> int:
        return await self.inner.last_insert_id()

    async def fetch(self, sql: str, params: Sequence[Param] = ()) -> list[Row]:
        self.noted.append((sql, tuple(params)))
        return await self.inner.fetch(sql, params)

    async def fetch_one(self, sql: str, params: Sequence[Param] = ()) -> Row | None:
        self.noted.append((sql, tuple(params)))
        return await self.inner.fetch_one(sql, params)

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        return await self.inner.insert_many(sql, rows)


@dataclass
class NotingDatabase(WrappedDatabase):
    """A database, and all its lanes, whose connections note what they are asked."""

    noted: list[Statement] = field(default_factory=list)

    async def read(self, work: Work[T]) -> T:
        async def noting(connection: Connection) -> T:
            return await work(NotingConnection(connection, self.noted))

        return await self.inner.read(noting)

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        async def noting(connection: Connection) -> T:
            return await work(NotingConnection(connection, self.noted))

        return await self.inner.write(noting, attempts=attempts)

    async def lane(self, name: str) -> Database:
        return NotingDatabase(await self.inner.lane(name), self.noted)


@dataclass(frozen=True)
class Step:
    """How one table of a statement is read."""

    table: str
    index: str | None  # None: all of it
    whole: bool  # every row or entry is looked at
    detail: str


@dataclass(frozen=True)
class Plan:
    sql: str
    steps: tuple[Step, ...]
    sorts: bool

    def indexes(self, table: str) -> set[str | None]:
        return {step.index for step in self.steps if step.table == table}


TABLES = set(schema.metadata.tables)
PRIMARY = {
    "tasks": "sqlite_autoindex_tasks_1",
    "task_executions": "sqlite_autoindex_task_executions_1",
    "task_tags": "sqlite_autoindex_task_tags_1",
    "audit_log": "sqlite_autoindex_audit_log_1",
    "cancelled_attempts": "sqlite_autoindex_cancelled_attempts_1",
}
ALIASES = {
    "t": "tasks", "g": "task_tags", "e": "task_executions", "b": "business_systems", "a": "audit_log",
    "c": "cancelled_attempts",
}  # fmt: skip


async def explain(database: Database, statement: Statement) -> Plan:
    """The plan the server makes for it now. Index names are MySQL's on every server (`PRIMARY`)."""
    sql, params = statement
    if database.dialect == "sqlite":
        return await _sqlite_plan(database, sql, params)
    words = "EXPLAIN FORMAT=TRADITIONAL " if database.server.startswith("mysql") else "EXPLAIN "

    async def work(connection: Connection) -> list[Row]:
        return await connection.fetch(words + sql, params)

    steps = []
    sorts = False
    for row in await database.read(work):
        shift = 1 if database.server.startswith("mysql") else 0  # MySQL names partitions after the table
        table, kind, index, extra = row[2], row[3 + shift], row[5 + shift], row[-1] or ""
        name = ALIASES.get(table, table) or "-"
        steps.append(Step(name, index, kind in ("ALL", "index"), f"{kind} {extra}"))
        sorts = sorts or ("filesort" in extra and not name.startswith("<"))
    return Plan(sql, tuple(steps), sorts)


async def _sqlite_plan(database: Database, sql: str, params: Sequence[Param]) -> Plan:
    async def work(connection: Connection) -> list[Row]:
        return await connection.fetch("EXPLAIN QUERY PLAN " + sql, params)

    rows = await database.read(work)
    steps = []
    readers = set()  # the parts of the statement that read a table of ours
    for _, parent, _, detail in rows:
        found = re.match(r"(SEARCH|SCAN) (\w+)(?: USING (?:COVERING )?INDEX (\w+)| USING INTEGER PRIMARY KEY)?", detail)
        if found:
            table = ALIASES.get(found[2], found[2])
            if table in TABLES:
                readers.add(parent)
            index = found[3]
            if index == PRIMARY.get(table):
                index = "PRIMARY"
            elif index == "sqlite_autoindex_tasks_2":
                index = "uq_tasks_unique_id"
            steps.append(Step(table, index, found[1] == "SCAN", detail))
    sorts = any("USE TEMP B-TREE" in detail and parent in readers for _, parent, _, detail in rows)
    return Plan(sql, tuple(steps), sorts)
