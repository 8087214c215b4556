"""Batches whose rows change alike, and batches whose rows all differ: the same comes of both, on every store."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    TERM,
    add_business,
    audit_entry,
    create,
    execution,
    move,
    new_task,
    outcome,
    own_shards,
    request,
)

from taskcenter.store.batch_update import MOST_NAMED
from taskcenter.store.engine_records import Applied, Superseded
from taskcenter.store.ledger import FEW
from taskcenter.store.records import Counters, Task, TaskChange
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import Status

LATER = NOW + 5_000
KINDS = MOST_NAMED + 5  # more than have a statement of their own


async def stored(store: SqlStore, task: Task) -> Task:
    found = await store.tasks.get(task.business_id, task.id)
    assert found is not None
    return found


async def at_versions(store: SqlStore, count: int) -> list[Task]:
    """Waiting tasks, the first changed once, the second twice, and so on; and as many that were never changed."""
    tasks = await create(store, *(new_task(f"u{number}", at=NOW + number) for number in range(2 * count)))
    for number in range(count):
        for _ in range(number + 1):
            await store.tasks.update(
                BUSINESS, tasks[number].id, TaskChange(timeout_ms=700), expected_version=None, now=NOW,
                audit=audit_entry(),
            )  # fmt: skip
    return [await stored(store, task) for task in tasks]


async def test_claims_of_many_versions_at_once(store: SqlStore) -> None:
    tasks = await at_versions(store, KINDS)
    await own_shards(store)
    assert len({task.version for task in tasks}) == KINDS + 1
    claimed = await store.engine.claim([request(task) for task in tasks], LATER)
    assert {task.id for task in claimed} == {task.id for task in tasks}
    for task in claimed:
        assert task == await stored(store, task)
        (before,) = [each for each in tasks if each.id == task.id]
        assert before.next_execute_at is not None
        assert task == replace(
            before, status=Status.RUNNING, sends=1, term=TERM, scheduled_at=before.next_execute_at,
            next_execute_at=None, version=before.version + 1, updated_at=LATER,
        )  # fmt: skip


async def test_a_claim_of_one_that_moved_on_takes_the_others(store: SqlStore) -> None:
    tasks = await at_versions(store, KINDS)
    await own_shards(store)
    stale = [request(task, version=task.version - 1) for task in tasks[:3]]
    claimed = await store.engine.claim([*stale, *(request(task) for task in tasks[3:])], LATER)
    assert {task.id for task in claimed} == {task.id for task in tasks[3:]}
    assert {(await stored(store, task)).status for task in tasks[:3]} == {Status.PENDING}


@pytest.mark.parametrize("differing", [0, 1, KINDS])
async def test_outcomes_that_differ_beside_some_that_do_not(store: SqlStore, differing: int) -> None:
    alike = 5
    await create(store, *(new_task(f"u{number}") for number in range(alike + differing)))
    await own_shards(store)
    waiting = await store.engine.due_refs(None, 0, LATER, None, 100)
    rows = [found for ref in waiting if (found := await store.tasks.get(BUSINESS, ref.task_id)) is not None]
    claimed = await store.engine.claim([request(task) for task in rows], NOW)
    moves = {
        task.id: move(
            task, Status.RETRYING, current_retry=1, next_execute_at=LATER + number, last_error=f"fault {number}"
        )
        for number, task in enumerate(claimed[:differing])
    }
    ends = [outcome(task, moves.get(task.id), execution=execution(task)) for task in claimed]
    assert await store.engine.record(ends, LATER) == [Applied(3)] * len(ends)
    for task in claimed:
        found = await stored(store, task)
        to = moves.get(task.id)
        if to is None:
            assert (found.status, found.finished_at, found.next_execute_at) == (Status.SUCCEEDED, LATER, None)
        else:
            assert (found.status, found.finished_at, found.next_execute_at) == (
                Status.RETRYING,
                None,
                to.next_execute_at,
            )
            assert (found.current_retry, found.last_error) == (1, to.last_error)
        assert (found.version, found.updated_at, found.sends) == (3, LATER, 1)
        assert len(await store.tasks.executions(BUSINESS, task.id, None, 10)) == 1
    assert await store.engine.record(ends, LATER + 1) == [Applied(3)] * len(ends), "again, as after a lost answer"
    assert await store.businesses.counters(BUSINESS) == Counters(
        BUSINESS, active=differing, created=alike + differing, succeeded=alike, failed=0, stopped=0, cancelled=0,
        callbacks=alike + differing,
    )  # fmt: skip


async def test_an_outcome_of_a_cancelled_task_spoils_no_other(store: SqlStore) -> None:
    tasks = await create(store, *(new_task(f"u{number}") for number in range(6)))
    await own_shards(store)
    claimed = await store.engine.claim([request(task) for task in tasks], NOW)
    await store.tasks.cancel(BUSINESS, claimed[2].id, NOW, audit_entry())
    recorded = await store.engine.record([outcome(task) for task in claimed], LATER)
    assert [type(each) for each in recorded].count(Superseded) == 1
    assert isinstance(recorded[2], Superseded)
    statuses = [(await stored(store, task)).status for task in claimed]
    assert statuses == [Status.CANCELLED if number == 2 else Status.SUCCEEDED for number in range(6)]


@pytest.mark.parametrize("others", [1, FEW + 2])
async def test_every_business_of_a_batch_is_counted(store: SqlStore, others: int) -> None:
    ids = [20 + number for number in range(others)]
    for business_id in ids:
        await add_business(store, business_id, f"other-{business_id}")
    made = [new_task(f"u{business_id}-{n}", business_id=business_id) for business_id in ids for n in range(2)]
    tasks = await create(store, *made)
    await own_shards(store)
    assert {task.shard for task in tasks} == {SHARD}
    claimed = await store.engine.claim([request(task) for task in tasks], NOW)
    await store.engine.record([outcome(task) for task in claimed[1:]], LATER)
    for business_id in ids:
        left = sum(task.business_id == business_id for task in claimed[:1])
        assert await store.businesses.counters(business_id) == Counters(
            business_id, active=left, created=2, succeeded=2 - left, failed=0, stopped=0, cancelled=0,
            callbacks=2 - left,
        )  # fmt: skip
