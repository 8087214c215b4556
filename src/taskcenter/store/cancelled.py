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

from taskcenter.store.connection import Connection, Row
from taskcenter.store.engine_records import OpenAttempt
from taskcenter.store.records import Task
from taskcenter.store.rows import to_json
from taskcenter.store.statements import engine as sql
from taskcenter.store.statements import tasks as task_sql
from taskcenter.store.statements.text import fetch_in
from taskcenter.task import Status


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


async def have_open(connection: Connection, tasks: Sequence[Task]) -> frozenset[str]:
    """Of these tasks, those that were called back to life while an attempt was on its way whose end is not told yet."""
    revived = sorted(task.id for task in tasks if task.run > 1 and task.sends)
    return frozenset(row[0] for row in await fetch_in(connection, task_sql.HAVE_OPEN, revived))


def open_attempt(row: Row) -> OpenAttempt:
    """A row of `statements.tasks.OPEN_COLUMNS`."""
    task_id, number, business_id, code, *rest = row
    return OpenAttempt(task_id, number, business_id, code.decode(), *rest)


async def close(connection: Connection, attempts: Collection[tuple[str, int]]) -> None:
    """These, by task and number, have been told of, or are in this transaction; most were never noted here."""
    if attempts:
        doc = to_json([{"id": task_id, "number": number} for task_id, number in sorted(attempts)])
        await connection.execute(sql.CLOSE.on(connection.dialect), (doc,))
