"""Takeover: what a lost owner left behind, and what its successor must know; the same on every store."""

from dataclasses import replace

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
    database_of,
    execution,
    move,
    new_task,
    outcome,
    own_shards,
)

from taskcenter.store.connection import Connection
from taskcenter.store.engine_records import Applied, SendPoint
from taskcenter.store.records import Counters, Execution, ExecutionStatus, NewTask, Task, TaskKind
from taskcenter.store.rows import born
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import FinishReason, Status, shard_of

CLAIMED_AT = NOW + 40
NEXT = {SHARD: TERM + 1}


async def lose_owner(store: SqlStore, instance: str) -> dict[int, int]:
    """The owner of the shard is gone and `instance` has it now."""
    for shard in await store.leases.shards():
        if shard.owner is not None:
            await store.leases.retire(shard.owner)
    return await own_shards(store, instance=instance)


async def stored(store: SqlStore, task: Task) -> Task:
    found = await store.tasks.get(BUSINESS, task.id)
    assert found is not None
    return found


async def test_recovered_is_due_now_as_the_same_attempt(store: SqlStore) -> None:
    running, waiting, done = await create(store, *[new_task() for _ in range(3)])
    await own_shards(store)
    lost = await claim(store, running, now=CLAIMED_AT)
    await store.engine.record([outcome(await claim(store, done))], NOW)
    assert await lose_owner(store, "two") == NEXT
    found = await store.engine.recover(NEXT, NOW + 99, 10)
    recovered = replace(
        lost, status=Status.RETRYING, interruptions=1, doubtful=True, next_execute_at=NOW + 99, version=3,
        updated_at=NOW + 99,
    )  # fmt: skip
    assert await stored(store, running) == recovered
    assert found == [replace(recovered, headers={}, payload=b"")]
    assert await store.tasks.executions(BUSINESS, running.id, None, 9) == [
        Execution(
            running.id, BUSINESS, 1, 1, 1, TERM, NOW, CLAIMED_AT, 0.0, 40.0, ExecutionStatus.INTERRUPTED,
            error_message="the sender was lost before the outcome was recorded",
        )
    ]  # fmt: skip
    assert await stored(store, waiting) == waiting
    assert await store.businesses.counters(BUSINESS) == Counters(BUSINESS, 2, 3, 1, 0, 0, 0, callbacks=2)
    assert await store.engine.recover(NEXT, NOW + 100, 10) == []
    again = await claim(store, recovered, term=TERM + 1, now=NOW + 100)
    assert (again.current_retry, again.sends, again.interruptions, again.doubtful) == (0, 2, 1, True)


