"""What instances tell each other: what is due now is sent at once by whoever owns it, and no datagram does any harm."""

from __future__ import annotations

import itertools
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.runtime.engine_kit import CODES, KEYS, Cluster, Instance, cluster, sizes
from tests.store.store_kit import audit_entry

from taskcenter.clock import Clock
from taskcenter.errors import ConfigError
from taskcenter.metrics import Metrics
from taskcenter.runtime.datagrams import UdpSocket
from taskcenter.runtime.peer_link import MAX_OUTBOX, PATIENCE_S, Ears, PeerLink
from taskcenter.runtime.peers import (
    FRESH_MS,
    Hints,
    Peers,
    Question,
    Reply,
    packed,
)
from taskcenter.service.engine_port import WaitView
from taskcenter.store.records import Changed, Task
from taskcenter.store.vault import Vault, derive
from taskcenter.task import SHARDS, Status, TaskRef

NOW = 1_800_000_000_000
REF = TaskRef("01JA8Z3N4V7Q2M6K9T5R1X8C0B", 7, 3, NOW, 1, "shop.example:443")
SWEEP_MS = 1_000


async def test_an_address_that_is_not_this_machines() -> None:
    with pytest.raises(
        ConfigError, match=r"TASKCENTER_PEER_ADDRESS: 192.0.2.1:0: Cannot assign requested address; e.g."
    ):
        UdpSocket("192.0.2.1:0")


async def test_no_port_is_left() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        with suppress(OSError):  # somebody else has it: as good
            taken.bind(("127.0.0.1", 65535))
        with pytest.raises(ConfigError, match=r"TASKCENTER_PEER_ADDRESS: .* and those after it are taken; e.g."):
            UdpSocket("127.0.0.1:65535")


async def test_the_next_process_of_a_machine_takes_the_next_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        link = PeerLink(UdpSocket(f"127.0.0.1:{port}"), KEYS, "", Clock(NOW), Metrics())
    assert port < int(link.address.rpartition(":")[2]) < port + 64
    with trio.move_on_after(0):
        await link.run(Ears(lambda: "me", lambda _: None, lambda *_: None, lambda: None))


# --- engines that tell each other -----------------------------------------------------------------------------------


def other_than_owner(the: Cluster, code: str) -> Instance:
    owner = the.owner_of(code)
    return next(one for one in the.instances.values() if one is not owner)


