"""What the API changes in a task: each a transaction that locks the row, decides on what it holds, and writes.

The row stays locked from the look to the write, so there is no lost race to report and no guard that could fail; the
guards stand in the statements all the same. A hidden task (finish) is Missing here: no caller can name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from taskcenter.errors import TooMany
from taskcenter.store import audit as chains
from taskcenter.store.cancelled import leave_open, may_arrive
from taskcenter.store.connection import Connection, Param, QueryFault
from taskcenter.store.engine_records import FinishOf
from taskcenter.store.finishing import tell_ends
from taskcenter.store.ledger import Deltas, count, lock_active
from taskcenter.store.records import (
    UNSET,
    Changed,
    ChangeResult,
    Missing,
    NewAuditEntry,
    Task,
    TaskChange,
    TaskCheck,
    TaskFilter,
    TaskKind,
    VersionMismatch,
    WrongState,
)
from taskcenter.store.rows import open_task, optional_json, seal_headers, seal_payload, to_json
from taskcenter.store.statements import tasks as sql
from taskcenter.store.statements.text import fetch_in
from taskcenter.store.task_queries import matching_ids
from taskcenter.store.vault import Vault
from taskcenter.task import ACTIVE, TERMINAL, WAITING, FinishReason, Status

QUOTA_RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Change:
    """One call on one task."""

    vault: Vault
    business_id: int
    task_id: str
    now: int
    audit: NewAuditEntry

    async def lock(self, connection: Connection) -> Task | None:
        statement = sql.LOCK.on(connection.dialect)
        row = await connection.fetch_one(statement, (self.task_id, self.business_id))
        if row is None:
            return None
        task = open_task(row, self.vault)
        return task if task.kind is TaskKind.CALLBACK else None


def exactly(matched: int, wanted: int) -> None:
    """Rows whose locks we hold do not change; anything else is a bug of ours. Raises QueryFault."""
    if matched != wanted:
        raise QueryFault(f"a guarded update of {wanted} locked rows matched {matched}")


async def update(
    connection: Connection, call: Change, change: TaskChange, expected_version: int | None, check: TaskCheck | None
) -> ChangeResult:
    """See `interface.TaskStore.update`. Raises what `check` raises."""
    task = await call.lock(connection)
    if task is None:
        return Missing()
    if task.status in TERMINAL:
        return WrongState(task)
    if expected_version is not None and task.version != expected_version:
        return VersionMismatch(task)
    changed = _changed(task, change, call.now)
    if check is not None:
        check(changed)
    columns = _columns(task, change, call.vault)
    assert columns.keys() <= sql.UPDATABLE
    names = "".join(f"{name} = ?, " for name in columns).removesuffix(", ") or "status = status"
    statement = sql.UPDATE.format(columns=names)
    exactly(await connection.execute(statement, (*columns.values(), call.now, task.id, task.version)), 1)
    if not isinstance(change.tags, str):
        await connection.execute(sql.DELETE_TAGS, (task.id,))
        tags = [(task.business_id, tag.encode(), task.id) for tag in dict.fromkeys(change.tags)]
        if tags:
            await connection.insert_many(sql.INSERT_TAG, tags)
    await chains.append_audit(connection, [call.audit])
    return Changed(changed, task.status)


def _columns(task: Task, change: TaskChange, vault: Vault) -> dict[str, Param]:
    """What the change writes. Pure."""
    columns: dict[str, Param] = {}
    for name in ("callback_url", "callback_host", "callback_method", "timeout_ms", "deadline_at", "finish_url"):
        value = getattr(change, name)
        if value is not UNSET:
            columns[name] = value
    if not isinstance(change.headers, str):
        columns["headers"] = seal_headers(change.headers, task.id, vault)
    if not isinstance(change.payload, str):
        columns["payload"] = seal_payload(change.payload, task.id, vault)
    if not isinstance(change.retry_intervals_ms, str):
        columns["retry_intervals"] = to_json(change.retry_intervals_ms)
        columns["max_retries"] = len(change.retry_intervals_ms)
    if not isinstance(change.schedule, str):
        columns["schedule"] = optional_json(change.schedule)
    if not isinstance(change.tags, str):
        columns["tags"] = optional_json(change.tags)
    if not isinstance(change.due_at, str) and task.status in WAITING:
        columns["next_execute_at"] = columns["anchor_at"] = change.due_at
    return columns


def _changed(task: Task, change: TaskChange, now: int) -> Task:
    """The task after the change. Pure."""
    names = (
        "callback_url", "callback_host", "callback_method", "headers", "payload", "retry_intervals_ms", "timeout_ms",
        "schedule", "tags", "deadline_at", "finish_url",
    )  # fmt: skip
    given = {name: value for name in names if (value := getattr(change, name)) is not UNSET}
    if not isinstance(change.due_at, str) and task.status in WAITING:
        given["next_execute_at"] = given["anchor_at"] = change.due_at
    return replace(task, **given, version=task.version + 1, updated_at=now)


async def run_now(connection: Connection, call: Change) -> ChangeResult:
    """See `interface.TaskStore.run_now`."""
    task = await call.lock(connection)
    if task is None:
        return Missing()
    if task.status not in WAITING:
        return WrongState(task)
    manual = task.current_retry > 0
    exactly(await connection.execute(sql.RUN_NOW, (call.now, int(manual), call.now, task.id, task.version)), 1)
    await chains.append_audit(connection, [call.audit])
    due = replace(task, next_execute_at=call.now, manual=manual, version=task.version + 1, updated_at=call.now)
    return Changed(due, task.status)


async def cancel(connection: Connection, call: Change, finish: FinishOf | None) -> ChangeResult:
    """See `interface.TaskStore.cancel`."""
    task = await call.lock(connection)
    if task is None:
        return Missing()
    if task.status is Status.CANCELLED:
        return Changed(task, Status.CANCELLED)
    if task.status in TERMINAL:
        return WrongState(task)
    (cancelled,) = await _cancel(connection, [task], call, finish)
    return cancelled


async def cancel_matching(
    connection: Connection,
    *,
    vault: Vault,
    business_id: int,
    where: TaskFilter,
    limit: int,
    now: int,
    audit: NewAuditEntry,
    finish: FinishOf | None,
) -> list[Changed]:
    """See `interface.TaskStore.cancel_matching`."""
    wanted = replace(where, statuses=(where.statuses & ACTIVE) if where.statuses else ACTIVE)
    if not wanted.statuses:
        return []
    found = sorted(await matching_ids(connection, business_id, wanted, None, limit))
    rows = await fetch_in(connection, sql.LOCK_MANY.on(connection.dialect), found)
    tasks = [task for row in rows if (task := open_task(row, vault)).status in wanted.statuses]
    if not tasks:
        return []
    changed = await _cancel(connection, tasks, Change(vault, business_id, "", now, audit), finish)
    return sorted(changed, key=lambda change: change.task.id, reverse=True)


async def _cancel(
    connection: Connection, tasks: Sequence[Task], call: Change, finish: FinishOf | None
) -> list[Changed]:
    """Cancel locked active tasks; their finish_url's tasks are born with it."""
    now = call.now
    doc = to_json([{"id": task.id, "version": task.version, "at": now} for task in tasks])
    exactly(await connection.execute(sql.CANCEL.on(connection.dialect), (doc,)), len(tasks))
    cancelled = [
        replace(
            task, status=Status.CANCELLED, finish_reason=FinishReason.CANCELLED, next_execute_at=None,
            version=task.version + 1, updated_at=now, finished_at=now,
        )
        for task in tasks
    ]  # fmt: skip
    under_way = await may_arrive(connection, tasks, now)
    await leave_open(connection, tasks)
    await tell_ends(connection, call.vault, cancelled, finish)
    deltas = Deltas()
    for task in tasks:
        deltas[task.business_id].move(task.status, Status.CANCELLED)
    await count(connection, deltas)
    await chains.append_audit(connection, [call.audit])
    return [
        Changed(after, before.status, before.status is Status.RUNNING, before.id in under_way)
        for before, after in zip(tasks, cancelled, strict=True)
    ]


async def redeliver(connection: Connection, call: Change, due_at: int, max_active: int) -> ChangeResult:
    """See `interface.TaskStore.redeliver`. Raises TooMany."""
    task = await call.lock(connection)
    if task is None:
        return Missing()
    if task.status not in TERMINAL:
        return WrongState(task)
    if (await lock_active(connection, [task.business_id]))[task.business_id] >= max_active:
        detail = f"the business has {max_active} active tasks, which is its limit"
        raise TooMany("quota_exceeded", detail, retry_after_s=QUOTA_RETRY_S)
    values = (due_at, due_at, call.now, task.id, task.version)
    exactly(await connection.execute(sql.REDELIVER, values), 1)
    deltas = Deltas()
    deltas[task.business_id].move(task.status, Status.PENDING)
    await count(connection, deltas)
    await chains.append_audit(connection, [call.audit])
    again = replace(
        task, status=Status.PENDING, run=task.run + 1, current_retry=0, deferrals=0, interruptions=0,
        doubtful=False, manual=False, finish_reason=None, finished_at=None, last_error=None, next_execute_at=due_at,
        anchor_at=due_at, version=task.version + 1, updated_at=call.now,
    )  # fmt: skip
    return Changed(again, task.status)
