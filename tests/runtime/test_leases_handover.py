"""Shards that change hands while both owners live: nothing repeats, and what is due goes on."""

from __future__ import annotations

import pytest
import trio
from tests.actors.scripted import answered, answering
from tests.runtime.engine_kit import CODES, cluster, sizes

from taskcenter.runtime.leases import EXPECTING_S, LOOK_S
from taskcenter.task import SHARDS, Status


async def test_a_shard_that_is_given_away_lets_its_callbacks_end_first(autojump_clock: object) -> None:
    async with cluster("one", codes=CODES) as the:
        the.receivers.mood = answering(answered(), after_s=8)
        tasks = [task for code in CODES for task in await the.create(3, code)]
        await the.receivers.wait_for(len(tasks))
        await the.join("two")
        rows = await the.settled(tasks)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        await trio.sleep(60)
        assert sizes(the) == [128, 128]
        assert {call.sender for call in the.receivers.calls} == {"one"}


async def test_who_gave_a_business_away_tells_nothing_of_it_any_more(autojump_clock: object) -> None:
    """What it knows of the breaker is of the past: the history tells more."""
    async with cluster("one", codes=CODES) as the:
        await the.settled([task for code in CODES for task in await the.create(1, code)])
        await the.join("two")
        await trio.sleep(60)
        for code in CODES:
            owner, business = the.owner_of(code), the.businesses[code]
            for one in the.instances.values():
                told = one.engine.business_view(business.id)
                assert (told is None) or one is owner, "it was the only one to have an actor of it"
        assert {the.owner_of(code).name for code in CODES} == {"one", "two"}


async def test_a_slow_callback_keeps_no_other_shard_between_two_owners(autojump_clock: object) -> None:
    async with cluster("one", codes=CODES) as the:
        the.receivers.mood = answering(answered(), after_s=20)
        slow = await the.create(1, CODES[0])
        await the.receivers.wait_for(1)
        the.receivers.mood = answering(answered())
        await the.join("two")
        quick = []
        for _ in range(40):  # all the time that shards are moved
            quick += [task for code in CODES[1:] for task in await the.create(1, code)]
            await trio.sleep(0.5)
        await the.settled(quick + slow)
        await trio.sleep(1)
        assert sizes(the) == [128, 128]
        late = [call.at - int(call.headers["x-taskcenter-due"]) for call in the.receivers.calls]
        assert max(late) < 1000 * EXPECTING_S + 300, "a look, and the reading of what is due"
        senders = {call.sender for call in the.receivers.calls}
        assert senders == {"one", "two"}, "some were moved"


@pytest.mark.parametrize("codes", [CODES, CODES[:1]], ids=["idle shards too", "busy ones alone"])
async def test_an_instance_that_is_told_to_end_keeps_only_what_it_has_on_its_way(
    autojump_clock: object, codes: tuple[str, ...]
) -> None:
    async with cluster("one", "two", "three", codes=codes) as the:
        await trio.sleep(30)
        the.receivers.mood = answering(answered(), after_s=8)
        slow = await the.create(2, codes[0])
        owner = the.owner_of(codes[0])
        await the.receivers.wait_for(2)
        the.receivers.mood = answering(answered())
        the.nursery.start_soon(owner.engine.drain, 20)
        quick = []
        for _ in range(12):
            await trio.sleep(0.5)
            quick += [task for code in codes[1:] for task in await the.create(1, code)]
        assert sum(len(one.shards) for one in the.instances.values()) == SHARDS - 1, "the others run all but one"
        rows = await the.settled(slow + quick)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        late = [call.at - int(call.headers["x-taskcenter-due"]) for call in the.receivers.calls]
        assert max(late) < 1000 * LOOK_S + 300, "a look, and the reading of what is due"
        await trio.sleep(LOOK_S + 1)
        assert sizes(the) == [0, 128, 128]


async def test_peers_that_can_be_told_take_what_is_handed_over_at_once(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES, hints=True) as the:
        await trio.sleep(30)
        one, two = the.instances["one"], the.instances["two"]
        began = trio.current_time()
        assert await one.engine.drain(20)
        with trio.fail_after(10):
            while len(two.shards) < SHARDS:
                await trio.sleep(0.01)
        assert trio.current_time() - began < LOOK_S / 2, "it did not wait for its next look"
