"""One business's actor: what it starts, what holds it back, and that nothing is lost by either."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import trio
from tests.actors.actor_kit import NOW, World, changed, world
from tests.actors.scripted import REFUSED, Call, answered, answering

from taskcenter.actors import business as business_module
from taskcenter.actors import refill as refill_module
from taskcenter.actors.breaker import BreakerState
from taskcenter.actors.egress.exchange import Exchange
from taskcenter.schedule import validate
from taskcenter.store.records import BusinessStatus, ExecutionStatus
from taskcenter.task import FinishReason, Status

BREAKER = {"enabled": True, "failure_threshold": 3, "open_seconds": 30, "max_open_seconds": 300, "half_open_probes": 1}


def starts(the: World) -> list[int]:
    return [call.at for call in the.receivers.calls]


async def test_a_task_is_sent_at_its_due_time_never_early_and_recorded(autojump_clock: object) -> None:
    async with world() as the:
        [task] = await the.run(due_at=NOW + 5_000)
        [row] = await the.settled(task)
        [call] = the.receivers.calls
        assert 0 <= call.at - task.ref.due_at <= 1  # type: ignore[union-attr]  # it waited
        assert (row.status, row.sends) == (Status.SUCCEEDED, 1)
        [attempt] = await the.history(task)
        assert (attempt.status, attempt.attempt, attempt.response_status) == (ExecutionStatus.SUCCESS, 1, 200)
        assert attempt.duration_ms == pytest.approx(20, abs=0.1)
        assert the.count("callbacks_total", business="shop", outcome="success") == 1
        assert the.count("tasks_finished_total", business="shop", status="succeeded") == 1
        assert the.count("callbacks_in_flight", business="shop") == 0


async def test_the_retry_list_is_kept_to_the_millisecond_from_the_end_of_each_attempt(autojump_clock: object) -> None:
    async with world() as the:
        the.receivers.mood = answering(answered(500), after_s=0.3)
        [task] = await the.run(retry_intervals_ms=(1_000, 10_000, 60_000))
        [row] = await the.settled(task)
        assert (row.status, row.finish_reason) == (Status.FAILED, FinishReason.RETRIES_EXHAUSTED)
        at = starts(the)
        gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
        assert gaps == [pytest.approx(interval + 300, abs=2) for interval in (1_000, 10_000, 60_000)]
        assert [call.attempt for call in the.receivers.calls] == [1, 2, 3, 4]
        assert len({call.headers["webhook-id"] for call in the.receivers.calls}) == 1


async def test_a_receiver_that_never_answers_is_given_up_after_the_timeout(autojump_clock: object) -> None:
    async with world() as the:
        the.receivers.mood = answering(answered(), after_s=3600)
        [task] = await the.run(retry_intervals_ms=(), timeout_ms=5_000)
        await the.settled(task)
        [attempt] = await the.history(task)
        assert attempt.status is ExecutionStatus.TIMEOUT
        assert attempt.duration_ms == pytest.approx(5_000, abs=1)


# --- mailbox --------------------------------------------------------------------------------------------------------


async def test_what_a_full_mailbox_and_queue_refuse_is_read_again(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(business_module, "MAILBOX_CAPACITY", 20)
    monkeypatch.setattr(business_module, "READY_CAPACITY", 10)
    monkeypatch.setattr(refill_module, "PAGE", 7)
    async with world(max_concurrent_tasks=3) as the:
        tasks = await the.run(120)
        rows = await the.settled(*tasks)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        assert Counter(call.task_id for call in the.receivers.calls) == {task.id: 1 for task in tasks}
        await trio.sleep(1)
        assert the.actor().idle


async def test_what_is_forgotten_while_it_is_read_again_stays_forgotten(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(business_module, "MAILBOX_CAPACITY", 5)
    async with world(max_concurrent_tasks=1) as the:
        the.receivers.mood = answering(answered(), after_s=3)
        sound = the.store.engine.due_refs_of

        async def slowly(*given: Any) -> Any:
            page = await sound(*given)
            await trio.sleep(1)
            return page

        monkeypatch.setattr(the.store.engine, "due_refs_of", slowly)
        await the.run(1)
        await the.receivers.wait_for(1)
        await the.run(39)  # more than the mailbox takes
        await trio.sleep(0.5)  # the reading is under way
        the.terms.clear()
        the.registry.drop_shards(frozenset(range(256)))
        await trio.sleep(30)
        assert len(the.receivers.calls) == 1
        assert the.actor().idle


async def test_an_actor_whose_shard_is_anothers_says_nothing_of_its_limits_and_goes(autojump_clock: object) -> None:
    """An open breaker would stand in its metrics for good: no callback of its own will ever close it."""
    breaker = {"failure_threshold": 3, "open_seconds": 300, "max_open_seconds": 300}
    async with world(breaker=breaker, rate_limit=50) as the:
        the.receivers.mood = answering(answered(500))
        await the.settled(*await the.run(3, retry_intervals_ms=()))
        assert the.count("breaker_state", business="shop") == 2
        the.registry.drop_shards(frozenset(range(256)))
        await trio.sleep(1)
        assert the.count("breaker_state", business="shop") == 0
        assert the.count("rate_limit_tokens", business="shop") == 50
        await trio.sleep(140)
        assert the.registry.get(7) is None


# --- policy ---------------------------------------------------------------------------------------------------------


async def test_a_paused_business_starts_nothing_and_goes_on_when_resumed(autojump_clock: object) -> None:
    async with world() as the:
        shop = the.businesses[7]
        [first] = await the.run()
        await the.settled(first)
        the.registry.business_changed(changed(shop, status=BusinessStatus.PAUSED))
        tasks = await the.run(5)
        await trio.sleep(600)
        assert len(the.receivers.calls) == 1
        hold = the.actor().admission.hold
        assert hold is not None
        assert hold.reason == "paused"
        the.registry.business_changed(changed(changed(shop)))
        rows = await the.settled(*tasks)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        assert (await the.history(tasks[0]))[0].wait_reason == "paused"


async def test_no_sliding_minute_sees_more_than_the_rate_limit(autojump_clock: object) -> None:
    async with world(rate_limit=10) as the:
        tasks = await the.run(45)
        await the.settled(*tasks)
        at = starts(the)
        for limited, begin in zip(at[10:], at, strict=False):
            assert limited - begin > 60_000
        assert at[-1] - at[0] < 4 * 61_000  # and no slower than that
        assert the.count("rate_limited_total", business="shop") > 0
        assert {row.current_retry for row in await the.settled(*tasks)} == {0}  # waiting used no attempt


async def test_a_look_ahead_does_not_make_the_limiter_forget(autojump_clock: object) -> None:
    async with world(rate_limit=2) as the:
        early = await the.run(2)
        await the.settled(*early)
        await trio.sleep(58.5)
        [later] = await the.create(due_at=the.clock.now_ms() + 1_900)
        assert later.ref is not None
        the.registry.offer(later.ref)  # as a re-read of the store does
        await trio.sleep(0.01)
        [now] = await the.run()
        await the.settled(later, now)
        at = starts(the)
        assert at[2] - at[0] > 60_000


async def test_concurrency_never_exceeds_its_cap_and_uses_it(autojump_clock: object) -> None:
    async with world(max_concurrent_tasks=4) as the:
        tasks = await the.run(30)
        await the.settled(*tasks)
        assert the.receivers.most_at_once == 4


async def test_an_answer_frees_its_place_before_it_is_recorded_and_so_many_may_wait_for_that(
    autojump_clock: object,
) -> None:
    async with world(max_concurrent_tasks=4) as the:
        the.receivers.mood = answering(answered(), after_s=1)
        the.outcomes_out = True
        tasks = await the.run(30)
        await trio.sleep(60)
        assert len(the.receivers.calls) == 8, "four on their way, four more when those were answered"
        assert the.actor().on_their_way == 0
        assert the.count("callbacks_in_flight", business="shop") == 0
        hold = the.actor().admission.hold
        assert hold is not None
        assert (hold.reason, hold.detail) == ("concurrency", "callbacks answered and not yet recorded: 4")
        the.outcomes_out = False
        rows = await the.settled(*tasks)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        assert Counter(call.task_id for call in the.receivers.calls) == {task.id: 1 for task in tasks}
        assert the.receivers.most_at_once == 4


async def test_a_breaker_hears_of_an_answer_before_it_is_recorded(autojump_clock: object) -> None:
    async with world(breaker=BREAKER, max_concurrent_tasks=2) as the:
        the.receivers.mood = answering(REFUSED, after_s=1)
        the.outcomes_out = True
        await the.run(30, retry_intervals_ms=(1_000,))
        await trio.sleep(10)
        assert the.receivers.most_at_once == 2
        assert len(the.receivers.calls) == 4
        breaker = the.actor().admission.breakers.worst
        assert breaker is not None
        assert breaker.state is BreakerState.OPEN


async def test_a_breaker_opens_probes_and_closes_for_a_receiver_that_recovers(autojump_clock: object) -> None:
    async with world(breaker=BREAKER, max_concurrent_tasks=1) as the:
        recovers_at = NOW + 100_000

        async def mood(call: Call) -> Exchange:
            await trio.sleep(0.01)
            return answered() if call.at >= recovers_at else REFUSED

        the.receivers.mood = mood
        tasks = await the.run(20, retry_intervals_ms=(1_000,) * 10)
        await trio.sleep(5)
        assert len(the.receivers.calls) == 3
        breaker = the.actor().admission.breakers.worst
        assert breaker is not None
        assert breaker.state is BreakerState.OPEN
        assert the.count("breaker_next_probe_timestamp_seconds", business="shop") == (breaker.next_probe_at or 0) / 1000
        [(rule, text)] = the.alerts
        assert (rule, "next probe at 2027-01-15T08:00:" in text) == ("breaker_open", True)
        rows = await the.settled(*tasks)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        assert the.count("breaker_next_probe_timestamp_seconds", business="shop") == 0
        assert the.actor().admission.breakers.all_closed
        ill = [call.at for call in the.receivers.calls if call.at < recovers_at]
        assert len(ill) <= 3 + 2  # probes after 30 s and 60 s more, nothing else
        well = [call.at for call in the.receivers.calls if call.at >= recovers_at]
        assert well[0] - recovers_at <= 120_000  # found within one probe interval
        assert sum(row.current_retry for row in rows) == len(ill)  # waiting behind it used no attempt
        for state in ("open", "half_open", "closed"):
            assert the.count("breaker_transitions_total", business="shop", to=state) >= 1


async def test_one_dead_host_does_not_hold_up_the_others(autojump_clock: object) -> None:
    async with world(breaker=BREAKER) as the:

        async def mood(call: Call) -> Exchange:
            return REFUSED if "dead.test" in call.url else answered()

        the.receivers.mood = mood
        dead = await the.run(10, callback_url="http://dead.test/", callback_host="dead.test", due_at=NOW - 1)
        await trio.sleep(1)
        well = await the.run(10, callback_url="http://well.test/", callback_host="well.test")
        rows = await the.settled(*well, within_s=1)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        assert (await the.row(dead[-1])).status in {Status.PENDING, Status.RETRYING}


async def test_a_deadline_that_passes_behind_a_breaker_ends_the_task_and_tells(autojump_clock: object) -> None:
    async with world(breaker=BREAKER) as the:

        async def mood(call: Call) -> Exchange:
            return REFUSED if call.url.endswith("/hook") else answered()

        the.receivers.mood = mood
        await the.run(3, retry_intervals_ms=(600_000,))
        await trio.sleep(1)
        [task] = await the.run(deadline_at=NOW + 10_000, finish_url="http://other.test/finished")
        [row] = await the.settled(task, within_s=10)
        assert (row.status, row.finish_reason, row.sends) == (Status.FAILED, FinishReason.DEADLINE_PASSED, 0)
        assert row.last_error == "the deadline 2027-01-15T08:00:10.000Z passed while it waited for the breaker"
        await the.receivers.wait_for(4, within_s=5)
        finish = the.receivers.calls[-1]
        assert (finish.url, finish.body["finish_reason"]) == ("http://other.test/finished", "deadline_passed")


async def test_a_recurring_task_goes_from_run_to_run_and_ends(autojump_clock: object) -> None:
    async with world() as the:
        schedule = validate({"every": 60, "max_runs": 5})
        [task] = await the.run(schedule=schedule)
        [row] = await the.settled(task)
        assert (row.status, row.finish_reason, row.runs_done) == (Status.SUCCEEDED, FinishReason.SCHEDULE_ENDED, 5)
        assert [call.due_at for call in the.receivers.calls] == [NOW + n * 60_000 for n in range(5)]
        assert [call.body["run"] for call in the.receivers.calls] == [1, 2, 3, 4, 5]
