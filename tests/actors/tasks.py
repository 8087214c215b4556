"""Rows for tests of pure parts: a claimed task, and what became of it."""

from __future__ import annotations

from typing import Any

from taskcenter.store.records import Execution, ExecutionStatus, Task, TaskKind
from taskcenter.task import Status, shard_of

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
TASK_ID = "01K00000000000000000000001"
MINUTE = 60_000


def claimed(**given: Any) -> Task:
    """A task as its claim leaves it: running, due at `NOW`, at its first attempt."""
    fields: dict[str, Any] = {
        "id": TASK_ID,
        "business_id": 7,
        "business_code": "shop",
        "shard": shard_of("shop"),
        "business_unique_id": "order-1",
        "callback_url": "http://receiver.test/hook",
        "callback_host": "receiver.test:80",
        "callback_method": "POST",
        "headers": {},
        "payload": b'{"n": 1}',
        "retry_intervals_ms": (1_000, 60_000),
        "timeout_ms": 5_000,
        "schedule": None,
        "deadline_at": None,
        "finish_url": None,
        "tags": (),
        "flow_key": None,
        "flow_limit": None,
        "kind": TaskKind.CALLBACK,
        "status": Status.RUNNING,
        "finish_reason": None,
        "current_retry": 0,
        "deferrals": 0,
        "interruptions": 0,
        "doubtful": False,
        "manual": False,
        "run": 1,
        "runs_done": 0,
        "sends": 1,
        "term": 3,
        "scheduled_at": NOW,
        "anchor_at": NOW,
        "next_execute_at": None,
        "version": 2,
        "last_error": None,
        "created_at": NOW - MINUTE,
        "updated_at": NOW,
        "finished_at": None,
    }
    return Task(**(fields | given))


def attempt_of(task: Task, **given: Any) -> Execution:
    """The attempt that `task` was claimed for: a success after 40 ms, unless told otherwise."""
    fields: dict[str, Any] = {
        "number": task.sends,
        "run": task.run,
        "attempt": task.current_retry + 1,
        "term": task.term,
        "scheduled_at": task.scheduled_at,
        "started_at": task.scheduled_at + 2,
        "duration_ms": 40.1234,
        "lateness_ms": 2.5,
        "status": ExecutionStatus.SUCCESS,
        "response_status": 200,
    }
    return Execution(task_id=task.id, business_id=task.business_id, **(fields | given))
