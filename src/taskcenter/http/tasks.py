"""The calls on tasks: each handler reads its input, makes one call of the service, and writes the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import trio
from quart import Blueprint, Response

from taskcenter.errors import TaskCenterError
from taskcenter.http import task_models as m
from taskcenter.http.openapi import Reply, describe
from taskcenter.http.problems import problem_of
from taskcenter.http.requests import (
    MAX_BATCH_BODY,
    if_match,
    json_body,
    json_response,
    no_body,
    principal,
    query,
    request_record,
)
from taskcenter.service.explain import explanation_fields
from taskcenter.service.json_text import dump
from taskcenter.service.services import TaskServices
from taskcenter.service.task_creation import MAX_BATCH, SLICE
from taskcenter.service.task_filter import CancelQuery, PageQuery, RedeliverInput, TaskListQuery
from taskcenter.service.task_input import TaskInput, TaskUpdate
from taskcenter.service.task_view import detail_json, execution_fields, page_json, task_json
from taskcenter.store.records import Created, Replayed, Task

TAG: Final = "Tasks"
_TASK: Final = Reply("The task.", m.TaskView, headers=("ETag",))
_DETAIL: Final = Reply("The task with its latest 20 executions.", m.TaskDetailView, headers=("ETag",))
_CANCELLED: Final = Reply("The task, cancelled.", m.CancelledView, headers=("ETag",))
_CANCEL_WORDS: Final = (
    "After the answer no further callback of the task starts; `in_flight: true` tells of one that was already on its "
    "way. Repeatable: a task cancelled before is answered with 200 again. 409 `not_cancellable` when it has ended "
    "otherwise."
)


def tasks_blueprint(services: TaskServices) -> Blueprint:
    """All routes under `/tasks`; the caller mounts them below the API's prefix."""
    blueprint = Blueprint("tasks", __name__)
    _add_creation(blueprint, services)
    _add_reads(blueprint, services)
    _add_changes(blueprint, services)
    _add_bulk(blueprint, services)
    return blueprint


def _add_creation(blueprint: Blueprint, services: TaskServices) -> None:
    @blueprint.post("/tasks")
    @describe(
        "Create a task",
        tag=TAG,
        description="Answered once the task is durable. The same `business_id` again: an identical body gets 200, the "
        "existing task and `Idempotent-Replayed: true`; a different one 409 `business_id_conflict`.",
        body=TaskInput,
        replies={
            201: Reply("Created.", m.TaskView, headers=("ETag", "Location")),
            200: Reply("It existed, with an identical body.", m.TaskView, headers=("ETag", "Idempotent-Replayed")),
        },
        errors=(409,),
    )
    async def create() -> Response:
        result = await services.creation.create(principal(), await json_body())
        if isinstance(result, Replayed):
            return _task(result.task, headers={"Idempotent-Replayed": "true"})
        return _task(result.task, 201, {"Location": f"/api/v1/tasks/{result.task.id}"})

    @blueprint.post("/tasks/batch")
    @describe(
        "Create many tasks",
        tag=TAG,
        description=f"At most {MAX_BATCH} tasks and 8 MiB. Each item has its own result, in the same order: one bad "
        "item does not spoil the rest, and sending the batch again is safe.",
        body=m.BatchInput,
        replies={200: Reply("One result for each item.", m.BatchResults)},
    )
    async def create_batch() -> Response:
        given = m.BatchInput.read(await json_body(MAX_BATCH_BODY))
        results = await services.creation.create_batch(principal(), given.tasks)
        written: list[bytes] = []
        for start in range(0, len(results), SLICE):
            written += [_result(result) for result in results[start : start + SLICE]]
            await trio.lowlevel.checkpoint()
        return json_response(b'{"results":[%b]}' % b",".join(written))


def _add_reads(blueprint: Blueprint, services: TaskServices) -> None:
    @blueprint.get("/tasks")
    @describe(
        "List tasks",
        tag=TAG,
        description="Newest first. Pages are stable: tasks created meanwhile do not move them. An empty parameter "
        "counts as left out.",
        query=TaskListQuery,
        replies={200: Reply("A page of tasks.", m.TaskPage)},
    )
    async def list_tasks() -> Response:
        given = query(TaskListQuery)
        tasks, cursor = await services.tasks.page(principal(), given.where(), given.cursor, given.limit)
        return json_response(page_json((task_json(task) for task in tasks), cursor))

    @blueprint.get("/tasks/<task_id:task_id>")
    @describe("Look at a task", tag=TAG, replies={200: _DETAIL})
    async def get_task(task_id: str) -> Response:
        detail = await services.tasks.get(principal(), task_id)
        return _response(detail_json(detail.task, detail.executions), detail.task)

    @blueprint.get("/tasks/business/<business_id:business_id>")
    @describe("Look at a task by its business_id", tag=TAG, replies={200: _DETAIL})
    async def get_task_by_business_id(business_id: str) -> Response:
        detail = await services.tasks.get_by_business_id(principal(), business_id)
        return _response(detail_json(detail.task, detail.executions), detail.task)

    @blueprint.get("/tasks/<task_id:task_id>/executions")
    @describe(
        "The task's whole history",
        tag=TAG,
        description="Every attempt, newest first.",
        query=PageQuery,
        replies={200: Reply("A page of executions.", m.ExecutionPage)},
    )
    async def list_executions(task_id: str) -> Response:
        given = query(PageQuery)
        rows, cursor = await services.tasks.executions(principal(), task_id, given.cursor, given.limit)
        return json_response(page_json((dump(execution_fields(row)) for row in rows), cursor))

    @blueprint.get("/tasks/<task_id:task_id>/explain")
    @describe(
        "Why a task has not run yet, or ended as it did",
        tag=TAG,
        description="In a sentence and in fields: what it waits for, when it will start, the attempts planned, and "
        "where the time of the past ones went.",
        replies={200: Reply("The explanation.", m.ExplanationView)},
    )
    async def explain_task(task_id: str) -> Response:
        return json_response(explanation_fields(await services.tasks.explain(principal(), task_id)))


