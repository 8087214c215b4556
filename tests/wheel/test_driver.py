"""The driver on virtual time: due less the lead, never earlier, however it is woken."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import trio
import trio.testing

from taskcenter.clock import Clock
from taskcenter.task import TaskRef
from taskcenter.wheel.driver import WheelDriver

ANCHOR = 1_700_000_000_000
LEAD = 50


def ref(task_id: str, delay_ms: int, *, version: int = 1, shard: int = 3) -> TaskRef:
    return TaskRef(task_id, 7, shard, ANCHOR + delay_ms, version)


class Deliveries:
    """Where references are delivered to, with the engine time at which they were."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.refs: list[TaskRef] = []
        self.at: list[float] = []

    def __call__(self, ref: TaskRef) -> None:
        self.refs.append(ref)
        self.at.append(self.clock.now_ms_exact())

    @property
    def ids(self) -> list[str]:
        return [ref.task_id for ref in self.refs]


async def test_delivers_at_due_less_the_lead(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries, lead_ms=LEAD)
    delays = [51, 52, 59, 300, 1_049, 1_051, 5_000, 65_537, 299_999, 3_600_000, 80_000_000]
    for delay in delays:
        assert driver.schedule(ref(str(delay), delay))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(80_001)
        nursery.cancel_scope.cancel()
    assert deliveries.ids == [str(delay) for delay in delays]
    assert deliveries.at == pytest.approx([ANCHOR + delay - LEAD for delay in delays], abs=0.2)
    assert all(at >= ref.due_at - LEAD for at, ref in zip(deliveries.at, deliveries.refs, strict=True))


async def test_fractions_of_a_millisecond_neither_fire_early_nor_spin(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR + 0.7321)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries, lead_ms=LEAD)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        for step in range(200):
            driver.schedule(ref(str(step), 100 + 37 * step))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert len(deliveries.refs) == 200
    late = [at - (ref.due_at - LEAD) for at, ref in zip(deliveries.at, deliveries.refs, strict=True)]
    assert min(late) >= 0 and max(late) < 0.5


