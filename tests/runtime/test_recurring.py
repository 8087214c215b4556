"""Recurring tasks through a whole engine, in virtual time: rhythm, overlap, retries, misfires, ends, changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio
import trio.testing
from tests.actors.scripted import Call, answered, answering
from tests.runtime.engine_kit import Cluster, cluster
from tests.store.store_kit import NOW, audit_entry

from taskcenter.actors.egress.exchange import Exchange
from taskcenter.schedule import first_due, validate
from taskcenter.store.records import Changed, Task, TaskChange
from taskcenter.task import FinishReason, Status

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


async def recurring(the: Cluster, given: dict[str, Any], **fields: Any) -> Task:
    schedule = validate(given)
    due_at = first_due(schedule, NOW + MINUTE_MS)
    assert due_at is not None
    [task] = await the.create(schedule=schedule, due_at=due_at, **fields)
    return task


def minutes(the: Cluster) -> list[float]:
    """The calls' due times, counted from the first possible one."""
    return [(call.due_at - NOW) / MINUTE_MS for call in the.receivers.calls]


async def change(the: Cluster, task: Task, given: dict[str, Any]) -> None:
    """As the API changes a schedule: the next due time anew, and a word to the engine."""
    schedule = validate(given)
    due_at = first_due(schedule, the.clock.now_ms())
    assert due_at is not None
    result = await the.store.tasks.update(
        task.business_id, task.id, TaskChange(schedule=schedule, due_at=due_at), expected_version=None,
        now=the.clock.now_ms(), audit=audit_entry("task.update", task.business_id),
    )  # fmt: skip
    assert isinstance(result, Changed)
    if result.task.ref is not None:
        the.offer(result.task.ref)


# --- rhythm and overlap ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfire", "due"),
    [("once", [0, 2, 5, 7]), ("skip", [0, 3, 6, 9])],  # a run takes 2.5 intervals: two or three times pass
)
async def test_a_run_never_overlaps_the_next(autojump_clock: object, misfire: str, due: list[int]) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=25)
        await recurring(the, {"every": 10, "misfire": misfire})
        await the.receivers.wait_for(4)
        assert [(call.due_at - NOW - MINUTE_MS) // 10_000 for call in the.receivers.calls] == due
        assert the.receivers.most_at_once == 1


async def test_retries_are_within_a_run_and_the_next_run_begins_anew(autojump_clock: object) -> None:
    async def mood(call: Call) -> Exchange:
        await trio.sleep(0.1)
        return answered(500 if call.body["run"] == 2 else 200)

    async with cluster("one") as the:
        the.receivers.mood = mood
        task = await recurring(the, {"every": 30, "max_runs": 3}, retry_intervals_ms=(5_000, 5_000))
        await the.receivers.wait_for(5)
        [row] = await the.settled([task], within_s=5)
        assert [(call.body["run"], call.attempt) for call in the.receivers.calls] == [
            (1, 1), (2, 1), (2, 2), (2, 3), (3, 1),
        ]  # fmt: skip
        assert [call.headers["webhook-id"].rpartition("-")[2] for call in the.receivers.calls] == list("12223")
        assert (row.status, row.finish_reason, row.runs_done) == (Status.SUCCEEDED, FinishReason.SCHEDULE_ENDED, 3)
        assert [attempt.run for attempt in await the.history(task)] == [1, 2, 2, 2, 3]


async def test_a_run_that_uses_up_its_list_does_not_end_the_schedule_but_the_last_one_tells_its_end(
    autojump_clock: object,
) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(500))
        task = await recurring(the, {"every": 60, "max_runs": 2}, retry_intervals_ms=(5_000,))
        await the.receivers.wait_for(4)
        [row] = await the.settled([task], within_s=5)
        assert minutes(the)[::2] == [1, 2]
        assert (row.status, row.finish_reason, row.runs_done) == (Status.FAILED, FinishReason.RETRIES_EXHAUSTED, 2)


async def test_stop_ends_the_whole_schedule(autojump_clock: object) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(410))
        task = await recurring(the, {"every": 60})
        await the.receivers.wait_for(1)
        [row] = await the.settled([task], within_s=5)
        assert (row.status, len(the.receivers.calls)) == (Status.STOPPED, 1)


async def test_no_run_is_due_after_the_end(autojump_clock: object) -> None:
    async with cluster("one") as the:
        end_at = datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(minutes=3)
        task = await recurring(the, {"every": 60, "end_at": end_at.isoformat()})
        await the.receivers.wait_for(3)
        [row] = await the.settled([task], within_s=90)
        assert minutes(the) == [1, 2, 3]
        assert (row.status, row.finish_reason) == (Status.SUCCEEDED, FinishReason.SCHEDULE_ENDED)


# --- after a downtime -----------------------------------------------------------------------------------------------


