"""Limits of single destination hosts, the memory bound, and what a new owner learns of windows longer than a minute."""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.actors.actor_kit import NOW, World, changed, world
from tests.actors.scripted import answered, answering
from tests.actors.test_limiter import most_in_any_window

from taskcenter.actors.host_limits import MAX_HOSTS, HostLimits
from taskcenter.actors.memory import MOST, OVERHEAD, MemoryBudget, MemoryShare
from taskcenter.store.records import Task

MINUTE = 60_000


async def run_at(the: World, host: str, count: int) -> list[Task]:
    return await the.run(count, callback_url=f"http://{host}/", callback_host=host)


def starts(the: World, host: str) -> list[int]:
    return [call.at for call in the.receivers.calls if call.url == f"http://{host}/"]


async def test_a_hosts_limit_holds_beside_the_businesss_and_holds_up_no_other_host(autojump_clock: object) -> None:
    limits = {"slow.test": {"rate": 5, "period": 10, "parallelism": 2}, "*": {"parallelism": 3}}
    async with world(host_limits=limits) as the:
        the.receivers.mood = answering(answered(), after_s=0.5)
        slow = await run_at(the, "slow.test", 20)
        others = await run_at(the, "a.test", 9) + await run_at(the, "b.test", 9)
        await trio.sleep(0.1)
        assert (len(starts(the, "slow.test")), len(starts(the, "a.test")), len(starts(the, "b.test"))) == (2, 3, 3)
        await the.settled(*others, within_s=3)
        await trio.sleep(0.1)
        hold = the.actor().admission.hold_for(slow[-1].ref or others[0].ref, the.clock.now_ms())  # type: ignore[arg-type]  # it waits
        assert hold is not None
        assert (hold.reason, hold.detail) == (
            "host_limit", "5 of 5 callbacks to slow.test were used in the last 10 s",
        )  # fmt: skip
        rows = await the.settled(*slow)
        assert most_in_any_window(starts(the, "slow.test"), 10_000) == 5
        assert {row.current_retry for row in rows} == {0}
        assert (await the.history(slow[-1]))[0].wait_reason == "host_limit"


async def test_a_changed_limit_is_in_force_at_once(autojump_clock: object) -> None:
    async with world(host_limits={"*": {"rate": 1, "period": 3600}}) as the:
        tasks = await run_at(the, "a.test", 5)
        await trio.sleep(1)
        assert len(starts(the, "a.test")) == 1
        the.registry.business_changed(changed(the.businesses[7], host_limits={"*": {"rate": 3, "period": 3600}}))
        await trio.sleep(1)
        assert len(starts(the, "a.test")) == 3, "what was used before counts"
        the.registry.business_changed(changed(the.businesses[7], host_limits={}))
        await the.settled(*tasks, within_s=1)


async def test_windows_longer_than_a_minute_outlive_the_actor(autojump_clock: object) -> None:
    limits = {"*": {"rate": 4, "period": 1800}}
    flow: dict[str, Any] = {"flow_key": "customer-7", "flow_limit": {"rate": 3, "period": 1800}}
    async with world(host_limits=limits) as the:
        first = await run_at(the, "a.test", 3)
        flowing = await the.run(2, callback_url="http://b.test/", callback_host="b.test", **flow)
        await the.settled(*first, *flowing)
        await trio.sleep(120)
        the.registry.drop_shards(frozenset(range(256)))
        former = the.actor()
        del the.registry._actors[7]  # as after a restart: nothing is left but the history
        later = await run_at(the, "a.test", 3)
        more = await the.run(3, callback_url="http://b.test/", callback_host="b.test", **flow)
        await trio.sleep(10)
        assert the.actor() is not former
        assert (len(starts(the, "a.test")), len(starts(the, "b.test"))) == (4, 3)
        await the.settled(*later, *more)
        assert most_in_any_window(starts(the, "a.test"), 1800_000) <= 4
        assert most_in_any_window(starts(the, "b.test"), 1800_000) <= 3


async def test_the_breaker_of_a_dead_host_outlives_the_actor(autojump_clock: object) -> None:
    breaker = {"failure_threshold": 3, "open_seconds": 300, "max_open_seconds": 300}
    async with world(breaker=breaker) as the:
        the.receivers.mood = answering(answered(500))
        tasks = await the.run(3, retry_intervals_ms=())
        await the.settled(*tasks)
        await trio.sleep(150)  # the last minute has nothing of it
        the.registry.drop_shards(frozenset(range(256)))
        del the.registry._actors[7]
        await the.run(20)
        await trio.sleep(100)
        assert len(the.receivers.calls) == 3
        hold = the.actor().admission.breakers.worst
        assert hold is not None and hold.state == "open"


def test_hosts_are_bounded() -> None:
    limits = HostLimits({"*": {"rate": 1, "period": 1}})
    for number in range(3 * MAX_HOSTS):
        flow = limits.of(f"{number}.test", number * 10)
        assert flow is not None
        flow.take(number * 10)
    assert len(limits._flows) <= MAX_HOSTS + 1


# --- memory ---------------------------------------------------------------------------------------------------------


@given(
    capacity=st.integers(0, 20 * MOST),
    sizes=st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), max_size=80),
)
def test_the_sum_never_exceeds_the_capacity_and_one_may_always_pass(
    capacity: int, sizes: list[tuple[int, bool]]
) -> None:
    budget, held = MemoryBudget(capacity), list[MemoryShare]()
    for size, ends in sizes:
        if budget.full:
            assert held
            held.pop(0).release()
            continue
        share = budget.reserve()
        assert budget.used <= max(capacity, MOST)
        share.settle(size)
        held.append(share)
        if ends:
            held.pop().release()
    for share in held:
        share.release()
    assert budget.used == 0


async def test_a_businesss_callbacks_on_their_way_hold_no_more_than_they_may(autojump_clock: object) -> None:
    async with world() as the:
        await the.settled(*await the.run())
        the.actor().admission.memory.capacity = 4 * (OVERHEAD + 2 * 100_000) + MOST
        the.receivers.mood = answering(answered(), after_s=1)
        big = await the.run(20, payload=b'"' + b"x" * 100_000 + b'"')
        await trio.sleep(0.5)
        assert 2 <= the.receivers.on_their_way <= 6
        hold = the.actor().admission.hold
        assert hold is not None and hold.reason == "memory"
        await the.settled(*big)
        the.actor().admission.memory.capacity = 3 * MOST
        the.receivers.mood = answering(answered(), after_s=3)
        before = len(the.receivers.calls)
        small = await the.run(30)
        await trio.sleep(1)
        assert len(the.receivers.calls) - before == 30, "what a claim gives back lets the next one start"
        await the.settled(*small)
        assert the.actor().admission.memory.used == 0
        assert the.clock.now_ms() - NOW < 3 * MINUTE
