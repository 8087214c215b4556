"""Hints between instances: what is due now is sent at once by whoever owns it, and no datagram can do any harm."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.engine_kit import CODES, KEYS, Cluster, Instance, cluster
from tests.store.store_kit import audit_entry

from taskcenter.clock import Clock
from taskcenter.errors import ConfigError
from taskcenter.metrics import Metrics
from taskcenter.runtime.nudges import FRESH_MS, MAX_BYTES, MAX_OUTBOX, Nudges, Peer, packed, peers_by_shard, unpacked
from taskcenter.store.engine_records import Instance as Row
from taskcenter.store.engine_records import ShardLease
from taskcenter.store.records import Task
from taskcenter.store.vault import Vault, derive
from taskcenter.task import FlowLimit, Status, TaskRef

NOW = 1_800_000_000_000
REF = TaskRef("01JA8Z3N4V7Q2M6K9T5R1X8C0B", 7, 3, NOW, 1, "shop.example:443")
SWEEP_MS = 1_000


def row(name: str, address: str | None, **given: Any) -> Row:
    identity = given.pop("identity", f"boot|ns|{name}|1")
    return replace(Row(name, address, identity, 1, dead=False, expires_in_ms=9000, started_at=0), **given)


# --- who can be told ------------------------------------------------------------------------------------------------


def test_the_owners_that_can_be_told() -> None:
    rows = [
        row("me", "127.0.0.1:1"), row("near", "127.0.0.1:2"), row("six", "[::1]:3"), row("far", "10.0.0.5:4"),
        row("elsewhere", "127.0.0.1:5", identity="other|ns|1|1"), row("container", "[::1]:6", identity="boot|x|1|1"),
        row("unknown", "127.0.0.1:7", identity="|||"), row("dead", "10.0.0.6:8", dead=True), row("alone", None),
        row("named", "host.example:9"), row("odd", "10.0.0.7"),
    ]  # fmt: skip
    leases = [ShardLease(number, one.id, 1) for number, one in enumerate(rows)]
    leases += [ShardLease(98, None, 1), ShardLease(99, "gone", 1)]
    assert peers_by_shard(rows, leases, "me", "boot|ns|7|1") == {
        1: Peer("near", "127.0.0.1", 2), 2: Peer("six", "::1", 3), 3: Peer("far", "10.0.0.5", 4),
    }  # fmt: skip
    assert 1 not in peers_by_shard(rows, leases, "me", ""), "who does not know its machine tells none on it"


# --- the datagram ---------------------------------------------------------------------------------------------------

refs = st.builds(
    TaskRef,
    st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26), st.integers(1, 2**40), st.integers(0, 255),
    st.integers(NOW, NOW + 3000), st.integers(1, 2**40), st.text(max_size=255),
    st.none() | st.integers(NOW, NOW + 10**12), st.none() | st.text(min_size=1, max_size=128),
    st.none() | st.builds(FlowLimit, st.none() | st.just(5), st.integers(1000, 9000), st.none() | st.just(2)),
)  # fmt: skip


@given(st.lists(refs, max_size=40))
def test_what_is_packed_is_unpacked(given_refs: list[TaskRef]) -> None:
    texts = list(packed(given_refs, NOW))
    assert [ref for text in texts for ref in unpacked(text, NOW + 5)] == given_refs
    assert all(len(text) <= MAX_BYTES + 30 or len(json.loads(text)) == 2 for text in texts)


@pytest.mark.parametrize("off_by", [-FRESH_MS - 1, FRESH_MS + 1])
def test_what_is_old_is_refused(off_by: int) -> None:
    [text] = packed([REF], NOW)
    assert unpacked(text, NOW + off_by + (1 if off_by < 0 else -1)) == [REF]
    with pytest.raises(ValueError, match="old"):
        unpacked(text, NOW + off_by)


def test_what_another_release_made_is_refused() -> None:
    for rows in ([["x", 1]], [[*json.loads(next(packed([REF], NOW)))[1], "new"]], [5]):
        with pytest.raises(ValueError, match="other fields"):
            unpacked(json.dumps([NOW, *rows]).encode(), NOW)


async def test_an_address_that_is_not_this_machines() -> None:
    with pytest.raises(
        ConfigError, match=r"TASKCENTER_PEER_ADDRESS: 192.0.2.1:0: Cannot assign requested address; e.g."
    ):
        Nudges("192.0.2.1:0", KEYS, "", Clock(NOW), Metrics())


async def test_no_port_is_left() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        with suppress(OSError):  # somebody else has it: as good
            taken.bind(("127.0.0.1", 65535))
        with pytest.raises(ConfigError, match=r"TASKCENTER_PEER_ADDRESS: .* and those after it are taken; e.g."):
            Nudges("127.0.0.1:65535", KEYS, "", Clock(NOW), Metrics())


async def test_the_next_process_of_a_machine_takes_the_next_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        nudges = Nudges(f"127.0.0.1:{port}", KEYS, "", Clock(NOW), Metrics())
    assert port < int(nudges.address.rpartition(":")[2]) < port + 64
    with trio.move_on_after(0):
        await nudges.run(lambda _: None, lambda: "me")


# --- engines that tell each other -----------------------------------------------------------------------------------


def other_than_owner(the: Cluster, code: str) -> Instance:
    owner = the.owner_of(code)
    return next(one for one in the.instances.values() if one is not owner)


async def settled_in_two(the: Cluster) -> None:
    """Both know who owns what."""
    while {len(one.shards) for one in the.instances.values()} != {128}:
        await trio.sleep(1)
    await trio.sleep(5)


async def tell(the: Cluster, code: str, count: int = 1, **given: Any) -> list[Task]:
    """Tasks as an instance's API makes them that does not own their shard."""
    elsewhere, instances = other_than_owner(the, code), dict(the.instances)
    the.instances.clear()
    tasks = await the.create(count, code, **given)
    the.instances.update(instances)
    for task in tasks:
        assert task.ref is not None
        elsewhere.engine.offer(task.ref)
    return tasks


