"""The businesses a process knows: whoever listens hears of each change, however it came to be seen."""

from __future__ import annotations

from dataclasses import replace

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
        assert [business.rate_limit for business in heard] == [7]
