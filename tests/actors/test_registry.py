"""The registry: actors that crash, are degraded, come and go; none of it is another business's concern."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.actors.actor_kit import NOW, changed, world
from tests.actors.scripted import answered, answering
from tests.store.store_kit import claim, outcome

from taskcenter.actors import registry as registry_module
from taskcenter.actors.budget import CRASHES, DEGRADED_RETRY_S, WINDOW_S, RestartBudget
from taskcenter.actors.business import BusinessActor
from taskcenter.actors.mailbox import Offer
from taskcenter.actors.tools import ActorTools
from taskcenter.store.engine_records import SendPoint
from taskcenter.store.records import Business
from taskcenter.task import SHARDS, Status, TaskRef

# --- crashes ---------------------------------------------------------------------------------------------------------


class Fragile:
    """Makes the actor's admission fail while `broken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken: set[int] = set()
        self.crashes = 0
        sound = BusinessActor._admit  # the bug to be survived sits inside

        def admit(actor: BusinessActor, attempts: trio.Nursery) -> int | None:
            if actor.business.id in self.broken:
                self.crashes += 1
                raise RuntimeError("a bug")
            return sound(actor, attempts)

        monkeypatch.setattr(BusinessActor, "_admit", admit)


async def test_a_crashed_actor_is_restarted_with_its_queue_and_its_attempts(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = Fragile(monkeypatch)
    async with world(max_concurrent_tasks=2) as the:
        the.receivers.mood = answering(answered(), after_s=1)
        tasks = await the.run(6)
        await the.receivers.wait_for(2)
        fragile.broken.add(7)
        the.actor().wake()
        await trio.sleep(0.3)
        assert fragile.crashes >= 1
        fragile.broken.clear()
        rows = await the.settled(*tasks, within_s=30)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        assert the.count("actor_restarts_total", business="shop") == fragile.crashes
        assert not the.actor().degraded
        assert the.alerts == []


async def test_a_spent_budget_degrades_that_business_alone_until_it_stands_again(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = Fragile(monkeypatch)
    async with world(in_flight=4) as the:
        await the.add(8, "other")
        fragile.broken.add(7)
        tasks = await the.run(3)
        await trio.sleep(30)
        assert fragile.crashes == CRASHES
        assert the.actor().degraded
        assert the.registry.statistics().degraded == 1
        assert [rule for rule, _ in the.alerts] == ["actor_degraded"]
        others = await the.run(10, business_id=8)
        await the.settled(*others, within_s=2)
        await trio.sleep(3 * DEGRADED_RETRY_S)
        assert CRASHES + 2 <= fragile.crashes <= CRASHES + 4  # one try a minute
        assert len(the.alerts) == 1
        fragile.broken.clear()
        await the.settled(*tasks, within_s=DEGRADED_RETRY_S + 1)
        assert the.actor().degraded
        await trio.sleep(WINDOW_S)
        assert not the.actor().degraded


async def test_a_crashed_actor_keeps_no_slot_from_the_others(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = Fragile(monkeypatch)
    async with world(in_flight=1) as the:
        await the.add(8, "other")
        the.receivers.mood = answering(answered(), after_s=1)
        first = await the.run(business_id=8)
        await the.receivers.wait_for(1)
        await the.run()  # queues for the slot
        await trio.sleep(0.5)
        fragile.broken.add(7)
        others = await the.run(3, business_id=8)
        await the.settled(*first, *others, within_s=10)


def test_the_budget_in_figures() -> None:
    budget = RestartBudget()
    budget.started(0)
    pauses = [budget.crashed(float(second), 0.5) for second in range(CRASHES)]
    assert pauses == [pytest.approx(0.1 * 2.0**number) for number in range(1, CRASHES)] + [DEGRADED_RETRY_S]
    assert budget.degraded
    budget.started(100)
    assert budget.crashed(101, 0.5) == DEGRADED_RETRY_S  # still degraded: one try, one crash
    budget.started(200)
    assert budget.still_degraded(200 + WINDOW_S - 1)
    assert not budget.still_degraded(200 + WINDOW_S)
    assert budget.crashed(300, 0.5) == pytest.approx(0.2)  # it stood: the budget is new


async def test_a_business_that_cannot_be_started_harms_no_other(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(business: Business, tools: ActorTools) -> BusinessActor:
        if business.id == 7:
            raise ValueError("a setting nobody understands")
        return BusinessActor(business, tools)

    async with world() as the:
        await the.add(8, "other")
        monkeypatch.setattr(registry_module, "BusinessActor", refuse)
        await the.run()
        others = await the.run(3, business_id=8)
        await the.settled(*others, within_s=2)
        monkeypatch.undo()
        assert the.alerts == [("actor_degraded", "business 7 cannot be started: ValueError")]
        await the.receivers.wait_for(4, within_s=DEGRADED_RETRY_S + 1)  # tried again, and its task was not lost


async def test_a_bug_beside_the_attempts_ends_nothing_else(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def expire(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a bug")

    monkeypatch.setattr("taskcenter.actors.business.expire", expire)
    async with world() as the:
        await the.run(due_at=NOW, deadline_at=NOW - 1)
        [task] = await the.run()
        await the.settled(task)
        assert [rule for rule, _ in the.alerts] == ["actor_work_failed"]


# --- coming and going ------------------------------------------------------------------------------------------------


async def test_an_actor_comes_on_demand_goes_when_idle_and_comes_again(autojump_clock: object) -> None:
    async with world() as the:
        for round_ in (1, 2, 3):
            tasks = await the.run(2)
            await the.settled(*tasks)
            assert the.registry.statistics().actors == 1
            await trio.sleep(registry_module.IDLE_MS / 1000 + 2 * registry_module.PASSIVATE_EVERY_S)
            assert the.registry.get(7) is None
            assert [client.closed for client in the.clients] == [True] * round_


async def test_a_drained_registry_starts_nothing_more_and_waits_for_what_is_on_its_way(autojump_clock: object) -> None:
    async with world(max_concurrent_tasks=2) as the:
        the.receivers.mood = answering(answered(), after_s=3)
        await the.run(6)
        await the.receivers.wait_for(2)
        [other] = await the.create()
        with trio.fail_after(3.5):
            await the.registry.drain()
        assert all(call.ended for call in the.receivers.calls)
        assert the.registry.statistics().in_flight == 0
        assert other.ref is not None
        assert the.registry.offer(other.ref) is Offer.CLOSED
        await trio.sleep(10)
        assert len(the.receivers.calls) == 2


async def test_a_business_that_was_being_read_when_draining_began_does_not_start(autojump_clock: object) -> None:
    async with world() as the:
        [task] = await the.create()
        assert task.ref is not None
        assert the.registry.offer(task.ref) is Offer.ACCEPTED
        await the.registry.drain()
        await trio.sleep(10)
        assert the.receivers.calls == []


async def test_a_reference_to_nobody_is_forgotten(autojump_clock: object) -> None:
    async with world() as the:
        assert the.registry.offer(TaskRef("t", 99, 1, NOW, 1)) is Offer.ACCEPTED
        await trio.sleep(1)
        assert the.registry.statistics().actors == 0


async def test_a_change_told_while_the_business_is_being_loaded_is_not_lost(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as the:
        load = the.store.businesses.get_by_id

        async def slowly(business_id: int) -> Business | None:
            found = await load(business_id)
            await trio.sleep(1)
            return found

        monkeypatch.setattr(the.registry, "_load", slowly)
        tasks = await the.run()
        await trio.sleep(0.5)
        before = await load(7)
        assert before is not None and the.registry.get(7) is None
        the.registry.business_changed(changed(before, max_concurrent_tasks=1))
        the.registry.business_changed(before)  # told late: the younger one stays
        await the.settled(*tasks)
        assert the.actor().business.max_concurrent_tasks == 1
        assert the.clients[-1].business.max_concurrent_tasks == 1


async def test_what_is_offered_while_the_business_is_being_loaded_is_held_once_in_its_newest_version(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as the:
        load = the.store.businesses.get_by_id

        async def slowly(business_id: int) -> Business | None:
            await trio.sleep(1)
            return await load(business_id)

        monkeypatch.setattr(the.registry, "_load", slowly)
        first, second = [task.ref for task in await the.create(2)]
        assert first is not None and second is not None
        older = replace(first, version=first.version - 1)
        assert not the.registry.holds(first)
        for ref in (older, first, second, older):  # the sweep and the API tell of the same, in any order
            assert the.registry.offer(ref) is Offer.ACCEPTED
        assert the.registry.holds(first) and the.registry.holds(older) and the.registry.holds(second)
        assert not the.registry.holds(replace(first, version=first.version + 1))
        await trio.sleep(5)
        assert len(the.receivers.calls) == 2
        assert the.count("claims_refused_total") == 0


async def test_a_shard_that_goes_and_comes_back_while_its_business_is_being_loaded(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its owner meanwhile has sent counts, though the history was read before."""
    async with world(rate_limit=3) as the:
        read = the.store.engine.recent_sends

        async def slowly(*given: Any) -> list[SendPoint]:
            found = await read(*given)
            await trio.sleep(1)
            return found

        monkeypatch.setattr(the.store.engine, "recent_sends", slowly)
        others = await the.create(2)
        mine = await the.run(3)
        await trio.sleep(0.5)
        assert the.registry.get(7) is None
        the.registry.drop_shards(frozenset(range(SHARDS)))
        for task in others:
            claimed = await claim(the.store, task, term=the.terms[task.shard], now=the.clock.now_ms())
            await the.store.engine.record([outcome(claimed)], the.clock.now_ms())
        the.tell(*mine)
        await trio.sleep(30)
        assert len(the.receivers.calls) == 1
        await the.settled(*mine)
