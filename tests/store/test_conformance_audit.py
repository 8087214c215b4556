"""The audit chains, the purge, totals and meta, the same on every store."""

from dataclasses import replace

import pytest
import trio
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    add_business,
    audit_entry,
    claim,
    create,
    credential,
    database_of,
    fetch,
    move,
    new_task,
    outcome,
    own_shards,
    signing_secret,
)

from taskcenter.errors import StoreUnavailable
from taskcenter.store.audit import GENESIS, SYSTEM, Broken, canonical, chain_hash, verify
from taskcenter.store.connection import QueryFault
from taskcenter.store.records import AuditEntry, TaskFilter
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import Status

OLD = NOW - 1_000_000


async def chain(store: SqlStore, business_id: int = BUSINESS) -> list[AuditEntry]:
    """Oldest first, read in pages."""
    entries: list[AuditEntry] = []
    while page := await store.audit.page(business_id, entries[-1].seq if entries else None, 3):
        entries += page
    return entries[::-1]


# --- audit ---------------------------------------------------------------------------------------------------------


async def test_entries_are_chained_in_order(store: SqlStore) -> None:
    await store.audit.append([audit_entry("a", target="päth\n'\"\\", ip=None), audit_entry("b", actor_key_id=None)])
    await store.audit.append([audit_entry("c"), audit_entry("x", SYSTEM), audit_entry("d", request_id=None)])
    entries = await chain(store)
    assert [(entry.seq, entry.action) for entry in entries] == [
        (1, "business.create"), (2, "a"), (3, "b"), (4, "c"), (5, "d"),
    ]  # fmt: skip
    assert verify(entries) is None
    assert (entries[1].target, entries[1].ip, entries[2].actor_key_id) == ("päth\n'\"\\", None, None)
    assert [(entry.seq, entry.action) for entry in await chain(store, SYSTEM)] == [(1, "x")]
    assert verify(await chain(store, SYSTEM)) is None
    await store.audit.append([])


async def test_many_writers_make_one_chain(store: SqlStore) -> None:
    async def write(number: int) -> None:
        for step in range(4):
            await store.audit.append([audit_entry(f"w{number}-{step}")])

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(write, number)
    entries = await chain(store)
    assert [entry.seq for entry in entries] == list(range(1, 26))
    assert verify(entries) is None


async def test_hundreds_at_once(store: SqlStore) -> None:
    await store.audit.append([audit_entry(f"e{number}") for number in range(600)])
    found = await store.audit.page(BUSINESS, None, 1_000)
    assert len(found) == 601
    assert verify(reversed(found)) is None


async def test_what_is_too_long_is_cut_before_it_is_hashed(store: SqlStore) -> None:
    long = audit_entry("ä" * 999, target="🙂" * 999, result="r" * 99, ip="i" * 99, request_id="q" * 999)
    await store.audit.append([replace(long, actor_key_id="k" * 999)])
    entries = await chain(store)
    assert verify(entries) is None
    assert entries[-1].target == "🙂" * 511 + "…"


async def test_unknown_business_has_no_chain(store: SqlStore) -> None:
    with pytest.raises(QueryFault, match="without a ledger"):
        await store.audit.append([audit_entry("x"), audit_entry("x", 999)])
    assert len(await chain(store)) == 1


