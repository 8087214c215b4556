"""The use cases of one task: read it, list, change, cancel, run now, deliver again.

Every change is one guarded statement of the store, run in `Writes`, so that a client who leaves neither cancels it nor
keeps the engine from being told. What the store answers is a value; it becomes an error of the API here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from taskcenter.actors.finish import finish_of
from taskcenter.errors import Conflict
from taskcenter.service.audit_entry import audit_entry
from taskcenter.service.explain import Explanation, explain
from taskcenter.service.paging import decode_cursor, decode_number, encode_cursor
from taskcenter.service.principal import Principal, Scope
from taskcenter.service.task_filter import question_of
from taskcenter.service.task_input import check_changed, read_update
from taskcenter.service.task_tools import TaskTools, changed, find, find_by_unique_id
from taskcenter.store.records import (
    IN_FLIGHT_SLACK_MS,
    Business,
    Changed,
    ChangeResult,
    Execution,
    ExecutionStatus,
    Task,
    TaskFilter,
)
from taskcenter.task import TERMINAL, Status

LATEST: Final = 20  # executions shown with a task
PAGE_STEP: Final = 50  # rows read at a time: a payload may be 256 KiB
PAGE_BYTES: Final = 4 * 1024 * 1024  # a page of larger payloads ends early


@dataclass(frozen=True, slots=True)
class TaskDetail:
    task: Task
    executions: list[Execution]  # the latest, newest first


@dataclass(frozen=True, slots=True)
class Cancelled:
    task: Task
    in_flight: bool  # an attempt was on its way and may still reach the receiver


@dataclass(frozen=True, slots=True)
class TaskService:
    tools: TaskTools

    # --- reads --------------------------------------------------------------------------------------------------

    async def get(self, principal: Principal, task_id: str) -> TaskDetail:
        business = principal.require(Scope.TASKS_READ)
        return await self._detail(await find(self.tools.store, business, task_id))

    async def get_by_business_id(self, principal: Principal, unique_id: str) -> TaskDetail:
        business = principal.require(Scope.TASKS_READ)
        return await self._detail(await find_by_unique_id(self.tools.store, business, unique_id))

    async def _detail(self, task: Task) -> TaskDetail:
        executions: list[Execution] = []
        if task.sends:  # a task that was never sent has no history to ask for
            executions = await self.tools.store.executions(task.business_id, task.id, None, LATEST)
        return TaskDetail(task, executions)

    async def executions(
        self, principal: Principal, task_id: str, cursor: str | None, limit: int
    ) -> tuple[list[Execution], str | None]:
        """A page of the history, newest first, and the cursor of the next."""
        business = principal.require(Scope.TASKS_READ)
        question = f"executions {task_id}"
        before = None if cursor is None else decode_number(cursor, question)
        task = await find(self.tools.store, business, task_id)
        rows = await self.tools.store.executions(business.id, task.id, before, limit + 1)
        more = len(rows) > limit
        return rows[:limit], encode_cursor(str(rows[limit - 1].number), question) if more else None

    async def page(
        self, principal: Principal, where: TaskFilter, cursor: str | None, limit: int
    ) -> tuple[list[Task], str | None]:
        """Newest first, and the cursor of the next page; fewer than `limit` when the payloads are large."""
        business = principal.require(Scope.TASKS_READ)
        question = f"tasks {business.id} {question_of(where)}"
        before = None if cursor is None else decode_cursor(cursor, question)
        tasks: list[Task] = []
        size, more = 0, True
        while more and len(tasks) < limit and size < PAGE_BYTES:
            step = min(PAGE_STEP, limit - len(tasks))
            rows = await self.tools.store.page(business.id, where, before, step + 1)
            taken = 0
            while taken < min(step, len(rows)) and size < PAGE_BYTES:
                size += len(rows[taken].payload)
                taken += 1
            tasks += rows[:taken]
            more = taken < len(rows)
            before = tasks[-1].id if tasks else None
        return tasks, encode_cursor(before, question) if more and before else None

    async def explain(self, principal: Principal, task_id: str) -> Explanation:
        business = principal.require(Scope.TASKS_READ)
        detail = await self.get(principal, task_id)
        return await explain(detail.task, detail.executions, business, self.tools.engine, self.tools.clock.now_ms())

    # --- changes ------------------------------------------------------------------------------------------------

    async def update(self, principal: Principal, task_id: str, body: object, expected_version: int | None) -> Task:
        """Raises `Conflict`: `task_finished`, `version_conflict`."""
        business = principal.require(Scope.TASKS_WRITE)
        now = self.tools.clock.now_ms()
        change = read_update(body, now, self.tools.check_url)
        audit = audit_entry(principal, business.id, now, "task.update", task_id)
        task = await find(self.tools.store, business, task_id)
        return await self._change(
            business,
            lambda: self.tools.store.update(
                business.id,
                task.id,
                change,
                expected_version=expected_version,
                now=now,
                audit=audit,
                check=partial(check_changed, change),
            ),
            "task_finished",
            "a task that has ended cannot be changed",
        )

    async def run_now(self, principal: Principal, task_id: str) -> Task:
        """Due now, without using up a retry. Raises `Conflict('not_runnable')`."""
        business = principal.require(Scope.TASKS_WRITE)
        now = self.tools.clock.now_ms()
        audit = audit_entry(principal, business.id, now, "task.run", task_id)
        task = await find(self.tools.store, business, task_id)
        return await self._change(
            business,
            lambda: self.tools.store.run_now(business.id, task.id, now, audit),
            "not_runnable",
            "only a task that waits can be run now",
        )

    async def redeliver(self, principal: Principal, task_id: str) -> Task:
        """A finished task again, as a new run. Raises `Conflict('not_redeliverable')`, `TooMany('quota_exceeded')`."""
        business = principal.require(Scope.TASKS_WRITE)
        now = self.tools.clock.now_ms()
        audit = audit_entry(principal, business.id, now, "task.redeliver", task_id)
        task = await find(self.tools.store, business, task_id)
        if task.status in TERMINAL and task.deadline_at is not None and task.deadline_at < now:
            raise Conflict("not_redeliverable", "the task's deadline has passed; no attempt may start after it")
        return await self._change(
            business,
            lambda: self.tools.store.redeliver(business.id, task.id, now, now, audit, business.max_active_tasks),
            "not_redeliverable",
            "only a task that has ended can be delivered again",
        )

    async def _change(
        self, business: Business, work: Callable[[], Awaitable[ChangeResult]], code: str, refusal: str
    ) -> Task:
        async def change() -> Task:
            task = changed(await work(), code, refusal).task
            self.tools.nudge(task)
            return task

        return await self.tools.writes.call(change, business.id)

    async def cancel(self, principal: Principal, task_id: str) -> Cancelled:
        """Raises `Conflict('not_cancellable')`."""
        business = principal.require(Scope.TASKS_WRITE)
        return await self._cancel(principal, business, await find(self.tools.store, business, task_id))

    async def cancel_by_business_id(self, principal: Principal, unique_id: str) -> Cancelled:
        """As `cancel`."""
        business = principal.require(Scope.TASKS_WRITE)
        return await self._cancel(principal, business, await find_by_unique_id(self.tools.store, business, unique_id))

    async def _cancel(self, principal: Principal, business: Business, task: Task) -> Cancelled:
        now = self.tools.clock.now_ms()
        audit = audit_entry(principal, business.id, now, "task.cancel", task.id)
        finish = finish_of(now)

        async def cancel() -> Cancelled:
            result = changed(
                await self.tools.store.cancel(business.id, task.id, now, audit, finish=finish),
                "not_cancellable",
                "a task that has ended cannot be cancelled",
            )
            if result.previous is Status.CANCELLED:
                return Cancelled(result.task, await self._still_in_flight(result, now))
            return Cancelled(result.task, self.tools.cancelled(result, finish))

        return await self.tools.writes.call(cancel, business.id)

    async def _still_in_flight(self, result: Changed, now: int) -> bool:
        """Of a task cancelled before: whether its last attempt was sent, has no end in the history, and has time left.

        Errs on the side of true for `timeout` and a lease: an attempt that was withdrawn unsent has no end either, and
        the sender of one that was interrupted may only stand still.
        """
        task = result.task
        if not task.sends or now > (task.finished_at or 0) + task.timeout_ms + IN_FLIGHT_SLACK_MS:
            return False
        last = await self.tools.store.executions(task.business_id, task.id, None, 1)
        return not last or last[0].number < task.sends or last[0].status is ExecutionStatus.INTERRUPTED
