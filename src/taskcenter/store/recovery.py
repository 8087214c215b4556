"""Takeover of what an owner left behind: rows that are `running` under a term older than their shard's.

Whether the attempt was sent is unknown. It is written to history as `interrupted` and the task is due now for the same
attempt again: its retry list is not used up. A task that was interrupted three times in a row may be what kills its
owners; it ends as `failed` (`crash_suspect`). An outcome of the old owner that arrives after this is superseded.

An attempt whose task was cancelled while it was on its way is written to history as `interrupted` too, and that is all
(`cancelled`). Those are looked for when no row of the shard is running under an older term any more: from then on none
can be added.

Nothing is opened here: a payload whose key is missing must not keep the others from being recovered.
An interrupted attempt's start is not known either: not before it was due, not before its claim, not after now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from taskcenter.store.batch_update import update_batch
from taskcenter.store.cancelled import attempt_on_its_way, close, open_attempt
from taskcenter.store.connection import Connection
from taskcenter.store.engine_records import FinishOf, OpenAttempt
from taskcenter.store.fence import held
from taskcenter.store.finishing import tell_ends
from taskcenter.store.ledger import Deltas, count
from taskcenter.store.records import Execution, ExecutionStatus, Task, TaskKind
from taskcenter.store.rows import execution_row, open_task, to_json
from taskcenter.store.statements import engine as sql
from taskcenter.store.statements.text import fetch_in
from taskcenter.store.vault import Vault
from taskcenter.task import FinishReason, Status

MOST_INTERRUPTIONS: Final = 3
INTERRUPTED: Final = "the sender was lost before the outcome was recorded"
Found = TypeVar("Found")
CRASH_SUSPECT: Final = f"its sender was lost {MOST_INTERRUPTIONS} times in a row"


@dataclass(frozen=True, slots=True)
class Page(Generic[Found]):
    seen: int  # rows found: fewer than asked for means that none are left
    recovered: list[Found]


def recovered(task: Task, now: int) -> Task:
    """A lost task as its new owner takes it over. Pure."""
    again = replace(task, interruptions=task.interruptions + 1, doubtful=True, version=task.version + 1, updated_at=now)
    if again.interruptions < MOST_INTERRUPTIONS:
        return replace(again, status=Status.RETRYING, next_execute_at=now)
    return replace(
        again, status=Status.FAILED, finish_reason=FinishReason.CRASH_SUSPECT, last_error=CRASH_SUSPECT, finished_at=now
    )


def interrupted(lost: OpenAttempt, now: int) -> Execution:
    """The lost attempt as history keeps it. Pure."""
    started_at = min(now, max(lost.scheduled_at, lost.claimed_at))
    return Execution(
        lost.task_id, lost.business_id, lost.number, lost.run, lost.attempt, lost.term, lost.scheduled_at,
        started_at, 0.0, float(max(0, started_at - lost.scheduled_at)), ExecutionStatus.INTERRUPTED,
        error_message=INTERRUPTED,
    )  # fmt: skip


async def recover(
    connection: Connection, *, vault: Vault, terms: Mapping[int, int], now: int, limit: int, finish: FinishOf | None
) -> Page[Task]:
    """Take over up to `limit` tasks of the shards that are held at these terms; as they are then, headers and payload
    left empty.
    """
    fenced = await held(connection, terms.keys())
    mine = {shard: term for shard, term in sorted(terms.items()) if fenced.get(shard) == term}
    doc = to_json([{"shard": shard, "term": term, "kind": kind} for shard, term in mine.items() for kind in TaskKind])
    found = [row[0] for row in await connection.fetch(sql.LOST.on(connection.dialect), (doc, limit))]
    rows = await fetch_in(connection, sql.LOCK.on(connection.dialect), sorted(found))
    lost = [
        task for row in rows
        if (task := open_task(row, None)).status is Status.RUNNING and task.term < mine.get(task.shard, 0)
    ]  # fmt: skip
    if not lost:
        return Page(len(found), [])
    after = [recovered(task, now) for task in lost]
    await _write(connection, vault, lost, after, now)
    await tell_ends(connection, vault, [task for task in after if task.status is Status.FAILED], finish)
    deltas = Deltas()
    for before, task in zip(lost, after, strict=True):
        if task.kind is TaskKind.CALLBACK:
            deltas[task.business_id].move(before.status, task.status)
            deltas[task.business_id].callbacks += 1
    await count(connection, deltas)
    return Page(len(found), after)


async def recover_cancelled(
    connection: Connection, *, vault: Vault, terms: Mapping[int, int], now: int, limit: int
) -> Page[OpenAttempt]:
    """Tell the end of up to `limit` attempts of cancelled tasks, of the shards that are held at these terms."""
    fenced = await held(connection, terms.keys())
    mine = {shard: term for shard, term in sorted(terms.items()) if fenced.get(shard) == term}
    doc = to_json([{"shard": shard, "term": term} for shard, term in mine.items()])
    found = [row[0] for row in await connection.fetch(sql.LEFT_OPEN.on(connection.dialect), (doc, limit))]
    rows = await fetch_in(connection, sql.LOCK_OPEN.on(connection.dialect), sorted(set(found)))
    lost = [attempt for row in rows if (attempt := open_attempt(row)).term < mine.get(attempt.shard, 0)]
    if lost:
        await close(connection, [(attempt.task_id, attempt.number) for attempt in lost])
        await tell_lost(connection, vault, lost, now)
        deltas = Deltas()
        for attempt in lost:
            deltas[attempt.business_id].callbacks += 1
        await count(connection, deltas)
    return Page(len(found), lost)


async def _write(connection: Connection, vault: Vault, lost: list[Task], after: list[Task], now: int) -> None:
    entries = [
        {
            "id": task.id, "version": before.version, "status": task.status, "interruptions": task.interruptions,
            "next_execute_at": task.next_execute_at, "finish_reason": task.finish_reason,
            "last_error": task.last_error, "finished_at": task.finished_at, "at": now,
        }
        for before, task in zip(lost, after, strict=True)
    ]  # fmt: skip
    await update_batch(connection, sql.RECOVER, entries)
    await tell_lost(connection, vault, [attempt_on_its_way(task) for task in lost], now)


async def tell_lost(connection: Connection, vault: Vault, lost: Sequence[OpenAttempt], now: int) -> None:
    """Into history with them."""
    rows = [execution_row(interrupted(attempt, now), now, vault) for attempt in lost]
    await connection.insert_many(sql.INSERT_EXECUTION.on(connection.dialect), rows)
