"""Every hot statement finds its rows by an index, on every server, with a few thousand tasks in it.

The statements are not written here: they are those the verbs send.
"""

import random
from collections.abc import AsyncIterator, Awaitable

import pytest
from tests.store.connection_kit import by_hand
from tests.store.plans import NotingDatabase, Plan, explain
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    add_business,
    audit_entry,
    database_of,
    execution,
    move,
    new_task,
    opened_store,
    outcome,
    own_shards,
    request,
    vault,
)

from taskcenter.store.connection import Connection, Param, Row
from taskcenter.store.engine_records import ClaimRequest, Settlement
from taskcenter.store.records import Task, TaskChange, TaskFilter
from taskcenter.store.rows import born, execution_row, new_task_row, to_json
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.statements import engine, tasks
from taskcenter.store.statements.text import chunks, insert
from taskcenter.task import ACTIVE, TERMINAL, Status

BIG = {"tasks", "task_executions", "task_tags", "audit_log"}
TASKS = 4_000
OTHERS = (11, 12, 13)
SPAN_MS = 3_600_000
COLUMNS = (*tasks.INSERT_COLUMNS, *tasks.NEWBORN)
HOSTS = [f"host-{number}" for number in range(10)]


def rows_of(business_id: int, count: int, rng: random.Random) -> tuple[list[list[Param]], list[tuple[Param, ...]]]:
    """Tasks in all states, the most of them finished, and an attempt for each finished one."""
    made, attempts = [], []
    newborn: list[Param] = [None if word == "NULL" else word.strip("'") for word in tasks.NEWBORN.values()]
    column = {name: position for position, name in enumerate(COLUMNS)}
    for number in range(count):
        at = NOW - SPAN_MS + number * SPAN_MS // count
        task = new_task(f"u{number}", at=at, business_id=business_id, callback_host=rng.choice(HOSTS), payload=b"{}")
        status = rng.choices(list(Status), weights=[6, 2, 3, 70, 10, 3, 6])[0]
        row = [*new_task_row(task, vault()), *newborn]
        row[column["status"]] = status.value
        if status not in (Status.PENDING, Status.RETRYING):
            row[column["next_execute_at"]] = None
        if status in TERMINAL:
            row[column["finished_at"]] = at + 5
            attempts.append(execution_row(execution(born(task), number=1), NOW, vault()))
        made.append(row)
    return made, attempts


