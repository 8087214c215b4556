"""Outcomes: applied, stale, superseded; the same on every store."""

from dataclasses import replace
from typing import Any

import pytest
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    TERM,
    add_business,
    audit_entry,
    claim,
    create,
    execution,
    move,
    new_task,
    outcome,
    own_shards,
)

from taskcenter.store.engine_records import Applied, Move, Stale, Superseded
from taskcenter.store.records import Counters, ExecutionStatus, Task, TaskChange, TaskKind
from taskcenter.store.rows import born
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import FinishReason, Status

LATER = NOW + 5_000


async def claimed(store: SqlStore, **given: Any) -> Task:
    (task,) = await create(store, new_task(**given))
    await own_shards(store)
    return await claim(store, task)


def retry(task: Task, **given: object) -> Move:
    fields: dict[str, object] = {
        "current_retry": task.current_retry + 1,
        "next_execute_at": LATER,
        "last_error": "HTTP 5",
    }
    return move(task, Status.RETRYING, **(fields | given))


async def counters(store: SqlStore) -> Counters:
    return await store.businesses.counters(BUSINESS)


async def stored(store: SqlStore, task: Task) -> Task:
    found = await store.tasks.get(BUSINESS, task.id)
    assert found is not None
    return found


# --- applied -------------------------------------------------------------------------------------------------------


ENDS = [
    (Status.SUCCEEDED, None, "succeeded"),
    (Status.SUCCEEDED, FinishReason.SCHEDULE_ENDED, "succeeded"),
    (Status.FAILED, FinishReason.RETRIES_EXHAUSTED, "failed"),
    (Status.FAILED, FinishReason.DEADLINE_PASSED, "failed"),
    (Status.STOPPED, FinishReason.RECEIVER_STOPPED, "stopped"),
]


@pytest.mark.parametrize("status, reason, counter", ENDS)
async def test_end(store: SqlStore, status: Status, reason: FinishReason | None, counter: str) -> None:
    task = await claimed(store)
    to = move(task, status, finish_reason=reason, last_error="why ' \\ é")
    assert await store.engine.record([outcome(task, to)], LATER) == [Applied(3)]
    assert await stored(store, task) == replace(
        task, status=status, finish_reason=reason, last_error="why ' \\ é", version=3, updated_at=LATER,
        finished_at=LATER,
    )  # fmt: skip
    assert await store.tasks.executions(BUSINESS, task.id, None, 9) == [execution(task)]
    wanted = Counters(BUSINESS, 0, 1, 0, 0, 0, 0, callbacks=1)
    assert await counters(store) == replace(wanted, **{counter: 1})
    assert await store.engine.due_refs(None, 0, 1 << 60, None, 9) == []


async def test_retry_and_defer_and_next_run(store: SqlStore) -> None:
    task = await claimed(store)
    assert await store.engine.record([outcome(task, retry(task))], NOW) == [Applied(3)]
    waiting = await stored(store, task)
    assert waiting == replace(
        task, status=Status.RETRYING, current_retry=1, next_execute_at=LATER, last_error="HTTP 5", version=3
    )
    assert await store.engine.due_refs(None, 0, 1 << 60, None, 9) == [waiting.ref]
    second = await claim(store, waiting)
    assert (second.sends, second.scheduled_at) == (2, LATER)
    deferred = retry(second, current_retry=1, deferrals=1, last_error=None)
    assert await store.engine.record([outcome(second, deferred)], NOW) == [Applied(5)]
    third = await claim(store, await stored(store, task))
    assert (third.deferrals, third.last_error) == (1, None)
    next_run = Move(Status.PENDING, 0, 0, run=2, runs_done=1, next_execute_at=LATER + 300)
    assert await store.engine.record([outcome(third, next_run)], NOW) == [Applied(7)]
    again = await stored(store, task)
    assert (again.status, again.run, again.runs_done, again.current_retry) == (Status.PENDING, 2, 1, 0)
    assert await counters(store) == Counters(BUSINESS, 1, 1, 0, 0, 0, 0, callbacks=3)
    assert [attempt.number for attempt in await store.tasks.executions(BUSINESS, task.id, None, 9)] == [3, 2, 1]


async def test_end_without_a_send_leaves_no_history(store: SqlStore) -> None:
    task = await claimed(store)
    to = move(task, Status.FAILED, finish_reason=FinishReason.DEADLINE_PASSED)
    assert await store.engine.record([outcome(task, to, execution=None)], NOW) == [Applied(3)]
    assert await store.tasks.executions(BUSINESS, task.id, None, 9) == []
    assert (await counters(store)).callbacks == 0


async def test_a_batch_of_many_businesses(store: SqlStore) -> None:
    await own_shards(store)
    for number in range(20, 25):
        await add_business(store, number, f"b{number}")
    tasks = await create(
        store, *[new_task(business_id=number, business_code=f"b{number}") for number in range(20, 25) for _ in range(9)]
    )
    running = [await claim(store, task) for task in tasks]
    results = await store.engine.record([outcome(task) for task in reversed(running)], NOW)
    assert results == [Applied(3)] * 45
    for number in range(20, 25):
        assert await store.businesses.counters(number) == Counters(number, 0, 9, 9, 0, 0, 0, callbacks=9)


