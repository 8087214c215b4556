"""Statements on tasks, their tags and their history."""

from __future__ import annotations

from typing import Final

from taskcenter.store.statements.text import ID, NUMBER, Query, batch, insert, insert_missing, locking

COLUMNS: Final = (
    "id", "business_id", "business_code", "shard", "business_unique_id", "callback_url", "callback_host",
    "callback_method", "headers", "payload", "retry_intervals", "timeout_ms", "schedule", "deadline_at", "finish_url",
    "tags", "flow_key", "flow_limit", "kind", "status", "finish_reason", "current_retry", "deferrals", "interruptions",
    "doubtful", "manual", "run", "runs_done", "sends", "term", "scheduled_at", "anchor_at", "next_execute_at",
    "version", "last_error", "created_at", "updated_at", "finished_at",
)  # fmt: skip
# How every task begins; all other columns are given.
NEWBORN: Final = {
    "status": "'pending'", "finish_reason": "NULL", "current_retry": "0", "deferrals": "0", "interruptions": "0",
    "doubtful": "0", "manual": "0", "run": "1", "runs_done": "0", "sends": "0", "term": "0", "version": "1",
    "last_error": "NULL", "finished_at": "NULL",
}  # fmt: skip
INSERT_COLUMNS: Final = (*(name for name in COLUMNS if name not in NEWBORN), "request_hash", "max_retries")
EXECUTION_COLUMNS: Final = (
    "task_id", "number", "business_id", "run", "attempt", "term", "status", "scheduled_at", "execution_time",
    "duration", "lateness_ms", "policy_wait_ms", "wait_reason", "request_data", "response_status", "response_data",
    "error_message", "created_at",
)  # fmt: skip
OPEN_COLUMNS: Final = (
    "task_id", "number", "business_id", "business_code", "shard", "term", "run", "attempt", "scheduled_at",
    "claimed_at",
)  # fmt: skip
_ALL: Final = ", ".join(COLUMNS)
_EXECUTION: Final = ", ".join(EXECUTION_COLUMNS)

# --- born ----------------------------------------------------------------------------------------------------------

# (none) → pending
INSERT: Final = insert("tasks", INSERT_COLUMNS, NEWBORN)
# (none) → pending, unless it was born before: the finish_url's task, whose cause may be recorded twice
INSERT_FINISH: Final = insert_missing("tasks", INSERT_COLUMNS, "id", NEWBORN)
INSERT_TAG: Final = insert("task_tags", ("business_id", "tag", "task_id"))
DELETE_TAGS: Final = "DELETE FROM task_tags WHERE task_id = ?"
# which unique ids of a business are taken, by which task with which request
TAKEN: Final = (
    "SELECT id, business_unique_id, request_hash FROM tasks WHERE business_id = ? AND business_unique_id IN (...)"
)

# --- read ----------------------------------------------------------------------------------------------------------

GET: Final = f"SELECT {_ALL} FROM tasks WHERE id = ? AND business_id = ?"
GET_MANY: Final = f"SELECT {_ALL} FROM tasks WHERE id IN (...)"
GET_BY_UNIQUE_ID: Final = f"SELECT {_ALL} FROM tasks WHERE business_id = ? AND business_unique_id = ?"
EXECUTIONS: Final = (
    f"SELECT {_EXECUTION} FROM task_executions WHERE task_id = ? AND business_id = ? AND number < ?"
    " ORDER BY number DESC LIMIT ?"
)
# the latest attempt of each task of the batch that has one
_OF_TASKS: Final = batch(id=ID)
_LAST: Final = (
    "e ON e.task_id = r.id AND e.number = (SELECT MAX(l.number) FROM task_executions l WHERE l.task_id = r.id)"
)
_COLUMNS: Final = ", ".join(f"e.{name}" for name in EXECUTION_COLUMNS)
LAST_ATTEMPTS: Final = Query(
    mysql=f"SELECT {_COLUMNS} FROM {_OF_TASKS.mysql} STRAIGHT_JOIN task_executions {_LAST}",
    sqlite=f"SELECT {_COLUMNS} FROM {_OF_TASKS.sqlite} CROSS JOIN task_executions {_LAST}",
)
# how many of a business's active tasks are in each state, from the index alone
ACTIVE_COUNTS: Final = (
    "SELECT status, COUNT(*) FROM tasks WHERE business_id = ? AND kind = 'callback'"
    " AND status IN ('pending', 'running', 'retrying') GROUP BY status"
)

