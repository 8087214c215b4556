"""Whole engines, one and two: what one instance promises, and what becomes of its tasks when it goes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio
import trio.testing
from tests.actors.scripted import answered, answering
from tests.runtime.engine_kit import CODES, TTL_S, Cluster, cluster
from tests.store.store_kit import NOW

from taskcenter.schedule import validate
from taskcenter.store.records import ExecutionStatus
from taskcenter.task import FinishReason, Status

HOUR_MS = 3_600_000


def calls_by_task(the: Cluster) -> Counter[str]:
    return Counter(call.task_id for call in the.receivers.calls)


# --- one instance ---------------------------------------------------------------------------------------------------


async def test_what_is_due_within_the_window_and_beyond_it_is_sent_on_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster("one") as the:
        delays_ms = (0, 1, 49, 50, 51, 1_000, 30_000, 599_000, 605_000, 620_000)
        tasks = [(await the.create(due_at=NOW + delay))[0] for delay in delays_ms]
        await trio.sleep(40)
        autojump_clock.jump(540)
        await the.settled(tasks)
        assert calls_by_task(the) == {task.id: 1 for task in tasks}
        for call in the.receivers.calls:
            assert 0 <= call.at - call.due_at <= (10 if call.due_at - NOW > 50 else 60)


async def test_a_task_nobody_told_of_is_found_by_the_sweep(autojump_clock: object) -> None:
    async with cluster("one") as the:
        the.instances.clear()  # the API's word is lost
        [task] = await the.create()
        await the.settled([task], within_s=2.5)


async def test_the_retry_list_is_exact(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(500), after_s=0.25)
        intervals = (1_000, 30_000, 3_000, 660_000)  # the last one is beyond the window
        [task] = await the.create(retry_intervals_ms=intervals)
        await the.receivers.wait_for(4)
        await trio.sleep(1)
        autojump_clock.jump(640)
        [row] = await the.settled([task])
        assert row.finish_reason is FinishReason.RETRIES_EXHAUSTED
        gaps = [after.at - before.at for before, after in pairwise(the.receivers.calls)]
        assert gaps == [pytest.approx(interval + 250, abs=3) for interval in intervals]
        assert [attempt.attempt for attempt in await the.history(task)] == [1, 2, 3, 4, 5]


async def test_a_schedule_over_a_day_has_every_run_once_and_on_time(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("one") as the:
        [task] = await the.create(schedule=validate({"every": 3600}), due_at=NOW + HOUR_MS)
        for hour in range(1, 25):
            autojump_clock.jump((NOW + hour * HOUR_MS - 15_000 - the.clock.now_ms()) / 1000)  # a machine that sleeps
            await the.receivers.wait_for(hour, within_s=20)
            await trio.sleep(1)
        assert [call.due_at for call in the.receivers.calls] == [NOW + hour * HOUR_MS for hour in range(1, 25)]
        assert all(0 <= call.at - call.due_at <= 10 for call in the.receivers.calls)
        row = await the.row(task)
        assert (row.status, row.runs_done, row.run) == (Status.PENDING, 24, 25)
        assert row.next_execute_at == NOW + 25 * HOUR_MS


async def test_a_year_of_weekday_mornings_in_two_cities_is_what_a_calendar_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """`30 9 * * 1-5`, from an independent walk over the days; the clock is moved to 3 s before each time."""
    async with cluster("one") as the:
        due_of: dict[str, list[int]] = {}
        for city in ("America/New_York", "Asia/Shanghai"):
            zone, first = ZoneInfo(city), datetime.fromtimestamp(NOW / 1000, UTC).date()
            days = (first + timedelta(days=number) for number in range(1, 366))
            mornings = [datetime.combine(day, time(9, 30), zone) for day in days if day.weekday() < 5]
            dues = [int(morning.timestamp() * 1000) for morning in mornings]
            schedule = validate({"cron": "30 9 * * 1-5", "timezone": city})
            [task] = await the.create(schedule=schedule, due_at=dues[0])
            due_of[task.id] = dues
        for number, due_at in enumerate(sorted(at for dues in due_of.values() for at in dues), 1):
            autojump_clock.jump((due_at - 3_000 - the.clock.now_ms()) / 1000)
            await the.receivers.wait_for(number, within_s=10)
            await trio.sleep(1)  # the answer is recorded before the clock moves on
        called = {
            task_id: [call.due_at for call in the.receivers.calls if call.task_id == task_id] for task_id in due_of
        }
        assert called == due_of
        assert all(0 <= call.at - call.due_at <= 10 for call in the.receivers.calls)


async def test_times_that_passed_while_the_machine_slept_are_made_up_for_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster("one") as the:
        [once] = await the.create(schedule=validate({"every": 3600}), due_at=NOW + HOUR_MS)
        [skip] = await the.create(schedule=validate({"every": 3600, "misfire": "skip"}), due_at=NOW + HOUR_MS)
        await trio.sleep(1)
        autojump_clock.jump(5 * 3600 + 1800)
        await the.receivers.wait_for(1, within_s=20)
        await trio.sleep(5)
        assert [call.task_id for call in the.receivers.calls] == [once.id]
        for task in (once, skip):
            row = await the.row(task)
            assert (row.status, row.next_execute_at) == (Status.PENDING, NOW + 6 * HOUR_MS)


async def test_a_drained_engine_ends_what_is_on_its_way_and_starts_nothing(autojump_clock: object) -> None:
    async with cluster("one", max_concurrent_tasks=5) as the:
        the.receivers.mood = answering(answered(), after_s=2)
        tasks = await the.create(20)
        await the.receivers.wait_for(5)
        one = the.instances["one"]
        assert await one.engine.drain(30)
        assert [(await the.row(task)).status for task in tasks].count(Status.SUCCEEDED) == 5
        await trio.sleep(60)
        assert len(the.receivers.calls) == 5
        assert one.shards == frozenset()
        assert {lease.owner for lease in await the.store.leases.shards()} == {None}
        assert one.engine.health()["engine"].startswith("unavailable")


async def test_a_drain_ends_in_time_whatever_hangs_and_without_a_store(autojump_clock: object) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=25)
        await the.create()
        await the.receivers.wait_for(1)
        one = the.instances["one"]
        one.line.cut = True
        with trio.fail_after(10):
            assert not await one.engine.drain(5)


async def test_a_store_that_is_away_for_a_while_delays_and_loses_nothing(autojump_clock: object) -> None:
    async with cluster("one") as the:
        early = await the.create(5, due_at=NOW + 5_000)
        late = await the.create(5, due_at=NOW + 60_000)
        await trio.sleep(4.9)
        the.instances["one"].line.cut = True
        await trio.sleep(120)
        assert the.receivers.calls == []
        the.instances["one"].line.cut = False
        await the.settled([*early, *late], within_s=10)
        assert calls_by_task(the) == {task.id: 1 for task in (*early, *late)}


# --- two instances --------------------------------------------------------------------------------------------------


async def test_a_crash_is_taken_over_within_the_lease_and_nothing_is_lost(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)  # balanced
        tasks = [task for code in CODES for task in await the.create(10, code, due_at=the.clock.now_ms() + 20_000)]
        lost = [code for code in CODES if the.owner_of(code).name == "one"]
        assert 0 < len(lost) < len(CODES)
        await trio.sleep(10)
        the.instances["one"].crash()
        crashed_at = the.clock.now_ms()
        while any(not the.owners_of(code) for code in lost):
            await trio.sleep(0.1)
        assert the.clock.now_ms() - crashed_at <= (TTL_S + TTL_S / 4 + 1) * 1000
        rows = await the.settled(tasks)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        assert calls_by_task(the) == {task.id: 1 for task in tasks}
        assert {call.sender for call in the.receivers.calls if call.at > crashed_at} == {"two"}
        assert the.instances["two"].count("lease_takeovers_total") >= 100


async def test_what_was_on_its_way_is_sent_again_as_the_same_attempt_and_flagged(autojump_clock: object) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=5)
        running = await the.create(3, retry_intervals_ms=())
        waiting = await the.create(3, due_at=NOW + 60_000)
        await the.receivers.wait_for(3)
        the.instances["one"].crash()
        await the.join("two")
        rows = await the.settled([*running, *waiting])
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        for task in running:
            first, second = await the.history(task)
            assert (first.status, second.status) == (ExecutionStatus.INTERRUPTED, ExecutionStatus.SUCCESS)
            assert (first.attempt, second.attempt) == (1, 1)  # the retry budget is untouched
            assert second.term > first.term
            before, after = the.receivers.of(task.id)
            assert (before.sender, after.sender) == ("one", "two")
            assert before.headers["webhook-id"] == after.headers["webhook-id"]
            assert "x-taskcenter-redelivery" not in before.headers
            assert after.headers["x-taskcenter-redelivery"] == "possible-duplicate"
            assert int(after.headers["x-taskcenter-term"]) > int(before.headers["x-taskcenter-term"])
        for task in waiting:
            [call] = the.receivers.of(task.id)
            assert "x-taskcenter-redelivery" not in call.headers


async def test_a_task_whose_senders_die_three_times_is_a_suspect_and_the_others_go_on(autojump_clock: object) -> None:
    async with cluster("zero", codes=CODES[:2]) as the:
        the.receivers.mood = answering(answered(), after_s=5)
        [poison] = await the.create(finish_url="http://127.0.0.1:9/finished")
        [later] = await the.create(due_at=NOW + 120_000)
        name = "zero"
        for number in range(3):
            await the.receivers.wait_for(number + 1)
            the.instances[name].crash()
            name = f"next-{number}"
            await the.join(name)
        [row] = await the.settled([poison], within_s=60)
        assert (row.status, row.finish_reason) == (Status.FAILED, FinishReason.CRASH_SUSPECT)
        assert [attempt.status for attempt in await the.history(poison)] == [ExecutionStatus.INTERRUPTED] * 3
        assert len(the.receivers.of(poison.id)) == 3
        await the.settled([later])
        [finish] = [call for call in the.receivers.calls if call.url.endswith("/finished")]
        assert finish.body["finish_reason"] == "crash_suspect"
        last = (await the.history(poison))[-1]
        assert finish.body["last_execution"]["id"] == last.id
        assert finish.body["last_execution"]["status"] == "interrupted"
        taker = the.instances[name]
        assert taker.count("tasks_finished_total", business=CODES[0], status="failed") == 1
        assert taker.count("callbacks_total", business=CODES[0], outcome="interrupted") == 1
        assert [rule for rule, _ in the.alerts].count("crash_suspect") == 1


async def test_a_handed_over_shard_goes_on_at_once(autojump_clock: object) -> None:
    async with cluster("one", "two", codes=CODES) as the:
        await trio.sleep(30)
        tasks = [
            task
            for code in CODES
            for second in range(20)
            for task in await the.create(1, code, due_at=the.clock.now_ms() + second * 1_000)
        ]
        await trio.sleep(8)
        one = the.instances["one"]
        assert await one.engine.drain(10)
        one.crash()
        rows = await the.settled(tasks, within_s=20)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        assert calls_by_task(the) == {task.id: 1 for task in tasks}
        assert max(call.at - call.due_at for call in the.receivers.calls) <= (TTL_S / 4 + 1) * 1000


async def test_the_rate_limit_holds_over_a_change_of_owner(autojump_clock: object) -> None:
    async with cluster("one", rate_limit=5) as the:
        tasks = await the.create(12)
        await the.receivers.wait_for(5)
        await trio.sleep(1)
        assert await the.instances["one"].engine.drain(5)
        the.instances["one"].crash()
        await the.join("two")
        await the.settled(tasks)
        at = [call.at for call in the.receivers.calls]
        assert all(later - earlier > 60_000 for earlier, later in zip(at, at[5:], strict=False))


async def test_no_sliding_minute_exceeds_the_limit_though_all_is_due_at_once_and_the_owner_dies_midway(
    autojump_clock: object,
) -> None:
    async with cluster("one", "two", codes=CODES, rate_limit=30) as the:
        await trio.sleep(30)
        flow: dict[str, Any] = {"flow_key": "customer", "flow_limit": {"rate": 4, "period": 20}}
        due_at = the.clock.now_ms() + 1_000
        tasks = [task for code in CODES for task in await the.create(70, code, due_at=due_at)]
        flowing = [task for code in CODES for task in await the.create(8, code, due_at=due_at, **flow)]
        the.receivers.mood = answering(answered(), after_s=0.3)
        await trio.sleep(1.2)  # every business is amid its first minute's burst
        assert the.receivers.on_their_way > 0
        dead = the.owner_of(CODES[0])
        dead.crash()
        await the.settled([*tasks, *flowing], within_s=900)
        flow_ids = {task.id for task in flowing}
        for code in CODES:
            calls = [call for call in the.receivers.calls if call.body["business_code"] == code]
            at = [call.at for call in calls]
            assert len(at) >= 78
            assert all(later - earlier > 60_000 for earlier, later in zip(at, at[30:], strict=False)), code
            of_flow = [call.at for call in calls if call.task_id in flow_ids]
            assert all(later - earlier > 20_000 for earlier, later in zip(of_flow, of_flow[4:], strict=False)), code
        assert {call.sender for call in the.receivers.calls} == {"one", "two"}


async def test_an_owner_that_gets_its_shards_back_knows_what_another_sent_meanwhile(autojump_clock: object) -> None:
    flow: dict[str, Any] = {"flow_key": "customer", "flow_limit": {"rate": 4, "period": 40}}
    async with cluster("one", rate_limit=20) as the:
        [first] = await the.create()
        await the.settled([first])
        one, two = the.instances["one"], await the.join("two")
        one.line.frozen = trio.Event()  # with an actor that has sent one
        tasks = [*await the.create(15), *await the.create(6, **flow)]
        await the.receivers.wait_for(10)
        assert {call.sender for call in the.receivers.calls[1:]} == {"two"}
        two.line.cut = True
        two.crash()
        one.line.frozen.set()
        one.line.frozen = None
        tasks += [*await the.create(20), *await the.create(4, **flow)]
        await the.settled(tasks, within_s=600)
        at = [call.at for call in the.receivers.calls]
        assert all(later - earlier > 60_000 for earlier, later in zip(at, at[20:], strict=False))
        flowing = {task.id for task in tasks if task.flow_key}
        of_flow = [call.at for call in the.receivers.calls if call.task_id in flowing]
        assert all(later - earlier > 40_000 for earlier, later in zip(of_flow, of_flow[4:], strict=False))
        assert the.receivers.calls[-1].sender == "one"