async def test_what_was_missed_while_nobody_ran_is_made_up_for_once_or_passed_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster("one") as the:
        once = await recurring(the, {"every": 3600})
        skip = await recurring(the, {"every": 3600, "misfire": "skip"})
        cron = await recurring(the, {"cron": "0 * * * *", "misfire": "skip"})
        await the.receivers.wait_for(2)
        await trio.sleep(1)
        the.instances["one"].crash()
        autojump_clock.jump(5 * 3600 + 1800)
        await the.join("two")
        await trio.sleep(60)
        late = [call for call in the.receivers.calls if call.sender == "two"]
        assert [(call.task_id, call.body["run"]) for call in late] == [(once.id, 2)]
        assert late[0].due_at == NOW + MINUTE_MS + HOUR_MS, "the one that was waited for; it stands for all"
        for task in (once, skip):
            assert (await the.row(task)).next_execute_at == NOW + MINUTE_MS + 6 * HOUR_MS
        row = await the.row(cron)
        assert row.next_execute_at is not None
        assert row.next_execute_at % HOUR_MS == 0 and row.next_execute_at > the.clock.now_ms()


# --- clocks that are changed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_day", "utc_times"),
    [
        # 14 March 2027: 02:00 EST becomes 03:00 EDT; 02:30 is left out, and runs at the first instant after the gap
        ("2027-03-13", ["2027-03-13T07:30", "2027-03-14T07:00", "2027-03-15T06:30"]),
        # 7 November 2027: 02:00 EDT becomes 01:00 EST; 02:30 comes once, 01:30 would come twice
        ("2027-11-06", ["2027-11-06T06:30", "2027-11-07T07:30", "2027-11-08T07:30"]),
    ],
)
async def test_half_past_two_in_new_york(
    autojump_clock: trio.testing.MockClock, first_day: str, utc_times: list[str]
) -> None:
    await _days(autojump_clock, "30 2 * * *", first_day, utc_times)


async def test_what_comes_twice_runs_the_first_time(autojump_clock: trio.testing.MockClock) -> None:
    await _days(
        autojump_clock, "30 1 * * *", "2027-11-06", ["2027-11-06T05:30", "2027-11-07T05:30", "2027-11-08T06:30"]
    )


async def _days(clock: trio.testing.MockClock, cron: str, first_day: str, utc_times: list[str]) -> None:
    zone = "America/New_York"
    wanted = [round(datetime.fromisoformat(f"{text}:00+00:00").timestamp() * 1000) for text in utc_times]
    schedule = validate({"cron": cron, "timezone": zone})
    midnight = datetime.fromisoformat(first_day).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000
    async with cluster("one") as the:
        [task] = await the.create(schedule=schedule, due_at=first_due(schedule, round(midnight)))
        for number, at in enumerate(wanted, 1):
            clock.jump((at - 3_000 - the.clock.now_ms()) / 1000)
            await the.receivers.wait_for(number, within_s=10)
            await trio.sleep(1)
        assert [call.due_at for call in the.receivers.of(task.id)] == wanted


# --- changed schedules ----------------------------------------------------------------------------------------------


async def test_a_changed_schedule_takes_effect_at_once(autojump_clock: object) -> None:
    async with cluster("one") as the:
        task = await recurring(the, {"every": 3600})
        await the.receivers.wait_for(1)
        await trio.sleep(9)
        await change(the, task, {"every": 120, "max_runs": 3})
        await the.receivers.wait_for(3)
        [row] = await the.settled([task], within_s=5)
        assert [round(minute, 2) for minute in minutes(the)] == [1, 1.15, 3.15], "at once, and then every two minutes"
        assert row.runs_done == 3


async def test_a_schedule_changed_while_a_run_is_on_its_way_holds_from_then_on(autojump_clock: object) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=10)
        task = await recurring(the, {"every": 3600})
        await the.receivers.wait_for(1)
        await change(the, task, {"every": 120, "max_runs": 2})
        await the.receivers.wait_for(2)
        await the.settled([task], within_s=15)
        assert minutes(the) == [1, 3]


async def test_a_schedule_taken_away_leaves_one_run(autojump_clock: object) -> None:
    async with cluster("one") as the:
        task = await recurring(the, {"every": 3600})
        await the.receivers.wait_for(1)
        await trio.sleep(1)
        result = await the.store.tasks.update(
            task.business_id, task.id, TaskChange(schedule=None, due_at=the.clock.now_ms()), expected_version=None,
            now=the.clock.now_ms(), audit=audit_entry("task.update", task.business_id),
        )  # fmt: skip
        assert isinstance(result, Changed)
        the.offer(result.task.ref)
        [row] = await the.settled([task], within_s=60)
        assert (row.status, row.finish_reason, row.run) == (Status.SUCCEEDED, None, 2)


async def test_run_now_does_not_move_the_rhythm(autojump_clock: object) -> None:
    async with cluster("one") as the:
        task = await recurring(the, {"every": 60, "max_runs": 4})
        await the.receivers.wait_for(1)
        await trio.sleep(20)
        ran = await the.store.tasks.run_now(
            task.business_id, task.id, the.clock.now_ms(), audit_entry("task.run", task.business_id)
        )
        assert isinstance(ran, Changed)
        the.offer(ran.task.ref)
        await the.receivers.wait_for(4)
        await the.settled([task], within_s=5)
        first, extra, *others = minutes(the)
        assert (first, others) == (1, [2, 3]) and 1.3 < extra < 1.4
