"""A task and its executions as the API shows them: JSON-ready values, times as RFC 3339, durations in seconds.

The payload is kept as JSON text and goes out as it is, spliced in rather than parsed and written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskcenter.service.json_text import dump
from taskcenter.store.records import Execution, Task
from taskcenter.times import format_duration, format_time


def time_or_none(at: int | None) -> str | None:
    return None if at is None else format_time(at)


def task_fields(task: Task) -> dict[str, Any]:
    """Everything but the payload."""
    return {
        "id": task.id,
        "business_code": task.business_code,
        "business_id": task.business_unique_id,
        "status": task.status.value,
        "finish_reason": None if task.finish_reason is None else task.finish_reason.value,
        "callback_url": task.callback_url,
        "callback_method": task.callback_method,
        "headers": dict(task.headers),
        "execute_at": format_time(task.anchor_at),
        "retry_intervals": [format_duration(interval_ms) for interval_ms in task.retry_intervals_ms],
        "timeout": format_duration(task.timeout_ms),
        "schedule": task.schedule,
        "deadline": time_or_none(task.deadline_at),
        "finish_url": task.finish_url,
        "tags": list(task.tags),
        "flow_key": task.flow_key,
        "flow_limit": task.flow_limit,
        "current_retry": task.current_retry,
        "max_retries": task.max_retries,
        "deferrals": task.deferrals,
        "run": task.run,
        "runs": task.runs_done,
        "attempts": task.sends,
        "next_execute_at": time_or_none(task.next_execute_at),
        "last_error": task.last_error,
        "version": task.version,
        "created_at": format_time(task.created_at),
        "updated_at": format_time(task.updated_at),
        "finished_at": time_or_none(task.finished_at),
    }


def execution_fields(execution: Execution) -> dict[str, Any]:
    body = execution.response_body
    return {
        "id": execution.id,
        "task_id": execution.task_id,
        "run": execution.run,
        "attempt": execution.attempt,
        "scheduled_at": format_time(execution.scheduled_at),
        "started_at": format_time(execution.started_at),
        "duration_ms": round(execution.duration_ms, 3),
        "lateness_ms": round(execution.lateness_ms, 3),
        "status": execution.status.value,
        "response_status": execution.response_status,
        "response_headers": dict(execution.response_headers),
        "response_body": None if body is None else body.decode(errors="replace"),
        "error_message": execution.error_message,
        "request_headers": dict(execution.request_headers),
        "wait_reason": execution.wait_reason,
        "policy_wait_ms": round(execution.policy_wait_ms, 3),
    }


def task_json(task: Task, **more: Any) -> bytes:
    """A task as JSON text, with `more` members at the end."""
    return b'%b,"payload":%b}' % (dump(task_fields(task) | more)[:-1], task.payload)


def detail_json(task: Task, executions: Sequence[Execution]) -> bytes:
    """A task with its latest executions, newest first."""
    return task_json(task, executions=[execution_fields(execution) for execution in executions])


def page_json(items: Iterable[bytes], next_cursor: str | None) -> bytes:
    """A page of items that are JSON text already."""
    return b'{"items":[%b],"next_cursor":%b}' % (b",".join(items), dump(next_cursor))
