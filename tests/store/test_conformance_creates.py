"""Births of tasks: replays, conflicts, quotas; the same on every store."""

from typing import Any

import pytest
from tests.store.store_kit import (
    BUSINESS,
    LIMIT,
    NOW,
    add_business,
    audit_entry,
    claim,
    create,
    database_of,
    fetch,
    move,
    new_task,
    outcome,
)
from tests.store.unanswered import UnansweredDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.store.records import (
    Created,
    IdConflict,
    Missing,
    QuotaFull,
    Replayed,
    Task,
    TaskFilter,
    TaskKind,
)
from taskcenter.store.rows import born
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import FinishReason, Status

OTHER = 8
RICH = {
    "schedule": {"cron": "*/5 * * * *", "timezone": "Asia/Shanghai"},
    "deadline_at": NOW + 99,
    "finish_url": "https://example.org/ä?x='1'",
    "tags": ("blue", "päper", "a "),
    "flow_key": "k ",
    "flow_limit": {"rate": 5},
    "headers": {"X-One": "1", "X-Quote": "it's \\ \" %s ?"},
    "payload": '{"ключ": "值 \\u0000 🙂", "q": "?"}'.encode(),
    "retry_intervals_ms": tuple(range(1000, 11_000, 1000)),
    "callback_url": "http://127.0.0.1:9/" + "x" * 2000,
}


async def end(store: SqlStore, task: Task, status: Status = Status.SUCCEEDED) -> Task:
    """Through a claim to a terminal state."""
    claimed = await claim(store, task)
    reasons = {Status.FAILED: FinishReason.RETRIES_EXHAUSTED, Status.STOPPED: FinishReason.RECEIVER_STOPPED}
    await store.engine.record(
        [outcome(claimed, move(claimed, status, finish_reason=reasons.get(status), last_error="bad"))], NOW
    )
    ended = await store.tasks.get(BUSINESS, task.id)
    assert ended is not None
    assert ended.status is status
    return ended


async def counters(store: SqlStore) -> dict[str, int]:
    found = await store.businesses.counters(BUSINESS)
    ended = found.succeeded + found.failed + found.stopped + found.cancelled
    assert found.created == found.active + ended  # holds after every transaction
    return {"active": found.active, "created": found.created, "cancelled": found.cancelled}


@pytest.mark.parametrize("given", [{}, RICH], ids=["plain", "rich"])
async def test_a_task_reads_back_as_it_was_made(store: SqlStore, given: dict[str, Any]) -> None:
    new = new_task("order 'ä'", **given)
    (task,) = await create(store, new)
    assert task == born(new)
    assert await store.tasks.get(BUSINESS, new.id) == task
    assert await store.tasks.get_by_unique_id(BUSINESS, "order 'ä'") == task
    assert await store.tasks.get(OTHER, new.id) is None
    assert await store.tasks.get_by_unique_id(OTHER, "order 'ä'") is None
    assert task.status is Status.PENDING
    assert (task.next_execute_at, task.anchor_at, task.scheduled_at, task.version, task.run) == (NOW, NOW, NOW, 1, 1)


async def test_nothing_to_create(store: SqlStore) -> None:
    assert await store.tasks.create([], {}, [], NOW) == []


async def test_payload_and_headers_are_sealed_at_rest_and_bound_to_their_row(store: SqlStore) -> None:
    one, two = await create(
        store, new_task(payload=b'"canary-1"', headers={"X": "canary-2"}), new_task(payload=b'"canary-3"')
    )
    rows = await fetch(database_of(store), "SELECT headers, payload FROM tasks ORDER BY id")
    assert not any(b"canary" in value for row in rows for value in row)

    async def swap(connection: object) -> None:
        await connection.execute(  # type: ignore[attr-defined]  # a Connection
            "UPDATE tasks SET payload = ? WHERE id = ?", (rows[1][1], one.id)
        )

    await database_of(store).write(swap)
    with pytest.raises(Exception, match=f"tasks.payload:{one.id}"):
        await store.tasks.get(BUSINESS, one.id)
    assert (await store.tasks.get(BUSINESS, two.id)) == two


async def test_unique_ids_differ_by_every_byte(store: SqlStore) -> None:
    made = await create(store, *[new_task(unique) for unique in ("A", "a", "á", "a ", "a\u0301", "å", "🙂", "🙃")])
    assert len({task.id for task in made}) == 8
    for task in made:
        assert await store.tasks.get_by_unique_id(BUSINESS, task.business_unique_id) == task