@pytest.fixture
async def full(migrated_url: str) -> AsyncIterator[SqlStore]:
    """A store with some thousand tasks of four businesses; its database notes statements."""
    async with opened_store(migrated_url) as store:
        rng = random.Random(4)
        await add_business(store)
        for business_id in OTHERS:
            await add_business(store, business_id, f"other-{business_id}")
        for business_id in (BUSINESS, *OTHERS):
            await fill(store, business_id, TASKS if business_id == BUSINESS else TASKS // 4, rng)
        await own_shards(store)
    names = ("tasks", "task_tags", "task_executions", "audit_log", "business_systems", "shards", "business_ledger")
    if not migrated_url.startswith("sqlite"):  # which has no statistics unless somebody makes them
        by_hand(migrated_url, f"ANALYZE TABLE {', '.join(names)}")
    noting = SqlStore(NotingDatabase(database_of(open_store(migrated_url, vault()))), vault())
    await noting.open()
    try:
        yield noting
    finally:
        await noting.aclose()


async def fill(store: SqlStore, business_id: int, count: int, rng: random.Random) -> None:
    made, attempts = rows_of(business_id, count, rng)
    tags = [(business_id, b"blue" if number % 3 else b"red", row[0]) for number, row in enumerate(made) if number % 2]

    async def work(connection: Connection) -> None:
        for some in chunks(made, 500):
            await connection.insert_many(insert("tasks", COLUMNS), some)
        await connection.insert_many(tasks.INSERT_TAG, tags)
        for few in chunks(attempts, 500):
            await connection.insert_many(engine.INSERT_EXECUTION.on(connection.dialect), few)

    await database_of(store).write(work)
    await store.audit.append([audit_entry("task.create", business_id) for _ in range(count // 4)])


async def plans(store: SqlStore, call: Awaitable[object]) -> list[Plan]:
    """The plans of what a call sends, those without a plan (INSERT) left out."""
    database = database_of(store)
    assert isinstance(database, NotingDatabase)
    database.noted.clear()
    await call
    noted = [statement for statement in database.noted if not statement[0].startswith("INSERT")]
    assert noted
    return [await explain(database.inner, statement) for statement in noted]


async def some_tasks(store: SqlStore, status: Status, count: int) -> list[Task]:
    return await store.tasks.page(BUSINESS, TaskFilter(statuses=frozenset({status})), None, count)


FILTERS = {
    "all": (TaskFilter(), {"ix_tasks_business"}),
    "status": (TaskFilter(statuses=frozenset({Status.FAILED})), {"ix_tasks_business_status"}),
    "statuses": (TaskFilter(statuses=ACTIVE), {"ix_tasks_business_status"}),
    "host": (TaskFilter(callback_host=HOSTS[3]), {"ix_tasks_business_host"}),
    "created": (
        TaskFilter(created_after=NOW - SPAN_MS // 2, created_before=NOW - SPAN_MS // 3), {"ix_tasks_business"}
    ),
    "due": (TaskFilter(due_after=NOW - SPAN_MS // 2, due_before=NOW - SPAN_MS // 3), {"ix_tasks_business_due"}),
    "finished": (
        TaskFilter(finished_after=NOW - SPAN_MS // 2, finished_before=NOW - SPAN_MS // 3),
        {"ix_tasks_business_finished"},
    ),
}  # fmt: skip
MAY_SORT = {"due", "finished"}


@pytest.mark.parametrize("name", FILTERS)
async def test_lists(full: SqlStore, name: str) -> None:
    where, indexes = FILTERS[name]
    for before in (None, new_task(at=NOW - SPAN_MS // 4).id):
        found, *_ = await plans(full, full.tasks.page(BUSINESS, where, before, 50))
        assert found.indexes("tasks") == indexes, found
        assert not any(step.whole for step in found.steps if step.table in BIG), found
        assert not found.sorts or name in MAY_SORT, found.steps


async def test_list_by_tag(full: SqlStore) -> None:
    found, *_ = await plans(full, full.tasks.page(BUSINESS, TaskFilter(tag="red"), None, 50))
    assert found.indexes("task_tags") == {"PRIMARY"}, found
    assert found.indexes("tasks") == {"PRIMARY"}, found
    assert not found.sorts, found


async def test_due(full: SqlStore) -> None:
    start = NOW - SPAN_MS // 2
    after = (start, new_task(at=start).id)
    for shards in (None, frozenset({SHARD, 3, 99})):
        for where in (None, after):
            (found,) = await plans(full, full.engine.due_refs(shards, start, start + 600_000, where, 100))
            assert found.indexes("tasks") == {"ix_tasks_due"}, found
            assert not found.sorts, found
            assert not any(step.whole for step in found.steps), found
    for where in (None, after):
        (found,) = await plans(full, full.engine.due_refs_of(BUSINESS, start + 600_000, where, 100))
        assert found.indexes("tasks") == {"ix_tasks_business_due"}, found
        assert not found.sorts, found


async def test_claims_and_outcomes(full: SqlStore) -> None:
    waiting = await some_tasks(full, Status.PENDING, 40)
    assert {task.shard for task in waiting} == {SHARD}
    found = await plans(full, full.engine.claim([request(task) for task in waiting[:30]], NOW))
    claimed = await some_tasks(full, Status.RUNNING, 200)
    ours = [task for task in claimed if task.term == 1]
    assert len(ours) == 30
    found += await plans(full, full.engine.record([outcome(task) for task in ours], NOW))
    found += await plans(full, full.engine.record([outcome(task) for task in ours], NOW))  # a repeat looks at history
    failed = [
        Settlement(task.id, task.business_id, task.shard, task.version, 1, move(task, Status.FAILED))
        for task in waiting[30:]
    ]
    found += await plans(full, full.engine.settle(failed, NOW))
    found += await plans(full, full.engine.recover({SHARD: 1}, NOW, 20))
    for task in await some_tasks(full, Status.RUNNING, 20):
        await full.tasks.cancel(BUSINESS, task.id, NOW, audit_entry())
        await full.tasks.redeliver(BUSINESS, task.id, NOW, NOW, audit_entry(), 100_000)
        found += await plans(full, full.tasks.cancel(BUSINESS, task.id, NOW, audit_entry()))
    found += await plans(full, full.engine.recover_cancelled({SHARD: 1}, NOW, 20))
    for plan in found:
        assert not any(step.whole for step in plan.steps if step.table in BIG), plan
        assert plan.indexes("tasks") <= {"PRIMARY", "ix_tasks_business_status"}, plan
        assert plan.indexes("task_executions") <= {"PRIMARY"}, plan
        assert plan.indexes("cancelled_attempts") <= {"PRIMARY", "ix_cancelled_attempts_shard"}, plan
    assert any(plan.indexes("tasks") == {"ix_tasks_business_status"} for plan in found)  # what was left running
    assert any("JSON_TABLE" in plan.sql or "json_each" in plan.sql for plan in found)


async def test_api_verbs(full: SqlStore) -> None:
    tasks_of, entry = full.tasks, audit_entry()
    one, two, three, *_ = await some_tasks(full, Status.PENDING, 5)
    (done, *_) = await some_tasks(full, Status.SUCCEEDED, 1)
    calls: list[Awaitable[object]] = [
        tasks_of.create([new_task(f"new-{n}") for n in range(20)], {BUSINESS: 100_000}, [None] * 20, NOW),
        tasks_of.get(BUSINESS, one.id),
        tasks_of.get_by_unique_id(BUSINESS, one.business_unique_id),
        tasks_of.executions(BUSINESS, done.id, None, 20),
        tasks_of.update(BUSINESS, one.id, TaskChange(tags=("x",)), expected_version=None, now=NOW, audit=entry),
        tasks_of.run_now(BUSINESS, two.id, NOW, entry),
        tasks_of.cancel(BUSINESS, three.id, NOW, entry),
        tasks_of.cancel_matching(BUSINESS, TaskFilter(statuses=ACTIVE), 50, NOW, entry),
        tasks_of.redeliver(BUSINESS, done.id, NOW, NOW, entry, 100_000),
        tasks_of.status_counts(BUSINESS),
        tasks_of.count(BUSINESS, TaskFilter(callback_host=HOSTS[1]), 100),
        full.engine.recent_sends(BUSINESS, NOW - 60_000, 100),
        full.engine.flow_starts(BUSINESS, NOW - 60_000, 100),
        full.audit.page(BUSINESS, None, 50),
        full.maintenance.purge(NOW - SPAN_MS + 30_000, 20),
    ]
    for call in calls:
        for plan in await plans(full, call):
            assert not any(step.whole for step in plan.steps if step.table in BIG), plan


async def test_the_last_attempts_of_tasks_that_end(full: SqlStore) -> None:
    """What a finish call tells of is found by its key alone."""
    ids = [{"id": task.id} for task in await some_tasks(full, Status.SUCCEEDED, 50)]
    database = database_of(full)

    async def last_attempts(connection: Connection) -> list[Row]:
        return await connection.fetch(tasks.LAST_ATTEMPTS.on(connection.dialect), (to_json(ids),))

    (found,) = await plans(full, database.read(last_attempts))
    assert found.indexes("task_executions") == {"PRIMARY"}, found
    assert not any(step.whole for step in found.steps if step.table in BIG), found


async def test_purge_finds_each_stage_by_an_index(full: SqlStore) -> None:
    """Tasks are gone first; then attempts, audit entries and the rest are looked for."""
    while await full.maintenance.purge(NOW - SPAN_MS * 9 // 10, 500):
        pass
    found = await plans(full, full.maintenance.purge(NOW - SPAN_MS * 9 // 10, 500))
    assert len(found) >= 6  # every stage had its look
    for plan in found:
        assert not any(step.whole for step in plan.steps if step.table in BIG), plan
        assert not plan.sorts, (plan.sql, plan.steps)


async def test_stale_claim_reads_no_task(full: SqlStore) -> None:
    (task, *_) = await some_tasks(full, Status.PENDING, 1)
    (fence,) = await plans(full, full.engine.claim([ClaimRequest(task.id, task.version, task.shard, 99)], NOW))
    assert fence.indexes("tasks") == set()


async def test_a_takeover_reads_none_of_what_waits(migrated_url: str) -> None:
    """Everything waits and nothing was running, as after a quiet night: here a server likes to read the whole table."""
    async with opened_store(migrated_url) as store:
        await add_business(store)
        await own_shards(store)
        for first in range(0, TASKS * 2, 500):
            some = [new_task(f"u{number}", at=NOW + number) for number in range(first, first + 500)]
            await store.tasks.create(some, {BUSINESS: TASKS * 2}, [None] * 500, NOW)
    if not migrated_url.startswith("sqlite"):
        by_hand(migrated_url, "ANALYZE TABLE tasks, business_systems")
    noting = SqlStore(NotingDatabase(database_of(open_store(migrated_url, vault()))), vault())
    await noting.open()
    try:
        found = await plans(noting, noting.engine.recover({SHARD: 1}, NOW, 500))
    finally:
        await noting.aclose()
    (looks,) = [plan for plan in found if plan.indexes("tasks")]
    assert looks.indexes("tasks") == {"ix_tasks_business_status"}, looks
