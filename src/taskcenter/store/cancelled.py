"""Attempts that were on their way when their task was cancelled, until somebody tells how each of them ended.

The row of a cancelled task says nothing of its attempt any more, and may be called back to life and sent again while
that is still on its way. So a cancel that finds a task running leaves a row here. Whoever tells the end takes it away
in the same transaction: the sender, with the attempt's outcome or the word that it was withdrawn unsent, or when it
repeats a claim whose COMMIT was not answered and learns of the cancel; or, when the sender was lost, the next owner of
the shard, who writes `interrupted` to history. Both lock the row before they look at history or write to it, so that
an attempt is told of once.

Order of locks: tasks, these rows, history, ledgers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from taskcenter.store.connection import Connection, Row
from taskcenter.store.engine_records import OpenAttempt
from taskcenter.store.records import IN_FLIGHT_SLACK_MS, Task
from taskcenter.store.rows import to_json
from taskcenter.store.statements import engine as sql
from taskcenter.store.statements import tasks as task_sql
from taskcenter.task import Status

LOOKED_AT: Final = 20  # a task's latest attempts


def attempt_on_its_way(task: Task) -> OpenAttempt:
    """The present attempt of a running task. Pure."""
    return OpenAttempt(
        task.id, task.sends, task.business_id, task.business_code, task.shard, task.term, task.run,
        task.current_retry + 1, task.scheduled_at, task.updated_at,
    )  # fmt: skip


async def leave_open(connection: Connection, cancelled: Sequence[Task]) -> None:
    """Of these tasks, as they were before their cancel, note the attempts on their way."""
    running = [attempt_on_its_way(task) for task in cancelled if task.status is Status.RUNNING]
    if running:
        rows = [
            (
                one.task_id, one.number, one.business_id, one.business_code.encode(), one.shard, one.term, one.run,
                one.attempt, one.scheduled_at, one.claimed_at,
            )
            for one in running
        ]  # fmt: skip
        await connection.insert_many(task_sql.LEAVE_OPEN.on(connection.dialect), rows)


async def may_arrive(connection: Connection, tasks: Sequence[Task], now: int) -> frozenset[str]:
    """Of these tasks, those of which an earlier attempt than the present one may yet reach its receiver.

    One that was cancelled with a former run and whose end is not told yet; or one whose sender was lost so lately that
    it may only stand still, or be cut off from the store.
    """
    sent = [task for task in tasks if task.sends and (task.interruptions or task.run > 1)]
    if not sent:
        return frozenset()
    doc = to_json(
        [
            {"id": task.id, "number": task.sends - LOOKED_AT, "since": now - task.timeout_ms - IN_FLIGHT_SLACK_MS}
            for task in sent
        ]
    )
    return frozenset(row[0] for row in await connection.fetch(task_sql.MAY_ARRIVE.on(connection.dialect), (doc, doc)))


def open_attempt(row: Row) -> OpenAttempt:
    """A row of `statements.tasks.OPEN_COLUMNS`."""
    task_id, number, business_id, code, *rest = row
    return OpenAttempt(task_id, number, business_id, code.decode(), *rest)


async def close(connection: Connection, attempts: Collection[tuple[str, int]]) -> None:
    """These, by task and number, have been told of, or are in this transaction; most were never noted here."""
    if attempts:
        doc = to_json([{"id": task_id, "number": number} for task_id, number in sorted(attempts)])
        await connection.execute(sql.CLOSE.on(connection.dialect), (doc,))
