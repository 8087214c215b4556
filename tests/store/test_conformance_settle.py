"""Outcomes that are recorded again, and moves without an attempt; the same on every store."""

from dataclasses import replace
from typing import Any

import pytest
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    TERM,
    audit_entry,
    claim,
    create,
    execution,
    move,
    new_task,
    outcome,
    own_shards,
)
from tests.store.unanswered import UnansweredDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.store.engine_records import Applied, Move, Outcome, Settlement, Stale, Superseded
from taskcenter.store.records import Counters, Task, TaskFilter, TaskKind
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


# --- again, after a lost commit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [True, False], ids=["sent", "not sent"])
async def test_repeated_batch_says_and_does_the_same(
    unanswered: tuple[SqlStore, UnansweredDatabase], *, sent: bool
) -> None:
    store, database = unanswered
    await own_shards(store)
    tasks = [await claim(store, task) for task in await create(store, *[new_task() for _ in range(3)])]
    children = [new_task(kind=TaskKind.FINISH) for _ in tasks]
    to = [move(tasks[0], Status.SUCCEEDED), retry(tasks[1]), move(tasks[2], Status.STOPPED)]
    batch = [
        outcome(task, to[n], finish=children[n], execution=execution(task) if sent else None)
        for n, task in enumerate(tasks)
    ]
    for lost in ("before", "after"):
        database.lost = lost
        with pytest.raises(CommitUnknown):
            await store.engine.record(batch, NOW)
    for _ in range(2):
        assert await store.engine.record(batch, LATER) == [Applied(3)] * 3
    assert await counters(store) == Counters(BUSINESS, 1, 3, 1, 0, 1, 0, callbacks=3 if sent else 0)
    for task, child in zip(tasks, children, strict=True):
        assert len(await store.tasks.executions(BUSINESS, task.id, None, 9)) == (1 if sent else 0)
        assert await store.tasks.get(BUSINESS, child.id) == born(child)


async def test_repeated_outcome_of_a_row_that_moved_on(unanswered: tuple[SqlStore, UnansweredDatabase]) -> None:
    store, database = unanswered
    task = await claimed(store)
    batch = [outcome(task, retry(task))]
    database.lost = "after"
    with pytest.raises(CommitUnknown):
        await store.engine.record(batch, NOW)
    await store.tasks.run_now(BUSINESS, task.id, NOW, audit_entry())
    assert await store.engine.record(batch, NOW) == [Applied(4)]  # the row's version now
    second = await claim(store, await stored(store, task))
    assert await store.engine.record(batch, NOW) == [Applied(5)]
    assert await stored(store, task) == second
    assert (await counters(store)).callbacks == 1


async def test_other_tasks_outcome_is_never_taken_for_ones_own(store: SqlStore) -> None:
    """Compare-and-set on every part: a wrong term, number of sends or version applies nothing."""
    task = await claimed(store)
    wrong: list[Outcome] = [
        outcome(task, term=TERM + 1), outcome(task, sends=2), outcome(task, sends=0, execution=None),
    ]  # fmt: skip
    for one in wrong:
        assert await store.engine.record([replace(one, execution=None)], NOW) == [Superseded()]
    assert await stored(store, task) == task
    assert isinstance((await store.engine.record([outcome(task, version=1)], NOW))[0], Stale)


# --- settlements ---------------------------------------------------------------------------------------------------


def settlement(task: Task, to: Move, **given: object) -> Settlement:
    return replace(Settlement(task.id, task.business_id, task.shard, task.version, TERM, to), **given)  # type: ignore[arg-type]  # fields by name


async def test_settle_ends_or_moves_what_waits(store: SqlStore) -> None:
    late, skipped, ended = await create(store, *[new_task() for _ in range(3)])
    await own_shards(store)
    child = new_task(kind=TaskKind.FINISH)
    skip = Move(Status.PENDING, 0, 0, run=2, runs_done=0, next_execute_at=LATER)
    batch = [
        settlement(late, move(late, Status.FAILED, finish_reason=FinishReason.DEADLINE_PASSED), finish=child),
        settlement(skipped, skip),
        settlement(ended, move(ended, Status.SUCCEEDED, finish_reason=FinishReason.SCHEDULE_ENDED)),
    ]
    assert await store.engine.settle(batch, NOW + 1) == [Applied(2)] * 3
    assert await store.engine.settle(batch, NOW + 2) == [Applied(2)] * 3  # a repeat finds it done
    assert await stored(store, late) == replace(
        late, status=Status.FAILED, finish_reason=FinishReason.DEADLINE_PASSED, next_execute_at=None, version=2,
        updated_at=NOW + 1, finished_at=NOW + 1,
    )  # fmt: skip
    assert await stored(store, skipped) == replace(skipped, run=2, next_execute_at=LATER, version=2, updated_at=NOW + 1)
    assert await store.tasks.get(BUSINESS, child.id) == born(child)
    assert await counters(store) == Counters(BUSINESS, 1, 3, 1, 1, 0, 0, callbacks=0)
    assert await store.tasks.executions(BUSINESS, late.id, None, 9) == []
    assert await store.engine.settle([], NOW) == []


async def test_settle_is_refused(store: SqlStore) -> None:
    updated, running, stale_term, wrong_shard = await create(store, *[new_task() for _ in range(4)])
    await own_shards(store)
    await claim(store, running)
    await store.tasks.run_now(BUSINESS, updated.id, NOW + 3, audit_entry())
    end = [move(task, Status.FAILED) for task in (updated, running, stale_term, wrong_shard)]
    results = await store.engine.settle(
        [
            settlement(updated, end[0]), settlement(running, end[1]), settlement(stale_term, end[2], term=0),
            settlement(wrong_shard, end[3], shard=(SHARD + 1) % 256, term=0),
        ],
        NOW,
    )  # fmt: skip
    assert results == [Stale(await stored(store, updated)), Superseded(), Superseded(), Superseded()]
    assert await store.tasks.count(BUSINESS, TaskFilter(statuses=frozenset({Status.FAILED})), 9) == 0
    assert (await counters(store)).active == 4
