"""Why a task has not run yet, or ended as it did: from its row, its history, and what its owner's engine says.

The row tells what is planned, the engine what holds a due task back; another instance's engine is asked. `owner` says
that nobody runs the shard, or that its owner has not taken the task up. Pure but for the engine's view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskcenter.actors.retry import MAX_DEFERRALS, planned_attempts
from taskcenter.schedule import next_due
from taskcenter.service.engine_port import Engine, WaitView
from taskcenter.service.task_view import time_or_none
from taskcenter.store.records import Business, BusinessStatus, Execution, Task
from taskcenter.task import FinishReason, Status
from taskcenter.times import format_time, spell_duration

PLANNED_RUNS: Final = 3

_HELD: Final = {
    "rate_limit": "it is held back by the business's rate limit",
    "breaker": "the breaker of its destination is open",
    "backlog": "it is part of a backlog that is let go at a measured pace",
    "host_limit": "it is held back by the limit of its destination host",
    "flow": "it is held back by the limit of its flow_key",
    "memory": "its business's callbacks on their way hold as much memory as they may",
    "concurrency": "the business has as many callbacks on their way as it may",
    "capacity": "the service has as many callbacks on their way as it can",
    "paused": "its business is paused",
    "store": "the store did not take its claim",
    "in_flight": "its attempt is on its way",
    "owner": "it waits for the instance that runs its shard",
    "time": "it is not due yet",
    "deadline": "its deadline comes first, so it will fail",
}
_ENDS: Final = {
    None: ": the receiver accepted it",
    FinishReason.RETRIES_EXHAUSTED: ": the last attempt failed and the list of retries is used up",
    FinishReason.DEADLINE_PASSED: ": its deadline passed before it succeeded",
    FinishReason.CRASH_SUSPECT: ": the service died three times in a row while it was on its way",
    FinishReason.RECEIVER_STOPPED: ": the receiver asked for no further attempt",
    FinishReason.SCHEDULE_ENDED: ": its schedule has no further run",
    FinishReason.CANCELLED: "",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    task: Task
    sentence: str
    waiting_for: str | None  # a key of _HELD; None for a task that has ended
    detail: str | None
    position: int | None  # in the business's queue of due tasks, from 0
    expected_start_at: int | None
    planned: list[tuple[int, int]]  # number and due time of the attempts from the next on, if each fails at once
    runs: list[int]  # due times of the runs after the present one
    executions: Sequence[Execution]


async def explain(
    task: Task, executions: Sequence[Execution], business: Business, engine: Engine, now: int
) -> Explanation:
    """`executions`: the latest, newest first. `now` in ms since 1970."""
    if task.finished_at is not None:
        sentence = f"It {_ended(task)} at {format_time(task.finished_at)}{_ENDS[task.finish_reason]}."
        return Explanation(task, sentence, None, task.last_error, None, None, [], [], executions)
    view = _known(task, business, now) or await _asked(task, engine)
    planned = _planned(task, view.expected_start_at)
    sentence = f"{_due(task, now)}; {_HELD.get(view.reason, view.reason)}."
    return Explanation(
        task,
        sentence,
        view.reason,
        view.detail,
        view.position,
        view.expected_start_at,
        planned,
        _runs(task, now),
        executions,
    )


def _ended(task: Task) -> str:
    passive = task.status in {Status.CANCELLED, Status.STOPPED}
    return f"was {task.status.value}" if passive else task.status.value


def _due(task: Task, now: int) -> str:
    if task.next_execute_at is None:
        return f"Attempt {task.current_retry + 1} of {task.max_retries + 1} has been started"
    wait_ms = task.next_execute_at - now
    what = f"Attempt {task.current_retry + 1} of {task.max_retries + 1}"
    when = f"is due in {spell_duration(wait_ms)}" if wait_ms > 0 else f"has been due for {spell_duration(-wait_ms)}"
    deferred = f", deferred by its receiver {task.deferrals} of {MAX_DEFERRALS} times" if task.deferrals else ""
    manual = ", asked for before its time: it uses up no retry" if task.manual else ""
    return f"{what} {when}{manual}{deferred}"


def _known(task: Task, business: Business, now: int) -> WaitView | None:
    """What the rows say already; None for a task that is due."""
    due_at = task.next_execute_at
    if due_at is None:
        return WaitView("in_flight", None, None, "the receiver's answer is waited for")
    if business.status is not BusinessStatus.ACTIVE:
        return WaitView("paused", None, None, f"the business is {business.status.value}; no callback starts")
    if task.deadline_at is not None and task.deadline_at < max(due_at, now):
        return WaitView("deadline", None, None, f"no attempt starts after its deadline {format_time(task.deadline_at)}")
    if due_at > now:
        return WaitView("time", None, due_at, f"due at {format_time(due_at)}")
    return None


async def _asked(task: Task, engine: Engine) -> WaitView:
    view = await engine.wait_view(task.shard, task.business_id, task.id)
    if view is not None:
        return view
    here = "this instance" if engine.owns(task.shard) else "another instance"
    return WaitView("owner", None, None, f"shard {task.shard} is run by {here}, which has not taken it up yet")


def _planned(task: Task, start_at: int | None) -> list[tuple[int, int]]:
    if task.next_execute_at is None:
        return []
    return planned_attempts(
        first_due_ms=max(task.next_execute_at, start_at or 0),
        attempt=task.current_retry + 1,
        manual=task.manual,
        retry_intervals_ms=task.retry_intervals_ms,
        deadline_ms=task.deadline_at,
    )


def _runs(task: Task, now: int) -> list[int]:
    runs: list[int] = []
    if task.schedule is None:
        return runs
    due_at: int | None = task.scheduled_at if task.next_execute_at is None else task.next_execute_at
    while len(runs) < PLANNED_RUNS and due_at is not None:
        done = task.runs_done + 1 + len(runs)
        due_at = next_due(task.schedule, task.anchor_at, due_at, max(due_at, now), done)
        if due_at is None or (task.deadline_at is not None and due_at > task.deadline_at):
            break
        runs.append(due_at)
    return runs


def explanation_fields(explanation: Explanation) -> dict[str, Any]:
    task = explanation.task
    return {
        "task_id": task.id,
        "business_id": task.business_unique_id,
        "state": task.status.value,
        "finish_reason": None if task.finish_reason is None else task.finish_reason.value,
        "summary": explanation.sentence,
        "waiting_for": explanation.waiting_for,
        "detail": explanation.detail,
        "position": explanation.position,
        "next_execute_at": time_or_none(task.next_execute_at),
        "expected_start_at": time_or_none(explanation.expected_start_at),
        "deferrals": task.deferrals,
        "planned_attempts": [{"attempt": number, "due_at": format_time(at)} for number, at in explanation.planned],
        "planned_runs": [
            {"run": task.run + 1 + index, "due_at": format_time(at)} for index, at in enumerate(explanation.runs)
        ],
        "past_attempts": [_past(execution) for execution in explanation.executions],
    }


def _past(execution: Execution) -> dict[str, Any]:
    return {
        "run": execution.run,
        "attempt": execution.attempt,
        "status": execution.status.value,
        "scheduled_at": format_time(execution.scheduled_at),
        "started_at": format_time(execution.started_at),
        "lateness": {
            "scheduler_ms": round(execution.lateness_ms - execution.policy_wait_ms, 3),
            "policy_wait_ms": round(execution.policy_wait_ms, 3),
            "receiver_ms": round(execution.duration_ms, 3),
        },
        "wait_reason": execution.wait_reason,
        "error_message": execution.error_message,
    }
