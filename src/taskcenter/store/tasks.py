"""Tasks as the API sees them (`interface.TaskStore`): births are in `creation`, changes in `changes`, lists in
`task_queries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from taskcenter.store import changes, creation
from taskcenter.store.changes import Change
from taskcenter.store.connection import Connection, Database, Param, Row
from taskcenter.store.engine_records import FinishOf
from taskcenter.store.ledger import ENDED
from taskcenter.store.records import (
    Changed,
    ChangeResult,
    CreateResult,
    Execution,
    NewAuditEntry,
    NewTask,
    Task,
    TaskChange,
    TaskCheck,
    TaskFilter,
    TaskKind,
)
from taskcenter.store.rows import STATUSES, open_execution, open_task, unique_key
from taskcenter.store.statements import businesses as ledgers
from taskcenter.store.statements import tasks as sql
from taskcenter.store.statements.text import fetch_in
from taskcenter.store.task_queries import matching_count, matching_ids
from taskcenter.store.vault import Vault
from taskcenter.task import Status

NEWEST = (1 << 31) - 1


class SqlTaskStore:
    """See `interface.TaskStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def create(
        self, tasks: Sequence[NewTask], max_active: Mapping[int, int], audit: Sequence[NewAuditEntry | None], now: int
    ) -> list[CreateResult]:
        if not tasks:
            return []
        return await creation.create(self._database, self._vault, tasks, max_active, audit)

    async def get(self, business_id: int, task_id: str) -> Task | None:
        return await self._get(sql.GET, (task_id, business_id))

    async def get_by_unique_id(self, business_id: int, business_unique_id: str) -> Task | None:
        return await self._get(sql.GET_BY_UNIQUE_ID, (business_id, unique_key(business_unique_id, TaskKind.CALLBACK)))

    async def _get(self, statement: str, params: tuple[Param, ...]) -> Task | None:
        async def work(connection: Connection) -> Row | None:
            return await connection.fetch_one(statement, params)

        row = await self._database.read(work)
        return None if row is None else open_task(row, self._vault)

    async def page(self, business_id: int, where: TaskFilter, before_id: str | None, limit: int) -> list[Task]:
        async def work(connection: Connection) -> list[Row]:
            found = await matching_ids(connection, business_id, where, before_id, limit)
            return await fetch_in(connection, sql.GET_MANY, found)

        tasks = [open_task(row, self._vault) for row in await self._database.read(work)]
        return sorted(tasks, key=lambda task: task.id, reverse=True)

    async def executions(
        self, business_id: int, task_id: str, before_number: int | None, limit: int
    ) -> list[Execution]:
        before = NEWEST if before_number is None else before_number

        async def work(connection: Connection) -> list[Row]:
            return await connection.fetch(sql.EXECUTIONS, (task_id, business_id, before, limit))

        return [open_execution(row, self._vault) for row in await self._database.read(work)]

    async def update(
        self,
        business_id: int,
        task_id: str,
        change: TaskChange,
        *,
        expected_version: int | None,
        now: int,
        audit: NewAuditEntry,
        check: TaskCheck | None = None,
    ) -> ChangeResult:
        call = Change(self._vault, business_id, task_id, now, audit)
        return await self._database.write(
            partial(changes.update, call=call, change=change, expected_version=expected_version, check=check)
        )

    async def run_now(self, business_id: int, task_id: str, now: int, audit: NewAuditEntry) -> ChangeResult:
        call = Change(self._vault, business_id, task_id, now, audit)
        return await self._database.write(partial(changes.run_now, call=call))

    async def cancel(
        self, business_id: int, task_id: str, now: int, audit: NewAuditEntry, *, finish: FinishOf | None = None
    ) -> ChangeResult:
        call = Change(self._vault, business_id, task_id, now, audit)
        return await self._database.write(partial(changes.cancel, call=call, finish=finish))

    async def cancel_matching(
        self,
        business_id: int,
        where: TaskFilter,
        limit: int,
        now: int,
        audit: NewAuditEntry,
        *,
        finish: FinishOf | None = None,
    ) -> list[Changed]:
        return await self._database.write(
            partial(
                changes.cancel_matching,
                vault=self._vault,
                business_id=business_id,
                where=where,
                limit=limit,
                now=now,
                audit=audit,
                finish=finish,
            )
        )

    async def redeliver(  # noqa: PLR0917  # five things name the call, as in its sisters; the sixth is the quota
        self, business_id: int, task_id: str, due_at: int, now: int, audit: NewAuditEntry, max_active: int
    ) -> ChangeResult:
        call = Change(self._vault, business_id, task_id, now, audit)
        return await self._database.write(partial(changes.redeliver, call=call, due_at=due_at, max_active=max_active))

    async def count(self, business_id: int, where: TaskFilter, limit: int) -> int:
        async def work(connection: Connection) -> int:
            return await matching_count(connection, business_id, where, limit)

        return await self._database.read(work)

    async def status_counts(self, business_id: int) -> dict[Status, int]:
        """The active ones counted, the ended ones from the ledger: purged ones stay counted."""

        async def work(connection: Connection) -> tuple[Row | None, list[Row]]:
            ledger = await connection.fetch_one(ledgers.LEDGER, (business_id,))
            return ledger, await connection.fetch(sql.ACTIVE_COUNTS, (business_id,))

        ledger, active = await self._database.read(work)
        counts = dict.fromkeys(Status, 0)
        if ledger is not None:
            totals = dict(zip(ledgers.COUNTERS, ledger, strict=True))
            counts |= {status: totals[name] for status, name in ENDED.items()}
        return counts | {STATUSES[word]: number for word, number in active}
