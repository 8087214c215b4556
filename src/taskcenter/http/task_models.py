"""What the calls on tasks take and answer, as the document shows it. Every field says its unit and an example.

The answers are written by `service/task_view.py` and `service/explain.py`, straight to JSON text; tests hold them
against these models. What is read is defined in `service/task_input.py` and `service/task_filter.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from taskcenter.http.openapi_parts import PROBLEM
from taskcenter.service.fields import InputModel, Reads
from taskcenter.service.task_creation import MAX_BATCH
from taskcenter.service.task_fields import FLOW_LIMIT_EXAMPLE, SCHEDULE_EXAMPLE
from taskcenter.store.records import ExecutionStatus
from taskcenter.task import FinishReason, Status

_ID = "01JA8Z3N4V7Q2M6K9T5R1X8C0B"
_AT = "2027-01-31T09:30:00.000Z"


def _tasks(value: Any) -> list[Any]:
    if type(value) is not list or not 1 <= len(value) <= MAX_BATCH:
        raise ValueError(f"must be a list of 1 to {MAX_BATCH} tasks")
    return value


_TASKS_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_BATCH,
    "items": {"$ref": "#/components/schemas/TaskInput"},
}


class BatchInput(InputModel):
    """Up to 1000 tasks, at most 8 MiB in all."""

    tasks: Annotated[list[Any], Reads(_tasks, _TASKS_SCHEMA)] = Field(
        description="The tasks to create, each as in `POST /tasks`.",
        examples=[[{"business_id": "order-42", "callback_url": "https://example.com/hook"}]],
    )


class ExecutionView(BaseModel):
    """One attempt that was sent, or may have been."""

    id: str = Field(description="The attempt's id.", examples=[f"{_ID}-1"])
    task_id: str = Field(description="The task.", examples=[_ID])
    run: int = Field(description="Which run of the task, from 1.", examples=[1])
    attempt: int = Field(description="Which attempt of the run, from 1; a deferral repeats the number.", examples=[1])
    scheduled_at: str = Field(description="When it was due.", examples=[_AT])
    started_at: str = Field(description="When it was sent.", examples=[_AT])
    duration_ms: float = Field(description="From the first byte out to the end of the answer, in ms.", examples=[41.7])
    lateness_ms: float = Field(description="Start minus due, in ms.", examples=[3.2])
    status: ExecutionStatus = Field(description="How it ended.", examples=["success"])
    response_status: int | None = Field(description="The receiver's HTTP status.", examples=[200])
    response_headers: dict[str, str] = Field(
        description="The receiver's headers.", examples=[{"content-type": "application/json"}]
    )
    response_body: str | None = Field(description="The first 4 KiB of the answer.", examples=['{"ok":true}'])
    error_message: str | None = Field(description="What went wrong, in words.", examples=["connection refused"])
    request_headers: dict[str, str] = Field(
        description="What was sent; values that sound secret are masked.", examples=[{"webhook-id": f"{_ID}-1"}]
    )
    wait_reason: str | None = Field(
        description="What held it back past its due time: rate_limit, backlog, breaker, host_limit, flow, concurrency, "
        "memory, capacity, paused, store.",
        examples=["rate_limit"],
    )
    policy_wait_ms: float = Field(
        description="Of its lateness, how long that held it back, in ms; the rest is the service's own.", examples=[0]
    )


class TaskView(BaseModel):
    """A task."""

    id: str = Field(description="The task's id; ids sort by time of creation.", examples=[_ID])
    business_code: str = Field(description="The business.", examples=["orders"])
    business_id: str = Field(description="The caller's own name for the task.", examples=["order-42:reminder"])
    status: Status = Field(
        description="pending and retrying wait for next_execute_at, running has an attempt on its way, the rest are "
        "final.",
        examples=["pending"],
    )
    finish_reason: FinishReason | None = Field(
        description="Why it is in its final state; null for a plain success.", examples=["retries_exhausted"]
    )
    callback_url: str = Field(description="Where the callback goes.", examples=["https://example.com/hooks/order"])
    callback_method: str = Field(description="The HTTP method.", examples=["POST"])
    headers: dict[str, str] = Field(description="The caller's headers.", examples=[{"X-Order": "42"}])
    execute_at: str = Field(description="When it was first due, by its latest time or schedule.", examples=[_AT])
    retry_intervals: list[float] = Field(description="Seconds between attempts.", examples=[[60, 300, 1800]])
    timeout: float = Field(description="Seconds for one exchange.", examples=[10])
    schedule: dict[str, Any] | None = Field(description="Of a recurring task.", examples=[SCHEDULE_EXAMPLE])
    deadline: str | None = Field(description="No attempt starts after it.", examples=[_AT])
    finish_url: str | None = Field(description="Called once at the end.", examples=["https://example.com/finished"])
    tags: list[str] = Field(description="To find it by.", examples=[["orders"]])
    flow_key: str | None = Field(description="What it shares a flow_limit with.", examples=["customer-7"])
    flow_limit: dict[str, Any] | None = Field(
        description="For all tasks with its flow_key; `period` in s.", examples=[FLOW_LIMIT_EXAMPLE]
    )
    current_retry: int = Field(description="Retries that this run has used up.", examples=[0])
    max_retries: int = Field(description="Retries a run has.", examples=[3])
    deferrals: int = Field(
        description="How often the receiver named a later time in this run; up to 20 use no attempt.", examples=[0]
    )
    run: int = Field(description="The present run, from 1; a redelivery is a new run.", examples=[1])
    runs: int = Field(description="Runs of the schedule that have ended.", examples=[0])
    attempts: int = Field(description="Attempts in its whole life.", examples=[0])
    next_execute_at: str | None = Field(description="When the next attempt is due, if one waits.", examples=[_AT])
    last_error: str | None = Field(description="The latest failure, in words.", examples=["HTTP 500"])
    version: int = Field(description="Grows with every change; for If-Match.", examples=[1])
    created_at: str = Field(description="When it was created.", examples=[_AT])
    updated_at: str = Field(description="When it last changed.", examples=[_AT])
    finished_at: str | None = Field(description="When it ended.", examples=[_AT])
    payload: Any = Field(description="Any JSON, as it was given.", examples=[{"order": 42}])


class TaskDetailView(TaskView):
    """A task with its latest 20 executions."""

    executions: list[ExecutionView] = Field(description="The latest 20, newest first.", examples=[[]])


class CancelledView(TaskView):
    """A cancelled task."""

    in_flight: bool = Field(
        description="Whether an attempt was already on its way and may still reach the receiver, a former run's or one "
        "whose sender was lost included. false: no callback of this task reaches the receiver any more. On a repeated "
        "call it tells whether that attempt may still be under way.",
        examples=[False],
    )


class TaskPage(BaseModel):
    """A page of tasks, newest first."""

    items: list[TaskView] = Field(description="The tasks; fewer than `limit` if payloads are large.", examples=[[]])
    next_cursor: str | None = Field(description="For the next page; null at the end.", examples=["q83vEjRWeJCrze8"])


class ExecutionPage(BaseModel):
    """A page of a task's history, newest first."""

    items: list[ExecutionView] = Field(description="The executions.", examples=[[]])
    next_cursor: str | None = Field(description="For the next page; null at the end.", examples=["q83vEjRWeJCrze8"])


