"""How a task is brought to its end and back through the API: cancel, run now, deliver again."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.http.api_kit import NOW, Api
from trio.testing import MockClock

from taskcenter.task import Status
from taskcenter.times import format_time

# --- cancel -----------------------------------------------------------------------------------------------------------


async def test_cancel_what_waits(stored_api: Api) -> None:
    task = await stored_api.create("x", delay=60)
    cancelled = (await stored_api.call("DELETE", "/tasks/business/x")).json
    assert (cancelled["status"], cancelled["finish_reason"], cancelled["in_flight"]) == (
        "cancelled",
        "cancelled",
        False,
    )
    assert (cancelled["next_execute_at"], cancelled["version"]) == (None, 2)
    assert stored_api.engine.withdrawn == [task["id"]]
    again = await stored_api.call("DELETE", f"/tasks/{task['id']}")
    assert (again.status, again.json) == (200, cancelled)
    assert (
        'tasks_finished_total{business="orders",status="cancelled"} 1.0'
        in (await stored_api.call("GET", "//metrics")).content.decode()
    )


@pytest.mark.parametrize("held_unsent", [True, False])
async def test_cancel_with_an_attempt_claimed(api: Api, held_unsent: bool) -> None:
    """in_flight is false only when the engine says that the claimed attempt was not sent and never will be."""
    task = await api.create()
    await api.claim(task["id"])
    if held_unsent:
        api.engine.holds_unsent.add(task["id"])
    cancelled = (await api.call("DELETE", f"/tasks/{task['id']}")).json
    assert (cancelled["status"], cancelled["in_flight"]) == ("cancelled", not held_unsent)


async def test_cancel_tells_of_a_former_runs_call(api: Api) -> None:
    """Cancelled while it was on its way, called back to life, and cancelled again: it may still reach the receiver."""
    task = await api.create()
    path = f"/tasks/{task['id']}"
    claimed = await api.claim(task["id"])
    assert (await api.call("DELETE", path)).json["in_flight"] is True
    assert (await api.call("POST", f"{path}/redeliver")).status == 200
    api.engine.holds_unsent.add(task["id"])
    assert (await api.call("DELETE", path)).json["in_flight"] is True
    assert claimed.sends == 1


@pytest.mark.parametrize("by_filter", [False, True])
@pytest.mark.parametrize("claimed_again", [False, True])
async def test_cancel_tells_of_a_lost_senders_call(
    api: Api, autojump_clock: MockClock, claimed_again: bool, by_filter: bool
) -> None:
    """It waits again, or is held unsent, but the former sender may only stand still or be cut off from the store."""

    async def in_flight(task: dict[str, Any]) -> int:
        path, query = ("/tasks", {"tag": task["tags"][0]}) if by_filter else (f"/tasks/{task['id']}", {})
        answer = await api.call("DELETE", path, query=query)
        return int(answer.json["in_flight"])

    soon, later = [await api.create(name, timeout=10, tags=[name]) for name in ("soon", "later")]
    for task in (soon, later):
        await api.claim(task["id"])
    lost, _ = await api.take_over()
    assert {task.id for task in lost} == {soon["id"], later["id"]}
    if claimed_again:
        for task in (soon, later):
            await api.claim(task["id"])
            api.engine.holds_unsent.add(task["id"])
    await trio.sleep(300)  # the lease of one that stood still may last so long
    assert await in_flight(soon) == 1
    await trio.sleep(16)  # its timeout and a little
    assert await in_flight(later) == 0


@pytest.mark.parametrize("taken_over", [False, True])
async def test_cancel_again_tells_whether_the_attempt_may_still_be_under_way(
    api: Api, autojump_clock: MockClock, taken_over: bool
) -> None:
    """Its sender may stand still and go on, whatever history says of it once another has its shards."""
    task = await api.create(timeout=10)
    claimed = await api.claim(task["id"])
    path = f"/tasks/{task['id']}"
    assert (await api.call("DELETE", path)).json["in_flight"] is True
    if taken_over:
        _, (told,) = await api.take_over()
        assert told.task_id == task["id"]
    assert (await api.call("DELETE", path)).json["in_flight"] is True
    await trio.sleep(300)  # of a claimant that stood still the lease may last so long
    assert (await api.call("DELETE", path)).json["in_flight"] is True
    await trio.sleep(16)  # its timeout and a little
    assert (await api.call("DELETE", path)).json["in_flight"] is False
    assert claimed.sends == 1


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.STOPPED])
async def test_cancel_what_has_ended_otherwise(api: Api, status: Status) -> None:
    task = await api.create()
    await api.attempt(task["id"], status=status)
    answer = await api.call("DELETE", f"/tasks/{task['id']}")
    assert (answer.status, answer.code, answer.json["task_status"]) == (409, "not_cancellable", status.value)
    assert not api.engine.withdrawn


# --- run now, deliver again -------------------------------------------------------------------------------------------


async def test_run_now(stored_api: Api) -> None:
    task = await stored_api.create(delay=3600, retry_intervals=[60])
    before = stored_api.clock.now_ms()
    ran = (await stored_api.call("POST", f"/tasks/{task['id']}/run")).json
    assert format_time(before) <= ran["next_execute_at"] <= format_time(stored_api.clock.now_ms())
    assert (ran["status"], ran["current_retry"], ran["version"]) == ("pending", 0, 2)
    assert stored_api.engine.offered[-1].due_at <= stored_api.clock.now_ms()


async def test_run_now_without_using_up_a_retry(api: Api) -> None:
    task = await api.create(retry_intervals=[3600, 3600])
    await api.attempt(task["id"], status=Status.RETRYING, at=NOW + 3_600_000)
    ran = (await api.call("POST", f"/tasks/{task['id']}/run")).json
    assert (ran["status"], ran["current_retry"], ran["max_retries"]) == ("retrying", 1, 2)


async def test_run_now_what_does_not_wait(api: Api) -> None:
    task = await api.create()
    await api.claim(task["id"])
    answer = await api.call("POST", f"/tasks/{task['id']}/run")
    assert (answer.status, answer.code, answer.json["task_status"]) == (409, "not_runnable", "running")
    await api.call("DELETE", f"/tasks/{task['id']}")
    answer = await api.call("POST", f"/tasks/{task['id']}/run")
    assert (answer.status, answer.code, answer.json["task_status"]) == (409, "not_runnable", "cancelled")


async def test_deliver_again(stored_api: Api) -> None:
    task = await stored_api.create(retry_intervals=[60])
    await stored_api.attempt(task["id"], status=Status.FAILED)
    again = (await stored_api.call("POST", f"/tasks/{task['id']}/redeliver")).json
    assert (again["status"], again["finish_reason"], again["run"]) == ("pending", None, 2)
    assert (again["current_retry"], again["attempts"], again["finished_at"]) == (0, 1, None)
    assert stored_api.engine.offered[-1].task_id == task["id"]
    answer = await stored_api.call("POST", f"/tasks/{task['id']}/redeliver")
    assert (answer.status, answer.code) == (409, "not_redeliverable")


async def test_deliver_again_after_the_deadline(api: Api, autojump_clock: MockClock) -> None:
    task = await api.create(deadline=format_time(NOW + 5_000))
    await api.attempt(task["id"], status=Status.SUCCEEDED)
    await trio.sleep(6)
    answer = await api.call("POST", f"/tasks/{task['id']}/redeliver")
    assert (answer.status, answer.code) == (409, "not_redeliverable")


async def test_deliver_again_counts_as_active(api: Api) -> None:
    await api.register("small", max_active_tasks=1)
    task = await api.create(by="small")
    await api.attempt(task["id"], status=Status.SUCCEEDED, by="small")
    await api.create("b", by="small")
    answer = await api.call("POST", f"/tasks/{task['id']}/redeliver", by="small")
    assert (answer.status, answer.code) == (429, "quota_exceeded")
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("body", [{"now": True}, [], "x", 5])
async def test_calls_that_take_no_body(api: Api, body: Any) -> None:
    task = await api.create(delay=60)
    for method, path in (("POST", "run"), ("POST", "redeliver"), ("DELETE", "")):
        answer = await api.call(method, f"/tasks/{task['id']}/{path}".rstrip("/"), body)
        assert (answer.status, answer.code) == (422, "invalid_request")
    assert (await api.call("POST", f"/tasks/{task['id']}/run", {})).status == 200
