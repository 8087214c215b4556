"""A sender that is lost with a callback on its way: what history, and the receiver of the next send, are told of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio
from tests.actors.scripted import REFUSED, Call, Mood, answered, answering
from tests.runtime.engine_kit import Cluster, cluster
from tests.store.store_kit import NOW, audit_entry, database_of, fetch

from taskcenter.actors.egress.exchange import Exchange
from taskcenter.store.records import Changed, ExecutionStatus, Task, TaskFilter
from taskcenter.task import Status

BUSINESS = 1  # the only one
ENTRY = audit_entry("by.the.test", BUSINESS)
INTERRUPTED, SUCCESS = ExecutionStatus.INTERRUPTED, ExecutionStatus.SUCCESS


async def cancel(the: Cluster, task: Task) -> bool:
    """As the API of an instance that does not own the task does; whether an attempt was on its way."""
    changed = await the.store.tasks.cancel(BUSINESS, task.id, the.clock.now_ms(), ENTRY)
    assert isinstance(changed, Changed)
    return changed.cancelled_in_flight


async def nothing_is_left(the: Cluster) -> bool:
    return await fetch(database_of(the.store), "SELECT task_id FROM cancelled_attempts") == []


# --- of tasks cancelled meanwhile -----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_bulk", [False, True])
async def test_a_cancelled_call_whose_sender_dies_is_interrupted_in_history(
    autojump_clock: object, in_bulk: bool
) -> None:
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=5)
        tasks = await the.create(3)
        await the.receivers.wait_for(3)
        if in_bulk:
            changes = await the.store.tasks.cancel_matching(BUSINESS, TaskFilter(), 10, the.clock.now_ms(), ENTRY)
            assert [change.cancelled_in_flight for change in changes] == [True] * 3
        else:
            assert [await cancel(the, task) for task in tasks] == [True] * 3
        the.instances["one"].crash()
        two = await the.join("two")
        await trio.sleep(60)
        for task in tasks:
            (call,) = the.receivers.of(task.id)
            (told,) = await the.history(task)
            assert (told.status, told.number, told.attempt) == (INTERRUPTED, 1, 1)
            assert told.term == int(call.headers["x-taskcenter-term"])
            assert (await the.row(task)).status is Status.CANCELLED
        assert two.count("callbacks_total", business="business-0", outcome="interrupted") == 3
        assert two.count("tasks_finished_total", business="business-0", status="cancelled") == 0
        assert the.alerts == []
        assert await nothing_is_left(the)


async def test_a_cancelled_call_whose_sender_lives_has_its_own_end(autojump_clock: object) -> None:
    """Told by its sender; a later change of owner adds nothing to it."""
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=5)
        [task] = await the.create()
        await the.receivers.wait_for(1)
        assert await cancel(the, task)
        assert not await nothing_is_left(the)
        await trio.sleep(6)
        assert await nothing_is_left(the)
        the.instances["one"].crash()
        await the.join("two")
        await trio.sleep(60)
        assert [one.status for one in await the.history(task)] == [SUCCESS]


async def test_a_call_withdrawn_unsent_is_none_that_was_lost(autojump_clock: object) -> None:
    async with cluster("one") as the:
        [task] = await the.create(due_at=NOW + 1_000)
        await trio.sleep(0.98)  # claimed, and not sent before its time
        one = the.instances["one"]
        assert await cancel(the, task)
        assert one.engine.withdraw(task.id, BUSINESS)
        await trio.sleep(1)
        one.crash()
        await the.join("two")
        await trio.sleep(60)
        assert the.receivers.calls == []
        assert await the.history(task) == []
        assert await nothing_is_left(the)


async def test_an_owner_that_stood_still_is_late_with_the_end_of_a_cancelled_call(autojump_clock: object) -> None:
    """The next owner has told of it by then, and that stays."""
    async with cluster("one") as the:
        the.receivers.mood = answering(answered(), after_s=5)
        [task] = await the.create()
        await the.receivers.wait_for(1)
        one = the.instances["one"]
        one.line.frozen = thawed = trio.Event()
        assert await cancel(the, task)
        await the.join("two")
        await trio.sleep(60)
        thawed.set()
        one.line.frozen = None
        await trio.sleep(60)
        assert [attempt.status for attempt in await the.history(task)] == [INTERRUPTED]
        assert len(the.receivers.calls) == 1
        counters = await the.store.businesses.counters(BUSINESS)
        assert (counters.callbacks, counters.cancelled) == (1, 1)


async def test_the_rate_limit_counts_the_cancelled_calls_of_a_dead_owner(autojump_clock: object) -> None:
    async with cluster("one", rate_limit=5) as the:
        the.receivers.mood = answering(answered(), after_s=5)
        for task in await the.create(5):
            await the.receivers.wait_for(1)
            await cancel(the, task)
        await the.receivers.wait_for(5)
        the.instances["one"].crash()
        await the.join("two")
        await the.settled(await the.create(5))
        at = [call.at for call in the.receivers.calls]
        assert len(at) == 10
        assert all(later - earlier > 60_000 for earlier, later in zip(at, at[5:], strict=False))


# --- of tasks that go on --------------------------------------------------------------------------------------------

PUT_OFF = answered(429, ("retry-after", "2"))


def replying(*exchanges: Exchange | None) -> Mood:
    """To each call in turn; None: no answer before its sender is gone."""
    left = list(exchanges)

    async def mood(_: Call) -> Exchange:
        exchange = left.pop(0)
        if exchange is None:
            await trio.sleep_forever()
            raise AssertionError
        await trio.sleep(0.02)
        return exchange

    return mood


def flags(calls: Sequence[Call]) -> list[tuple[int, bool]]:
    """Of each call: its attempt, and whether it says that it may be a duplicate."""
    return [(call.attempt, call.headers.get("x-taskcenter-redelivery") == "possible-duplicate") for call in calls]


@pytest.mark.parametrize(
    ("end", "later"),
    [(answered(), []), (answered(500), [(2, False)]), (REFUSED, [(2, False)])],
)
async def test_the_doubt_lasts_until_the_attempt_has_an_end(
    autojump_clock: object, end: Exchange, later: list[tuple[int, bool]]
) -> None:
    """Lost with its sender, sent again, put off twice: the receiver may have had it before all the same."""
    async with cluster("one", rate_limit=1000) as the:
        the.receivers.mood = replying(None, PUT_OFF, PUT_OFF, end, answered())
        [task] = await the.create(retry_intervals_ms=(1_000,))
        await the.receivers.wait_for(1)
        the.instances["one"].crash()
        await the.join("two")
        [row] = await the.settled([task])
        assert row.status is Status.SUCCEEDED
        assert flags(the.receivers.calls) == [(1, False), (1, True), (1, True), (1, True), *later]


async def test_what_waits_for_the_rate_limit_keeps_its_doubt(autojump_clock: object) -> None:
    async with cluster("one", rate_limit=1) as the:
        the.receivers.mood = replying(None, PUT_OFF, answered())
        [task] = await the.create()
        await the.receivers.wait_for(1)
        the.instances["one"].crash()
        await the.join("two")
        await the.settled([task])
        assert flags(the.receivers.calls) == [(1, False), (1, True), (1, True)]
        at = [call.at for call in the.receivers.calls]
        assert all(later - earlier >= 60_000 for earlier, later in pairwise(at))


async def test_two_lost_senders_and_a_deferral_between_are_no_row_of_three(autojump_clock: object) -> None:
    """The doubt is not the count of losses in a row: who put it off proved that sending it kills nobody."""
    async with cluster("one") as the:
        the.receivers.mood = replying(None, None, PUT_OFF, None, None, answered())
        [task] = await the.create()
        for number, calls in enumerate((1, 2, 4, 5)):
            await the.receivers.wait_for(calls)
            list(the.instances.values())[-1].crash()
            await the.join(f"next-{number}")
        [row] = await the.settled([task])
        assert row.status is Status.SUCCEEDED
        assert flags(the.receivers.calls) == [(1, False), *[(1, True)] * 5]


async def test_a_new_run_is_nothing_that_was_sent_before(autojump_clock: object) -> None:
    async with cluster("one") as the:
        the.receivers.mood = replying(None, PUT_OFF, answered())
        [task] = await the.create()
        await the.receivers.wait_for(1)
        the.instances["one"].crash()
        await the.join("two")
        await the.receivers.wait_for(2)
        await trio.sleep(1)
        assert not await cancel(the, task)
        again = await the.store.tasks.redeliver(BUSINESS, task.id, the.clock.now_ms(), the.clock.now_ms(), ENTRY, 10)
        assert isinstance(again, Changed)
        the.offer(again.task.ref)
        await the.settled([task])
        assert flags(the.receivers.calls) == [(1, False), (1, True), (1, False)]
        assert len({call.headers["webhook-id"] for call in the.receivers.calls}) == 2
