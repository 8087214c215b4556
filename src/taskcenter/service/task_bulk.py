"""What is done to all tasks that match a filter: cancel, deliver again.

Both go in small steps, each a transaction of its own, so that no callback waits behind a large one; what they did is
told even when the time is up before the end (`more`), and asking again goes on with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from taskcenter.actors.finish import finish_of
from taskcenter.errors import TooMany
from taskcenter.service.audit_entry import audit_entry
from taskcenter.service.principal import Principal, Scope
from taskcenter.service.task_filter import narrowed
from taskcenter.service.task_tools import TaskTools
from taskcenter.store.records import Business, Changed, Task, TaskFilter
from taskcenter.task import ACTIVE

STEP: Final = 250
REDELIVER_AT_ONCE: Final = 8
BUDGET_S: Final = 3.5  # after this no further step is begun


@dataclass(frozen=True, slots=True)
class BulkCancelled:
    matched: int
    cancelled: int
    in_flight: int  # of them, those with an attempt on its way that may still reach the receiver
    more: bool  # matching tasks are left: ask again


@dataclass(frozen=True, slots=True)
class BulkRedelivered:
    matched: int
    redelivered: int
    more: bool


@dataclass(frozen=True, slots=True)
class TaskBulk:
    tools: TaskTools

    async def cancel(self, principal: Principal, where: TaskFilter, limit: int, *, dry_run: bool) -> BulkCancelled:
        """Up to `limit` active tasks that match."""
        business = principal.require(Scope.TASKS_WRITE)
        active = narrowed(where, ACTIVE)
        if active is None:
            return BulkCancelled(0, 0, 0, more=False)
        matched = await self.tools.store.count(business.id, active, limit + 1)
        if dry_run:
            return BulkCancelled(min(matched, limit), 0, 0, more=matched > limit)
        until = trio.current_time() + BUDGET_S
        cancelled = in_flight = 0
        while cancelled < limit and trio.current_time() < until:
            step = min(STEP, limit - cancelled)
            done, on_their_way = await self._cancel_step(principal, business, active, step)
            cancelled, in_flight = cancelled + done, in_flight + on_their_way
            if done < step:
                return BulkCancelled(max(min(matched, limit), cancelled), cancelled, in_flight, more=False)
        return BulkCancelled(max(min(matched, limit), cancelled), cancelled, in_flight, more=matched > cancelled)

    async def _cancel_step(
        self, principal: Principal, business: Business, where: TaskFilter, step: int
    ) -> tuple[int, int]:
        """How many, and how many of them had an attempt on its way."""
        now = self.tools.clock.now_ms()
        audit = audit_entry(principal, business.id, now, "task.cancel_matching", _spelled(where))

        finish = finish_of(now)

        async def cancel() -> tuple[int, int]:
            changes = await self.tools.store.cancel_matching(business.id, where, step, now, audit, finish=finish)
            return len(changes), sum(self.tools.cancelled(change, finish) for change in changes)

        return await self.tools.writes.call(cancel, business.id)

    async def redeliver(self, principal: Principal, where: TaskFilter, limit: int, *, dry_run: bool) -> BulkRedelivered:
        """Up to `limit` finished tasks that match, the newest first. Raises `TooMany` if not even one has room."""
        business = principal.require(Scope.TASKS_WRITE)
        matched = await self.tools.store.count(business.id, where, limit + 1)
        if dry_run:
            return BulkRedelivered(min(matched, limit), 0, more=matched > limit)
        until = trio.current_time() + BUDGET_S
        redelivered = seen = 0
        before: str | None = None
        while seen < limit and trio.current_time() < until:
            tasks = await self.tools.store.page(business.id, where, before, min(REDELIVER_AT_ONCE, limit - seen))
            if not tasks:
                return BulkRedelivered(max(min(matched, limit), seen), redelivered, more=False)
            before = tasks[-1].id
            seen += len(tasks)
            done, full = await self.tools.writes.call(
                partial(self._redeliver_step, principal, business, tasks), business.id
            )
            redelivered += done
            if full is not None:
                if not redelivered:
                    raise full
                break
        return BulkRedelivered(max(min(matched, limit), seen), redelivered, more=matched > redelivered)

    async def _redeliver_step(
        self, principal: Principal, business: Business, tasks: list[Task]
    ) -> tuple[int, TooMany | None]:
        """How many, and the refusal that ended the step."""
        done = 0
        for task in tasks:
            now = self.tools.clock.now_ms()
            if task.deadline_at is not None and task.deadline_at < now:
                continue  # nothing of it may start any more
            audit = audit_entry(principal, business.id, now, "task.redeliver", task.id)
            try:
                result = await self.tools.store.redeliver(
                    business.id, task.id, now, now, audit, business.max_active_tasks
                )
            except TooMany as full:
                return done, full
            if isinstance(result, Changed):  # else: deleted or delivered again by somebody else meanwhile
                self.tools.nudge(result.task)
                done += 1
        return done, None


def _spelled(where: TaskFilter) -> str:
    """The filters that are set, for the audit."""
    names = ("callback_host", "tag", "created_after", "created_before", "due_after", "due_before")
    given = {name: getattr(where, name) for name in names}
    parts = [f"{name}={value}" for name, value in given.items() if value is not None]
    return " ".join([f"status={','.join(sorted(where.statuses))}", *parts])
