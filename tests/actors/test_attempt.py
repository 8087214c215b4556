"""An attempt's whole way: withdrawn at each phase, with a bug in it, with the store or the lease away."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.actors.actor_kit import NOW, World, world
from tests.actors.scripted import Call, answered, answering
from tests.store.store_kit import audit_entry

from taskcenter.actors import attempt as attempt_module
from taskcenter.actors import message
from taskcenter.errors import StoreUnavailable
from taskcenter.store.records import ExecutionStatus
from taskcenter.task import FinishReason, Status

# --- withdraw --------------------------------------------------------------------------------------------------------


async def cancel(the: World, task: Any) -> bool:
    """As the API does: the row first, then the engine. True: its attempt was held here and will not be sent."""
    await the.store.tasks.cancel(7, task.id, the.clock.now_ms(), audit_entry("task.cancel"))
    the.wheel.forget(task.id)
    return the.registry.withdraw(task.id, 7)


@pytest.mark.parametrize("after_s", [0.0, 0.9, 0.9501, 0.951, 0.953, 0.956, 0.98, 0.9999])
async def test_a_task_cancelled_before_it_is_sent_is_never_sent(autojump_clock: object, after_s: float) -> None:
    async with world() as the:
        [task] = await the.run(due_at=NOW + 1_000)
        await trio.sleep(after_s)
        await cancel(the, task)
        await trio.sleep(5)
        assert the.receivers.calls == []
        assert (await the.row(task)).status is Status.CANCELLED
        assert the.gate.statistics().taken == 0


async def test_an_attempt_that_is_claimed_and_not_sent_is_known_to_be_stopped(autojump_clock: object) -> None:
    async with world() as the:
        [task] = await the.run(due_at=NOW + 1_000)
        await trio.sleep(0.98)
        assert (await the.row(task)).status is Status.RUNNING
        assert await cancel(the, task)
        await trio.sleep(1)
        assert the.receivers.calls == []
        assert the.actor().admission.limiter.used(the.clock.now_ms()) == 0  # the start was given back


async def test_one_on_its_way_cannot_be_stopped_and_its_attempt_is_kept(autojump_clock: object) -> None:
    async with world() as the:
        the.receivers.mood = answering(answered(), after_s=2)
        [task] = await the.run()
        await the.receivers.wait_for(1)
        assert not await cancel(the, task)
        await trio.sleep(3)
        row = await the.row(task)
        assert (row.status, row.finish_reason) == (Status.CANCELLED, FinishReason.CANCELLED)
        assert [attempt.status for attempt in await the.history(task)] == [ExecutionStatus.SUCCESS]


async def test_an_unknown_task_is_nobodys(autojump_clock: object) -> None:
    async with world() as the:
        assert not the.registry.withdraw("nothing", 7)
        [task] = await the.run()
        await the.settled(task)
        assert not the.registry.withdraw("nothing", 7)
        assert not the.registry.withdraw(task.id, 7)


# --- faults ----------------------------------------------------------------------------------------------------------


async def test_a_bug_in_one_attempt_is_recorded_as_its_fault(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = message.body_of
    async with world() as the:
        [bad] = await the.create(retry_intervals_ms=(5_000,))
        good = await the.create(5)

        def body_of(task: Any) -> bytes:
            if task.id == bad.id and task.current_retry == 0:
                raise KeyError("secret detail")
            return sound(task)

        monkeypatch.setattr(attempt_module, "body_of", body_of)
        the.tell(bad, *good)
        rows = await the.settled(bad, *good)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        first, second = await the.history(bad)
        assert (first.status, first.error_message) == (ExecutionStatus.CONNECTION_ERROR, "internal fault (KeyError)")
        assert second.started_at - first.started_at >= 5_000
        assert the.alerts == []


@pytest.mark.parametrize("broken", ["decide", "move_after", "missed_run", "finish_call"])
async def test_a_bug_in_what_decides_or_records_an_end_leaves_no_row_behind(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    sound = getattr(attempt_module, broken)
    async with world() as the:
        [bad] = await the.create(retry_intervals_ms=())
        good = await the.create(5)

        def faulty(*given: Any, **named: Any) -> Any:
            of_bad = bad.id in {getattr(one, "id", None) for one in given}
            if of_bad or (broken == "decide" and not the.receivers.calls[1:]):
                raise KeyError("secret detail")
            return sound(*given, **named)

        monkeypatch.setattr(attempt_module, broken, faulty if broken != "decide" else once(faulty, sound))
        the.tell(bad)
        [row] = await the.settled(bad, within_s=60)
        the.tell(*good)
        assert {one.status for one in await the.settled(*good, within_s=60)} == {Status.SUCCEEDED}
        assert (row.status, row.finish_reason) == (Status.FAILED, FinishReason.RETRIES_EXHAUSTED)
        assert row.last_error == "internal fault (KeyError)"
        [execution] = await the.history(bad)
        assert execution.error_message == "internal fault (KeyError)"
        assert the.gate.statistics().taken == 0
        assert the.actor().admission.memory.used == 0


def once(faulty: Any, sound: Any) -> Any:
    """`faulty` the first time."""
    calls: list[int] = []

    def either(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return (faulty if len(calls) == 1 else sound)(*given, **named)

    return either


async def test_a_newer_version_that_comes_while_an_attempt_is_on_its_way_is_not_lost(autojump_clock: object) -> None:
    async with world() as the:

        async def mood(call: Call) -> Any:
            await trio.sleep(1)
            return answered(500)

        the.receivers.mood = mood
        [task] = await the.run(retry_intervals_ms=(3_000,))
        await the.receivers.wait_for(1)
        assert task.ref is not None
        the.registry.offer(task.ref)  # the same again: the sweep does so
        await the.settled(task)
        assert len(the.receivers.calls) == 2


# --- a store that is out ---------------------------------------------------------------------------------------------


async def test_nothing_is_sent_unclaimed_and_all_is_sent_when_the_store_is_back(autojump_clock: object) -> None:
    async with world() as the:
        the.claims_out = True
        tasks = await the.run(20)
        await trio.sleep(60)
        assert the.receivers.calls == []
        hold = the.actor().admission.hold
        assert hold is not None
        assert hold.reason == "store"
        the.claims_out = False
        rows = await the.settled(*tasks, within_s=2)
        assert {(row.status, row.sends, row.current_retry) for row in rows} == {(Status.SUCCEEDED, 1, 0)}
        assert the.actor().admission.limiter.used(the.clock.now_ms()) == 20  # what was not sent was given back


async def test_an_outcome_is_kept_until_it_is_stored_and_stored_once(autojump_clock: object) -> None:
    async with world() as the:
        tasks = await the.run(10)
        await the.receivers.wait_for(10)
        the.outcomes_out = True
        await trio.sleep(120)
        assert {(await the.row(task)).status for task in tasks} == {Status.RUNNING}
        assert len(the.actor().in_flight) == 10
        the.outcomes_out = False
        rows = await the.settled(*tasks, within_s=3)
        assert {(row.status, row.sends) for row in rows} == {(Status.SUCCEEDED, 1)}
        assert len(the.tries) > 10
        assert [len(await the.history(task)) for task in tasks] == [1] * 10
        assert len(the.receivers.calls) == 10


async def test_a_deadline_that_passes_in_an_outage_is_told_after_it_without_haste(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as the:
        sound, tries = the.store.engine.settle, 0

        async def settle(*given: Any) -> Any:
            nonlocal tries
            tries += 1
            await trio.lowlevel.checkpoint()
            if the.claims_out:
                raise StoreUnavailable("the store is out")
            return await sound(*given)

        monkeypatch.setattr(the.store.engine, "settle", settle)
        the.claims_out = True
        [task] = await the.run(deadline_at=NOW + 1_000)
        await trio.sleep(31)
        assert 30 <= tries <= 70  # twice a second, not as fast as it can
        the.claims_out = False
        [row] = await the.settled(task, within_s=2)
        assert row.finish_reason is FinishReason.DEADLINE_PASSED


# --- the lease -------------------------------------------------------------------------------------------------------


async def test_without_a_lease_nothing_starts_and_nothing_is_forgotten(autojump_clock: object) -> None:
    async with world() as the:
        shard = the.businesses[7].shard
        term = the.terms.pop(shard)
        tasks = await the.run(5)
        await trio.sleep(20)
        assert the.receivers.calls == []
        assert the.claims == 0
        the.terms[shard] = term
        await the.settled(*tasks, within_s=2)


async def test_a_lease_that_lapses_between_claim_and_send_and_is_renewed_loses_nothing(autojump_clock: object) -> None:
    async with world() as the:
        shard = the.businesses[7].shard
        [task] = await the.run(due_at=NOW + 1_000)
        await trio.sleep(0.98)
        term = the.terms.pop(shard)
        await trio.sleep(5)
        assert the.receivers.calls == []
        the.terms[shard] = term
        [row] = await the.settled(task, within_s=2)
        assert (row.status, row.sends) == (Status.SUCCEEDED, 1)


async def test_a_claim_under_a_term_that_is_over_is_never_sent(autojump_clock: object) -> None:
    async with world() as the:
        shard = the.businesses[7].shard
        [task] = await the.run(due_at=NOW + 1_000)
        await trio.sleep(0.98)
        the.terms[shard] += 1
        await trio.sleep(5)
        assert the.receivers.calls == []
        assert (await the.row(task)).status is Status.RUNNING  # the new owner's to recover
        assert the.count("fenced_writes_total") == 1
        assert the.registry.statistics().in_flight == 0
