"""What the API changes in a task: update, run now, cancel, redeliver; the same on every store."""

from dataclasses import replace
from typing import Any

import pytest
from tests.store.store_kit import (
    BUSINESS,
    LIMIT,
    NOW,
    audit_entry,
    claim,
    create,
    execution,
    move,
    new_task,
    outcome,
    own_shards,
)

from taskcenter.errors import TooMany
from taskcenter.store.records import (
    Changed,
    Execution,
    Missing,
    NewTask,
    Task,
    TaskChange,
    TaskFilter,
    TaskKind,
    VersionMismatch,
    WrongState,
)
from taskcenter.store.rows import born
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import ACTIVE, FinishReason, Status

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


async def stored(store: SqlStore, task: Task) -> Task:
    found = await store.tasks.get(BUSINESS, task.id)
    assert found is not None
    return found


async def end(store: SqlStore, task: Task, status: Status = Status.SUCCEEDED) -> Task:
    """Through a claim to a terminal state."""
    claimed = await claim(store, task)
    reasons = {Status.FAILED: FinishReason.RETRIES_EXHAUSTED, Status.STOPPED: FinishReason.RECEIVER_STOPPED}
    await store.engine.record(
        [outcome(claimed, move(claimed, status, finish_reason=reasons.get(status), last_error="bad"))], NOW
    )
    ended = await stored(store, task)
    assert ended.status is status
    return ended


async def counters(store: SqlStore) -> dict[str, int]:
    found = await store.businesses.counters(BUSINESS)
    ended = found.succeeded + found.failed + found.stopped + found.cancelled
    assert found.created == found.active + ended  # holds after every transaction
    return {"active": found.active, "created": found.created, "cancelled": found.cancelled}


# --- update and run now --------------------------------------------------------------------------------------------


async def test_update_changes_what_it_names(store: SqlStore) -> None:
    (task,) = await create(store, new_task(tags=("old", "both")))
    change = TaskChange(
        callback_url="https://example.org/", callback_host="example.org", callback_method="PUT",
        headers={"X-New": "2"}, payload=b"[1]", retry_intervals_ms=(), timeout_ms=100,
        schedule={"every": 300}, tags=("both", "new"), due_at=NOW + 500, deadline_at=NOW + 900, finish_url="http://f/",
    )  # fmt: skip
    result = await store.tasks.update(
        BUSINESS, task.id, change, expected_version=1, now=NOW + 1, audit=audit_entry("task.update")
    )
    assert isinstance(result, Changed)
    assert result.previous is Status.PENDING
    assert result.task == await store.tasks.get(BUSINESS, task.id)
    assert result.task == replace(
        task, callback_url="https://example.org/", callback_host="example.org", callback_method="PUT",
        headers={"X-New": "2"}, payload=b"[1]", retry_intervals_ms=(), timeout_ms=100, schedule={"every": 300},
        tags=("both", "new"), next_execute_at=NOW + 500, anchor_at=NOW + 500, deadline_at=NOW + 900,
        finish_url="http://f/", version=2, updated_at=NOW + 1,
    )  # fmt: skip
    for tag, there in (("old", False), ("both", True), ("new", True)):
        assert await store.tasks.page(BUSINESS, TaskFilter(tag=tag), None, 5) == ([result.task] if there else [])
    cleared = TaskChange(headers={}, schedule=None, tags=(), deadline_at=None, finish_url=None)
    await store.tasks.update(BUSINESS, task.id, cleared, expected_version=None, now=NOW + 2, audit=audit_entry())
    bare = await store.tasks.get(BUSINESS, task.id)
    assert bare is not None
    assert (bare.headers, bare.schedule, bare.tags, bare.deadline_at, bare.finish_url) == ({}, None, (), None, None)
    assert bare.next_execute_at == NOW + 500
    assert await store.tasks.page(BUSINESS, TaskFilter(tag="new"), None, 5) == []


