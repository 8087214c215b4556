"""Attempts that were on their way when their task was cancelled: history has each of them, once; on every store."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from random import Random

import pytest
import trio
from tests.store.store_kit import (
    BUSINESS,
    LIMIT,
    NOW,
    SHARD,
    TERM,
    add_business,
    audit_entry,
    check_books,
    claim,
    create,
    database_of,
    execution,
    fetch,
    move,
    new_task,
    outcome,
    own_shards,
    request,
)
from tests.store.unanswered import UnansweredDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.store.engine_records import OpenAttempt, Superseded
from taskcenter.store.records import Changed, Execution, ExecutionStatus, Task, TaskFilter
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import Status, shard_of

CLAIMED_AT, CANCELLED_AT, TAKEN_AT = NOW + 40, NOW + 500, NOW + 9_000
INTERRUPTED, SUCCESS = ExecutionStatus.INTERRUPTED, ExecutionStatus.SUCCESS
Two = tuple[SqlStore, SqlStore]


async def on_their_way(store: SqlStore, count: int = 1, term: int = TERM) -> list[Task]:
    """Tasks that were claimed at `CLAIMED_AT` by the owner of the shard."""
    made = await create(store, *[new_task() for _ in range(count)])
    await own_shards(store)
    return [await claim(store, task, term=term, now=CLAIMED_AT) for task in made]


async def cancel(store: SqlStore, task: Task) -> Task:
    changed = await store.tasks.cancel(task.business_id, task.id, CANCELLED_AT, audit_entry("task.cancel"))
    assert isinstance(changed, Changed)
    assert changed.cancelled_in_flight is (changed.previous is Status.RUNNING)
    return changed.task


async def succeed(store: SqlStore, instance: str = "two") -> dict[int, int]:
    """The owner is gone, `instance` has what it had."""
    held = [shard for shard in await store.leases.shards() if shard.owner is not None]
    for owner in {shard.owner for shard in held}:
        assert owner is not None
        await store.leases.retire(owner)
    return await own_shards(store, [shard.shard for shard in held], instance=instance)


async def told(store: SqlStore, task: Task) -> dict[int, ExecutionStatus]:
    """The history, by number."""
    return {one.number: one.status for one in await store.tasks.executions(task.business_id, task.id, None, 99)}


async def left_open(store: SqlStore) -> list[tuple[str, int]]:
    rows = await fetch(database_of(store), "SELECT task_id, number FROM cancelled_attempts ORDER BY task_id, number")
    return [(task_id, number) for task_id, number in rows]


async def test_its_sender_is_lost(store: SqlStore) -> None:
    running, other = await on_their_way(store, 2)
    cancelled = await cancel(store, running)
    assert await store.engine.recover_cancelled({SHARD: TERM}, TAKEN_AT, 10) == []  # its sender has the shard still
    terms = await succeed(store)
    assert [task.id for task in await store.engine.recover(terms, TAKEN_AT, 10)] == [other.id]
    assert await store.engine.recover_cancelled(terms, TAKEN_AT, 10) == [
        OpenAttempt(running.id, 1, BUSINESS, "shop", SHARD, TERM, 1, 1, NOW, CLAIMED_AT)
    ]
    assert await store.tasks.executions(BUSINESS, running.id, None, 9) == [
        Execution(
            running.id, BUSINESS, 1, 1, 1, TERM, NOW, CLAIMED_AT, 0.0, 40.0, INTERRUPTED,
            error_message="the sender was lost before the outcome was recorded",
        )
    ]  # fmt: skip
    assert await store.tasks.get(BUSINESS, running.id) == cancelled  # which is all that becomes of it
    assert await store.engine.recover_cancelled(terms, TAKEN_AT, 10) == []
    assert (await store.businesses.counters(BUSINESS)).callbacks == 2
    # it lives after all, and is late: the history stays as it is
    assert await store.engine.record([outcome(running)], TAKEN_AT) == [Superseded()]
    assert await told(store, running) == {1: INTERRUPTED}
    await check_books(store)


async def test_its_sender_tells_its_end(store: SqlStore) -> None:
    (running,) = await on_their_way(store)
    await cancel(store, running)
    assert await left_open(store) == [(running.id, 1)]
    for _ in range(2):  # the first COMMIT may not have been answered
        assert await store.engine.record([outcome(running)], CANCELLED_AT) == [Superseded()]
    assert await left_open(store) == []
    assert await store.engine.recover_cancelled(await succeed(store), TAKEN_AT, 10) == []
    assert await told(store, running) == {1: SUCCESS}
    await check_books(store)


async def test_it_was_withdrawn_unsent(store: SqlStore) -> None:
    (running,) = await on_their_way(store)
    await cancel(store, running)
    withdrawn = outcome(running, move(running, Status.CANCELLED), execution=None)
    await store.engine.record([withdrawn], CANCELLED_AT)
    assert await store.engine.recover_cancelled(await succeed(store), TAKEN_AT, 10) == []
    assert await told(store, running) == {}
    assert (await store.businesses.counters(BUSINESS)).cancelled == 1
    await check_books(store)


@pytest.mark.parametrize("back_to_life", [False, True])
async def test_its_claim_is_asked_for_again(
    unanswered: tuple[SqlStore, UnansweredDatabase], back_to_life: bool
) -> None:
    """The claim's COMMIT was not answered: who asked learns by the repeat that there is nothing to send."""
    store, database = unanswered
    await own_shards(store)
    (task,) = await create(store, new_task())
    database.lost = "after"
    with pytest.raises(CommitUnknown):
        await store.engine.claim([request(task)], CLAIMED_AT)
    await cancel(store, task)
    assert await left_open(store) == [(task.id, 1)]
    if back_to_life:
        await store.tasks.redeliver(BUSINESS, task.id, NOW, CANCELLED_AT, audit_entry(), LIMIT)
    for lost in ("before", "after", None):
        database.lost = lost
        with pytest.raises(CommitUnknown) if lost else nullcontext():
            assert await store.engine.claim([request(task)], CANCELLED_AT) == []
        assert await left_open(store) == ([(task.id, 1)] if lost == "before" else [])
    assert await store.engine.recover_cancelled(await succeed(store), TAKEN_AT, 10) == []
    assert await told(store, task) == {}
    await check_books(store)


