"""An exchange that is over, and what history and log keep of it. Pure."""

from __future__ import annotations

from typing import Any, Final

from taskcenter.actors.answers import Decision
from taskcenter.actors.egress.exchange import Answered, Exchange
from taskcenter.actors.message import webhook_id
from taskcenter.store.engine_records import Move
from taskcenter.store.records import Execution, Task
from taskcenter.values import value_class

MAX_KEPT_HEADERS: Final = 32


@value_class(frozen=True, slots=True)
class Ended:
    """The exchange is over."""

    task: Task
    exchange: Exchange
    decision: Decision
    request_headers: dict[str, str]
    started_ms: float
    ended_ms: float


def execution_of(ended: Ended, held_by: str | None, start_at: int) -> Execution:
    """The attempt as history keeps it. `held_by`: what held it back past its due time, until `start_at` (ms)."""
    task, exchange = ended.task, ended.exchange
    lateness_ms = ended.started_ms - task.scheduled_at
    answer = exchange if isinstance(exchange, Answered) else None
    return Execution(
        task_id=task.id,
        business_id=task.business_id,
        number=task.sends,
        run=task.run,
        attempt=task.current_retry + 1,
        term=task.term,
        scheduled_at=task.scheduled_at,
        started_at=int(ended.started_ms),
        duration_ms=ended.ended_ms - ended.started_ms,
        lateness_ms=lateness_ms,
        status=ended.decision.status,
        response_status=None if answer is None else answer.status,
        response_headers={} if answer is None else dict(answer.headers[:MAX_KEPT_HEADERS]),
        response_body=None if answer is None else answer.stored_body,
        error_message=ended.decision.reason,
        request_headers=ended.request_headers,
        wait_reason=held_by,
        policy_wait_ms=0.0 if held_by is None else max(0.0, min(start_at - task.scheduled_at, lateness_ms)),
    )


def log_fields(ended: Ended, execution: Execution, move: Move) -> dict[str, Any]:
    """One wide line an attempt."""
    return {
        "task_id": execution.task_id,
        "webhook_id": webhook_id(ended.task),
        "run": execution.run,
        "attempt": execution.attempt,
        "outcome": execution.status.value,
        "response_status": execution.response_status,
        "error": execution.error_message,
        "host": ended.task.callback_host,
        "scheduled_at": execution.scheduled_at,
        "lateness_ms": round(execution.lateness_ms, 3),
        "duration_ms": round(execution.duration_ms, 3),
        "held_by": execution.wait_reason,
        "term": execution.term,
        "status": move.status.value,
        "next_execute_at": move.next_execute_at,
    }
