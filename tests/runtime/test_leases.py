"""Leases between engines: who may send for what, when a heartbeat is lost, when an owner stands still."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import trio
import trio.testing
from tests.actors.scripted import answered, answering
from tests.runtime.engine_kit import CODES, TTL_S, Cluster, cluster, sizes
from tests.store.store_kit import NOW, database_of

from taskcenter.runtime.leases import MARGIN_S, MOVED_AT_ONCE
from taskcenter.store.connection import Connection
from taskcenter.store.records import ExecutionStatus
from taskcenter.store.statements import leases as lease_sql
from taskcenter.task import SHARDS, Status


def owned_twice(the: Cluster) -> frozenset[int]:
    alive = [one.shards for one in the.instances.values() if not one.over.is_set()]
    return frozenset(shard for shard in range(SHARDS) if sum(shard in shards for shards in alive) > 1)


async def test_the_first_takes_all_and_shares_with_whoever_joins_a_few_at_a_time(autojump_clock: object) -> None:
    async with cluster("one") as the:
        assert sizes(the) == [SHARDS]
        await the.join("two")
        seen = [sizes(the)]
        for _ in range(200):
            await trio.sleep(0.2)
            assert owned_twice(the) == frozenset()
            seen.append(sizes(the))
        assert seen[-1] == [128, 128]
        largest = [pair[1] for pair in seen]
        assert max(before - after for before, after in pairwise(largest)) <= MOVED_AT_ONCE
        await the.join("three")
        await trio.sleep(40)
        assert sizes(the) == [84, 86, 86]
        assert owned_twice(the) == frozenset()


async def test_every_change_of_owner_makes_the_term_greater(autojump_clock: object) -> None:
    async with cluster("one") as the:
        terms = [{lease.shard: lease.term for lease in await the.store.leases.shards()}]
        for name in ("two", "three"):
            former = the.instances[{"two": "one", "three": "two"}[name]]
            assert await former.engine.drain(1)
            former.crash()
            await the.join(name)
            await trio.sleep(5)
            terms.append({lease.shard: lease.term for lease in await the.store.leases.shards()})
        for before, after in pairwise(terms):
            assert all(after[shard] > before[shard] for shard in range(SHARDS))


async def test_without_heartbeats_sends_stop_before_the_lease_is_over(autojump_clock: object) -> None:
    async with cluster("one") as the:
        one = the.instances["one"]
        tasks = [(await the.create(due_at=NOW + 500 * number))[0] for number in range(60)]
        await trio.sleep(5)
        one.line.cut = True
        cut_at = the.clock.now_ms()
        shard = tasks[0].shard
        owner_lives_until = cut_at + TTL_S * 1000
        await trio.sleep(TTL_S - MARGIN_S)
        assert not one.engine._leases.valid  # the courtesy before the fence
        assert one.engine._leases.term_of(shard) is None
        assert one.engine.health()["leases"].startswith("unavailable")
        await trio.sleep(20)
        assert the.receivers.calls[-1].at < owner_lives_until - MARGIN_S * 1000 + TTL_S / 4 * 1000
        one.line.cut = False
        await the.settled(tasks, within_s=15)  # nobody took the shards: it goes on
        assert Counter(call.task_id for call in the.receivers.calls) == {task.id: 1 for task in tasks}
        assert one.engine.health()["leases"] == "ok"


async def test_an_owner_cut_off_from_the_store_is_replaced_and_comes_back_as_another(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        one, two = the.instances["one"], the.instances["two"]
        former_id = one.engine.instance_id
        one.line.cut = True
        await trio.sleep(TTL_S * 1.5)
        assert len(two.shards) == SHARDS
        assert all(one.engine._leases.term_of(shard) is None for shard in range(SHARDS))
        one.line.cut = False
        await trio.sleep(60)
        assert one.engine.instance_id != former_id
        assert sizes(the) == [128, 128]
        assert owned_twice(the) == frozenset()


async def test_a_frozen_owner_sends_nothing_that_it_claimed_too_late(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        code = next(code for code in CODES if the.owner_of(code).name == "one")
        one = the.instances["one"]
        tasks = await the.create(10, code, due_at=the.clock.now_ms() + 3_000)
        await trio.sleep(1)
        one.line.frozen = trio.Event()  # its questions to the store stand still, a claim among them
        await trio.sleep(TTL_S * 2)
        rows = await the.settled(tasks)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        assert {call.sender for call in the.receivers.calls} == {"two"}
        one.line.frozen.set()
        one.line.frozen = None
        await trio.sleep(60)
        assert Counter(call.task_id for call in the.receivers.calls) == {task.id: 1 for task in tasks}
        assert sizes(the) == [128, 128]


async def test_an_outcome_of_a_frozen_owner_that_comes_too_late_changes_nothing(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        code = next(code for code in CODES if the.owner_of(code).name == "one")
        one = the.instances["one"]
        the.receivers.mood = answering(answered(500), after_s=1)
        [task] = await the.create(1, code, retry_intervals_ms=())
        await the.receivers.wait_for(1)
        one.line.frozen = trio.Event()
        the.receivers.mood = answering(answered(200), after_s=1)
        [row] = await the.settled([task], within_s=60)
        assert row.status is Status.SUCCEEDED
        one.line.frozen.set()
        one.line.frozen = None
        await trio.sleep(30)
        assert (await the.row(task)).status is Status.SUCCEEDED
        assert [call.sender for call in the.receivers.calls] == ["one", "two"]
        assert one.count("fenced_writes_total") >= 1


async def test_a_process_that_stood_still_alone_goes_on_with_what_it_had(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=0)
        tasks = [(await the.create(due_at=NOW + 5_000 + 7 * number))[0] for number in range(40)]
        await trio.sleep(5.0)  # some are claimed and wait for their time
        assert Status.RUNNING in {(await the.row(task)).status for task in tasks}
        autojump_clock.jump(60)
        await the.settled(tasks, within_s=30)
        assert Counter(call.task_id for call in the.receivers.calls) == {task.id: 1 for task in tasks}


async def test_a_retired_instance_takes_nothing_back(autojump_clock: object) -> None:
    async with cluster("one") as the:
        one = the.instances["one"]
        assert await one.engine.drain(1)
        await trio.sleep(60)  # the process has other things to end
        assert one.shards == frozenset()
        assert {lease.owner for lease in await the.store.leases.shards()} == {None}
        assert [instance.dead for instance in await the.store.leases.instances()] == [True]


async def test_a_lost_answer_to_a_release_is_mended_by_the_next_rounds(autojump_clock: object) -> None:
    async with cluster("one", codes=CODES) as the:
        one = the.instances["one"]
        await the.join("two")
        for _ in range(40):
            await trio.sleep(0.5)
            one.line.cut = not one.line.cut
        one.line.cut = False
        await trio.sleep(60)
        assert sizes(the) == [128, 128]
        assert owned_twice(the) == frozenset()
        tasks = [task for code in CODES for task in await the.create(2, code)]
        await the.settled(tasks, within_s=5)


async def test_a_missing_shard_row_is_told_and_nothing_is_sent_for_it(autojump_clock: object) -> None:
    async with cluster("one") as the:
        shard = the.businesses[CODES[0]].shard

        async def lose(connection: Connection) -> int:
            return await connection.execute("DELETE FROM shards WHERE shard = ?", (shard,))

        assert await database_of(the.store).write(lose) == 1
        [task] = await the.create(due_at=the.clock.now_ms() + 1_000)
        await trio.sleep(10)
        assert the.receivers.calls == []
        assert (await the.row(task)).status is Status.PENDING
        assert ("missing_shard_row", "1 of 256 shards have no row") in the.alerts

        async def mend(connection: Connection) -> int:
            return await connection.insert_many(lease_sql.INSERT_SHARD, [(shard, 100)])

        await database_of(the.store).write(mend)
        await the.settled([task], within_s=70)


async def test_a_long_takeover_keeps_no_heart_from_beating(autojump_clock: object) -> None:
    """What thousands of tasks left behind takes a while to recover, or a frozen instance holds its rows."""
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        one, two = the.instances["one"], the.instances["two"]
        name = two.engine.instance_id
        two.line.slow["recover"] = TTL_S * 2
        one.crash()
        for _ in range(50):
            await trio.sleep(1)
            assert two.engine._leases.valid
        assert len(two.shards) == SHARDS
        assert two.engine.instance_id == name, "nobody declared it dead"


async def test_declared_dead_in_the_middle_of_a_takeover_it_keeps_nothing_of_it(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        one, two = the.instances["one"], the.instances["two"]
        former = two.engine.instance_id
        two.line.slow["recover"] = TTL_S
        one.crash()
        with trio.fail_after(60):
            while {lease.owner for lease in await the.store.leases.shards()} != {former}:
                await trio.sleep(0.1)  # taken, and not recovered yet
        assert len(two.shards) < SHARDS
        await the.store.leases.retire(former)  # as another instance, or its own end, might
        await trio.sleep(TTL_S / 4)
        assert two.engine.instance_id != former
        assert two.shards == frozenset()
        await trio.sleep(TTL_S * 2)
        leases = await the.store.leases.shards()
        assert {lease.owner for lease in leases} == {two.engine.instance_id}
        assert len(two.shards) == SHARDS
        assert {two.engine._leases.term_of(lease.shard) for lease in leases} == {lease.term for lease in leases}


@pytest.mark.parametrize("step_ms", [-86_400_000, -60_000, 60_000, 86_400_000])
async def test_a_store_whose_clock_is_set_ends_no_lease_and_keeps_none_alive(
    autojump_clock: object, step_ms: int
) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        one, two = the.instances["one"], the.instances["two"]
        names = [one.engine.instance_id, two.engine.instance_id]
        the.receivers.mood = answering(answered(), after_s=3)
        start = the.clock.now_ms()
        tasks = [task for code in CODES for task in await the.create(12, code, due_at=start + 5_000)]
        await trio.sleep(4)
        the.store_ahead_ms += step_ms
        await the.settled(tasks)
        await trio.sleep(TTL_S * 3)
        assert Counter(call.task_id for call in the.receivers.calls) == {task.id: 1 for task in tasks}
        assert max(call.at - start - 5_000 for call in the.receivers.calls) < 1_000
        assert [one.engine.instance_id, two.engine.instance_id] == names
        one.crash()
        the.store_ahead_ms -= step_ms // 2
        await trio.sleep(TTL_S * 1.5)
        assert len(two.shards) == SHARDS


async def test_a_request_that_was_long_on_its_way_is_not_sent_without_a_lease(autojump_clock: object) -> None:
    """A token, a name, a handshake, or a process that stood still: the last look is just before the first byte."""
    async with cluster("one", "two", codes=CODES, hesitates_s=TTL_S) as the:
        await trio.sleep(30)
        code = next(code for code in CODES if the.owner_of(code).name == "one")
        one = the.instances["one"]
        [task] = await the.create(1, code)
        await trio.sleep(1)
        assert (await the.row(task)).status is Status.RUNNING
        one.line.frozen = trio.Event()
        [row] = await the.settled([task], within_s=90)
        assert [call.sender for call in the.receivers.calls] == ["two"]
        assert (row.status, [one.status for one in await the.history(task)]) == (
            Status.SUCCEEDED,
            [ExecutionStatus.INTERRUPTED, ExecutionStatus.SUCCESS],
        )
        one.line.frozen.set()
        one.line.frozen = None
        await trio.sleep(30)
        assert [call.sender for call in the.receivers.calls] == ["two"]
        assert one.count("fenced_writes_total") == 1


async def test_a_request_withheld_goes_out_when_its_lease_is_renewed(autojump_clock: object) -> None:
    async with cluster("one", hesitates_s=TTL_S) as the:
        one = the.instances["one"]
        [task] = await the.create()
        await trio.sleep(1)
        one.line.cut = True
        await trio.sleep(TTL_S + 1)
        assert the.receivers.calls == []
        one.line.cut = False
        [row] = await the.settled([task], within_s=60)
        assert (row.status, row.sends, len(the.receivers.calls)) == (Status.SUCCEEDED, 1, 1)
