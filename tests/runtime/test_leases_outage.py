"""Leases when it is the store that is out, or its clock that is set: every one of them runs out, and nobody is dead."""

from __future__ import annotations

import trio
from tests.actors.scripted import answered, answering
from tests.runtime.engine_kit import CODES, TTL_S, cluster

from taskcenter.task import Status


async def test_an_outage_that_outlasts_every_lease_buries_nobody(autojump_clock: object) -> None:
    """What was on its way when it began is not sent again: its outcome waits in memory, and its owner comes back."""
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        before = {name: one.engine.instance_id for name, one in the.instances.items()}
        the.receivers.mood = answering(answered(), after_s=5)
        tasks = [task for code in CODES for task in await the.create(3, code)]
        await trio.sleep(1)
        for one in the.instances.values():
            one.line.cut = True
        await trio.sleep(TTL_S * 2)
        the.instances["two"].line.cut = False  # the first to be back
        await trio.sleep(TTL_S / 4)
        the.instances["one"].line.cut = False
        rows = await the.settled(tasks)
        assert {(row.status, row.sends, row.interruptions) for row in rows} == {(Status.SUCCEEDED, 1, 0)}
        assert len(the.receivers.calls) == len(tasks)
        assert {name: one.engine.instance_id for name, one in the.instances.items()} == before


async def test_who_died_in_the_outage_is_buried_once_the_others_had_their_time(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        one, two = the.instances["one"], the.instances["two"]
        two.line.cut = True
        one.crash()
        await trio.sleep(TTL_S * 2)
        two.line.cut = False
        await trio.sleep(TTL_S)
        assert len(two.shards) == 256


async def test_who_joins_right_after_the_clock_was_set_forward_buries_nobody(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        before = {name: one.engine.instance_id for name, one in the.instances.items()}
        the.receivers.mood = answering(answered(), after_s=3)
        tasks = [task for code in CODES for task in await the.create(3, code)]
        await trio.sleep(1)
        the.store_ahead_ms += 3_600_000
        await the.join("three")
        rows = await the.settled(tasks)
        assert {(row.status, row.sends, row.interruptions) for row in rows} == {(Status.SUCCEEDED, 1, 0)}
        await trio.sleep(TTL_S * 2)
        assert {name: the.instances[name].engine.instance_id for name in before} == before


async def test_after_a_total_outage_who_starts_takes_all_within_two_leases(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        for one in the.instances.values():
            one.crash()
        await trio.sleep(600)
        three = await the.join("three")
        with trio.fail_after(TTL_S * 2):
            while len(three.shards) < 256:
                await trio.sleep(0.1)
