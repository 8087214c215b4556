"""The loader on virtual time, over a list of references that plays the store."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from taskcenter.clock import Clock
from taskcenter.errors import CommitUnknown, Fenced, StoreUnavailable
from taskcenter.task import TaskRef
from taskcenter.wheel.driver import WheelDriver
from taskcenter.wheel.loader import Loader

ANCHOR = 1_700_000_000_000


def ref(task_id: str, delay_ms: int, *, shard: int = 3) -> TaskRef:
    return TaskRef(task_id, 7, shard, ANCHOR + delay_ms, 1)


class ListSource:
    """A `DueSource` over a list; `fault` is raised while it is set, `page_s` is what a page takes."""

    def __init__(self, refs: list[TaskRef] | None = None, *, page_s: float = 0.0) -> None:
        self.refs = refs or []
        self.page_s = page_s
        self.fault: Exception | None = None
        self.asked_at: list[float] = []
        self.largest = 0

    async def due_refs(
        self,
        shards: frozenset[int] | None,
        due_from_ms: int,
        due_to_ms: int,
        after: tuple[int, str] | None,
        limit: int,
    ) -> list[TaskRef]:
        self.asked_at.append(trio.current_time())
        if self.page_s:
            await trio.sleep(self.page_s)
        if self.fault is not None:
            raise self.fault
        found = sorted(
            (row for row in self.refs if due_from_ms <= row.due_at < due_to_ms and (not shards or row.shard in shards)),
            key=lambda row: (row.due_at, row.task_id),
        )
        page = [row for row in found if after is None or (row.due_at, row.task_id) > after][:limit]
        self.largest = max(self.largest, len(page))
        return page


class Accepted:
    """Takes each reference once, and says when it came."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def __call__(self, ref: TaskRef) -> bool:
        if ref.task_id in self.at:
            return False
        self.at[ref.task_id] = trio.current_time()
        return True

    def __len__(self) -> int:
        return len(self.at)

    @property
    def ids(self) -> list[str]:
        return list(self.at)


def new_loader(source: ListSource, accept: Callable[[TaskRef], bool], **options: Any) -> Loader:
    return Loader(source, Clock(ANCHOR), accept, rng=random.Random(1), **options)


async def test_overdue_first_in_due_order_then_the_window(autojump_clock: trio.testing.MockClock) -> None:
    delays = [*range(-3_000, 0, 2), *range(1_000, 599_000, 500), 601_000]
    source = ListSource([ref(str(delay), delay) for delay in reversed(delays)])
    accepted = Accepted()
    loader = new_loader(source, accepted)
    assert loader.loaded, "nothing to load yet"
    loader.add_shards({3})
    assert loader.statistics().loading == 1
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await loader.wait_loaded()
        assert loader.loaded
        assert len(accepted) >= 1_500 + 58, "all that is overdue and the next half minute"
        await trio.sleep(0.5)
        assert accepted.ids == [str(delay) for delay in delays[:-1]]
        await trio.sleep(1.6)
        assert accepted.ids[-1] == "601000", "the window moves on"
        nursery.cancel_scope.cancel()
    assert source.largest == 500
    statistics = loader.statistics()
    assert (statistics.shards, statistics.loading, statistics.errors, statistics.full) == (1, 0, 0, False)
    assert statistics.accepted == len(delays) <= statistics.refs
    assert repr(loader) == f"<Loader loaded, 1 shards, {statistics.pages} pages, 0 errors>"