async def test_what_is_due_now_is_sent_at_once_wherever_it_was_created(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES, hints=True, rate_limit=10_000) as the:
        await settled_in_two(the)
        for code in CODES:
            tasks = await tell(the, code, 30)
            rows = await the.settled(tasks)
            assert {row.status for row in rows} == {Status.SUCCEEDED}
        assert len(the.receivers.calls) == 30 * len(CODES)
        assert max(call.at - call.due_at for call in the.receivers.calls) < SWEEP_MS / 5
        counts = [sum(one.count("nudges_total", kind=kind) for one in the.instances.values())
                  for kind in ("sent", "taken", "refused", "dropped")]  # fmt: skip
        assert counts[0] == counts[1] >= len(CODES)
        assert counts[2:] == [0, 0]


async def test_without_hints_the_sweep_finds_it(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES[:1]) as the:
        await settled_in_two(the)
        await trio.sleep(0.1)
        [task] = await tell(the, CODES[0])
        await the.settled([task], within_s=2.5)


async def test_a_task_moved_to_an_earlier_time_elsewhere_starts_then(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        [task] = await the.create(due_at=the.clock.now_ms() + 60_000)
        await trio.sleep(2)
        moved = await the.store.tasks.run_now(
            task.business_id, task.id, the.clock.now_ms(), audit_entry("task.run", task.business_id)
        )
        ref = moved.task.ref  # type: ignore[union-attr]  # it waits, so it was changed
        other_than_owner(the, CODES[0]).engine.offer(ref)
        await the.settled([task], within_s=2)
        [call] = the.receivers.calls
        assert call.at - call.due_at < SWEEP_MS / 5


async def test_what_is_due_later_needs_no_hint(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        tasks = await tell(the, CODES[0], 3, due_at=the.clock.now_ms() + 5_000)
        await the.settled(tasks)
        assert all(0 <= call.at - call.due_at <= 10 for call in the.receivers.calls)
        assert the.owner_of(CODES[0]).count("nudges_total", kind="taken") == 0


async def test_false_and_repeated_datagrams_do_nothing(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        [later] = await the.create(due_at=the.clock.now_ms() + 60_000)
        owner = the.owner_of(CODES[0])
        ours, theirs = (Vault([("k1", derive(key, "nudge"))]) for key in (KEYS[0][1], b"x" * 32))
        host, port = owner.nudge_address
        early = replace(later.ref, due_at=the.clock.now_ms()) if later.ref else REF
        [text] = packed([early], the.clock.now_ms())
        [old] = packed([early], the.clock.now_ms() - FRESH_MS - 100)
        true_context = f"nudge:{owner.engine.instance_id}"
        refused = [
            b"", b"\x01", bytes(5000), text, theirs.seal(text, true_context), ours.seal(text, "nudge:somebody else"),
            ours.seal(old, true_context), ours.seal(b"[]", true_context), ours.seal(b"\xff", true_context),
        ]  # fmt: skip
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for datagram in refused:
                attacker.sendto(datagram, (host, port))
            await trio.sleep(0.5)
            assert owner.count("nudges_total", kind="refused") == len(refused)
            assert owner.count("nudges_total", kind="taken") == 0
            await the.settled([later])
            for _ in range(3):  # recorded on its way and sent again: the row has another version by now
                attacker.sendto(ours.seal(text, true_context), (host, port))
            await trio.sleep(2)
        assert [call.task_id for call in the.receivers.calls] == [later.id]
        assert (await the.row(later)).sends == 1


async def test_a_flood_is_bounded_and_loses_nothing(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True, rate_limit=100_000, max_concurrent_tasks=1000) as the:
        await settled_in_two(the)
        tasks = await tell(the, CODES[0], MAX_OUTBOX + 50)  # told within one turn of the loop
        assert other_than_owner(the, CODES[0]).count("nudges_total", kind="dropped") == 50
        rows = await the.settled(tasks, within_s=30)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}


async def test_a_hint_to_who_has_lost_the_shard_goes_no_further(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        elsewhere = other_than_owner(the, CODES[0])
        [task] = await the.create(due_at=the.clock.now_ms() + 60_000)
        [text] = packed([replace(task.ref, due_at=the.clock.now_ms())] if task.ref else [], the.clock.now_ms())
        vault = Vault([("k1", derive(KEYS[0][1], "nudge"))])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(vault.seal(text, f"nudge:{elsewhere.engine.instance_id}"), elsewhere.nudge_address)
        await trio.sleep(1)
        assert elsewhere.count("nudges_total", kind="taken") == 1
        assert elsewhere.count("nudges_total", kind="sent") == 0
        assert the.receivers.calls == []