def _add_changes(blueprint: Blueprint, services: TaskServices) -> None:
    @blueprint.put("/tasks/<task_id:task_id>")
    @describe(
        "Change a task",
        tag=TAG,
        description="What is left out stays. While an attempt is on its way the change is for the next one, whose "
        "time is the retry list's then: `execute_at` and `delay` move a task that waits. 409 `task_finished` when the "
        "task has ended, `version_conflict` when `If-Match` names another version.",
        body=TaskUpdate,
        headers=("If-Match",),
        replies={200: _TASK},
        errors=(409,),
    )
    async def update_task(task_id: str) -> Response:
        version = if_match()
        return _task(await services.tasks.update(principal(), task_id, await json_body(), version))

    @blueprint.delete("/tasks/<task_id:task_id>")
    @describe("Cancel a task", tag=TAG, description=_CANCEL_WORDS, replies={200: _CANCELLED}, errors=(409,))
    async def cancel_task(task_id: str) -> Response:
        await no_body()
        cancelled = await services.tasks.cancel(principal(), task_id)
        return _task(cancelled.task, in_flight=cancelled.in_flight)

    @blueprint.delete("/tasks/business/<business_id:business_id>")
    @describe(
        "Cancel a task by its business_id", tag=TAG, description=_CANCEL_WORDS, replies={200: _CANCELLED}, errors=(409,)
    )
    async def cancel_task_by_business_id(business_id: str) -> Response:
        await no_body()
        cancelled = await services.tasks.cancel_by_business_id(principal(), business_id)
        return _task(cancelled.task, in_flight=cancelled.in_flight)

    @blueprint.post("/tasks/<task_id:task_id>/run")
    @describe(
        "Run a task now",
        tag=TAG,
        description="A waiting task becomes due now, without using up a retry: if a retry that was brought forward so "
        "fails, it is due again after its interval, as the same attempt. 409 `not_runnable` when an attempt is on its "
        "way or the task has ended.",
        replies={200: _TASK},
        errors=(409, 422),
    )
    async def run_task(task_id: str) -> Response:
        await no_body()
        return _task(await services.tasks.run_now(principal(), task_id))

    @blueprint.post("/tasks/<task_id:task_id>/redeliver")
    @describe(
        "Deliver a finished task again",
        tag=TAG,
        description="A new run with the retry list from its start, due now; it counts as active again. 409 "
        "`not_redeliverable` when the task has not ended, or its deadline has passed.",
        replies={200: _TASK},
        errors=(409, 422),
    )
    async def redeliver_task(task_id: str) -> Response:
        await no_body()
        return _task(await services.tasks.redeliver(principal(), task_id))


def _add_bulk(blueprint: Blueprint, services: TaskServices) -> None:
    @blueprint.delete("/tasks")
    @describe(
        "Cancel all tasks that match",
        tag=TAG,
        description="Needs at least one filter. Cancels up to `limit` active tasks; `in_flight` says how many of them "
        "had a callback on its way, `more` whether some are left.",
        query=CancelQuery,
        replies={200: Reply("How many.", m.BulkCancelledView)},
    )
    async def cancel_matching() -> Response:
        await no_body()
        given = query(CancelQuery)
        done = await services.bulk.cancel(principal(), given.where(), given.limit, dry_run=given.dry_run)
        told = {"matched": done.matched, "cancelled": done.cancelled, "in_flight": done.in_flight, "more": done.more}
        return json_response(told)

    @blueprint.post("/tasks/redeliver")
    @describe(
        "Deliver all finished tasks that match again",
        tag=TAG,
        description="Up to `limit` of the newest; each becomes due now as a new run. Those whose deadline has passed "
        "are passed over.",
        body=RedeliverInput,
        replies={200: Reply("How many.", m.BulkRedeliveredView)},
    )
    async def redeliver_matching() -> Response:
        given = RedeliverInput.read(await json_body())
        done = await services.bulk.redeliver(principal(), given.where(), given.limit, dry_run=given.dry_run)
        return json_response({"matched": done.matched, "redelivered": done.redelivered, "more": done.more})


def _task(task: Task, status: int = 200, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    return _response(task_json(task, **more), task, status, headers)


def _response(content: bytes, task: Task, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    request_record().task_id = task.id
    return json_response(content, status, {"ETag": f'"{task.version}"', **(headers or {})})


def _result(result: Created | Replayed | TaskCenterError) -> bytes:
    match result:
        case Created(task=task):
            return b'{"status":201,"task":%b}' % task_json(task)
        case Replayed(task=task):
            return b'{"status":200,"task":%b}' % task_json(task)
    problem = problem_of(result)
    return b'{"status":%d,"error":%b}' % (problem.status, dump(problem.fields(None)))