async def test_firing_goes_on_while_loading(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource([ref(str(number), number - 5_000) for number in range(5_000)], page_s=0.1)
    clock = Clock(ANCHOR)
    delivered: dict[str, float] = {}

    def deliver(ref: TaskRef) -> None:
        delivered.setdefault(ref.task_id, trio.current_time())

    driver = WheelDriver(clock, deliver)
    loader = Loader(source, clock, driver.schedule, rng=random.Random(1))
    loader.add_shards({3})
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await nursery.start(loader.run)
        await loader.wait_loaded()
        assert delivered["0"] == pytest.approx(0.1, abs=0.01), "as soon as the first page was there"
        assert delivered["4999"] >= 1.0
        nursery.cancel_scope.cancel()
    assert len(delivered) == 5_000


async def test_others_run_between_pages_of_a_store_that_never_blocks(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource([ref(str(number), number - 5_000) for number in range(5_000)])
    accepted = Accepted()
    loader = new_loader(source, accepted)
    loader.add_shards({3})
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        while len(accepted) < 5_000:
            seen.append(len(accepted))
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert max(after - before for before, after in pairwise(seen)) <= 1_000


async def test_another_instances_task_is_found_within_seconds(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource()
    accepted = Accepted()
    loader = new_loader(source, accepted)
    loader.add_shards({3})
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await trio.sleep(20.3)
        source.refs += [ref("due now", 20_300), ref("due soon", 25_000), ref("foreign", 20_300, shard=4)]
        await trio.sleep(1.1)
        assert accepted.ids == ["due now"]
        await trio.sleep(3.6)
        assert accepted.ids == ["due now", "due soon"]
        assert accepted.at["due soon"] < 25.0, "before it is due"
        source.refs.append(ref("long overdue", -3_600_000))
        await trio.sleep(61)
        assert accepted.ids[2:] == ["long overdue"], "only the safety scan looks so far back"
        nursery.cancel_scope.cancel()


async def test_a_store_outage_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource([ref(str(delay), delay) for delay in range(0, 900_000, 1_000)])
    accepted = Accepted()
    errors: list[StoreUnavailable] = []
    loader = new_loader(source, accepted, on_error=errors.append)
    source.fault = CommitUnknown("gone")
    loader.add_shards({3})
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await trio.sleep(60)
        assert loader.statistics().loading == 1 and not accepted
        gaps = [after - before for before, after in pairwise(source.asked_at)]
        assert 0.1 <= gaps[0] <= 0.2 and 0.2 <= gaps[1] <= 0.4, "it waits longer each time,"
        assert all(2.5 <= gap <= 5 for gap in gaps[5:]), "up to a cap,"
        assert len({round(gap, 6) for gap in gaps[5:]}) == len(gaps[5:]), "with jitter"
        assert len(errors) == loader.statistics().errors == len(source.asked_at)
        source.fault = None
        await trio.sleep(5.1)
        assert loader.loaded and 660 <= len(accepted) <= 666, "from 0 to a window from now"
        asked = len(source.asked_at)
        source.fault = StoreUnavailable("again")
        await trio.sleep(40)
        first, second = source.asked_at[asked : asked + 2]
        assert 0.1 <= second - first <= 0.2, "a success begins the waits anew"
        source.fault = None
        await trio.sleep(5.5)
        assert len(accepted) >= 700, "the window goes on where it was read to"
        nursery.cancel_scope.cancel()
    assert accepted.ids == [str(delay) for delay in range(0, len(accepted) * 1_000, 1_000)], "nothing was passed over"


async def test_what_came_due_in_an_outage_is_found_right_after_it(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource()
    accepted = Accepted()
    loader = new_loader(source, accepted, safety_interval_s=3_600)
    loader.add_shards({3})
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await trio.sleep(10.5)
        source.fault = StoreUnavailable("gone")
        await trio.sleep(1)
        source.refs.append(ref("made elsewhere", 12_000))
        await trio.sleep(60)
        source.fault = None
        await trio.sleep(6)
        assert accepted.ids == ["made elsewhere"]
        nursery.cancel_scope.cancel()


async def test_other_errors_end_it_and_a_new_run_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource([ref("a", -5)])
    accepted = Accepted()
    loader = new_loader(source, accepted)
    loader.add_shards({3})
    source.fault = Fenced("term 5 is over")
    with pytest.raises(Fenced):
        await loader.run()
    source.fault = None
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await loader.wait_loaded()
        nursery.cancel_scope.cancel()
    assert accepted.ids == ["a"]


async def test_a_lost_shards_rows_are_not_accepted_from_a_page_on_its_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = ListSource([ref("kept", -5, shard=1), ref("lost", -4, shard=2)], page_s=1)
    accepted = Accepted()
    loader = new_loader(source, accepted)
    loader.add_shards({1, 2})
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await trio.sleep(0.5)
        loader.remove_shards({2})
        await loader.wait_loaded()
        assert accepted.ids == ["kept"]
        loader.remove_shards({1})
        assert loader.loaded and loader.statistics().loaded_until_at is None
        asked = len(source.asked_at)
        await trio.sleep(10)
        assert len(source.asked_at) <= asked + 1, "without shards it rests"
        loader.add_shards({2})
        await loader.wait_loaded()
        assert accepted.ids == ["kept", "lost"], "and is woken when some are added"
        nursery.cancel_scope.cancel()


async def test_lost_and_regained_while_a_page_is_on_its_way(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource([ref(str(number), number - 2_000, shard=1) for number in range(1_200)], page_s=1)
    accepted = Accepted()
    loader = new_loader(source, accepted)
    loader.add_shards({1})
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await trio.sleep(1.5)
        loader.remove_shards({1})
        accepted.at.clear()  # as the wheel does
        loader.add_shards({1})
        assert not loader.loaded
        await loader.wait_loaded()
        nursery.cancel_scope.cancel()
    assert len(accepted) == 1_200


async def test_a_full_wheel_stops_the_window_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    source = ListSource([ref(str(delay), delay) for delay in range(-1_000, 500_000, 100)])
    clock = Clock(ANCHOR)
    delivered: list[TaskRef] = []
    late: list[float] = []

    def deliver(ref: TaskRef) -> None:
        delivered.append(ref)
        late.append(clock.now_ms_exact() - ref.due_at)
        source.refs.remove(ref)

    driver = WheelDriver(clock, deliver)
    most: list[float] = []
    loader = Loader(
        source, clock, driver.schedule, rng=random.Random(1), timers=driver.__len__, max_timers=1_000, page=100
    )
    loader.add_shards({3})
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await nursery.start(loader.run)
        await trio.sleep(5)
        assert loader.statistics().full and 900 <= len(driver) <= 1_000
        for _ in range(500):
            await trio.sleep(1)
            most.append(len(driver))
        nursery.cancel_scope.cancel()
    assert max(most) <= 1_000
    assert len(delivered) == 5_010 and not source.refs, "it goes on when there is room"
    assert max(late[11:]) <= -50 + 1, "and early enough for all but what was overdue from the start"


async def test_covers_follows_the_window(autojump_clock: trio.testing.MockClock) -> None:
    loader = new_loader(ListSource(), Accepted())
    assert loader.covers(ANCHOR + 1_000) and not loader.covers(ANCHOR + 60_000)
    loader.add_shards({3})
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        await trio.sleep(0.1)
        assert loader.covers(ANCHOR + 599_999) and not loader.covers(ANCHOR + 602_000)
        await trio.sleep(100)
        assert loader.covers(ANCHOR + 699_000) and not loader.covers(ANCHOR + 702_000)
        nursery.cancel_scope.cancel()
