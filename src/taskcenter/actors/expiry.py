"""A deadline that passes while a task waits behind a policy ends the task there and then, with the reason said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from taskcenter.actors.finish import last_of, ref_of
from taskcenter.actors.outcome import deadline_passed, finish_call
from taskcenter.errors import StoreUnavailable
from taskcenter.store.engine_records import Applied, Move, Settlement
from taskcenter.task import Event, FinishReason, TaskRef, after

if TYPE_CHECKING:
    from taskcenter.actors.business import BusinessActor

STORE_PAUSE_S: Final = 0.5


async def expire(actor: BusinessActor, ref: TaskRef, held_by: str | None) -> None:
    """Move the waiting row to failed/deadline_passed, guarded by version and term. Lost races are the other's
    business.
    """
    tools = actor.tools
    term = tools.term_of(ref.shard)
    if term is None:
        return
    try:
        task = await tools.task_store.get(ref.business_id, ref.task_id)
        if task is None or task.version != ref.version or task.deadline_at is None or task.next_execute_at is None:
            return
        move = Move(
            status=after(task.status, Event.EXPIRE),
            current_retry=task.current_retry,
            deferrals=task.deferrals,
            run=task.run,
            runs_done=task.runs_done,
            finish_reason=FinishReason.DEADLINE_PASSED,
            last_error=deadline_passed(task, held_by),
        )
        now = tools.clock.now_ms()
        finish = finish_call(task, move, await last_of(tools.task_store, task), tools.ids.next(now), now)
        [recorded] = await tools.engine_store.settle(
            [Settlement(ref.task_id, ref.business_id, ref.shard, ref.version, term, move, finish)], now
        )
        if isinstance(recorded, Applied):
            actor.meters.finished(move.status)
            if finish is not None:
                tools.arm(ref_of(finish))
    except StoreUnavailable as error:
        tools.log.warning("expiry postponed", task_id=ref.task_id, error=str(error))
        await trio.sleep(STORE_PAUSE_S)
        tools.arm(ref)
