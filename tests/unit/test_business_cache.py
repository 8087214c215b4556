"""The businesses a process knows: whoever listens hears of each change, however it came to be seen."""

from __future__ import annotations

from dataclasses import replace

import trio
from tests.actors.actor_kit import memory_store
from tests.store.store_kit import BUSINESS, NOW, add_business, audit_entry
from trio.testing import MockClock

from taskcenter.clock import Clock
from taskcenter.service.business_cache import BusinessCache
from taskcenter.store.records import Business


async def test_a_change_that_a_request_reads_before_the_poll_is_told(autojump_clock: MockClock) -> None:
    """As after a while without polls: the process stood still, or the store was out."""
    clock = Clock(NOW)
    async with memory_store(clock) as store:
        await add_business(store)
        cache = BusinessCache(store.businesses, clock)
        heard: list[Business] = []
        cache.listen(heard.append)
        before = await cache.by_id(BUSINESS)
        assert before is not None
        changed = replace(before, version=2, rate_limit=7)
        assert await store.businesses.update(changed, audit_entry("business.update"))
        autojump_clock.jump(10)
        for _ in range(2):
            read = await cache.by_id(BUSINESS)
            assert read is not None and read.rate_limit == 7
        assert [business.version for business in heard] == [1, 2]
        assert heard[-1].rate_limit == 7


async def test_what_a_request_sees_first_is_told_though_no_poll_finds_it_new(autojump_clock: MockClock) -> None:
    """The engine may have read an older version by itself, at a takeover, right before the change."""
    clock = Clock(NOW)
    async with memory_store(clock) as store:
        await add_business(store)
        made = await store.businesses.get_by_id(BUSINESS)
        assert made is not None
        changed = replace(made, version=2, rate_limit=7)
        cache = BusinessCache(store.businesses, clock)
        heard: list[Business] = []
        cache.listen(heard.append)
        assert await store.businesses.update(changed, audit_entry("business.update"))
        assert await cache.by_code(made.code) is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert [(business.version, business.rate_limit) for business in heard] == [(2, 7)]