async def test_each_of_its_runs_is_told_by_its_own_number(store: SqlStore) -> None:
    """Called back to life while the first attempt was on its way, sent and cancelled again, and once more."""
    (running,) = await on_their_way(store)
    sent = [running]
    for number in range(2):
        await cancel(store, running)
        again = await store.tasks.redeliver(BUSINESS, running.id, NOW, CANCELLED_AT, audit_entry(), LIMIT)
        assert isinstance(again, Changed)
        running = await claim(store, again.task, now=CLAIMED_AT + number)
        sent.append(running)
    assert await left_open(store) == [(running.id, 1), (running.id, 2)]
    await store.engine.record([outcome(sent[1])], CANCELLED_AT)  # the second is heard of, the others are not
    terms = await succeed(store)
    (recovered,) = await store.engine.recover(terms, TAKEN_AT, 10)
    assert (recovered.status, recovered.run) == (Status.RETRYING, 3)
    (first,) = await store.engine.recover_cancelled(terms, TAKEN_AT, 10)
    assert (first.number, first.run, first.claimed_at) == (1, 1, CLAIMED_AT)
    assert await told(store, running) == {1: INTERRUPTED, 2: SUCCESS, 3: INTERRUPTED}
    await check_books(store)


async def test_a_later_cancel_tells_of_it(store: SqlStore) -> None:
    """Its task was called back to life, and is cancelled again while it is on its way; by id, and by filter."""
    one, other = await on_their_way(store, 2)
    for running in (one, other):
        await cancel(store, running)
        await store.tasks.redeliver(BUSINESS, running.id, NOW, CANCELLED_AT, audit_entry(), LIMIT)
    again = await store.tasks.cancel(BUSINESS, one.id, CANCELLED_AT, audit_entry())
    assert isinstance(again, Changed)
    assert (again.cancelled_in_flight, again.former_in_flight) == (False, True)
    (by_filter,) = await store.tasks.cancel_matching(BUSINESS, TaskFilter(), 9, CANCELLED_AT, audit_entry())
    assert (by_filter.task.id, by_filter.former_in_flight) == (other.id, True)
    await store.engine.record([outcome(one)], CANCELLED_AT)  # its end is told
    await store.tasks.redeliver(BUSINESS, one.id, NOW, CANCELLED_AT, audit_entry(), LIMIT)
    again = await store.tasks.cancel(BUSINESS, one.id, CANCELLED_AT, audit_entry())
    assert isinstance(again, Changed) and not again.former_in_flight