async def test_overdue_references_are_delivered_at_once(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.testing.wait_all_tasks_blocked()
        driver.schedule(ref("now", 0))
        driver.schedule(ref("long ago", -3_600_000))
        driver.schedule(ref("within the lead", LEAD))
        await trio.sleep(0.001)
        assert deliveries.ids == ["long ago", "now", "within the lead"]
        nursery.cancel_scope.cancel()


async def test_only_an_earlier_timer_wakes_the_sleeper(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    slices: list[float] = []
    driver = WheelDriver(clock, deliveries, lead_ms=LEAD, on_timers=slices.append)
    driver.schedule(ref("first", 1_000))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(0.4)
        woken = len(slices)
        driver.schedule(ref("later", 2_000))
        await trio.sleep(0.1)
        assert len(slices) == woken, "a later timer is no reason to wake"
        driver.schedule(ref("earlier", 700))
        await trio.sleep(0.149)
        assert deliveries.ids == []
        await trio.sleep(0.002)
        assert deliveries.ids == ["earlier"]
        assert slices[-1] == 2
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert deliveries.ids == ["earlier", "first", "later"]
    assert deliveries.at == pytest.approx([ANCHOR + due - LEAD for due in (700, 1_000, 2_000)], abs=0.2)


async def test_the_newest_version_wins(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries)
    assert driver.schedule(ref("a", 1_000, version=2))
    assert not driver.schedule(ref("a", 100, version=1)), "older"
    assert not driver.schedule(ref("a", 1_000, version=2)), "known"
    assert driver.schedule(ref("a", 3_000, version=3)), "newer, later"
    assert driver.schedule(ref("a", 2_000, version=3)), "the same version, moved"
    assert len(driver) == 1
    assert driver.holds(ref("a", 2_000, version=3)) and driver.holds(ref("a", 0, version=2))
    assert not driver.holds(ref("a", 2_000, version=4)) and not driver.holds(ref("b", 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [(ref.due_at - ANCHOR, ref.version) for ref in deliveries.refs] == [(2_000, 3)]
    assert driver.schedule(ref("a", 20_000, version=1)), "what was delivered is not remembered: the row is the truth"


async def test_forget(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries)
    driver.schedule(ref("a", 1_000))
    driver.schedule(ref("b", 1_000))
    assert "a" in driver
    assert driver.forget("a") and not driver.forget("a") and not driver.forget("nobody")
    assert "a" not in driver and len(driver) == 1
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert deliveries.ids == ["b"]


async def test_a_lost_shard_is_silent_until_it_is_loaded_again(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries)
    for number in range(10):
        driver.schedule(ref(f"kept {number}", 1_000, shard=1))
        driver.schedule(ref(f"lost {number}", 1_000, shard=2, version=5))
        driver.schedule(ref(f"lost too {number}", 1_000, shard=200))
    assert driver.drop_shards({2, 200, 9}) == 20
    assert driver.drop_shard(2) == 0
    assert len(driver) == 10 and "lost 0" not in driver and not driver.forget("lost 1")
    assert not driver.holds(ref("lost 0", 1_000, shard=2, version=5))
    assert driver.statistics().abandoned == 19
    assert driver.schedule(ref("lost 2", 900, shard=2, version=4)), "what was lost has no say in what is loaded again"
    assert driver.schedule(ref("lost 3", 1_000, shard=2, version=5))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert deliveries.ids == ["lost 2", *(f"kept {number}" for number in range(10)), "lost 3"]
    assert len(driver) == 0 and driver.statistics().abandoned == 0


async def test_a_hundred_thousand_overdue_let_others_run(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries, budget=256)
    for number in range(100_000):
        driver.schedule(ref(str(number), -(number * 7919) % 1_000_003 - 1_000_004))
    turns: list[int] = []

    async def other() -> None:
        while len(deliveries.refs) < 100_000:
            turns.append(len(deliveries.refs))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await other()
        nursery.cancel_scope.cancel()
    gaps = [after - before for before, after in pairwise(turns)]
    assert max(gaps) <= 512, "slices of 256; trio may run the driver twice between two turns of another"
    assert [ref.due_at for ref in deliveries.refs] == sorted(ref.due_at for ref in deliveries.refs)


async def test_tick_lag_is_how_late_a_planned_wake_up_was(mock_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    lags: list[float] = []
    driver = WheelDriver(clock, Deliveries(clock), lead_ms=LEAD, on_tick_lag=lags.append)
    driver.schedule(ref("a", 500 + LEAD))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(8)  # as if something had blocked the loop
        await trio.testing.wait_all_tasks_blocked()
        assert lags == pytest.approx([7.5])
        driver.schedule(ref("overdue", 0))
        mock_clock.jump(0.001)
        await trio.testing.wait_all_tasks_blocked()
        statistics = driver.statistics()
        nursery.cancel_scope.cancel()
    assert statistics.tick_lag_s < 0.01, "an overdue reference is no lag of ours"
    assert statistics.worst_tick_lag_s == pytest.approx(7.5)
    assert (statistics.delivered, statistics.timers, statistics.next_deadline_at) == (2, 0, None)


@pytest.mark.parametrize("error_ms", [4_000, -4_000])
async def test_a_slewed_clock_makes_it_neither_early_nor_late(
    error_ms: int, autojump_clock: trio.testing.MockClock
) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries, lead_ms=LEAD)
    for delay in (60_000, 125_000, 290_000):  # far enough apart that none owes its punctuality to another's wake-up
        driver.schedule(ref(str(delay), delay))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        for _ in range(120):
            await trio.sleep(2.5)
            clock.observe(clock.now_ms_exact() + error_ms)
        nursery.cancel_scope.cancel()
    late = [at - (ref.due_at - LEAD) for at, ref in zip(deliveries.at, deliveries.refs, strict=True)]
    assert len(late) == 3 and min(late) >= 0
    assert max(late) < LEAD, "the lead covers it"


async def test_a_clock_that_jumps_wakes_it(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    deliveries = Deliveries(clock)
    driver = WheelDriver(clock, deliveries, lead_ms=LEAD)
    driver.schedule(ref("a", 3_600_000))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        for _ in range(3):  # of which the third jumps
            await trio.sleep(1)
            there = clock.now_ms_exact() + 3_600_000
            clock.hear_store(there, trio.current_time())
            if clock.observe(there):
                driver.wake()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert [one.task_id for one in deliveries.refs] == ["a"]


async def test_deliver_may_schedule(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    at: list[int] = []

    def again(ref: TaskRef) -> None:
        at.append(clock.now_ms() - ANCHOR)
        if len(at) < 5:
            driver.schedule(replace(ref, due_at=ref.due_at + 100, version=ref.version + 1))

    driver = WheelDriver(clock, again, lead_ms=LEAD)
    driver.schedule(ref("a", 150))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert at == [100, 200, 300, 400, 500]


async def test_an_error_of_deliver_is_raised_and_costs_no_other_its_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock = Clock(ANCHOR)
    delivered: list[str] = []

    def fail_once(ref: TaskRef) -> None:
        delivered.append(ref.task_id)
        if ref.task_id == "1" and delivered.count("1") == 1:
            raise LookupError("a bug")

    driver = WheelDriver(clock, fail_once)
    for number in range(4):
        driver.schedule(ref(str(number), number))
    with pytest.raises(LookupError):
        await driver.run()
    assert delivered == ["0", "1"] and len(driver) == 2
    assert driver.schedule(ref("1", 1)), "the scan finds it again"
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert delivered == ["0", "1", "1", "2", "3"]


async def test_one_run_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    driver = WheelDriver(clock, Deliveries(clock))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        with pytest.raises(RuntimeError):
            await driver.run()
        nursery.cancel_scope.cancel()
    with pytest.raises(ValueError, match="at least one"):
        WheelDriver(clock, Deliveries(clock), budget=0)


async def test_repr_and_statistics_tell_the_state(autojump_clock: trio.testing.MockClock) -> None:
    clock = Clock(ANCHOR)
    driver = WheelDriver(clock, Deliveries(clock), lead_ms=LEAD)
    assert repr(driver) == "<WheelDriver stopped, 0 timers, 0 delivered>"
    driver.schedule(ref("a", 500))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.testing.wait_all_tasks_blocked()
        assert repr(driver) == "<WheelDriver asleep, 1 timers, 0 delivered>"
        assert driver.statistics().next_deadline_at == ANCHOR + 500 - LEAD
        nursery.cancel_scope.cancel()
