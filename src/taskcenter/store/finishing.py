"""The calls of finish_urls for tasks that end in the store's own transactions: cancelled, or given up at a takeover."""

from __future__ import annotations

from collections.abc import Sequence

from taskcenter.store.connection import Connection
from taskcenter.store.creation import ROWS_AT_ONCE
from taskcenter.store.engine_records import FinishOf
from taskcenter.store.records import Execution, NewTask, Task
from taskcenter.store.rows import new_task_row, open_execution, to_json
from taskcenter.store.statements import tasks as sql
from taskcenter.store.statements.text import chunks
from taskcenter.store.vault import Vault


async def tell_ends(connection: Connection, vault: Vault, ended: Sequence[Task], finish: FinishOf | None) -> None:
    """Give birth to the hidden tasks that tell of these ends; what was written in this transaction is told of too."""
    asked = [task for task in ended if task.finish_url is not None]
    if finish is None or not asked:
        return
    last = await _last_attempts(connection, [task.id for task in asked if task.sends])
    born = [new for task in asked if (new := finish(task, last.get(task.id))) is not None]
    await insert_finish(connection, vault, born)


async def insert_finish(connection: Connection, vault: Vault, tasks: Sequence[NewTask]) -> None:
    """The hidden tasks that call finish_urls; one that is there already stays."""
    for some in chunks(tasks, ROWS_AT_ONCE):
        rows = [new_task_row(task, vault) for task in some]
        await connection.insert_many(sql.INSERT_FINISH.on(connection.dialect), rows)


async def _last_attempts(connection: Connection, task_ids: Sequence[str]) -> dict[str, Execution]:
    if not task_ids:
        return {}
    doc = to_json([{"id": task_id} for task_id in task_ids])
    rows = await connection.fetch(sql.LAST_ATTEMPTS.on(connection.dialect), (doc,))
    attempts = [open_execution(row, None) for row in rows]
    return {attempt.task_id: attempt for attempt in attempts}
