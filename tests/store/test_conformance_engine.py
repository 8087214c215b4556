"""Claims, outcomes, settlements, recovery and due references, the same on every store."""

from tests.store.store_kit import NOW, claim, create, new_task, outcome, own_shards

from taskcenter.store.records import Applied
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import Status


async def test_smoke(store: SqlStore) -> None:
    (task,) = await create(store, new_task(tags=("a", "b")))
    assert await store.tasks.get(7, task.id) == task
    await own_shards(store)
    (ref,) = await store.engine.due_refs(None, 0, NOW + 1, None, 10)
    assert ref == task.ref
    claimed = await claim(store, task)
    assert claimed == await store.tasks.get(7, task.id)
    (recorded,) = await store.engine.record([outcome(claimed)], NOW)
    assert recorded == Applied(3)
    done = await store.tasks.get(7, task.id)
    assert done is not None and done.status is Status.SUCCEEDED
    print(await store.tasks.executions(7, task.id, None, 10))
    print(await store.businesses.counters(7), await store.tasks.status_counts(7), await store.maintenance.totals())
    print(await store.audit.page(7, None, 10))
    print(await store.engine.recent_sends(7, 0, 10))
    print(await store.maintenance.purge(NOW + 1, 10))
