"""Due references and claims, the same on every store."""

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
    new_task,
    own_shards,
    request,
)
from tests.store.unanswered import UnansweredDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.store.connection import Connection
from taskcenter.store.records import Task, TaskChange
from taskcenter.store.sql_store import SqlStore
from taskcenter.store.vault import Vault
from taskcenter.task import Status, TaskRef, shard_of

OTHER = 8


# --- due -----------------------------------------------------------------------------------------------------------


async def test_due_references_in_order_and_pages(store: SqlStore) -> None:
    await add_business(store, OTHER, "other")
    dues = [NOW + 30, NOW + 10, NOW + 10, NOW + 10, NOW + 20, NOW + 99, NOW - 5, NOW + 10]
    made = await create(
        store,
        *[new_task(due_at=at, flow_key="f", deadline_at=at + 1, callback_host="h") for at in dues],
        new_task(due_at=NOW + 15, business_id=OTHER, business_code="other", shard=shard_of("other")),
    )
    refs = sorted((task.ref for task in made if task.ref is not None), key=lambda ref: (ref.due_at, ref.task_id))
    window = [ref for ref in refs if NOW <= ref.due_at < NOW + 99]
    assert await store.engine.due_refs(None, NOW, NOW + 99, None, 100) == window
    for size in (1, 2, 3):
        paged: list[TaskRef] = []
        after: tuple[int, str] | None = None
        while page := await store.engine.due_refs(None, NOW, NOW + 99, after, size):
            paged += page
            after = (page[-1].due_at, page[-1].task_id)
        assert paged == window
    assert await store.engine.due_refs(None, NOW + 10, NOW + 11, (0, "Z"), 100) == window[:4]
    mine = [ref for ref in refs if ref.business_id == BUSINESS]
    assert await store.engine.due_refs_of(BUSINESS, NOW + 31, None, 100) == [r for r in mine if r.due_at <= NOW + 30]
    assert await store.engine.due_refs_of(BUSINESS, NOW + 99, (mine[2].due_at, mine[2].task_id), 2) == mine[3:5]


async def test_due_references_of_some_shards(store: SqlStore) -> None:
    await add_business(store, OTHER, "other")
    shard = shard_of("other")
    assert shard != SHARD
    (one,) = await create(store, new_task())
    (two,) = await create(store, new_task(business_id=OTHER, business_code="other", shard=shard))
    due_refs = store.engine.due_refs
    assert await due_refs(frozenset({SHARD}), 0, NOW + 1, None, 10) == [one.ref]
    assert await due_refs(frozenset({shard, 5}), 0, NOW + 1, None, 10) == [two.ref]
    assert await due_refs(frozenset({shard, SHARD, 5}), 0, NOW + 1, (NOW, one.id), 10) == [two.ref]
    assert await due_refs(frozenset(range(256)), 0, NOW + 1, None, 10) == [one.ref, two.ref]
    assert await due_refs(frozenset(range(1, 256)) - {SHARD}, 0, NOW + 1, None, 10) == [two.ref]
    assert await due_refs(frozenset(), 0, NOW + 1, None, 10) == []


async def test_only_waiting_tasks_are_due(store: SqlStore) -> None:
    waiting, running, cancelled = await create(store, new_task(), new_task(), new_task())
    await own_shards(store)
    await claim(store, running)
    await store.tasks.cancel(BUSINESS, cancelled.id, NOW, audit_entry())
    assert await store.engine.due_refs(None, 0, NOW + 1, None, 10) == [waiting.ref]
    assert await store.engine.due_refs_of(BUSINESS, NOW + 1, None, 10) == [waiting.ref]


# --- claims --------------------------------------------------------------------------------------------------------


async def test_claim_gives_the_opened_rows(store: SqlStore) -> None:
    made = await create(store, *[new_task(f"t{number}", due_at=NOW + number) for number in range(5)])
    assert await own_shards(store) == {SHARD: TERM}
    claimed = await store.engine.claim([request(task) for task in reversed(made)], NOW + 77)
    assert sorted(claimed, key=lambda task: task.id) == [
        replace(
            task, status=Status.RUNNING, sends=1, term=TERM, scheduled_at=NOW + number, next_execute_at=None,
            version=2, updated_at=NOW + 77,
        )
        for number, task in enumerate(made)
    ]  # fmt: skip
    for task in claimed:
        assert await store.tasks.get(BUSINESS, task.id) == task
    assert await store.engine.claim([], NOW) == []