async def test_the_verifier_sees_every_change(store: SqlStore) -> None:
    await store.audit.append([audit_entry(name) for name in "abcdef"])
    entries = await chain(store)
    assert entries[0].hash == chain_hash(GENESIS, entries[0])
    fields: dict[str, object] = {
        "at": 1, "actor_kind": "admin", "actor_key_id": None, "action": "A", "target": "T", "result": "no", "ip": "::1",
        "request_id": "other", "hash": bytes(32),
    }  # fmt: skip
    for name, value in fields.items():
        forged = [*entries[:3], replace(entries[3], **{name: value}), *entries[4:]]  # type: ignore[arg-type]  # by name
        assert verify(forged) == Broken(4, "is not what was written, or its predecessor is not"), name
    assert verify([*entries[:3], *entries[4:]]) == Broken(5, "follows 3: entries are missing")
    assert verify([entries[0], entries[2], entries[1]]) is not None
    swapped = [replace(entries[1], seq=3), replace(entries[2], seq=2)]
    assert verify([entries[0], *sorted(swapped, key=lambda entry: entry.seq), *entries[3:]]) is not None
    assert verify(entries[3:]) is None  # a purged chain is verified from its own first entry on
    assert verify(entries[3:], entries[2]) is None
    assert verify(entries[3:], replace(entries[2], hash=bytes(32))) is not None
    assert verify([]) is None


def test_canonical_form() -> None:
    """What is hashed is fixed for ever: a chain written today must verify in ten years."""
    entry = audit_entry("task.create", target="ä\"'")
    assert (
        canonical(entry, 5)
        == (
            '{"action":"task.create","actor_key_id":"key-1","actor_kind":"api_key","at":1800000000000,"business_id":7,'
            '"ip":"127.0.0.1","request_id":"r-1","result":"ok","seq":5,"target":"ä\\"\'"}'
        ).encode()
    )
    assert chain_hash(bytes(32), entry, 5).hex() == "df28f6e569a693a73945d8c92de653cea88241c1bc1e19116aa8473e9c576ff3"


# --- purge ---------------------------------------------------------------------------------------------------------


async def purge_all(store: SqlStore, older_than: int, limit: int = 3) -> int:
    gone = 0
    while number := await store.maintenance.purge(older_than, limit):
        gone += number
    return gone


async def rows(store: SqlStore, table: str) -> int:
    ((number,),) = await fetch(database_of(store), f"SELECT COUNT(*) FROM {table}")
    return int(number)


async def test_purge_takes_finished_tasks_with_all_that_is_theirs(store: SqlStore) -> None:
    await own_shards(store)
    old = await create(store, *[new_task(at=OLD, tags=("x", "y")) for _ in range(7)])
    young, active, edge = await create(store, new_task(tags=("x",)), new_task(at=OLD, tags=("x",)), new_task(at=OLD))
    for task in (*old, young, edge):
        running = await claim(store, task, now=task.created_at)
        at = {young.id: NOW, edge.id: OLD + 6}.get(task.id, OLD + 5)
        await store.engine.record([outcome(running)], at)
    assert await store.maintenance.purge(OLD + 6, 3) == 3 + 3 + 6  # tasks, attempts, tags
    assert await rows(store, "tasks") == 7
    await purge_all(store, OLD + 6)
    assert await purge_all(store, OLD + 6) == 0
    left = {task.id for task in await store.tasks.page(BUSINESS, TaskFilter(), None, 99)}
    assert left == {young.id, active.id, edge.id}
    assert await rows(store, "task_tags") == 2
    assert len(await store.tasks.executions(BUSINESS, young.id, None, 9)) == 1
    counters = await store.businesses.counters(BUSINESS)
    assert (counters.created, counters.succeeded, counters.active) == (10, 9, 1)  # what was, was
    made = await store.tasks.create([new_task(old[0].business_unique_id)], {BUSINESS: 99}, [None], NOW)
    assert type(made[0]).__name__ == "Created"  # its unique id is free again


async def test_purge_never_touches_active_tasks(store: SqlStore) -> None:
    await own_shards(store)
    pending, running, again = await create(store, *[new_task(at=OLD) for _ in range(3)])
    await claim(store, running, now=OLD)
    await store.tasks.cancel(BUSINESS, again.id, OLD, audit_entry(at=NOW))
    await store.tasks.redeliver(BUSINESS, again.id, NOW, NOW, audit_entry(at=NOW), 99)
    await purge_all(store, NOW - 1)
    for task in (pending, running, again):
        assert await store.tasks.get(BUSINESS, task.id) is not None