def datagrams(instance: Instance) -> tuple[float, float]:
    """How many it has taken and sent."""
    taken, sent = (instance.count("peer_datagrams_total", kind=kind) for kind in ("taken", "sent"))
    return taken, sent


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
        counts = [sum(one.count("peer_datagrams_total", kind=kind) for one in the.instances.values())
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
        assert isinstance(moved, Changed) and moved.task.ref is not None
        other_than_owner(the, CODES[0]).engine.offer(moved.task.ref)
        await the.settled([task], within_s=2)
        [call] = the.receivers.calls
        assert call.at - call.due_at < SWEEP_MS / 5


async def test_what_is_due_later_needs_no_hint(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        before = datagrams(the.owner_of(CODES[0]))
        tasks = await tell(the, CODES[0], 3, due_at=the.clock.now_ms() + 5_000)
        await the.settled(tasks)
        assert all(0 <= call.at - call.due_at <= 10 for call in the.receivers.calls)
        assert datagrams(the.owner_of(CODES[0])) == before


async def test_false_and_repeated_datagrams_do_nothing(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        [later] = await the.create(due_at=the.clock.now_ms() + 60_000)
        owner = the.owner_of(CODES[0])
        before = datagrams(owner)
        ours, theirs = (Vault([("k1", derive(key, "nudge"))]) for key in (KEYS[0][1], b"x" * 32))
        host, port = owner.peer_address
        early = replace(later.ref, due_at=the.clock.now_ms()) if later.ref else REF
        text = packed(Hints((early,)), the.clock.now_ms())
        old = packed(Hints((early,)), the.clock.now_ms() - FRESH_MS - 100)
        true_context = f"nudge:{owner.engine.instance_id}"
        refused = [
            b"", b"\x01", bytes(5000), text, theirs.seal(text, true_context), ours.seal(text, "nudge:somebody else"),
            ours.seal(old, true_context), ours.seal(b"[]", true_context), ours.seal(b"\xff", true_context),
        ]  # fmt: skip
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for datagram in refused:
                attacker.sendto(datagram, (host, port))
            await trio.sleep(0.5)
            assert owner.count("peer_datagrams_total", kind="refused") == len(refused)
            assert datagrams(owner) == before
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
        assert other_than_owner(the, CODES[0]).count("peer_datagrams_total", kind="dropped") == 50
        rows = await the.settled(tasks, within_s=30)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}


async def test_who_takes_shards_tells_the_others_at_once(autojump_clock: object) -> None:
    """After a hand-over each knows what the other took, without a further look: no hint goes to a former owner."""
    async with cluster("one", "two", "three", codes=CODES, hints=True) as the:
        while sizes(the) != [84, 86, 86]:
            await trio.sleep(1)
        await trio.sleep(5)
        one, two, three = the.instances.values()
        assert await one.engine.drain(5)
        one.crash()
        while len(two.shards | three.shards) < SHARDS:
            await trio.sleep(0.001)
        await trio.sleep(0.01)
        for asker, owner in ((two, three), (three, two)):
            assert asker.link is not None
            peers = [asker.link._peers.owner_of(shard) for shard in owner.shards]
            assert {peer and peer.instance_id for peer in peers} == {owner.engine.instance_id}


async def test_a_hand_over_makes_no_task_late_wherever_it_was_created(autojump_clock: object) -> None:
    async with cluster("one", "two", "three", codes=CODES, hints=True, rate_limit=10_000) as the:
        while sizes(the) != [84, 86, 86]:
            await trio.sleep(1)
        await trio.sleep(5.85)  # the moment at which one was 862 ms late when nobody told
        one, *staying = the.instances.values()
        the.instances.clear()  # each task is told of by one instance alone, in turns
        tellers = itertools.cycle(staying)
        tasks: list[Task] = []

        async def ask() -> None:
            for _ in range(100):
                for code in CODES:
                    [task] = await the.create(1, code)
                    assert task.ref is not None
                    next(tellers).engine.offer(task.ref)
                    tasks.append(task)
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.5)
            assert await one.engine.drain(5)
            one.crash()
        await the.settled(tasks)
        assert max(call.at - call.due_at for call in the.receivers.calls) < SWEEP_MS / 5


async def test_a_hint_to_who_has_lost_the_shard_goes_no_further(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        elsewhere = other_than_owner(the, CODES[0])
        [task] = await the.create(due_at=the.clock.now_ms() + 60_000)
        assert task.ref is not None
        text = packed(Hints((replace(task.ref, due_at=the.clock.now_ms()),)), the.clock.now_ms())
        vault = Vault([("k1", derive(KEYS[0][1], "nudge"))])
        before = datagrams(elsewhere)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(vault.seal(text, f"nudge:{elsewhere.engine.instance_id}"), elsewhere.peer_address)
        await trio.sleep(1)
        assert datagrams(elsewhere) == (before[0] + 1, before[1])
        assert the.receivers.calls == []


# --- questions ------------------------------------------------------------------------------------------------------


async def asked_elsewhere(the: Cluster, task: Task) -> WaitView | None:
    return await other_than_owner(the, CODES[0]).engine.wait_view(task.shard, task.business_id, task.id)


async def test_the_owner_is_asked_what_a_task_waits_for(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True, rate_limit=2) as the:
        await settled_in_two(the)
        *_, third, fourth = await the.create(4)
        await trio.sleep(1)
        at = the.clock.now_ms()
        told = await asked_elsewhere(the, fourth)
        assert told is not None
        assert (told.reason, told.position) == ("rate_limit", 1)
        assert told == await the.owner_of(CODES[0]).engine.wait_view(third.shard, third.business_id, fourth.id)
        assert told.expected_start_at is not None and 58_000 < told.expected_start_at - at < 60_500
        [later] = await the.create(due_at=at + 9_000)
        assert await asked_elsewhere(the, later) is None, "not taken up yet"


async def test_who_asks_a_silent_owner_says_so(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        [task] = await the.create(due_at=the.clock.now_ms() + 60_000)
        owner = the.owner_of(CODES[0])
        asker = other_than_owner(the, CODES[0])
        the.instances.pop(owner.name)
        owner.crash()
        began = trio.current_time()
        told = await asker.engine.wait_view(task.shard, task.business_id, task.id)
        assert trio.current_time() - began == pytest.approx(PATIENCE_S, abs=0.01)
        assert told is not None
        assert (told.reason, told.expected_start_at) == ("owner", None)
        assert "did not say" in told.detail
        assert asker.link is not None
        asker.link._peers = Peers()  # as the store says for the moment between two owners
        told = await asker.engine.wait_view(task.shard, task.business_id, task.id)
        assert told is not None
        assert (told.reason, "no instance runs shard" in told.detail) == ("owner", True)


async def test_a_reply_that_nobody_waits_for_and_a_question_of_nobody_known(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        one = the.instances["one"]
        vault = Vault([("k1", derive(KEYS[0][1], "nudge"))])
        before = datagrams(one)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            for message in (Reply(7, None), Question(1, "nobody", 1, REF.task_id)):
                peer.sendto(
                    vault.seal(packed(message, the.clock.now_ms()), f"nudge:{one.engine.instance_id}"), one.peer_address
                )
            await trio.sleep(1)
            peer.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.recv(100)
        assert datagrams(one) == (before[0] + 2, before[1])
