"""The cache in front of the store: how old, how many reads, how much memory."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.service.read_through import FRESH_MS, ReadThrough


class Source:
    """Something slow to read from."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.reads: list[str] = []
        self.slow_s = 0.0
        self.out = False

    async def read(self, key: str) -> int | None:
        self.reads.append(key)
        value = self.values.get(key)
        await trio.sleep(self.slow_s)
        if self.out:
            raise StoreUnavailable("out")
        return value


def cached(source: Source, **bounds: int) -> ReadThrough[str, int]:
    return ReadThrough(source.read, Clock(1_000_000).now_ms, **bounds)


async def test_a_value_is_read_again_after_a_second_and_a_half(autojump_clock: MockClock) -> None:
    source = Source()
    source.values["a"] = 1
    cache = cached(source)
    assert [await cache.get("a"), await cache.get("a")] == [1, 1]
    source.values["a"] = 2
    await trio.sleep(FRESH_MS / 1000 - 0.01)
    assert await cache.get("a") == 1
    await trio.sleep(0.02)
    assert await cache.get("a") == 2
    assert source.reads == ["a", "a"]


async def test_that_there_is_nothing_is_believed_as_long(autojump_clock: MockClock) -> None:
    source = Source()
    cache = cached(source)
    assert [await cache.get("a"), await cache.get("a")] == [None, None] and source.reads == ["a"]
    source.values["a"] = 1
    await trio.sleep(FRESH_MS / 1000 + 0.01)
    assert await cache.get("a") == 1


async def test_the_age_counts_from_the_begin_of_the_read(autojump_clock: MockClock) -> None:
    source = Source()
    source.values["a"], source.slow_s = 1, 1.0
    cache = cached(source)
    await cache.get("a")
    await trio.sleep(0.6)
    await cache.get("a")
    assert source.reads == ["a", "a"]


async def test_those_who_miss_together_share_a_read(autojump_clock: MockClock) -> None:
    source = Source()
    source.values["a"], source.slow_s = 1, 1.0
    cache = cached(source)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(cache.get, "a")
    assert source.reads == ["a"]


async def test_an_outage_is_heard_of_once_by_all(autojump_clock: MockClock) -> None:
    source = Source()
    source.slow_s, source.out = 1.8, True
    cache = cached(source)
    refused = []

    async def ask() -> None:
        with pytest.raises(StoreUnavailable):
            await cache.get("a")
        refused.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert len(refused) == 50 and max(refused) - began < 2 and source.reads == ["a"]
    source.out = False
    source.values["a"] = 1
    assert await cache.get("a") == 1


async def test_a_reader_who_leaves_hands_the_read_on(autojump_clock: MockClock) -> None:
    source = Source()
    source.values["a"], source.slow_s = 1, 1.0
    cache = cached(source)
    found: list[int | None] = []

    async def ask() -> None:
        found.append(await cache.get("a"))

    with trio.CancelScope() as leaving:
        async with trio.open_nursery() as rest:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cache.get, "a")
                await wait_all_tasks_blocked()
                rest.start_soon(ask)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
    assert found == [1] and source.reads == ["a", "a"] and not leaving.cancelled_caught


async def test_memory_is_bounded_and_absent_keys_push_out_no_present_ones(autojump_clock: MockClock) -> None:
    source = Source()
    source.values = {str(number): number for number in range(10)}
    cache = cached(source, most=5, most_absent=3)
    for number in range(10):
        await cache.get(str(number))
    for number in range(100):
        await cache.get(f"absent {number}")
    assert len(cache) == 8
    assert [cache.last_seen(str(number)) for number in (4, 5, 9)] == [None, 5, 9]


async def test_dropped_and_put_values(autojump_clock: MockClock) -> None:
    source = Source()
    source.values["a"] = 1
    cache = cached(source)
    await cache.get("a")
    source.values["a"] = 2
    cache.drop("a")
    assert await cache.get("a") == 2
    cache.put("a", 3, 1_000_000)
    assert await cache.get("a") == 3


async def test_a_slow_read_does_not_undo_what_was_put_meanwhile(autojump_clock: MockClock) -> None:
    source = Source()
    source.values["a"], source.slow_s = 1, 1.0
    cache = cached(source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "a")
        nursery.start_soon(cache.get, "b")
        await trio.sleep(0.5)
        for key in ("a", "b"):
            cache.put(key, 2, 1_000_500)
    assert [await cache.get("a"), await cache.get("b")] == [2, 2]
    assert sorted(source.reads) == ["a", "b"]