async def test_empty_update_is_a_new_version(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    result = await store.tasks.update(
        BUSINESS, task.id, TaskChange(), expected_version=None, now=NOW + 1, audit=audit_entry()
    )
    assert result == Changed(replace(task, version=2, updated_at=NOW + 1), Status.PENDING)
    assert await store.tasks.get(BUSINESS, task.id) == replace(task, version=2, updated_at=NOW + 1)


async def test_update_of_a_running_task_leaves_its_time(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    claimed = await claim(store, task)
    change = TaskChange(timeout_ms=77, due_at=NOW + 500)
    result = await store.tasks.update(BUSINESS, task.id, change, expected_version=2, now=NOW, audit=audit_entry())
    assert result == Changed(replace(claimed, timeout_ms=77, version=3, updated_at=NOW), Status.RUNNING)
    assert await store.tasks.get(BUSINESS, task.id) == replace(claimed, timeout_ms=77, version=3, updated_at=NOW)


async def test_update_is_refused(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    change, entry = TaskChange(timeout_ms=1), audit_entry()
    call = store.tasks.update
    assert await call(BUSINESS, "0" * 26, change, expected_version=None, now=NOW, audit=entry) == Missing()
    assert await call(OTHER, task.id, change, expected_version=None, now=NOW, audit=entry) == Missing()
    assert await call(BUSINESS, task.id, change, expected_version=9, now=NOW, audit=entry) == VersionMismatch(task)
    ended = await end(store, task)
    assert await call(BUSINESS, task.id, change, expected_version=None, now=NOW, audit=entry) == WrongState(ended)
    assert await store.tasks.get(BUSINESS, task.id) == ended
    assert [entry.action for entry in await store.audit.page(BUSINESS, None, 9)] == ["business.create"]


async def test_run_now(store: SqlStore) -> None:
    (task,) = await create(store, new_task(due_at=NOW + 9_999))
    await own_shards(store)
    result = await store.tasks.run_now(BUSINESS, task.id, NOW + 5, audit_entry("task.run"))
    due = replace(task, next_execute_at=NOW + 5, version=2, updated_at=NOW + 5)
    assert result == Changed(due, Status.PENDING)
    assert await store.tasks.get(BUSINESS, task.id) == due
    assert due.anchor_at == NOW + 9_999  # a schedule goes on from where it was
    running = await claim(store, due)
    assert await store.tasks.run_now(BUSINESS, task.id, NOW, audit_entry()) == WrongState(running)
    assert await store.tasks.run_now(OTHER, task.id, NOW, audit_entry()) == Missing()


async def test_a_retry_that_was_asked_for_is_marked_until_its_end_is_recorded(store: SqlStore) -> None:
    (task,) = await create(store, new_task(due_at=NOW))
    await own_shards(store)
    waiting: dict[str, Any] = {"status": Status.RETRYING, "current_retry": 1, "next_execute_at": NOW + 9}
    running = await claim(store, task)
    await store.engine.record([outcome(running, move(running, **waiting))], NOW)
    await store.tasks.run_now(BUSINESS, task.id, NOW + 1, audit_entry("task.run"))
    asked = await store.tasks.get(BUSINESS, task.id)
    assert asked is not None and (asked.manual, asked.current_retry, asked.next_execute_at) == (True, 1, NOW + 1)
    again = await claim(store, asked)
    assert again.manual
    await store.engine.record([outcome(again, move(again, **waiting, manual=True))], NOW)
    deferred = await store.tasks.get(BUSINESS, task.id)
    assert deferred is not None and deferred.manual
    last = await claim(store, deferred)
    await store.engine.record([outcome(last, move(last, **waiting))], NOW)
    failed = await store.tasks.get(BUSINESS, task.id)
    assert failed is not None and not failed.manual


# --- cancel --------------------------------------------------------------------------------------------------------


async def test_cancel_of_a_waiting_task_is_repeatable(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    result = await store.tasks.cancel(BUSINESS, task.id, NOW + 1, audit_entry("task.cancel"))
    cancelled = replace(
        task, status=Status.CANCELLED, finish_reason=FinishReason.CANCELLED, next_execute_at=None, version=2,
        updated_at=NOW + 1, finished_at=NOW + 1,
    )  # fmt: skip
    assert result == Changed(cancelled, Status.PENDING, cancelled_in_flight=False)
    assert await store.tasks.get(BUSINESS, task.id) == cancelled
    assert await store.tasks.cancel(BUSINESS, task.id, NOW + 2, audit_entry()) == Changed(cancelled, Status.CANCELLED)
    assert await counters(store) == {"active": 0, "created": 1, "cancelled": 1}
    assert [entry.action for entry in await store.audit.page(BUSINESS, None, 9)] == ["task.cancel", "business.create"]


async def test_cancel_in_flight(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    await claim(store, task)
    result = await store.tasks.cancel(BUSINESS, task.id, NOW, audit_entry())
    assert isinstance(result, Changed)
    assert result.cancelled_in_flight
    assert result.previous is Status.RUNNING
    assert result.task == await store.tasks.get(BUSINESS, task.id)


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.STOPPED])
async def test_what_ended_otherwise_is_not_cancelled(store: SqlStore, status: Status) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    ended = await end(store, task, status)
    assert await store.tasks.cancel(BUSINESS, task.id, NOW, audit_entry()) == WrongState(ended)
    assert await store.tasks.cancel(BUSINESS, "0" * 26, NOW, audit_entry()) == Missing()


async def test_cancel_gives_birth_to_the_finish_call(store: SqlStore) -> None:
    (task,) = await create(store, new_task(finish_url="http://f/"))
    child = new_task(f"finish-{task.id}", kind=TaskKind.FINISH)

    def finish(ended: Task, last: Execution | None) -> NewTask | None:
        assert ended.status is Status.CANCELLED
        assert last is None
        return child if ended.finish_url else None

    await store.tasks.cancel(BUSINESS, task.id, NOW, audit_entry(), finish=finish)
    assert await store.tasks.get(BUSINESS, child.id) == born(child)
    assert await counters(store) == {"active": 0, "created": 1, "cancelled": 1}


async def test_the_finish_call_of_each_cancelled_task_gets_its_own_last_attempt(store: SqlStore) -> None:
    """Cancelled one by one or by filter; an attempt on its way has no end to tell of yet."""
    await own_shards(store)
    never, once, twice, running, silent = await create(
        store, *[new_task(finish_url="http://f/") for _ in range(4)], new_task()
    )
    for task, attempts in ((once, 1), (twice, 2), (running, 1), (silent, 1)):
        for _ in range(attempts):
            claimed = await claim(store, await stored(store, task))
            again = move(claimed, Status.RETRYING, next_execute_at=NOW)
            await store.engine.record([outcome(claimed, again)], NOW)
    await claim(store, await stored(store, running))
    told: dict[str, Execution | None] = {}

    def finish(ended: Task, last: Execution | None) -> NewTask | None:
        told[ended.id] = last
        return new_task(f"finish-{ended.id}", kind=TaskKind.FINISH)

    await store.tasks.cancel(BUSINESS, twice.id, NOW, audit_entry(), finish=finish)
    await store.tasks.cancel_matching(BUSINESS, TaskFilter(), 9, NOW, audit_entry(), finish=finish)
    numbers = {task_id: last and last.number for task_id, last in told.items()}
    assert numbers == {never.id: None, once.id: 1, twice.id: 2, running.id: 1}
    assert told[once.id] == replace(
        execution(await stored(store, once), number=1), request_headers={}, response_headers={}, response_body=None
    )


async def test_cancel_matching(store: SqlStore) -> None:
    await own_shards(store)
    made = await create(store, *[new_task(f"t{number}", tags=("x",) if number % 2 else ()) for number in range(10)])
    running = await claim(store, made[1])
    await end(store, made[3])
    cancelled = await store.tasks.cancel_matching(BUSINESS, TaskFilter(tag="x"), 2, NOW, audit_entry("task.cancel"))
    assert [change.task.id for change in cancelled] == [made[9].id, made[7].id]
    rest = await store.tasks.cancel_matching(BUSINESS, TaskFilter(tag="x"), 10, NOW, audit_entry("task.cancel"))
    assert rest == [
        Changed(await stored(store, made[5]), Status.PENDING),
        Changed(await stored(store, running), Status.RUNNING, cancelled_in_flight=True),
    ]
    assert await counters(store) == {"active": 5, "created": 10, "cancelled": 4}
    only_ended = TaskFilter(statuses=frozenset({Status.SUCCEEDED}))
    assert await store.tasks.cancel_matching(BUSINESS, only_ended, 10, NOW, audit_entry()) == []
    assert await store.tasks.cancel_matching(OTHER, TaskFilter(), 10, NOW, audit_entry()) == []
    assert len(await store.tasks.cancel_matching(BUSINESS, TaskFilter(statuses=ACTIVE), 99, NOW, audit_entry())) == 5
    assert (await counters(store))["active"] == 0


# --- redeliver -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.STOPPED, Status.CANCELLED])
async def test_redeliver_begins_a_new_run(store: SqlStore, status: Status) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    if status is Status.CANCELLED:
        await store.tasks.cancel(BUSINESS, task.id, NOW, audit_entry())
    else:
        await end(store, task, status)
    ended = await store.tasks.get(BUSINESS, task.id)
    assert ended is not None
    result = await store.tasks.redeliver(BUSINESS, task.id, NOW + 70, NOW + 9, audit_entry("task.redeliver"), LIMIT)
    again = replace(
        ended, status=Status.PENDING, run=2, current_retry=0, deferrals=0, interruptions=0, doubtful=False,
        finish_reason=None,
        finished_at=None, last_error=None, next_execute_at=NOW + 70, anchor_at=NOW + 70, version=ended.version + 1,
        updated_at=NOW + 9,
    )  # fmt: skip
    assert result == Changed(again, status)
    assert await store.tasks.get(BUSINESS, task.id) == again
    assert await counters(store) == {"active": 1, "created": 1, "cancelled": 0}
    assert (await store.tasks.status_counts(BUSINESS))[status] == 0
    assert await store.tasks.redeliver(BUSINESS, task.id, NOW, NOW, audit_entry(), LIMIT) == WrongState(again)
    second = await claim(store, again)
    assert (second.run, second.sends) == (2, ended.sends + 1)


async def test_redeliver_counts_against_the_quota(store: SqlStore) -> None:
    done, _ = await create(store, new_task(), new_task())
    await own_shards(store)
    ended = await end(store, done)
    with pytest.raises(TooMany) as caught:
        await store.tasks.redeliver(BUSINESS, done.id, NOW, NOW, audit_entry(), 1)
    assert caught.value.code == "quota_exceeded"
    assert await store.tasks.get(BUSINESS, done.id) == ended
    assert await counters(store) == {"active": 1, "created": 2, "cancelled": 0}
    assert await store.tasks.redeliver(OTHER, done.id, NOW, NOW, audit_entry(), 10) == Missing()
    assert isinstance(await store.tasks.redeliver(BUSINESS, done.id, NOW, NOW, audit_entry(), 2), Changed)