async def test_purge_of_old_attempts_of_living_schedules(store: SqlStore) -> None:
    await own_shards(store)
    (task,) = await create(store, new_task(at=OLD, schedule={"every": 300}))
    for number in range(6):
        found = await store.tasks.get(BUSINESS, task.id)
        assert found is not None
        running = await claim(store, found, now=OLD)
        due = OLD if number < 4 else NOW
        to = move(running, Status.PENDING, run=number + 2, runs_done=number + 1, next_execute_at=due)
        await store.engine.record([outcome(running, to)], OLD)
    assert len(await store.tasks.executions(BUSINESS, task.id, None, 9)) == 6
    await purge_all(store, NOW - 1)
    kept = await store.tasks.executions(BUSINESS, task.id, None, 9)
    assert [attempt.number for attempt in kept] == [6]


async def test_purge_of_a_chains_beginning(store: SqlStore) -> None:
    await add_business(store, 8, "other")
    await store.audit.append([audit_entry(f"old-{number}", 8, at=OLD + number) for number in range(8)])
    await store.audit.append([audit_entry("new", 8, at=NOW + 5)])
    await store.audit.append([audit_entry("late", 8, at=OLD)])  # behind a young one: it stays with it
    before = await chain(store, 8)
    assert await purge_all(store, NOW) == 0  # the business's own first entry is young, and holds the rest
    await purge_all(store, NOW + 1)
    kept = await chain(store, 8)
    assert [entry.action for entry in kept] == ["new", "late"]
    assert verify(kept) is None
    assert kept == before[-2:]
    await store.audit.append([audit_entry("next", 8, at=NOW + 9)])
    assert verify(await chain(store, 8)) is None
    assert [entry.seq for entry in await chain(store, 8)] == [10, 11, 12]


async def test_purge_of_keys_secrets_and_the_dead(store: SqlStore) -> None:
    rotate = store.businesses.rotate
    for number in range(2):
        await rotate(
            credential(f"k{number}", created_at=NOW + number, expires_at=NOW + 10**9), previous_valid_until=NOW + 50,
            revoke_previous=number == 0, now=NOW + 10, signing=signing_secret(f"s{number}", created_at=NOW + number),
            audit=audit_entry(at=NOW + 10**9),
        )  # fmt: skip
    await own_shards(store, [SHARD], "owner")
    await store.leases.register("gone", address=None, host_identity="h", ttl_ms=-1)
    await store.leases.reap([("owner", 1)])
    (clock,) = {instance.expires_in_ms for instance in await store.leases.instances() if instance.id == "gone"}
    assert clock < 0
    await purge_all(store, NOW + 51)
    assert [key.key_id for key in await store.businesses.credentials(BUSINESS)] == ["k1"]
    assert [secret.id for secret in await store.businesses.signing_secrets(BUSINESS, 0)] == ["s1"]
    await purge_all(store, 1 << 60)
    names = [instance.id for instance in await store.leases.instances()]
    assert names == ["owner"]  # a shard names it still: its row says that it is dead


# --- meta ----------------------------------------------------------------------------------------------------------


async def test_meta_is_set_once(bare_store: SqlStore) -> None:
    assert await bare_store.maintenance.meta("k") is None
    seen: list[bytes] = []

    async def set_it(number: int) -> None:
        seen.append(await bare_store.maintenance.set_meta_once("k", b"\x00%d" % number))

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(set_it, number)
    assert len(set(seen)) == 1
    assert await bare_store.maintenance.meta("k") == seen[0]
    assert await bare_store.maintenance.meta("K") is None


async def test_ping(bare_store: SqlStore) -> None:
    await bare_store.maintenance.ping()
    await bare_store.aclose()
    with pytest.raises(StoreUnavailable):
        await bare_store.maintenance.ping()


async def test_totals_of_an_empty_store(bare_store: SqlStore) -> None:
    assert await bare_store.maintenance.totals() == dict.fromkeys(Status, 0)
