"""Where an attempt's end takes its task. Pure: the caller records what is returned here, and nothing else."""

from __future__ import annotations

import json
from enum import Enum
from typing import Final

from taskcenter.actors.answers import Decision, Deferred, Stop
from taskcenter.actors.egress.exchange import Exchange, Faulted
from taskcenter.actors.egress.targets import check_url
from taskcenter.actors.retry import Defer, Finish, GiveUp, RetryAt, next_step
from taskcenter.schedule import next_due
from taskcenter.store.engine_records import Move, SendPoint
from taskcenter.store.records import Execution, ExecutionStatus, NewTask, Task, TaskKind
from taskcenter.task import TERMINAL, Event, FinishReason, Status, after
from taskcenter.times import format_time

MAX_ERROR_CHARS: Final = 1000
FINISH_RETRIES_MS: Final = (60_000, 300_000, 1_800_000)  # when the task itself has no list
WAITED_FOR: Final = {
    "rate_limit": "the rate limit",
    "breaker": "the breaker",
    "backlog": "its turn in the backlog",
    "host_limit": "the limit of its host",
    "flow": "the limit of its flow",
    "concurrency": "its business's concurrency",
    "memory": "its business's memory",
    "capacity": "a place in the process",
    "paused": "its business to be resumed",
    "store": "the store",
}
FINISH_ID_PREFIX: Final = "finish:"  # the store keeps a finish task apart from what users can name


class Health(Enum):
    """What an exchange says about the receiver, for its breaker."""

    WELL = "well"
    UNWELL = "unwell"
    UNKNOWN = "unknown"


def receiver_health(exchange: Exchange, decision: Decision) -> Health:
    """Time-outs, connection faults and 5xx count against it; 4xx and stop answers are a healthy receiver's."""
    if isinstance(exchange, Faulted):
        return Health.UNKNOWN if exchange.kind == "blocked" else Health.UNWELL
    if isinstance(decision, Stop):
        return Health.WELL
    if isinstance(decision, Deferred):
        return Health.UNWELL if decision.status_code_503 else Health.WELL
    return Health.UNWELL if exchange.status >= 500 else Health.WELL


def health_of(point: SendPoint) -> Health:
    """The same, of an attempt in the history."""
    match point.status:
        case ExecutionStatus.TIMEOUT | ExecutionStatus.CONNECTION_ERROR | ExecutionStatus.INVALID_RESPONSE:
            return Health.UNWELL
        case ExecutionStatus.BLOCKED | ExecutionStatus.INTERRUPTED:
            return Health.UNKNOWN
        case ExecutionStatus.HTTP_ERROR:
            return Health.UNWELL if (point.response_status or 0) >= 500 else Health.WELL
        case ExecutionStatus.DEFERRED:
            return Health.UNWELL if point.response_status == 503 else Health.WELL
    return Health.WELL


def move_after(task: Task, decision: Decision, started_ms: int, ended_ms: int) -> Move:
    """The row's next state after an attempt of `task` (as claimed). Times in ms since 1970."""
    step = next_step(
        decision,
        attempt=task.current_retry + 1,
        manual=task.manual,
        deferrals=task.deferrals,
        ended_ms=ended_ms,
        retry_intervals_ms=task.retry_intervals_ms,
        deadline_ms=task.deadline_at,
    )
    error = None if decision.reason is None else decision.reason[:MAX_ERROR_CHARS]
    match step:
        case RetryAt(due_ms=due_ms, attempt=attempt):
            return _waiting(task, Event.RETRY, due_ms, error, current_retry=attempt - 1)
        case Defer(due_ms=due_ms):
            return _waiting(
                task, Event.DEFER, due_ms, error, deferrals=task.deferrals + 1, manual=task.manual,
                doubtful=task.doubtful,
            )  # fmt: skip
        case Finish(status=Status.SUCCEEDED):
            return end_run(task, Event.SUCCEED, None, None, started_ms, ended_ms)
        case Finish(reason=reason):
            return _ended(task, Event.STOP, reason, error)
        case GiveUp(reason=reason):
            event = Event.EXPIRE if reason is FinishReason.DEADLINE_PASSED else Event.EXHAUST
            return end_run(task, event, reason, error, started_ms, ended_ms)


def end_run(  # noqa: PLR0917  # what ended, why, and when, in this order
    task: Task, event: Event, reason: FinishReason | None, error: str | None, started_ms: int, ended_ms: int
) -> Move:
    """A run is over: the next one of the schedule, or the end. Past the deadline no run follows.

    The run made up for every time of the schedule up to its last attempt's start.
    """
    if task.schedule is None:
        return _ended(task, event, reason, error)
    runs_done = task.runs_done + 1
    due_at = next_due(task.schedule, task.anchor_at, max(task.scheduled_at, started_ms), ended_ms, runs_done)
    if due_at is None or (task.deadline_at is not None and due_at > task.deadline_at):
        final = FinishReason.SCHEDULE_ENDED if event is Event.SUCCEED else reason
        ending = Event.END_SCHEDULE if event is Event.SUCCEED else event
        return _ended(task, ending, final, error, runs_done=runs_done)
    return Move(
        status=after(Status.RUNNING, Event.NEXT_RUN),
        current_retry=0,
        deferrals=0,
        run=task.run + 1,
        runs_done=runs_done,
        next_execute_at=due_at,
        last_error=error,
    )