# --- changed by the API --------------------------------------------------------------------------------------------

# the row, held until the end of the transaction
LOCK: Final = locking(GET)
LOCK_MANY: Final = locking(f"SELECT {_ALL} FROM tasks WHERE id IN (...)")
# active → the same state with other contents (column list from `UPDATABLE`)
UPDATE: Final = "UPDATE tasks SET {columns}, version = version + 1, updated_at = ? WHERE id = ? AND version = ?"
UPDATABLE: Final = frozenset({
    "callback_url", "callback_host", "callback_method", "headers", "payload", "retry_intervals", "max_retries",
    "timeout_ms", "schedule", "tags", "next_execute_at", "anchor_at", "deadline_at", "finish_url",
})  # fmt: skip
# pending | retrying → the same, due now
RUN_NOW: Final = (
    "UPDATE tasks SET next_execute_at = ?, manual = ?, version = version + 1, updated_at = ?"
    " WHERE id = ? AND version = ? AND status IN ('pending', 'retrying')"
)
# pending | running | retrying → cancelled, for all of the batch
_CANCELLED: Final = batch(id=ID, version=NUMBER, at=NUMBER)
CANCEL: Final = Query(
    mysql=f"UPDATE {_CANCELLED.mysql} STRAIGHT_JOIN tasks ON tasks.id = r.id"
    " SET tasks.status = 'cancelled', tasks.finish_reason = 'cancelled', tasks.next_execute_at = NULL,"
    " tasks.finished_at = r.at, tasks.updated_at = r.at, tasks.version = tasks.version + 1"
    " WHERE tasks.version = r.version AND tasks.status IN ('pending', 'running', 'retrying')",
    sqlite="UPDATE tasks SET status = 'cancelled', finish_reason = 'cancelled', next_execute_at = NULL,"
    f" finished_at = r.at, updated_at = r.at, version = tasks.version + 1 FROM {_CANCELLED.sqlite}"
    " WHERE tasks.id = +r.id AND tasks.version = r.version AND tasks.status IN ('pending', 'running', 'retrying')",
)
# (none) → an attempt that was on its way when its task was cancelled
LEAVE_OPEN: Final = insert_missing("cancelled_attempts", OPEN_COLUMNS, "number")
# tasks of the batch that have one, or of whose attempts after `number` one was interrupted since then; the batch twice
_SENT: Final = batch(id=ID, number=NUMBER, since=NUMBER)
_OPEN: Final = "cancelled_attempts c ON c.task_id = r.id"
_LOST: Final = (
    "task_executions e ON e.task_id = r.id AND e.number > r.number AND e.status = 'interrupted'"
    " AND e.execution_time >= r.since"
)
MAY_ARRIVE: Final = Query(
    mysql=f"SELECT r.id FROM {_SENT.mysql} STRAIGHT_JOIN {_OPEN}"
    f" UNION SELECT r.id FROM {_SENT.mysql} STRAIGHT_JOIN {_LOST}",
    sqlite=f"SELECT r.id FROM {_SENT.sqlite} CROSS JOIN {_OPEN}"
    f" UNION SELECT r.id FROM {_SENT.sqlite} CROSS JOIN {_LOST}",
)
# succeeded | failed | stopped | cancelled → pending, as the next run with the retry list from its start
REDELIVER: Final = (
    "UPDATE tasks SET status = 'pending', run = run + 1, current_retry = 0, deferrals = 0, interruptions = 0,"
    " doubtful = 0, manual = 0, finish_reason = NULL, finished_at = NULL, last_error = NULL,"
    " next_execute_at = ?, anchor_at = ?, version = version + 1, updated_at = ?"
    " WHERE id = ? AND version = ? AND status IN ('succeeded', 'failed', 'stopped', 'cancelled')"
)
