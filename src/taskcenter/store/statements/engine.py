"""Statements of the engine: what is due, claims, outcomes, recovery (RELIABILITY.md §2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from taskcenter.store.statements.tasks import COLUMNS, EXECUTION_COLUMNS, OPEN_COLUMNS
from taskcenter.store.statements.text import (
    ID,
    NUMBER,
    TEXT,
    WORD,
    BatchUpdate,
    Query,
    batch,
    by_key,
    insert_missing,
    locking,
)

REF_COLUMNS: Final = (
    "id", "business_id", "shard", "next_execute_at", "version", "callback_host", "deadline_at", "flow_key",
    "flow_limit",
)  # fmt: skip
_REF: Final = ", ".join(REF_COLUMNS)
_ALL: Final = ", ".join(COLUMNS)
_WAITING: Final = "tasks.status IN ('pending', 'retrying')"
_MEMBER: Final = re.compile(r"\br\.(\w+)")  # of the batch


def _set(columns: dict[str, str]) -> Query:
    """`SET` of an UPDATE of tasks joined with the batch."""
    return Query(
        mysql="SET " + ", ".join(f"tasks.{name} = {value}" for name, value in columns.items()),
        sqlite="SET " + ", ".join(f"{name} = {value}" for name, value in columns.items()),
    )


def _update(
    table: Query, columns: dict[str, str], guard: str, alike: Mapping[str, str] = MappingProxyType({})
) -> BatchUpdate:
    """An UPDATE of the tasks named in a batch, where `guard` holds. `alike`: columns set otherwise in that form."""
    values = _set(columns)
    named = ", ".join(f"{name} = {value}" for name, value in {**columns, **alike}.items())
    text = f"UPDATE tasks SET {named} WHERE id IN (...) AND {guard}".replace("tasks.", "")
    return BatchUpdate(
        each=Query(
            mysql=f"UPDATE {table.mysql} STRAIGHT_JOIN tasks ON tasks.id = r.id {values.mysql} WHERE {guard}",
            sqlite=f"UPDATE tasks {values.sqlite} FROM {table.sqlite} WHERE tasks.id = +r.id AND {guard}",
        ),
        alike=by_key(_MEMBER.sub("?", text)),
        before=tuple(_MEMBER.findall(named)),
        after=tuple(_MEMBER.findall(guard)),
    )


# --- due -----------------------------------------------------------------------------------------------------------

# one page of the window: from its start, or strictly after (due, id); of all shards, or of some
_FROM_START: Final = "next_execute_at >= ? AND next_execute_at < ?"
_AFTER: Final = Query(
    mysql="((next_execute_at = ? AND id > ?) OR (next_execute_at > ? AND next_execute_at < ?))",
    sqlite="(next_execute_at, id) > (?, ?) AND next_execute_at >= ? AND next_execute_at < ?",
)
_PAGE: Final = " ORDER BY next_execute_at, id LIMIT ?"
_ONES: Final = " AND shard IN (...)"
_REFS: Final = f"SELECT {_REF} FROM tasks WHERE "
DUE: Final = f"{_REFS}{_FROM_START}{_PAGE}"
DUE_IN: Final = f"{_REFS}{_FROM_START}{_ONES}{_PAGE}"
DUE_AFTER: Final = Query(mysql=f"{_REFS}{_AFTER.mysql}{_PAGE}", sqlite=f"{_REFS}{_AFTER.sqlite}{_PAGE}")
DUE_IN_AFTER: Final = Query(
    mysql=f"{_REFS}{_AFTER.mysql}{_ONES}{_PAGE}", sqlite=f"{_REFS}{_AFTER.sqlite}{_ONES}{_PAGE}"
)
# the same of one business
_BUSINESS: Final = f"{_REFS}business_id = ? AND "
DUE_OF: Final = f"{_BUSINESS}{_FROM_START}{_PAGE}"
DUE_OF_AFTER: Final = Query(mysql=f"{_BUSINESS}{_AFTER.mysql}{_PAGE}", sqlite=f"{_BUSINESS}{_AFTER.sqlite}{_PAGE}")

# --- fence and claim -----------------------------------------------------------------------------------------------

# the owned shards' terms, share-locked: no shard changes hands before this transaction is over
_TERMS: Final = "SELECT shard, term FROM shards WHERE shard IN (...) AND owner IS NOT NULL ORDER BY shard"
FENCE: Final = by_key(_TERMS, " LOCK IN SHARE MODE")
# the rows of a batch, held until the end of the transaction
LOCK: Final = locking(f"SELECT {_ALL} FROM tasks WHERE id IN (...)")
# pending | retrying → running
CLAIM: Final = _update(
    batch(id=ID, version=NUMBER, term=NUMBER, due=NUMBER, at=NUMBER),
    {
        "status": "'running'", "sends": "tasks.sends + 1", "term": "r.term", "scheduled_at": "r.due",
        "next_execute_at": "NULL", "version": "tasks.version + 1", "updated_at": "r.at",
    },
    f"tasks.version = r.version AND {_WAITING}",
    alike={"scheduled_at": "next_execute_at"},  # which is where the batch has it from; assigned from left to right
)  # fmt: skip

# --- outcomes and settlements --------------------------------------------------------------------------------------

# what an outcome is compared with, held until the end of the transaction; on purpose without the shard's term
HEAD_COLUMNS: Final = ("id", "kind", "shard", "status", "version", "term", "sends", "interruptions", "next_execute_at")
HEADS: Final = locking(f"SELECT {', '.join(HEAD_COLUMNS)} FROM tasks WHERE id IN (...)")
_MOVES: Final = batch(
    id=ID, version=NUMBER, term=NUMBER, sends=NUMBER, status=WORD, current_retry=NUMBER, deferrals=NUMBER,
    doubtful=NUMBER, manual=NUMBER, run=NUMBER, runs_done=NUMBER, next_execute_at=NUMBER, finish_reason=WORD,
    last_error=TEXT, finished_at=NUMBER, at=NUMBER,
)  # fmt: skip
_MOVED: Final = {
    "status": "r.status", "current_retry": "r.current_retry", "deferrals": "r.deferrals",
    "doubtful": "r.doubtful", "manual": "r.manual", "run": "r.run", "runs_done": "r.runs_done",
    "next_execute_at": "r.next_execute_at", "finish_reason": "r.finish_reason", "last_error": "r.last_error",
    "finished_at": "r.finished_at", "version": "tasks.version + 1", "updated_at": "r.at",
}  # fmt: skip
# running → succeeded | failed | stopped | retrying | pending (next run), by compare-and-set on the claim
RECORD: Final = _update(
    _MOVES,
    {**_MOVED, "interruptions": "0"},
    "tasks.status = 'running' AND tasks.version = r.version AND tasks.term = r.term AND tasks.sends = r.sends",
)
# pending | retrying → failed | succeeded | pending (run skipped), without an attempt
SETTLE: Final = _update(_MOVES, _MOVED, f"tasks.version = r.version AND {_WAITING}")
# which of these attempts are in history already
_ATTEMPTS: Final = batch(id=ID, number=NUMBER)
KNOWN_ATTEMPTS: Final = Query(
    mysql=f"SELECT e.task_id, e.number, e.term, e.status FROM {_ATTEMPTS.mysql}"
    " STRAIGHT_JOIN task_executions e ON e.task_id = r.id AND e.number = r.number",
    sqlite=f"SELECT e.task_id, e.number, e.term, e.status FROM {_ATTEMPTS.sqlite}"
    " CROSS JOIN task_executions e ON e.task_id = r.id AND e.number = r.number",
)
# (none) → an attempt in history; one that is there stays as it is
INSERT_EXECUTION: Final = insert_missing("task_executions", EXECUTION_COLUMNS, "number")

# --- recovery ------------------------------------------------------------------------------------------------------

_OWNED: Final = batch(shard=NUMBER, term=NUMBER, kind=WORD)
_LOST: Final = (
    "business_systems.shard = r.shard"
    " {join} tasks {index} ON tasks.business_id = business_systems.id AND tasks.kind = r.kind"
    " AND tasks.status = 'running' WHERE tasks.term < r.term AND tasks.shard = r.shard LIMIT ?"
)
_FORCED: Final = "FORCE INDEX (ix_tasks_business_status)"  # with millions waiting a server may read them all instead
# tasks on their way under a term older than the shard's; the batch has each shard once for each kind of task
LOST: Final = Query(
    mysql=f"SELECT tasks.id FROM {_OWNED.mysql} STRAIGHT_JOIN business_systems ON"
    f" {_LOST.format(join='STRAIGHT_JOIN', index=_FORCED)}",
    sqlite=f"SELECT tasks.id FROM {_OWNED.sqlite} CROSS JOIN business_systems ON"
    f" {_LOST.format(join='CROSS JOIN', index='')}",
)
# running under an older term → retrying (due now, the same attempt, said to be doubtful) | failed (crash_suspect)
RECOVER: Final = _update(
    batch(
        id=ID, version=NUMBER, status=WORD, interruptions=NUMBER, next_execute_at=NUMBER, finish_reason=WORD,
        last_error=TEXT, finished_at=NUMBER, at=NUMBER,
    ),
    {
        "status": "r.status", "interruptions": "r.interruptions", "doubtful": "1",
        "next_execute_at": "r.next_execute_at", "finish_reason": "r.finish_reason", "last_error": "r.last_error",
        "finished_at": "r.finished_at", "version": "tasks.version + 1", "updated_at": "r.at",
    },
    "tasks.version = r.version AND tasks.status = 'running'",
)  # fmt: skip

# attempts of cancelled tasks that were left on their way under a term older than the shard's
_HELD: Final = batch(shard=NUMBER, term=NUMBER)
_LEFT: Final = "cancelled_attempts c ON c.shard = r.shard AND c.term < r.term LIMIT ?"
LEFT_OPEN: Final = Query(
    mysql=f"SELECT c.task_id FROM {_HELD.mysql} STRAIGHT_JOIN {_LEFT}",
    sqlite=f"SELECT c.task_id FROM {_HELD.sqlite} CROSS JOIN {_LEFT}",
)
# they themselves, held until the end of the transaction
LOCK_OPEN: Final = locking(f"SELECT {', '.join(OPEN_COLUMNS)} FROM cancelled_attempts WHERE task_id IN (...)")
# (an attempt whose end is told) → (none)
CLOSE: Final = Query(
    mysql=f"DELETE c FROM {_ATTEMPTS.mysql}"
    " STRAIGHT_JOIN cancelled_attempts c ON c.task_id = r.id AND c.number = r.number",
    sqlite=f"DELETE FROM cancelled_attempts WHERE (task_id, number) IN (SELECT id, number FROM {_ATTEMPTS.sqlite})",
)

# --- what a new owner must know ------------------------------------------------------------------------------------

# a business's callbacks since a moment, newest first. When an interrupted one started is not known: its recovery is the
# latest it can have been, and a rate limit must assume that
_STARTED: Final = "CASE e.status WHEN 'interrupted' THEN e.created_at ELSE e.execution_time END"
RECENT: Final = (
    f"SELECT {_STARTED}, e.status, tasks.callback_host, e.response_status FROM task_executions e"
    " JOIN tasks ON tasks.id = e.task_id WHERE e.business_id = ? AND e.execution_time >= ?"
    " ORDER BY e.execution_time DESC LIMIT ?"
)
# the same of tasks with a flow key
FLOW_STARTS: Final = (
    f"SELECT tasks.flow_key, {_STARTED} FROM task_executions e JOIN tasks ON tasks.id = e.task_id"
    " WHERE e.business_id = ? AND e.execution_time >= ? AND tasks.flow_key IS NOT NULL"
    " ORDER BY e.execution_time DESC LIMIT ?"
)
# its callbacks on their way
ON_THEIR_WAY: Final = (
    "SELECT scheduled_at, updated_at, callback_host FROM tasks"
    " WHERE business_id = ? AND kind IN ('callback', 'finish') AND status = 'running' LIMIT ?"
)