async def test_same_id_again_is_replayed_or_conflicts(store: SqlStore) -> None:
    first = new_task("order-1")
    (task,) = await create(store, first)
    again, other = new_task("order-1"), new_task("order-1", request_hash=b"x" * 32)
    assert await store.tasks.create([again, other], {BUSINESS: LIMIT}, [None, None], NOW) == [
        Replayed(task),
        IdConflict(task.id),
    ]
    await store.tasks.cancel(BUSINESS, task.id, NOW, audit_entry("task.cancel"))
    (replayed,) = await store.tasks.create([new_task("order-1")], {BUSINESS: LIMIT}, [None], NOW)
    assert isinstance(replayed, Replayed)
    assert replayed.task.status is Status.CANCELLED
    assert await counters(store) == {"active": 0, "created": 1, "cancelled": 1}


async def test_same_id_within_a_batch(store: SqlStore) -> None:
    first, again, other = new_task("x"), new_task("x"), new_task("x", request_hash=b"y" * 32)
    results = await store.tasks.create([first, again, other], {BUSINESS: LIMIT}, [None] * 3, NOW)
    assert results == [Created(born(first)), Replayed(born(first)), IdConflict(first.id)]
    assert await counters(store) == {"active": 1, "created": 1, "cancelled": 0}


async def test_same_id_in_another_business_is_another_task(store: SqlStore) -> None:
    await add_business(store, OTHER, "other")
    made = await create(store, new_task("x"), new_task("x", business_id=OTHER, business_code="other"))
    assert [task.business_id for task in made] == [BUSINESS, OTHER]
    assert (await store.businesses.counters(OTHER)).active == 1


async def test_repeated_create_finds_its_own_tasks(unanswered: tuple[SqlStore, UnansweredDatabase]) -> None:
    """The same call again after a lost answer: the very tasks, counted once."""
    store, database = unanswered
    tasks = [new_task(f"t{number}") for number in range(5)]
    for lost in ("before", "after"):
        database.lost = lost
        with pytest.raises(CommitUnknown):
            await store.tasks.create(tasks, {BUSINESS: LIMIT}, [None] * 5, NOW)
    results = await store.tasks.create(tasks, {BUSINESS: LIMIT}, [None] * 5, NOW)
    assert results == [Created(born(task)) for task in tasks]
    assert await counters(store) == {"active": 5, "created": 5, "cancelled": 0}


async def test_quota_is_exact_and_in_order(store: SqlStore) -> None:
    await create(store, *[new_task(f"old-{number}") for number in range(7)])
    batch = [new_task(f"n-{number}") for number in range(5)]
    batch.insert(4, new_task("old-3"))  # a replay needs no room
    results = await store.tasks.create(batch, {BUSINESS: 10}, [None] * 6, NOW)
    assert [type(result) for result in results] == [Created, Created, Created, QuotaFull, Replayed, QuotaFull]
    assert results[3] == QuotaFull(10, 10)
    assert (await counters(store))["active"] == 10
    await store.tasks.cancel(BUSINESS, results[0].task.id, NOW, audit_entry())  # type: ignore[union-attr]  # it was created
    (result,) = await store.tasks.create([batch[3]], {BUSINESS: 10}, [None], NOW)
    assert isinstance(result, Created)


async def test_hidden_tasks_are_not_counted_listed_or_found(store: SqlStore) -> None:
    visible = new_task("x")
    hidden = new_task("x", kind=TaskKind.FINISH)  # the same id: hidden ones have a space of their own
    made = await create(store, hidden, visible, limit=1)
    assert [task.kind for task in made] == [TaskKind.FINISH, TaskKind.CALLBACK]
    assert await store.tasks.get(BUSINESS, hidden.id) == born(hidden)
    assert (await store.tasks.get_by_unique_id(BUSINESS, "x")) == made[1]
    assert await store.tasks.page(BUSINESS, TaskFilter(), None, 10) == [made[1]]
    assert await store.tasks.count(BUSINESS, TaskFilter(), 10) == 1
    assert (await store.tasks.status_counts(BUSINESS))[Status.PENDING] == 1
    assert (await store.maintenance.totals())[Status.PENDING] == 1
    assert await counters(store) == {"active": 1, "created": 1, "cancelled": 0}
    for call in (store.tasks.cancel, store.tasks.run_now):
        assert await call(BUSINESS, hidden.id, NOW, audit_entry()) == Missing()


async def test_thousand_at_once(store: SqlStore) -> None:
    tasks = [new_task(f"t{number}", tags=(f"g{number % 7}",), at=NOW + number) for number in range(1000)]
    entries = [audit_entry(target=task.id) for task in tasks]
    results = await store.tasks.create(tasks, {BUSINESS: LIMIT}, entries, NOW)
    assert results == [Created(born(task)) for task in tasks]
    assert await counters(store) == {"active": 1000, "created": 1000, "cancelled": 0}
    again = await store.tasks.create(tasks, {BUSINESS: LIMIT}, entries, NOW)
    assert again == results
    newest, *_ = await store.audit.page(BUSINESS, None, 1)
    assert (newest.seq, newest.target) == (1001, tasks[-1].id)  # one for the business itself; none for the repeat
