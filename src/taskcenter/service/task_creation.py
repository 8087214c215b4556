"""Creating tasks: one, or up to a thousand in a batch.

A single create goes through the group committer, a batch in transactions of its own. Validation of a batch is spread
over the event loop (`SLICE` items, then a checkpoint), so that no callback is late because of somebody's batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import trio

from taskcenter.errors import Conflict, InvalidInput, NotFound, Overloaded, StoreUnavailable, TaskCenterError, TooMany
from taskcenter.ids import IdSource
from taskcenter.service.audit_entry import audit_entry
from taskcenter.service.creator import Create, Creator
from taskcenter.service.principal import Principal, Scope
from taskcenter.service.task_input import SCHEDULE_ENDED, read_task
from taskcenter.service.task_tools import QUOTA_RETRY_S, TaskTools, find_by_unique_id
from taskcenter.store.records import Business, Created, CreateResult, IdConflict, NewTask, QuotaFull, Replayed

MAX_BATCH: Final = 1000
CHUNK: Final = 500  # tasks in one transaction
SLICE: Final = 25  # items validated before the event loop gets its turn


@dataclass(frozen=True, slots=True)
class TaskCreation:
    tools: TaskTools
    creator: Creator
    ids: IdSource

    async def create(self, principal: Principal, body: object) -> Created | Replayed:
        """Raises `InvalidInput`, `Conflict('business_id_conflict')`, `TooMany('quota_exceeded')`, `Overloaded`."""
        business = principal.require(Scope.TASKS_WRITE)
        self._check_load()
        task = await self._read(body, business)
        result = await self.creator.create(self._create(principal, business, task))
        return _accepted(result)

    async def create_batch(
        self, principal: Principal, bodies: Sequence[object]
    ) -> list[Created | Replayed | TaskCenterError]:
        """Each item by itself, in the same order: one bad item does not spoil the rest.

        Raises `StoreUnavailable` or `Overloaded` if nothing was created; later each item tells its own.
        """
        business = principal.require(Scope.TASKS_WRITE)
        self._check_load()
        results: list[Created | Replayed | TaskCenterError] = []
        for start in range(0, len(bodies), CHUNK):
            chunk = bodies[start : start + CHUNK]
            try:
                results += await self._create_chunk(principal, business, chunk)
            except (StoreUnavailable, Overloaded) as error:
                if not results:
                    raise
                results += [error] * (len(bodies) - start)
                break
        return results

    async def _create_chunk(
        self, principal: Principal, business: Business, bodies: Sequence[object]
    ) -> list[Created | Replayed | TaskCenterError]:
        answers: list[Created | Replayed | TaskCenterError | None] = []
        creates: list[Create] = []
        for index, body in enumerate(bodies):
            try:
                task = await self._read(body, business)
            except (InvalidInput, NotFound) as error:
                answers.append(error)
            else:
                answers.append(None)
                creates.append(self._create(principal, business, task))
            if index % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
        created = iter(await self.tools.writes.call(lambda: self.creator.create_many(creates)) if creates else [])
        return [_answer(next(created)) if answer is None else answer for answer in answers]

    async def _read(self, body: object, business: Business) -> NewTask:
        now = self.tools.clock.now_ms()
        task = read_task(body, business, self.ids.next(now), now, self.tools.check_url)
        if isinstance(task, NewTask):
            return task
        try:
            await find_by_unique_id(self.tools.store, business, task.task.business_unique_id)
        except NotFound:
            raise InvalidInput([SCHEDULE_ENDED]) from None
        return task.task  # the store compares it with what is there

    def _create(self, principal: Principal, business: Business, task: NewTask) -> Create:
        audit = audit_entry(principal, business.id, task.created_at, "task.create", task.id)
        return Create(task, business.max_active_tasks, audit)

    def overloaded(self) -> str | None:
        """Why creates are shed now, or None. Cheap: the server asks before it reads a request."""
        return self.tools.engine.overloaded() or self.creator.overloaded()

    def _check_load(self) -> None:
        if reason := self.overloaded():
            self.tools.metrics.creates_shed.inc()
            raise Overloaded(reason)


def _accepted(result: CreateResult) -> Created | Replayed:
    answer = _answer(result)
    if isinstance(answer, TaskCenterError):
        raise answer
    return answer


def _answer(result: CreateResult) -> Created | Replayed | TaskCenterError:
    match result:
        case Created() | Replayed():
            return result
        case IdConflict(existing_task_id=existing):
            return Conflict(
                "business_id_conflict",
                "a task with this business_id exists, and its body was a different one",
                existing_task_id=existing,
            )
        case QuotaFull(limit=limit, active=active):
            return TooMany("quota_exceeded", f"{active} of {limit} tasks are active", retry_after_s=QUOTA_RETRY_S)
    assert_never(result)
