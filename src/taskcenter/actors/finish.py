"""The finish_url's call for a task that ended outside of an attempt: cancelled, or lost with its owners for good.

Such an end is decided inside the store's transaction, which may run twice and in another thread. So what is born there
is a pure function of the task: even its identifier, which is a hash of the task and its run.
"""

from __future__ import annotations

from hashlib import blake2b

from taskcenter.actors.outcome import finish_call
from taskcenter.ids import encode
from taskcenter.store.engine_records import FinishOf, Move
from taskcenter.store.interface import TaskStore
from taskcenter.store.records import Execution, NewTask, Task
from taskcenter.task import FlowLimit, TaskRef


def finish_of(now_ms: int) -> FinishOf:
    """For tasks that end at `now_ms`."""

    def finish(task: Task, last: Execution | None) -> NewTask | None:
        move = Move(
            status=task.status,
            current_retry=task.current_retry,
            deferrals=task.deferrals,
            run=task.run,
            runs_done=task.runs_done,
            finish_reason=task.finish_reason,
            last_error=task.last_error,
        )
        return finish_call(task, move, last, _id(task, now_ms), now_ms)

    return finish


def _id(task: Task, now_ms: int) -> str:
    tail = int.from_bytes(blake2b(f"{task.id}:{task.run}".encode(), digest_size=10).digest(), "big")
    return encode(now_ms << 80 | tail)


async def last_of(store: TaskStore, task: Task) -> Execution | None:
    """The latest attempt in the history of a task that has a finish_url. Raises `StoreUnavailable`."""
    if task.finish_url is None or not task.sends:
        return None
    return next(iter(await store.executions(task.business_id, task.id, None, 1)), None)


def ref_of(new: NewTask) -> TaskRef:
    """Of a task just born: what the engine needs to take it up at once."""
    return TaskRef(
        new.id,
        new.business_id,
        new.shard,
        new.due_at,
        1,
        new.callback_host,
        new.deadline_at,
        new.flow_key,
        FlowLimit.of(new.flow_limit),
    )