async def test_claim_is_given_once(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    claimed = await claim(store, task)
    assert await store.engine.claim([request(task)], NOW) == []
    assert await store.engine.claim([request(claimed)], NOW) == []
    assert await store.tasks.get(BUSINESS, task.id) == claimed


async def test_claim_twice_in_one_batch(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    claimed = await store.engine.claim([request(task), request(task), request(task, version=9)], NOW)
    assert claimed == []  # the newest version asked for is not there
    (claimed_now,) = await store.engine.claim([request(task), request(task), request(task, version=0)], NOW)
    assert claimed_now == await store.tasks.get(BUSINESS, task.id)


async def test_claim_loses_to_every_change(store: SqlStore) -> None:
    await own_shards(store)
    updated, cancelled, moved, fine = await create(store, *[new_task() for _ in range(4)])
    await store.tasks.update(
        BUSINESS, updated.id, TaskChange(timeout_ms=1), expected_version=None, now=NOW, audit=audit_entry()
    )
    await store.tasks.cancel(BUSINESS, cancelled.id, NOW, audit_entry())
    await store.tasks.run_now(BUSINESS, moved.id, NOW, audit_entry())
    wanted = [request(task) for task in (updated, cancelled, moved, fine)]
    missing = replace(wanted[0], task_id="0" * 26)
    claimed = await store.engine.claim([*wanted, missing], NOW)
    assert [task.id for task in claimed] == [fine.id]


async def test_stale_term_claims_nothing(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    assert await store.engine.claim([request(task, 0)], NOW) == []  # nobody ever owned the shard
    await own_shards(store)
    for term in (0, 2, 99):
        assert await store.engine.claim([request(task, term)], NOW) == []
    assert await store.tasks.get(BUSINESS, task.id) == task
    assert await store.engine.claim([request(task, shard=SHARD + 1)], NOW) == []  # another shard's term proves nothing
    assert len(await store.engine.claim([request(task)], NOW)) == 1
    (task,) = await create(store, new_task())
    await store.leases.release("one", {SHARD: TERM})
    assert await store.engine.claim([request(task)], NOW) == []  # given up, and nobody's yet


async def test_missing_shard_row_claims_nothing(store: SqlStore) -> None:
    (task,) = await create(store, new_task())

    async def drop(connection: Connection) -> None:
        await connection.execute("DELETE FROM shards WHERE shard = ?", (SHARD,))

    await database_of(store).write(drop)
    assert await store.engine.claim([request(task, 0)], NOW) == []
    assert await own_shards(store) == {}
    assert len(await store.leases.shards()) == 255


async def test_one_that_cannot_be_opened_does_not_hold_up_the_others(store: SqlStore, migrated_url: str) -> None:
    await own_shards(store)
    good, bad = await create(store, new_task(), new_task())

    async def damage(connection: Connection) -> None:
        await connection.execute("UPDATE tasks SET payload = ? WHERE id = ?", (b"\x01\x02k9" + bytes(40), bad.id))

    await database_of(store).write(damage)
    claimed = await store.engine.claim([request(good), request(bad)], NOW)
    assert [task.id for task in claimed] == [good.id]
    assert [ref.task_id for ref in await store.engine.due_refs(None, 0, NOW + 1, None, 9)] == [bad.id]


async def test_more_than_fit_one_list(store: SqlStore) -> None:
    made = await create(store, *[new_task() for _ in range(300)])
    await own_shards(store)
    claimed = await store.engine.claim([request(task) for task in made], NOW)
    assert sorted(task.id for task in claimed) == sorted(task.id for task in made)


# --- claims whose commit was not answered --------------------------------------------------------------------------


async def ready(store: SqlStore, count: int = 3) -> list[Task]:
    await own_shards(store)
    return await create(store, *[new_task() for _ in range(count)])


async def test_repeated_claim_gets_what_the_lost_commit_took(
    unanswered: tuple[SqlStore, UnansweredDatabase],
) -> None:
    store, database = unanswered
    tasks = await ready(store)
    requests = [request(task) for task in tasks]
    for lost in ("before", "after", None):
        database.lost = lost
        if lost is not None:
            with pytest.raises(CommitUnknown):
                await store.engine.claim(requests, NOW)
    claimed = await store.engine.claim(requests, NOW + 1)
    assert [task.sends for task in claimed] == [1, 1, 1]
    assert sorted(task.id for task in claimed) == [task.id for task in tasks]
    assert await store.engine.claim(requests, NOW + 1) == []  # given once, after all


async def test_claim_lost_before_its_commit_took_nothing(unanswered: tuple[SqlStore, UnansweredDatabase]) -> None:
    store, database = unanswered
    (task,) = await ready(store, 1)
    database.lost = "before"
    with pytest.raises(CommitUnknown):
        await store.engine.claim([request(task)], NOW)
    assert await store.tasks.get(BUSINESS, task.id) == task
    claimed = await claim(store, task)
    assert claimed.sends == 1
    assert await store.engine.claim([request(task)], NOW) == []


async def test_lost_claim_that_was_updated_meanwhile_is_given_as_it_is(
    unanswered: tuple[SqlStore, UnansweredDatabase],
) -> None:
    store, database = unanswered
    (task,) = await ready(store, 1)
    database.lost = "after"
    with pytest.raises(CommitUnknown):
        await store.engine.claim([request(task)], NOW)
    change = TaskChange(timeout_ms=1234)
    await store.tasks.update(BUSINESS, task.id, change, expected_version=None, now=NOW, audit=audit_entry())
    (claimed,) = await store.engine.claim([request(task)], NOW)
    assert claimed == await store.tasks.get(BUSINESS, task.id)
    assert (claimed.status, claimed.sends, claimed.timeout_ms) == (Status.RUNNING, 1, 1234)
    assert await store.engine.claim([request(task)], NOW) == []


async def test_another_process_does_not_get_a_lost_claim(
    unanswered: tuple[SqlStore, UnansweredDatabase],
) -> None:
    """Only who asked may get it: here another store on the same database, under the same term."""
    store, database = unanswered
    (task,) = await ready(store, 1)
    database.lost = "after"
    with pytest.raises(CommitUnknown):
        await store.engine.claim([request(task)], NOW)
    stranger = SqlStore(database.inner, Vault([("k1", bytes(range(32)))]))
    assert await stranger.engine.claim([request(task)], NOW) == []
    assert len(await store.engine.claim([request(task)], NOW)) == 1
