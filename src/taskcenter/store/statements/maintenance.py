"""Statements of the purge and of what belongs to no table group."""

from __future__ import annotations

from typing import Final

from taskcenter.store.statements.text import Query, insert_missing, locking

# --- purge: each stage finds by an index, and deletes what it found ------------------------------------------------

FINISHED: Final = "SELECT id FROM tasks WHERE finished_at < ? ORDER BY finished_at, id LIMIT ?"
# those that are finished still, held until the end of the transaction
STILL_FINISHED: Final = locking(
    "SELECT id FROM tasks WHERE id IN (...) AND finished_at < ?"
    " AND status IN ('succeeded', 'failed', 'stopped', 'cancelled')"
)
DELETE_OPEN: Final = "DELETE FROM cancelled_attempts WHERE task_id IN (...)"
DELETE_EXECUTIONS: Final = "DELETE FROM task_executions WHERE task_id IN (...)"
DELETE_TAGS: Final = "DELETE FROM task_tags WHERE task_id IN (...)"
# succeeded | failed | stopped | cancelled → (none)
DELETE_TASKS: Final = "DELETE FROM tasks WHERE id IN (...)"

# businesses with attempts that are older than retention, of tasks that live on (schedules)
WITH_OLD_ATTEMPTS: Final = (
    "SELECT b.id FROM business_systems b WHERE (SELECT e.execution_time FROM task_executions e"
    " WHERE e.business_id = b.id ORDER BY e.business_id, e.execution_time LIMIT 1) < ? LIMIT 1"
)
OLD_ATTEMPTS: Final = (
    "SELECT task_id, number FROM task_executions WHERE business_id = ? AND execution_time < ?"
    " ORDER BY execution_time LIMIT ?"
)
DELETE_ATTEMPT: Final = "DELETE FROM task_executions WHERE task_id = ? AND number = ?"

# businesses whose audit chain begins before retention
WITH_OLD_AUDIT: Final = (
    "SELECT l.business_id FROM business_ledger l WHERE"
    " (SELECT a.at FROM audit_log a WHERE a.business_id = l.business_id ORDER BY a.business_id, a.seq LIMIT 1) < ?"
    " LIMIT 1"
)
OLD_AUDIT: Final = "SELECT seq, at FROM audit_log WHERE business_id = ? ORDER BY seq LIMIT ?"
DELETE_AUDIT: Final = "DELETE FROM audit_log WHERE business_id = ? AND seq <= ?"

# keys, secrets and instances that ended long ago
DELETE_CREDENTIALS: Final = "DELETE FROM credentials WHERE expires_at < ? OR revoked_at < ?"
DELETE_SECRETS: Final = "DELETE FROM signing_secrets WHERE expires_at < ?"
DELETE_INSTANCES: Final = (
    "DELETE FROM instances WHERE dead = 1 AND expires_at < ?"
    " AND NOT EXISTS (SELECT 1 FROM shards WHERE shards.owner = instances.id)"
)

# --- totals, meta --------------------------------------------------------------------------------------------------

_SUMS: Final = "SELECT {cast} FROM business_ledger"
_ENDED: Final = ("succeeded", "failed", "stopped", "cancelled")
ENDED: Final = Query(
    mysql=_SUMS.format(cast=", ".join(f"CAST(SUM({name}) AS SIGNED)" for name in _ENDED)),
    sqlite=_SUMS.format(cast=", ".join(f"SUM({name})" for name in _ENDED)),
)
ACTIVE: Final = (
    "SELECT tasks.status, COUNT(*) FROM business_systems b JOIN tasks ON tasks.business_id = b.id"
    " AND tasks.kind = 'callback' AND tasks.status IN ('pending', 'running', 'retrying') GROUP BY tasks.status"
)
META: Final = "SELECT value FROM meta WHERE name = ?"
SET_META: Final = insert_missing("meta", ("name", "value"), "name")
PING: Final = "SELECT 1"
