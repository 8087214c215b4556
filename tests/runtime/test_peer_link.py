"""What instances tell each other: what is due now is sent at once by whoever owns it, and no datagram does any harm."""

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
from taskcenter.runtime.peer_link import MAX_OUTBOX, PATIENCE_S, Ears, PeerLink
from taskcenter.runtime.peers import (
    FRESH_MS,
    MAX_BYTES,
    Hints,
    Message,
    Peer,
    Peers,
    Question,
    Reply,
    hints,
    packed,
    peers_of,
    unpacked,
)
from taskcenter.service.engine_port import WaitView
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
    peers = peers_of(rows, leases, "me", "boot|ns|7|1")
    told = {shard: peer for shard in range(256) if (peer := peers.owner_of(shard)) is not None}
    assert told == {1: Peer("near", "127.0.0.1", 2), 2: Peer("six", "::1", 3), 3: Peer("far", "10.0.0.5", 4)}
    assert peers.owners.keys() == {0, 1, 2, 3, 4, 5, 6, 8, 9, 10}, "nobody alive runs the others"
    assert peers_of(rows, leases, "me", "").by_id.keys() == {"far"}, "who knows no machine tells none on it"


# --- the datagram ---------------------------------------------------------------------------------------------------

refs = st.builds(
    TaskRef,
    st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26), st.integers(1, 2**40), st.integers(0, 255),
    st.integers(NOW, NOW + 3000), st.integers(1, 2**40), st.text(max_size=255),
    st.none() | st.integers(NOW, NOW + 10**12), st.none() | st.text(min_size=1, max_size=128),
    st.none() | st.builds(FlowLimit, st.none() | st.just(5), st.integers(1000, 9000), st.none() | st.just(2)),
)  # fmt: skip


views = st.builds(
    WaitView,
    st.text(max_size=20),
    st.none() | st.integers(0, 10_000),
    st.none() | st.integers(NOW),
    st.text(max_size=500),
)
messages = (
    st.builds(Hints, st.lists(refs, max_size=3).map(tuple))
    | st.builds(Question, st.integers(1), st.text(max_size=26), st.integers(1), st.text(max_size=26))
    | st.builds(Reply, st.integers(1), st.none() | views)
)


@given(messages)
def test_what_is_packed_is_unpacked(message: Message) -> None:
    assert unpacked(packed(message, NOW), NOW + 5) == message


@given(st.lists(refs, max_size=40))
def test_hints_are_shared_out_over_datagrams(given_refs: list[TaskRef]) -> None:
    made = list(hints(given_refs))
    assert [ref for message in made for ref in message.refs] == given_refs
    assert all(len(message.refs) == 1 or len(packed(message, NOW)) <= MAX_BYTES + 40 for message in made)


@pytest.mark.parametrize("off_by", [-FRESH_MS - 1, FRESH_MS + 1])
def test_what_is_old_is_refused(off_by: int) -> None:
    text = packed(Hints((REF,)), NOW)
    assert unpacked(text, NOW + off_by + (1 if off_by < 0 else -1)) == Hints((REF,))
    with pytest.raises(ValueError, match="old"):
        unpacked(text, NOW + off_by)


@pytest.mark.parametrize(
    "rows",
    [
        ["hints", ["x", 1]], ["hints", [*json.loads(packed(Hints((REF,)), NOW))[2], "new"]], ["hints", 5], ["dance"],
        ["question", [1, "a"]], ["question"], ["question", [1, "a", [], "x"]],
        ["reply", [[1]]], ["reply", [1, "time"]], ["reply", []], [["hints"]],
    ],
)  # fmt: skip
def test_what_another_release_made_is_refused(rows: list[Any]) -> None:
    with pytest.raises(ValueError):
        unpacked(json.dumps([NOW, *rows]).encode(), NOW)


@pytest.mark.parametrize(
    "text", ["5", "null", "[]", "[5]", '["now", "hints"]', '{"at": 1}', "[1800000000000, null]", "{"]
)
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        unpacked(text.encode(), NOW)


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda one: st.lists(one, max_size=4), max_leaves=20)
)
def test_nothing_sealed_brings_anything_but_a_message_or_a_refusal(rows: object) -> None:
    for kind in ("hints", "question", "reply"):
        try:
            unpacked(json.dumps([NOW, kind, rows]).encode(), NOW)
        except ValueError:
            continue


async def test_an_address_that_is_not_this_machines() -> None:
    with pytest.raises(
        ConfigError, match=r"TASKCENTER_PEER_ADDRESS: 192.0.2.1:0: Cannot assign requested address; e.g."
    ):
        PeerLink("192.0.2.1:0", KEYS, "", Clock(NOW), Metrics())


async def test_no_port_is_left() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        with suppress(OSError):  # somebody else has it: as good
            taken.bind(("127.0.0.1", 65535))
        with pytest.raises(ConfigError, match=r"TASKCENTER_PEER_ADDRESS: .* and those after it are taken; e.g."):
            PeerLink("127.0.0.1:65535", KEYS, "", Clock(NOW), Metrics())


async def test_the_next_process_of_a_machine_takes_the_next_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        link = PeerLink(f"127.0.0.1:{port}", KEYS, "", Clock(NOW), Metrics())
    assert port < int(link.address.rpartition(":")[2]) < port + 64
    with trio.move_on_after(0):
        await link.run(Ears(lambda: "me", lambda _: None, lambda *_: None))


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
        assert the.owner_of(CODES[0]).count("peer_datagrams_total", kind="taken") == 0


async def test_false_and_repeated_datagrams_do_nothing(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        [later] = await the.create(due_at=the.clock.now_ms() + 60_000)
        owner = the.owner_of(CODES[0])
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
            assert owner.count("peer_datagrams_total", kind="taken") == 0
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


async def test_a_hint_to_who_has_lost_the_shard_goes_no_further(autojump_clock: object) -> None:
    async with cluster("one", "two", hints=True) as the:
        await settled_in_two(the)
        elsewhere = other_than_owner(the, CODES[0])
        [task] = await the.create(due_at=the.clock.now_ms() + 60_000)
        assert task.ref is not None
        text = packed(Hints((replace(task.ref, due_at=the.clock.now_ms()),)), the.clock.now_ms())
        vault = Vault([("k1", derive(KEYS[0][1], "nudge"))])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(vault.seal(text, f"nudge:{elsewhere.engine.instance_id}"), elsewhere.peer_address)
        await trio.sleep(1)
        assert elsewhere.count("peer_datagrams_total", kind="taken") == 1
        assert elsewhere.count("peer_datagrams_total", kind="sent") == 0
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
        assert one.count("peer_datagrams_total", kind="taken") == 2
        assert one.count("peer_datagrams_total", kind="sent") == 0