class BatchResult(BaseModel):
    """What became of one item: `task` or `error`."""

    status: int = Field(
        description="201 created, 200 existed with an identical body, 409, 422, 429, or 503 (send it again).",
        examples=[201],
    )
    task: TaskView | None = Field(None, description="The task, if there is one.")
    error: Annotated[dict[str, Any], Reads(dict, PROBLEM)] | None = Field(
        None, description="The problem, if there is no task.", examples=[{"code": "invalid_request", "status": 422}]
    )


class BatchResults(BaseModel):
    """One result for each item, in the same order."""

    results: list[BatchResult] = Field(description="In the order of the items.", examples=[[]])


class BulkCancelledView(BaseModel):
    """What a cancel by filter did."""

    matched: int = Field(description="Active tasks that matched, up to `limit`.", examples=[120])
    cancelled: int = Field(description="Tasks cancelled; 0 for a dry run.", examples=[120])
    in_flight: int = Field(
        description="Of them, those with an attempt on its way; no further callback of any of them starts.",
        examples=[2],
    )
    more: bool = Field(description="Whether matching tasks are left: send the request again.", examples=[False])


class BulkRedeliveredView(BaseModel):
    """What a redelivery by filter did."""

    matched: int = Field(description="Finished tasks that matched, up to `limit`.", examples=[12])
    redelivered: int = Field(description="Tasks that are due again; 0 for a dry run.", examples=[12])
    more: bool = Field(description="Whether matching tasks are left: send the request again.", examples=[False])


