"""What the use cases of tasks share: the ports they stand on, and how a store's answer becomes an error of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from taskcenter.actors.finish import ref_of
from taskcenter.clock import Clock
from taskcenter.errors import Conflict, NotFound
from taskcenter.ids import is_id
from taskcenter.metrics import Metrics
from taskcenter.service.engine_port import Engine
from taskcenter.service.shielded import Writes
from taskcenter.service.task_input import CheckUrl
from taskcenter.store.engine_records import FinishOf
from taskcenter.store.interface import TaskStore
from taskcenter.store.records import Business, Changed, ChangeResult, Missing, Task, TaskKind, VersionMismatch

QUOTA_RETRY_S: Final = 5.0  # a full business empties as its tasks end; nobody knows when


@dataclass(frozen=True, slots=True)
class TaskTools:
    store: TaskStore
    engine: Engine
    writes: Writes
    clock: Clock
    check_url: CheckUrl
    metrics: Metrics

    def nudge(self, task: Task) -> None:
        """Tell the engine of a task that waits. Best effort: the sweep finds what it was not told."""
        if task.ref is not None:
            self.engine.offer(task.ref)

    def cancelled(self, change: Changed, finish: FinishOf) -> bool:
        """Tell of a task just cancelled: it counts as ended, and the call of its finish_url is due. Returns whether an
        attempt may be on its way, and is not just held here, unsent: that one never will be sent.
        """
        task = change.task
        self.metrics.tasks_finished.labels(task.business_code, task.status.value).inc()
        if (call := finish(task, None)) is not None:
            self.engine.offer(ref_of(call))
        withdrawn = self.engine.withdraw(task.id, task.business_id)
        return change.former_in_flight or (change.cancelled_in_flight and not withdrawn)


async def find(store: TaskStore, business: Business, task_id: str) -> Task:
    """Raises `NotFound`, also for another business's task and for the hidden one that calls a finish_url."""
    task = await store.get(business.id, task_id) if is_id(task_id) else None
    if task is None or task.kind is not TaskKind.CALLBACK:
        raise NotFound("no such task")
    return task


async def find_by_unique_id(store: TaskStore, business: Business, unique_id: str) -> Task:
    """Raises `NotFound`. What could not be a `business_id` is not looked up."""
    known = 1 <= len(unique_id) <= 128 and unique_id.isprintable()
    task = await store.get_by_unique_id(business.id, unique_id) if known else None
    if task is None:
        raise NotFound("no such task")
    return task


def changed(result: ChangeResult, code: str, refusal: str) -> Changed:
    """The change, or its refusal: `NotFound`, `Conflict(code)` or `Conflict('version_conflict')`."""
    match result:
        case Changed():
            return result
        case Missing():
            raise NotFound("no such task")
        case VersionMismatch(task=task):
            raise Conflict(
                "version_conflict", f"the task is at version {task.version} by now; read it again", version=task.version
            )
    raise Conflict(code, f"{refusal}: the task is {result.task.status.value}", task_status=result.task.status.value)