def expired(task: Task, held_by: str | None) -> Move:
    """The deadline passed before the attempt could start. `held_by`: what kept it waiting past its due time."""
    return _ended(task, Event.EXPIRE, FinishReason.DEADLINE_PASSED, deadline_passed(task, held_by))


def deadline_passed(task: Task, held_by: str | None) -> str:
    """In words, what no deadline passes without: that it did, what the task waited for, what went wrong before."""
    assert task.deadline_at is not None  # the caller looked at it
    why = f" while it waited for {WAITED_FOR.get(held_by, held_by)}" if held_by else ""
    before = f"; before that: {task.last_error}" if task.last_error else ""
    return f"the deadline {format_time(task.deadline_at)} passed{why}{before}"[:MAX_ERROR_CHARS]


def withdrawn(task: Task) -> Move:
    """Cancelled between its claim and its send: the row is there already."""
    return _ended(task, Event.CANCEL, FinishReason.CANCELLED, task.last_error)


def faulted(task: Task, error: str) -> Move:
    """Nothing sound can be decided for this task: a bug of ours."""
    return _ended(task, Event.EXHAUST, FinishReason.RETRIES_EXHAUSTED, error)


def missed_run(task: Task, now_ms: int) -> Move | None:
    """A run so late that the next one is due as well is passed over when the schedule says `misfire: skip`.

    Not one that was begun: it has failed, was put off, or its sender was lost with it.
    """
    if task.schedule is None or task.schedule.get("misfire") != "skip":
        return None
    if task.current_retry or task.deferrals or task.doubtful:
        return None
    following = next_due(task.schedule, task.anchor_at, task.scheduled_at, task.scheduled_at, task.runs_done)
    if following is None or following > now_ms:
        return None
    due_at = next_due(task.schedule, task.anchor_at, task.scheduled_at, now_ms, task.runs_done)
    if due_at is None:
        return _ended(task, Event.END_SCHEDULE, FinishReason.SCHEDULE_ENDED, task.last_error)
    return Move(
        status=Status.PENDING,
        current_retry=0,
        deferrals=0,
        run=task.run,
        runs_done=task.runs_done,
        next_execute_at=due_at,
        last_error=task.last_error,
    )


def _waiting(
    task: Task,
    event: Event,
    due_at: int,
    error: str | None,
    *,
    current_retry: int | None = None,
    deferrals: int | None = None,
    manual: bool = False,
    doubtful: bool = False,
) -> Move:
    return Move(
        status=after(Status.RUNNING, event),
        current_retry=task.current_retry if current_retry is None else current_retry,
        deferrals=task.deferrals if deferrals is None else deferrals,
        run=task.run,
        runs_done=task.runs_done,
        next_execute_at=due_at,
        last_error=error,
        manual=manual,
        doubtful=doubtful,
    )


def _ended(
    task: Task, event: Event, reason: FinishReason | None, error: str | None, *, runs_done: int | None = None
) -> Move:
    return Move(
        status=after(Status.RUNNING, event),
        current_retry=task.current_retry,
        deferrals=task.deferrals,
        run=task.run,
        runs_done=task.runs_done if runs_done is None else runs_done,
        finish_reason=reason,
        last_error=error,
    )


def finish_call(task: Task, move: Move, execution: Execution | None, new_id: str, now_ms: int) -> NewTask | None:
    """The one call of the task's finish_url, as a task of its own, born in the transaction that ends the task."""
    if task.finish_url is None or move.status not in TERMINAL or task.kind is TaskKind.FINISH:
        return None
    last = (
        None
        if execution is None
        else {
            "id": execution.id,
            "attempt": execution.attempt,
            "run": execution.run,
            "status": execution.status,
            "response_status": execution.response_status,
            "started_at": format_time(execution.started_at),
            "duration_ms": round(execution.duration_ms, 3),
            "error_message": execution.error_message,
        }
    )
    payload = {
        "task_id": task.id,
        "business_code": task.business_code,
        "business_id": task.business_unique_id,
        "status": move.status,
        "finish_reason": move.finish_reason,
        "run": move.run,
        "attempts": task.sends,
        "last_execution": last,
    }
    return NewTask(
        id=new_id,
        business_id=task.business_id,
        business_code=task.business_code,
        shard=task.shard,
        business_unique_id=f"{FINISH_ID_PREFIX}{task.id}:{move.run}",
        request_hash=bytes(32),
        callback_url=task.finish_url,
        callback_host=check_url(task.finish_url).host,
        callback_method="POST",
        headers={},
        payload=json.dumps(payload, separators=(",", ":")).encode(),
        retry_intervals_ms=task.retry_intervals_ms or FINISH_RETRIES_MS,
        timeout_ms=task.timeout_ms,
        due_at=now_ms,
        created_at=now_ms,
        kind=TaskKind.FINISH,
    )
