"""Leases: who lives, who owns which shard at which term; the same on every store.

Moments are made by lifetimes: one of -1 ms has passed when it begins, one of a minute outlives the test.
"""

import pytest
from tests.store.store_kit import SHARD, claim, create, database_of, new_task, opened_store, request
from tests.store.unanswered import UnansweredDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.store.connection import Connection
from taskcenter.store.engine_records import ShardLease
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import SHARDS

LONG = 60_000
SOME = (3, 7, 200)


async def register(store: SqlStore, name: str, ttl_ms: int = LONG) -> int:
    return await store.leases.register(name, address=f"{name}:1", host_identity=f"host-{name}", ttl_ms=ttl_ms)


async def lease(store: SqlStore, shard: int) -> ShardLease:
    return (await store.leases.shards())[shard]


async def test_register_and_look(bare_store: SqlStore) -> None:
    now = await register(bare_store, "one")
    assert abs(now - await register(bare_store, "two", 5_000)) < 60_000
    await bare_store.leases.register("three", address=None, host_identity="h", ttl_ms=-1)
    one, three, two = await bare_store.leases.instances()
    assert (one.id, one.address, one.host_identity, one.seq, one.dead) == ("one", "one:1", "host-one", 1, False)
    assert one.started_at == now
    assert 5_000 < one.expires_in_ms <= LONG
    assert two.expires_in_ms <= 5_000
    assert three.address is None
    assert three.expires_in_ms < 0
    assert not three.dead  # until somebody says so
    assert [entry.shard for entry in await bare_store.leases.shards()] == list(range(SHARDS))


async def test_heartbeat(bare_store: SqlStore) -> None:
    first = await register(bare_store, "one", 1)
    now = await bare_store.leases.heartbeat("one", ttl_ms=LONG)
    assert now is not None
    assert now >= first
    (one,) = await bare_store.leases.instances()
    assert (one.seq, one.dead) == (2, False)
    assert one.expires_in_ms > 1_000
    assert await bare_store.leases.heartbeat("nobody", ttl_ms=LONG) is None


async def test_the_dead_stay_dead(bare_store: SqlStore) -> None:
    await register(bare_store, "one", -1)
    await register(bare_store, "two")
    assert await bare_store.leases.reap([]) == ["one"]
    assert await bare_store.leases.reap([]) == []
    assert await bare_store.leases.heartbeat("one", ttl_ms=LONG) is None
    await register(bare_store, "one")  # a repeat of an old call
    one, _ = await bare_store.leases.instances()
    assert one.dead
    assert await bare_store.leases.acquire("one", SOME) == {}


async def test_late_heartbeat_saves_who_was_not_buried(bare_store: SqlStore) -> None:
    await register(bare_store, "one", -1)
    assert await bare_store.leases.heartbeat("one", ttl_ms=LONG) is not None
    assert await bare_store.leases.reap([]) == []


async def test_stalled_are_buried_only_if_they_have_not_moved(bare_store: SqlStore) -> None:
    for name in ("one", "two"):
        await register(bare_store, name)
    await bare_store.leases.heartbeat("two", ttl_ms=LONG)
    assert await bare_store.leases.reap([("one", 1), ("two", 1), ("nobody", 1)]) == ["one"]
    assert [instance.dead for instance in await bare_store.leases.instances()] == [True, False]


async def test_acquire_takes_what_is_free(bare_store: SqlStore) -> None:
    await register(bare_store, "one")
    assert await bare_store.leases.acquire("one", SOME) == dict.fromkeys(SOME, 1)
    assert await lease(bare_store, 3) == ShardLease(3, "one", 1)
    assert await lease(bare_store, 4) == ShardLease(4, None, 0)
    assert await bare_store.leases.acquire("one", [7, 8]) == {7: 1, 8: 1}  # what is mine stays at its term
    assert await bare_store.leases.acquire("one", []) == {}


async def test_the_living_are_not_robbed(bare_store: SqlStore) -> None:
    for name in ("one", "two"):
        await register(bare_store, name)
    await bare_store.leases.acquire("one", SOME)
    assert await bare_store.leases.acquire("two", [3, 4]) == {4: 1}
    assert await lease(bare_store, 3) == ShardLease(3, "one", 1)


async def test_an_expired_owner_is_safe_until_it_is_buried(bare_store: SqlStore) -> None:
    await register(bare_store, "one")
    await bare_store.leases.acquire("one", SOME)
    await register(bare_store, "two")
    await database_of(bare_store).write(_expire)
    assert await bare_store.leases.acquire("two", SOME) == {}
    assert await bare_store.leases.reap([]) == ["one"]
    assert await bare_store.leases.acquire("two", SOME) == dict.fromkeys(SOME, 2)
    assert await bare_store.leases.acquire("one", SOME) == {}


async def _expire(connection: Connection) -> None:
    await connection.execute("UPDATE instances SET expires_at = 0 WHERE id = ?", ("one",))


async def test_only_the_living_and_known_acquire(bare_store: SqlStore) -> None:
    assert await bare_store.leases.acquire("nobody", SOME) == {}
    assert await lease(bare_store, 3) == ShardLease(3, None, 0)


