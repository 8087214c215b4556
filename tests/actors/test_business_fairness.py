"""What one business's actor leaves to the others of its process, and what its minute is counted by."""

from __future__ import annotations

import trio
from tests.actors.actor_kit import changed, world
from tests.actors.scripted import Call, ScriptedClient, answered, answering

from taskcenter.actors.egress.exchange import Exchange
from taskcenter.task import Status


async def test_a_full_process_is_shared_by_turns(autojump_clock: object) -> None:
    async with world(in_flight=4) as the:
        await the.add(8, "small")
        many = await the.run(200)
        await trio.sleep(0.1)
        few = await the.run(10, business_id=8)
        rows = await the.settled(*few, within_s=1)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        assert (await the.row(many[-1])).status is Status.PENDING  # the many were not done first
        await the.settled(*many)
        assert the.receivers.most_at_once == 4
        assert the.gate.statistics().taken == 0


async def test_a_minute_counts_from_the_first_byte_however_long_that_was_in_coming(autojump_clock: object) -> None:
    async with world(rate_limit=2) as the:
        await the.settled(*await the.run(1))
        client = the.actor().client
        assert isinstance(client, ScriptedClient)
        client._hesitates_s = 4.0  # a token, a name, a handshake
        await the.settled(*await the.run(1))
        client._hesitates_s = 0.0
        await the.settled(*await the.run(3), within_s=200)
        at = [call.at for call in the.receivers.calls]
        assert all(later - earlier >= 60_000 for earlier, later in zip(at, at[2:], strict=False)), at


async def test_one_business_leaves_an_eighth_of_the_process_to_the_others(autojump_clock: object) -> None:
    async with world(in_flight=16, max_concurrent_tasks=100) as the:

        async def hanging(_: Call) -> Exchange:
            await trio.sleep(4)
            return answered()

        the.receivers.mood = hanging
        await the.add(8, "small")
        many = await the.run(40)
        await trio.sleep(1)
        assert the.gate.statistics().taken == 14
        hold = the.actor().admission.hold
        assert hold is not None
        assert (hold.reason, hold.detail) == ("capacity", "the process has its most callbacks of one business: 14")
        few = await the.run(2, business_id=8)
        await the.receivers.wait_for(16, within_s=0.1)
        await the.settled(*many, *few)
        assert (the.receivers.most_at_once, the.gate.statistics().taken, the.gate.statistics().kept) == (16, 0, 0)


async def test_a_business_that_may_not_start_keeps_no_slot_from_the_others(autojump_clock: object) -> None:
    async with world(in_flight=1, rate_limit=1) as the:
        await the.add(8, "other")
        the.receivers.mood = answering(answered(), after_s=1)
        first = await the.run()
        await the.receivers.wait_for(1)
        blocked = await the.run()  # queues for the only slot, and is over its rate when it gets it
        the.registry.business_changed(changed(the.businesses[7], rate_limit=1_000))
        await trio.sleep(0.1)
        the.registry.business_changed(changed(changed(the.businesses[7])))
        others = await the.run(3, business_id=8)
        await the.settled(*first, *others, within_s=10)
        assert (await the.row(blocked[0])).status is Status.PENDING
        await the.settled(*blocked)