async def test_finish_task_is_born_with_the_end(store: SqlStore) -> None:
    task = await claimed(store, finish_url="http://f/")
    child = new_task(f"{task.id}-1", kind=TaskKind.FINISH)
    entry = audit_entry("task.finish", target=task.id)
    assert await store.engine.record([outcome(task, finish=child, audit=entry)], NOW) == [Applied(3)]
    assert await store.tasks.get(BUSINESS, child.id) == born(child)
    assert (await store.audit.page(BUSINESS, None, 1))[0].action == "task.finish"
    hidden = await claim(store, born(child))
    assert await store.engine.record([outcome(hidden)], NOW) == [Applied(3)]
    assert (await stored(store, born(child))).status is Status.SUCCEEDED
    assert await counters(store) == Counters(BUSINESS, 0, 1, 1, 0, 0, 0, callbacks=1)
    assert len(await store.tasks.executions(BUSINESS, child.id, None, 9)) == 1


async def test_a_user_cannot_take_a_finish_tasks_place(store: SqlStore) -> None:
    task = await claimed(store)
    await create(store, new_task(f"{task.id}-1"))
    child = new_task(f"{task.id}-1", kind=TaskKind.FINISH)
    assert await store.engine.record([outcome(task, finish=child)], NOW) == [Applied(3)]
    assert await store.tasks.get(BUSINESS, child.id) == born(child)


# --- stale and superseded ------------------------------------------------------------------------------------------


async def test_update_in_between_makes_it_stale(store: SqlStore) -> None:
    task = await claimed(store)
    await store.tasks.update(
        BUSINESS, task.id, TaskChange(retry_intervals_ms=()), expected_version=None, now=NOW, audit=audit_entry()
    )
    (stale,) = await store.engine.record([outcome(task, retry(task))], NOW)
    fresh = await stored(store, task)
    assert stale == Stale(fresh)
    assert (fresh.status, fresh.version, fresh.max_retries) == (Status.RUNNING, 3, 0)
    assert await store.tasks.executions(BUSINESS, task.id, None, 9) == []
    assert (await counters(store)).callbacks == 0
    decided_again = outcome(fresh, move(fresh, Status.FAILED, finish_reason=FinishReason.RETRIES_EXHAUSTED))
    assert await store.engine.record([decided_again], NOW) == [Applied(4)]
    assert len(await store.tasks.executions(BUSINESS, task.id, None, 9)) == 1


async def test_cancel_in_flight_supersedes_but_history_is_kept(store: SqlStore) -> None:
    task = await claimed(store)
    await store.tasks.cancel(BUSINESS, task.id, NOW, audit_entry())
    cancelled = await stored(store, task)
    child = new_task(kind=TaskKind.FINISH)
    late = outcome(task, finish=child, audit=audit_entry("never"))
    assert await store.engine.record([late], LATER) == [Superseded()]
    assert await store.engine.record([late], LATER) == [Superseded()]
    assert await stored(store, task) == cancelled
    assert await store.tasks.executions(BUSINESS, task.id, None, 9) == [execution(task)]
    assert await store.tasks.get(BUSINESS, child.id) is None
    assert (await store.audit.page(BUSINESS, None, 1))[0].action == "task.create"  # the cancel's, in this test
    assert await counters(store) == Counters(BUSINESS, 0, 1, 0, 0, 0, 1, callbacks=1)


async def test_late_outcome_of_an_untouched_row_is_true(store: SqlStore) -> None:
    """The shard went to another owner, who has not recovered the row yet: applying saves a repeat."""
    task = await claimed(store)
    await store.leases.retire("one")
    assert await own_shards(store, instance="two") == {SHARD: TERM + 1}
    assert await store.engine.record([outcome(task)], NOW) == [Applied(3)]
    assert await store.engine.recover({SHARD: TERM + 1}, NOW, 10) == []


async def test_late_outcome_of_a_recovered_row_is_superseded(store: SqlStore) -> None:
    task = await claimed(store)
    await store.leases.retire("one")
    await own_shards(store, instance="two")
    (recovered,) = await store.engine.recover({SHARD: TERM + 1}, NOW, 10)
    before = await stored(store, task)
    for to in (move(task, Status.SUCCEEDED), retry(task)):  # the second looks just like the recovered row
        assert await store.engine.record([outcome(task, to)], NOW) == [Superseded()]
    assert await stored(store, task) == before
    assert before.ref == recovered.ref
    (attempt,) = await store.tasks.executions(BUSINESS, task.id, None, 9)
    assert attempt.status is ExecutionStatus.INTERRUPTED
    assert (await counters(store)).callbacks == 1


async def test_outcome_of_what_is_gone(store: SqlStore) -> None:
    task = await claimed(store)
    gone = replace(outcome(task), task_id="0" * 26)
    assert await store.engine.record([gone, outcome(task)], NOW) == [Superseded(), Applied(3)]
    assert await store.tasks.executions(BUSINESS, "0" * 26, None, 9) == []


async def test_one_that_lost_does_not_hold_up_the_others(store: SqlStore) -> None:
    await own_shards(store)
    fine, updated, cancelled = [await claim(store, task) for task in await create(store, *[new_task() for _ in "abc"])]
    await store.tasks.cancel(BUSINESS, cancelled.id, NOW, audit_entry())
    await store.tasks.update(
        BUSINESS, updated.id, TaskChange(timeout_ms=1), expected_version=None, now=NOW, audit=audit_entry()
    )
    results = await store.engine.record([outcome(task) for task in (cancelled, updated, fine)], NOW)
    assert [type(result) for result in results] == [Superseded, Stale, Applied]
    assert await counters(store) == Counters(BUSINESS, 1, 3, 1, 0, 0, 1, callbacks=2)
