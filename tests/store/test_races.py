"""Two instances at once: whoever comes first, what they are told agrees with what is stored.

On a server the two are stores of their own; a file is one process's, so there they are two tasks of one store.
"""

import random

import trio
from tests.store.store_kit import (
    BUSINESS,
    LIMIT,
    NOW,
    audit_entry,
    check_books,
    claim,
    create,
    new_task,
    outcome,
    own_shards,
    request,
)

from taskcenter.store.engine_records import Applied, Superseded
from taskcenter.store.records import (
    Changed,
    Created,
    CreateResult,
    ExecutionStatus,
    QuotaFull,
    Replayed,
    Task,
    TaskChange,
)
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import Status

Two = tuple[SqlStore, SqlStore]


# --- claims --------------------------------------------------------------------------------------------------------


async def test_claim_against_cancel(two: Two) -> None:
    """A cancel that says "not in flight" is never followed by a claim, and the other way round."""
    one, other = two
    tasks = await create(one, *[new_task() for _ in range(40)])
    claimed: set[str] = set()
    in_flight: dict[str, bool] = {}

    async def claim_all() -> None:
        for start in range(0, 40, 8):
            got = await one.engine.claim([request(task) for task in tasks[start : start + 8]], NOW)
            claimed.update(task.id for task in got)

    async def cancel_all() -> None:
        for task in reversed(tasks):
            result = await other.tasks.cancel(BUSINESS, task.id, NOW, audit_entry("task.cancel"))
            assert isinstance(result, Changed)
            in_flight[task.id] = result.cancelled_in_flight

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim_all)
        nursery.start_soon(cancel_all)
    assert {task_id for task_id, flying in in_flight.items() if flying} == claimed
    assert (await one.tasks.status_counts(BUSINESS))[Status.CANCELLED] == 40
    await check_books(one)


async def test_claim_against_update(two: Two) -> None:
    one, other = two
    tasks = await create(one, *[new_task() for _ in range(30)])
    claimed: dict[str, Task] = {}
    seen: dict[str, Status] = {}

    async def claim_all() -> None:
        for task in tasks:
            for got in await one.engine.claim([request(task)], NOW):
                claimed[got.id] = got

    async def update_all() -> None:
        for task in reversed(tasks):
            result = await other.tasks.update(
                BUSINESS, task.id, TaskChange(timeout_ms=77), expected_version=None, now=NOW, audit=audit_entry()
            )
            assert isinstance(result, Changed)
            seen[task.id] = result.previous

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim_all)
        nursery.start_soon(update_all)
    for task in tasks:
        assert (seen[task.id] is Status.RUNNING) is (task.id in claimed)
        if task.id in claimed:
            assert claimed[task.id].timeout_ms == task.timeout_ms  # what is sent is what was claimed
    await check_books(one)


async def test_two_claims_of_one_batch(two: Two) -> None:
    tasks = await create(two[0], *[new_task() for _ in range(50)])
    claimed: list[str] = []

    async def claim_all(store: SqlStore, seed: int) -> None:
        mixed = random.Random(seed).sample(tasks, len(tasks))
        for start in range(0, 50, 10):
            got = await store.engine.claim([request(task) for task in mixed[start : start + 10]], NOW)
            claimed.extend(task.id for task in got)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(claim_all, two[number % 2], number)
    assert sorted(claimed) == [task.id for task in tasks]
    for task in tasks:
        found = await two[0].tasks.get(BUSINESS, task.id)
        assert found is not None
        assert found.sends == 1


# --- outcomes against recovery -------------------------------------------------------------------------------------


async def test_outcome_against_recovery(two: Two) -> None:
    """Each attempt is either recorded or recovered, and whoever did it knows."""
    one, other = two
    tasks = [await claim(one, task) for task in await create(one, *[new_task() for _ in range(40)])]
    await other.leases.retire("one")
    terms = await own_shards(other, instance="two")
    told: dict[str, bool] = {}
    recovered: set[str] = set()

    async def record_all() -> None:
        for start in range(0, 40, 5):
            batch = [outcome(task) for task in tasks[start : start + 5]]
            for given, result in zip(batch, await one.engine.record(batch, NOW), strict=True):
                assert isinstance(result, Applied | Superseded)
                told[given.task_id] = isinstance(result, Applied)

    async def recover_all() -> None:
        while tasks_ := await other.engine.recover(terms, NOW, 3):
            recovered.update(task.id for task in tasks_)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(record_all)
        nursery.start_soon(recover_all)
    assert {task_id for task_id, applied in told.items() if not applied} == recovered
    for task in tasks:
        found = await one.tasks.get(BUSINESS, task.id)
        assert found is not None
        assert found.status is (Status.SUCCEEDED if told[task.id] else Status.RETRYING)
        (attempt,) = await one.tasks.executions(BUSINESS, task.id, None, 9)
        assert (attempt.status is ExecutionStatus.INTERRUPTED) is (task.id in recovered)
    await check_books(one)


# --- creates -------------------------------------------------------------------------------------------------------


async def test_same_id_at_once_is_created_once(two: Two) -> None:
    results: list[CreateResult] = []

    async def create_it(store: SqlStore) -> None:
        results.extend(await store.tasks.create([new_task("the one")], {BUSINESS: LIMIT}, [audit_entry()], NOW))

    async with trio.open_nursery() as nursery:
        for number in range(32):
            nursery.start_soon(create_it, two[number % 2])
    (created,) = [result for result in results if isinstance(result, Created)]
    replayed = [result for result in results if isinstance(result, Replayed)]
    assert len(replayed) == 31
    assert {result.task.id for result in replayed} == {created.task.id}
    await check_books(two[0])


async def test_quota_holds_at_once(two: Two) -> None:
    limit = 60
    await create(two[0], *[new_task() for _ in range(limit - 10)], limit=limit)
    results: list[CreateResult] = []

    async def create_one(store: SqlStore) -> None:
        results.extend(await store.tasks.create([new_task()], {BUSINESS: limit}, [None], NOW))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(create_one, two[number % 2])
    assert sum(isinstance(result, Created) for result in results) == 10
    assert results.count(QuotaFull(limit, limit)) == 40
    assert (await two[0].businesses.counters(BUSINESS)).active == limit
    await check_books(two[0])