async def test_a_forgotten_owner_is_an_orphan(bare_store: SqlStore) -> None:
    await register(bare_store, "one")
    await bare_store.leases.acquire("one", SOME)

    async def forget(connection: Connection) -> None:
        await connection.execute("DELETE FROM instances")

    await database_of(bare_store).write(forget)
    await register(bare_store, "two")
    assert await bare_store.leases.acquire("two", SOME) == dict.fromkeys(SOME, 2)


async def test_release_at_the_term(bare_store: SqlStore) -> None:
    for name in ("one", "two"):
        await register(bare_store, name)
    await bare_store.leases.acquire("one", SOME)
    await bare_store.leases.release("two", {3: 1})
    await bare_store.leases.release("one", {3: 2, 7: 1})
    assert (await lease(bare_store, 3)).owner == "one"
    assert await lease(bare_store, 7) == ShardLease(7, None, 1)
    assert await bare_store.leases.acquire("two", SOME) == {7: 2}
    await bare_store.leases.release("one", {7: 1})  # a repeat, too late
    assert (await lease(bare_store, 7)).owner == "two"


async def test_who_leaves_lives_on_and_says_so(bare_store: SqlStore) -> None:
    for name in ("one", "two"):
        await register(bare_store, name)
    await bare_store.leases.acquire("one", SOME)
    for _ in range(2):
        await bare_store.leases.leave("one")
    assert [(one.leaving, one.dead) for one in await bare_store.leases.instances()] == [(True, False), (False, False)]
    assert await bare_store.leases.heartbeat("one", ttl_ms=LONG) is not None
    assert await bare_store.leases.acquire("two", SOME) == {}, "what it holds is its own until it lets go"


async def test_retire_gives_up_everything(bare_store: SqlStore) -> None:
    for name in ("one", "two"):
        await register(bare_store, name)
    await bare_store.leases.acquire("one", SOME)
    await bare_store.leases.acquire("two", [9])
    for _ in range(2):
        await bare_store.leases.retire("one")
    assert [(entry.shard, entry.owner) for entry in await bare_store.leases.shards() if entry.owner] == [(9, "two")]
    assert [instance.dead for instance in await bare_store.leases.instances()] == [True, False]
    assert await bare_store.leases.heartbeat("one", ttl_ms=LONG) is None


async def test_all_shards_at_once(bare_store: SqlStore) -> None:
    await register(bare_store, "one")
    assert await bare_store.leases.acquire("one", range(SHARDS)) == dict.fromkeys(range(SHARDS), 1)


async def test_a_term_is_given_out_once_even_after_a_lost_commit(
    unanswered: tuple[SqlStore, UnansweredDatabase],
) -> None:
    store, database = unanswered
    await register(store, "one")
    for lost in ("before", "after"):
        database.lost = lost
        with pytest.raises(CommitUnknown):
            await store.leases.acquire("one", SOME)
    assert await store.leases.acquire("one", SOME) == dict.fromkeys(SOME, 1)  # adopted


async def test_a_new_term_ends_the_old_owners_claims(store: SqlStore) -> None:
    old, new = await create(store, new_task(), new_task())
    await register(store, "one")
    await register(store, "two")
    assert await store.leases.acquire("one", [SHARD]) == {SHARD: 1}
    await claim(store, old)
    await store.leases.reap([("one", 1)])
    assert await store.leases.acquire("two", [SHARD]) == {SHARD: 2}
    assert await store.engine.claim([request(new, 1)], 0) == []
    assert len(await store.engine.claim([request(new, 2)], 0)) == 1


async def test_who_has_released_a_shard_claims_nothing_for_it(store: SqlStore) -> None:
    """Nor recovers for it: until it has a next owner its term is still the former one's."""
    task, other = await create(store, new_task(), new_task())
    await register(store, "one")
    await store.leases.acquire("one", [SHARD])
    await claim(store, other)
    await store.leases.release("one", {SHARD: 1})
    assert await store.engine.claim([request(task, 1)], 0) == []
    assert await store.engine.recover({SHARD: 2}, 0, 10) == []
    assert await store.leases.acquire("one", [SHARD]) == {SHARD: 2}
    assert [one.id for one in await store.engine.recover({SHARD: 2}, 0, 10)] == [other.id]


async def test_the_expired_are_spared_when_the_stores_clock_is_not_believed(bare_store: SqlStore) -> None:
    now = await register(bare_store, "one", -1_000)
    assert await bare_store.leases.reap([], not_after=now - 2_000) == []
    assert await bare_store.leases.reap([], not_after=now) == ["one"]


async def test_virtual_time_judges_leases_on_sqlite(migrated_url: str) -> None:
    """The given clock counts on SQLite and nowhere else: a server's own clock is the only one its clients share."""
    clock = [1_000_000]
    async with opened_store(migrated_url, lease_clock=lambda: clock[0]) as store:
        now = await register(store, "one", 10_000)
        assert (now == 1_000_000) is migrated_url.startswith("sqlite")
        clock[0] += 10_001
        assert await store.leases.reap([]) == (["one"] if migrated_url.startswith("sqlite") else [])