async def test_many_at_once_in_pages(store: SqlStore) -> None:
    running = await on_their_way(store, 7)
    await create(store, new_task())  # cancelled with them, and never sent
    changes = await store.tasks.cancel_matching(BUSINESS, TaskFilter(), 100, CANCELLED_AT, audit_entry())
    assert sum(change.cancelled_in_flight for change in changes) == len(changes) - 1 == 7
    terms = await succeed(store)
    found: list[str] = []
    while page := await store.engine.recover_cancelled(terms, TAKEN_AT, 3):
        assert len(page) <= 3
        found += [one.task_id for one in page]
    assert sorted(found) == [task.id for task in running]
    assert await left_open(store) == []
    await check_books(store)


async def test_only_of_shards_that_are_held(store: SqlStore) -> None:
    other = shard_of("other")
    await add_business(store, 8, "other")
    made = await create(store, new_task(), new_task(business_id=8, business_code="other", shard=other))
    await own_shards(store, [SHARD, other])
    for task in made:
        await cancel(store, await claim(store, task))
    terms = await succeed(store)
    assert terms == {SHARD: 2, other: 2}
    assert await store.engine.recover_cancelled({SHARD: 1, other: 3}, TAKEN_AT, 10) == []
    assert await store.engine.recover_cancelled({}, TAKEN_AT, 10) == []
    (found,) = await store.engine.recover_cancelled({other: 2}, TAKEN_AT, 10)
    assert (found.task_id, found.business_code) == (made[1].id, "other")
    (found,) = await store.engine.recover_cancelled(terms, TAKEN_AT, 10)
    assert found.task_id == made[0].id


async def test_it_is_purged_with_its_task(store: SqlStore) -> None:
    (running,) = await on_their_way(store)
    await cancel(store, running)
    assert await store.maintenance.purge(CANCELLED_AT + 1, 10) > 0
    assert await left_open(store) == []
    assert await store.engine.record([outcome(running)], TAKEN_AT) == [Superseded()]
    assert await told(store, running) == {}


async def test_sender_and_next_owner_tell_at_once(two: Two) -> None:
    """Which of them is first is chance; an attempt is told of once, and counted once."""
    one, other = two
    rng = Random(7)
    running = await on_their_way(one, 48)
    for task in running:
        await cancel(one, task)
    terms = await succeed(other)

    async def by_sender(tasks: list[Task]) -> None:
        late = [replace(outcome(task), execution=execution(task)) for task in tasks]
        assert set(await one.engine.record(late, TAKEN_AT)) == {Superseded()}

    async def by_heir() -> None:
        while await other.engine.recover_cancelled(terms, TAKEN_AT, 5):
            pass

    rng.shuffle(running)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_heir)
        for first in range(0, 24, 4):
            nursery.start_soon(by_sender, running[first : first + 4])
    histories = [await told(one, task) for task in running]
    assert all(set(history) == {1} for history in histories)
    assert {history[1] for history in histories[24:]} == {INTERRUPTED}
    assert await left_open(one) == []
    await check_books(one)
