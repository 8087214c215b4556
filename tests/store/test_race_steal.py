"""A lease changes hands in the middle of claims: the old term ends where the new one begins, on every store."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    TERM,
    create,
    database_of,
    new_task,
    request,
    vault,
)
from tests.store.wrapped import WrappedDatabase

from taskcenter.store.connection import Connection, Database, LockConflict, T, Work
from taskcenter.store.records import (
    Task,
)
from taskcenter.store.sql_store import SqlStore, open_store

Two = tuple[SqlStore, SqlStore]


# --- claim against steal -------------------------------------------------------------------------------------------


@dataclass
class HeldDatabase(WrappedDatabase):
    """A server's database that stops before each COMMIT until it may go on."""

    stopped: trio.Event = field(default_factory=trio.Event)
    go: trio.Event = field(default_factory=trio.Event)

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        async def held(connection: Connection) -> T:
            result = await work(connection)
            if connection.dialect == "mysql":  # a file's blocks run to their end
                self.stopped.set()
                await self.go.wait()
            return result

        return await self.inner.write(held, attempts=attempts)

    async def lane(self, name: str) -> Database:
        return HeldDatabase(await self.inner.lane(name), self.stopped, self.go)


@asynccontextmanager
async def holding_store(url: str, shared: SqlStore) -> AsyncIterator[tuple[SqlStore, HeldDatabase]]:
    """A store of the shard's owner whose claims stop before their COMMIT."""
    if url.startswith("sqlite"):
        held = HeldDatabase(database_of(shared))
        held.stopped.set()
        yield SqlStore(held, vault()), held
        return
    held = HeldDatabase(database_of(open_store(url, vault())))
    store = SqlStore(held, vault())
    await store.open()
    try:
        yield store, held
    finally:
        await store.aclose()


async def test_steal_waits_until_a_claim_is_over(two: Two, migrated_url: str) -> None:
    """The owner looks dead in the middle of a claim: its shard cannot be had before the claim is committed or gone."""
    _, thief = two
    first, second = await create(thief, new_task(), new_task())
    await thief.leases.reap([("one", 1)])
    await thief.leases.register("two", address=None, host_identity="two", ttl_ms=60_000)
    claimed: list[Task] = []
    async with holding_store(migrated_url, thief) as (owner, held), trio.open_nursery() as nursery:

        async def claim_first() -> None:
            claimed.extend(await owner.engine.claim([request(first)], NOW))

        nursery.start_soon(claim_first)
        await held.stopped.wait()
        if not migrated_url.startswith("sqlite"):
            assert await thief.leases.acquire("two", [SHARD, SHARD + 1]) == {SHARD + 1: 1}  # the others are to be had

            async def take(connection: Connection) -> None:
                await connection.execute("UPDATE shards SET term = term + 1 WHERE shard = ?", (SHARD,))

            with pytest.raises(LockConflict):  # it is locked, not just passed over
                await database_of(thief).write(take, attempts=1)
        held.go.set()
    assert [task.id for task in claimed] == [first.id]
    assert (await thief.leases.acquire("two", [SHARD]))[SHARD] == TERM + 1
    assert await two[0].engine.claim([request(second)], NOW) == []  # the old term claims nothing any more
    (recovered,) = await thief.engine.recover({SHARD: TERM + 1}, NOW, 10)
    assert recovered.id == first.id


async def test_steals_and_claims_at_random(two: Two) -> None:
    """Owners change all the while; no task is claimed under a term that was over."""
    one, other = two
    tasks = await create(one, *[new_task() for _ in range(60)])
    history: list[tuple[str, int]] = []
    names = ("two", "three")
    for name in names:
        await one.leases.register(name, address=None, host_identity=name, ttl_ms=600_000)
    await one.leases.retire("one")

    async def own_and_claim(store: SqlStore, name: str, seed: int) -> None:
        rng = random.Random(seed)
        term = 0
        for _ in range(40):
            term = (await store.leases.acquire(name, [SHARD])).get(SHARD, term)
            got = await store.engine.claim([request(task, term) for task in rng.sample(tasks, 2)], NOW)
            history.extend((task.id, task.term) for task in got)
            if rng.random() < 0.5:
                await store.leases.release(name, {SHARD: term})

    async with trio.open_nursery() as nursery:
        for number, name in enumerate(names):
            nursery.start_soon(own_and_claim, (one, other)[number], name, number)
    assert len({task_id for task_id, _ in history}) == len(history) > 0
    terms = [term for _, term in history]
    assert terms == sorted(terms)  # a term that was over claims nothing after its successor has begun
    for task_id, term in history:
        found = await one.tasks.get(BUSINESS, task_id)
        assert found is not None
        assert (found.sends, found.term) == (1, term)
