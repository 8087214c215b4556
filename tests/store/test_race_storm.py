"""All verbs at once from two instances; afterwards the books agree, on every store."""

import random

import pytest
import trio
from tests.store.store_kit import (
    BUSINESS,
    LIMIT,
    NOW,
    audit_entry,
    check_books,
    claim,
    create,
    move,
    new_task,
    outcome,
    request,
)

from taskcenter.store.records import (
    Task,
    TaskChange,
    TaskFilter,
)
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import Status


async def create_batches(store: SqlStore, number: int) -> None:
    for step in range(6):
        batch = [new_task(f"s{number}-{step}-{one}", tags=("x",)) for one in range(5)]
        await store.tasks.create(batch, {BUSINESS: LIMIT}, [audit_entry()] * 5, NOW)


async def change(store: SqlStore, task: Task, what: str) -> None:
    """One call of the API, whatever its answer."""
    entry = audit_entry(f"task.{what}")
    if what == "cancel":
        await store.tasks.cancel(BUSINESS, task.id, NOW, entry)
    elif what == "run":
        await store.tasks.run_now(BUSINESS, task.id, NOW, entry)
    elif what == "update":
        new_tags = TaskChange(tags=(task.id[-1],))
        await store.tasks.update(BUSINESS, task.id, new_tags, expected_version=None, now=NOW, audit=entry)
    elif what == "redeliver":
        await store.tasks.redeliver(BUSINESS, task.id, NOW, NOW, entry, LIMIT)
    elif what == "matching":
        await store.tasks.cancel_matching(BUSINESS, TaskFilter(tag="x"), 3, NOW, entry)
    else:
        await store.maintenance.purge(NOW - 1, 10)


async def change_at_random(store: SqlStore, pool: list[Task], rng: random.Random) -> None:
    for _ in range(15):
        await change(store, rng.choice(pool), rng.choice(["cancel", "run", "update", "redeliver", "matching", "purge"]))


async def run_engine(store: SqlStore, rng: random.Random) -> None:
    """Claim what is due, and end or retry it."""
    for _ in range(15):
        refs = await store.engine.due_refs(None, 0, NOW + 1, None, 6)
        found = [await store.tasks.get(BUSINESS, ref.task_id) for ref in refs]
        waiting = [task for task in found if task is not None and task.next_execute_at is not None]
        got = await store.engine.claim([request(task) for task in waiting], NOW)
        again = {task.id: move(task, Status.RETRYING, next_execute_at=NOW) for task in got if rng.random() < 0.5}
        await store.engine.record([outcome(task, again.get(task.id)) for task in got], NOW)


@pytest.mark.parametrize("seed", [1, 2])
async def test_storm(two: tuple[SqlStore, SqlStore], seed: int) -> None:
    rng = random.Random(seed)
    pool = [await claim(two[0], task) for task in await create(two[0], *[new_task() for _ in range(12)])]
    async with trio.open_nursery() as nursery:
        for number, store in enumerate(two):
            nursery.start_soon(create_batches, store, number)
            nursery.start_soon(change_at_random, store, pool, rng)
            nursery.start_soon(run_engine, store, rng)
    await check_books(two[0])