async def test_own_claims_are_not_recovered(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    running = await claim(store, task)
    assert await store.engine.recover({SHARD: TERM}, NOW, 10) == []
    assert await stored(store, task) == running
    assert await store.engine.recover({}, NOW, 10) == []


async def test_stale_owner_recovers_nothing(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    running = await claim(store, task)
    await lose_owner(store, "two")
    for term in (TERM, TERM + 2):
        assert await store.engine.recover({SHARD: term}, NOW, 10) == []
    assert await stored(store, task) == running


async def test_only_the_shards_named_are_recovered(store: SqlStore) -> None:
    other = shard_of("other")
    await add_business(store, 8, "other")
    mine, others = await create(store, new_task(), new_task(business_id=8, business_code="other", shard=other))
    await own_shards(store, [SHARD, other])
    await claim(store, mine)
    await claim(store, others)
    await store.leases.retire("one")
    terms = await own_shards(store, [SHARD, other], instance="two")
    assert terms == {SHARD: 2, other: 2}
    (task,) = await store.engine.recover({other: 2}, NOW, 10)
    assert task.id == others.id
    (task,) = await store.engine.recover(terms, NOW, 10)
    assert task.id == mine.id


async def test_three_in_a_row_is_a_crash_suspect(store: SqlStore) -> None:
    (task,) = await create(store, new_task(finish_url="http://f/"))
    child = new_task(f"{task.id}-1", kind=TaskKind.FINISH)
    seen: list[tuple[Task, Execution | None]] = []

    def finish(ended: Task, last: Execution | None) -> NewTask | None:
        seen.append((ended, last))
        return child

    await own_shards(store)
    for number in range(1, 4):
        await claim(store, await stored(store, task), term=number)
        terms = await lose_owner(store, f"heir-{number}")
        (found,) = await store.engine.recover(terms, NOW + number, 10, finish=finish)
        assert found.status is (Status.RETRYING if number < 3 else Status.FAILED)
    failed = await stored(store, task)
    assert (failed.status, failed.finish_reason) == (Status.FAILED, FinishReason.CRASH_SUSPECT)
    assert (failed.interruptions, failed.next_execute_at, failed.finished_at) == (3, None, NOW + 3)
    assert failed.last_error is not None
    ((ended, last),) = seen
    assert replace(ended, headers=task.headers, payload=task.payload) == failed
    assert last is not None
    assert (last.number, last.status) == (3, ExecutionStatus.INTERRUPTED)
    assert await store.tasks.get(BUSINESS, child.id) == born(child)
    assert len(await store.tasks.executions(BUSINESS, task.id, None, 9)) == 3
    assert await store.businesses.counters(BUSINESS) == Counters(BUSINESS, 0, 1, 0, 1, 0, 0, callbacks=3)


async def test_an_outcome_ends_the_row_of_interruptions(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    await claim(store, task)
    terms = await lose_owner(store, "two")
    await store.engine.recover(terms, NOW, 10)
    running = await claim(store, await stored(store, task), term=2)
    assert (running.interruptions, running.doubtful) == (1, True)
    put_off = move(running, Status.RETRYING, next_execute_at=NOW, deferrals=1, doubtful=True)
    assert await store.engine.record([outcome(running, put_off)], NOW) == [Applied(5)]
    again = await claim(store, await stored(store, task), term=2)
    assert (again.interruptions, again.doubtful) == (0, True)  # its receiver may have had it before all the same
    failed = move(again, Status.RETRYING, next_execute_at=NOW, current_retry=1)
    assert await store.engine.record([outcome(again, failed)], NOW) == [Applied(7)]
    assert not (await stored(store, task)).doubtful


async def test_pages_of_recovery(store: SqlStore) -> None:
    made = await create(store, *[new_task() for _ in range(7)])
    await own_shards(store)
    for task in made:
        await claim(store, task)

    async def wear_out(connection: Connection) -> None:
        """Four of them have been interrupted twice."""
        for task in made[:4]:
            await connection.execute("UPDATE tasks SET interruptions = 2 WHERE id = ?", (task.id,))

    await database_of(store).write(wear_out)
    terms = await lose_owner(store, "two")
    found: list[str] = []
    while page := await store.engine.recover(terms, NOW, 2):
        assert len(page) <= 2
        found += [task.id for task in page]
    assert sorted(found) == [task.id for task in made]
    assert (await store.tasks.status_counts(BUSINESS))[Status.FAILED] == 4


async def test_hidden_tasks_are_recovered_and_not_counted(store: SqlStore) -> None:
    (hidden,) = await create(store, new_task(kind=TaskKind.FINISH))
    await own_shards(store)
    await claim(store, hidden)
    (task,) = await store.engine.recover(await lose_owner(store, "two"), NOW, 10)
    assert task.id == hidden.id
    assert await store.businesses.counters(BUSINESS) == Counters(BUSINESS, 0, 0, 0, 0, 0, 0, 0)


async def test_what_cannot_be_opened_is_recovered_all_the_same(store: SqlStore) -> None:
    made = await create(store, new_task(), new_task())
    await own_shards(store)
    for task in made:
        await claim(store, task)

    async def damage(connection: Connection) -> None:
        await connection.execute("UPDATE tasks SET payload = ? WHERE id = ?", (b"\x01\x02k9" + bytes(40), made[0].id))

    await database_of(store).write(damage)
    found = await store.engine.recover(await lose_owner(store, "two"), NOW, 10)
    assert [task.id for task in found] == [task.id for task in made]


# --- recent sends --------------------------------------------------------------------------------------------------


async def test_recent_sends_oldest_first_with_those_on_their_way(store: SqlStore) -> None:
    await own_shards(store)
    points = []
    for number, status in enumerate([ExecutionStatus.SUCCESS, ExecutionStatus.TIMEOUT, ExecutionStatus.HTTP_ERROR]):
        (task,) = await create(store, new_task(callback_host=f"h{number}"))
        running = await claim(store, task)
        answer = None if status is ExecutionStatus.TIMEOUT else 200 + number
        sent = execution(running, status, started_at=NOW + 10 * number, response_status=answer)
        await store.engine.record([outcome(running, execution=sent)], NOW)
        points.append(SendPoint(NOW + 10 * number, status, f"h{number}", answer))
    (late,) = await create(store, new_task(due_at=NOW - 500_000, callback_host="late"))
    await claim(store, late, now=NOW + 15)  # long overdue, and sent just now
    (early,) = await create(store, new_task(due_at=NOW + 50, callback_host="early"))
    await claim(store, early, now=NOW + 1)  # ahead of its time
    points.append(SendPoint(NOW + 15, ExecutionStatus.INTERRUPTED, "late", None))
    points.append(SendPoint(NOW + 50, ExecutionStatus.INTERRUPTED, "early", None))
    points.sort(key=lambda point: point.started_at)
    assert await store.engine.recent_sends(BUSINESS, NOW, 100) == points
    assert await store.engine.recent_sends(BUSINESS, NOW + 1, 100) == points[1:]
    assert await store.engine.recent_sends(BUSINESS, NOW, 2) == points[-2:]  # the newest say most
    assert await store.engine.recent_sends(999, 0, 100) == []


async def test_starts_of_flows_oldest_first(store: SqlStore) -> None:
    await own_shards(store)
    for number, key in enumerate(["a", None, "b", "a"]):
        (task,) = await create(store, new_task(flow_key=key))
        running = await claim(store, task)
        sent = execution(running, ExecutionStatus.SUCCESS, started_at=NOW + 10 * number)
        await store.engine.record([outcome(running, execution=sent)], NOW)
    assert await store.engine.flow_starts(BUSINESS, NOW, 100) == [("a", NOW), ("b", NOW + 20), ("a", NOW + 30)]
    assert await store.engine.flow_starts(BUSINESS, NOW + 1, 100) == [("b", NOW + 20), ("a", NOW + 30)]
    assert await store.engine.flow_starts(BUSINESS, NOW, 1) == [("a", NOW + 30)]
    assert await store.engine.flow_starts(999, 0, 100) == []


async def test_interrupted_sends_count_as_late_as_they_can_have_been(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    await claim(store, task, now=CLAIMED_AT)
    await store.engine.recover(await lose_owner(store, "two"), NOW + 99, 10)
    await store.tasks.cancel(BUSINESS, task.id, NOW, audit_entry())
    assert await store.engine.recent_sends(BUSINESS, NOW, 10) == [
        SendPoint(NOW + 99, ExecutionStatus.INTERRUPTED, "127.0.0.1:9", None)
    ]
    with pytest.raises(ValueError, match="not enough"):
        (_,) = await store.engine.recent_sends(BUSINESS, CLAIMED_AT + 1, 10)