class PlannedAttempt(BaseModel):
    """An attempt to come."""

    attempt: int = Field(description="Its number in the run, from 1.", examples=[2])
    due_at: str = Field(description="The earliest time, if each one before fails at once.", examples=[_AT])


class PlannedRun(BaseModel):
    """A run to come."""

    run: int = Field(description="Its number, from 1.", examples=[2])
    due_at: str = Field(description="When it is due.", examples=[_AT])


class Lateness(BaseModel):
    """Where the time of an attempt went."""

    scheduler_ms: float = Field(description="Late by the service's doing, in ms.", examples=[3.2])
    policy_wait_ms: float = Field(description="Held back by a limit, the breaker or a pause, in ms.", examples=[0])
    receiver_ms: float = Field(description="The exchange itself, in ms.", examples=[41.7])


class PastAttempt(BaseModel):
    """An attempt that was made."""

    run: int = Field(description="Which run, from 1.", examples=[1])
    attempt: int = Field(description="Which attempt of it, from 1.", examples=[1])
    status: ExecutionStatus = Field(description="How it ended.", examples=["success"])
    scheduled_at: str = Field(description="When it was due.", examples=[_AT])
    started_at: str = Field(description="When it was sent.", examples=[_AT])
    lateness: Lateness = Field(description="Where the time went.")
    wait_reason: str | None = Field(description="What held it back past its due time.", examples=["rate_limit"])
    error_message: str | None = Field(description="What went wrong.", examples=["connection refused"])


class ExplanationView(BaseModel):
    """Why a task has not run yet, or ended as it did."""

    task_id: str = Field(description="The task.", examples=[_ID])
    business_id: str = Field(description="The caller's own name for it.", examples=["order-42:reminder"])
    state: Status = Field(description="The task's status.", examples=["pending"])
    finish_reason: FinishReason | None = Field(description="Why it ended.", examples=["retries_exhausted"])
    summary: str = Field(description="One sentence.", examples=["Attempt 1 of 4 is due in 42 s; it is not due yet."])
    waiting_for: str | None = Field(
        description="time, deadline (it comes before the due time), rate_limit, backlog, breaker, host_limit, flow, "
        "concurrency, memory, capacity, paused, store, in_flight (the receiver's answer), or owner (the instance that "
        "runs its shard); null when it has ended.",
        examples=["time"],
    )
    detail: str | None = Field(description="More about it.", examples=["due at 2027-01-31T09:30:00.000Z"])
    position: int | None = Field(description="Place in the business's queue of due tasks, from 0.", examples=[0])
    next_execute_at: str | None = Field(description="When it is due.", examples=[_AT])
    expected_start_at: str | None = Field(description="When it will start, as far as is known.", examples=[_AT])
    deferrals: int = Field(
        description="How often the receiver named a later time in this run; up to 20 use no attempt.", examples=[0]
    )
    planned_attempts: list[PlannedAttempt] = Field(description="The attempts left in this run.", examples=[[]])
    planned_runs: list[PlannedRun] = Field(description="The next runs of its schedule, at most 3.", examples=[[]])
    past_attempts: list[PastAttempt] = Field(description="The latest 20, newest first.", examples=[[]])
