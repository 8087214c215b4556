"""Why a task has not run yet, or ended as it did."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.http.api_kit import NOW, Api
from trio.testing import MockClock

from taskcenter.service.engine_port import WaitView
from taskcenter.task import Status
from taskcenter.times import format_time


async def explain(api: Api, task: dict[str, Any]) -> dict[str, Any]:
    answer = await api.call("GET", f"/tasks/{task['id']}/explain")
    assert answer.status == 200, answer.json
    explained: dict[str, Any] = answer.json
    return explained


async def test_not_due_yet(api: Api, autojump_clock: MockClock) -> None:
    task = await api.create(execute_at=format_time(NOW + 90_000), retry_intervals=[60, "5m"])
    explained = await explain(api, task)
    assert explained["summary"] == "Attempt 1 of 3 is due in 1 min 30 s; it is not due yet."
    assert (explained["state"], explained["waiting_for"]) == ("pending", "time")
    assert explained["expected_start_at"] == explained["next_execute_at"] == format_time(NOW + 90_000)
    due = [NOW + 90_000, NOW + 150_000, NOW + 450_000]
    assert explained["planned_attempts"] == [
        {"attempt": number, "due_at": format_time(at)} for number, at in enumerate(due, 1)
    ]
    assert (explained["planned_runs"], explained["past_attempts"], explained["position"]) == ([], [], None)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("rate_limit", "rate limit"), ("breaker", "breaker of its destination"), ("concurrency", "on their way"),
        ("capacity", "service has as many"), ("store", "store did not take"), ("in_flight", "on its way"),
    ],
)  # fmt: skip
async def test_due_and_held_back(api: Api, autojump_clock: MockClock, reason: str, words: str) -> None:
    task = await api.create(execute_at=format_time(NOW), retry_intervals=[60])
    await trio.sleep(42)
    api.engine.waits[task["id"]] = WaitView(reason, 17, NOW + 50_000, "why, in more words")
    explained = await explain(api, task)
    assert explained["summary"].startswith("Attempt 1 of 2 has been due for 42 s; ")
    assert words in explained["summary"]
    assert (explained["waiting_for"], explained["position"], explained["detail"]) == (reason, 17, "why, in more words")
    assert explained["expected_start_at"] == format_time(NOW + 50_000)
    assert explained["planned_attempts"][0]["due_at"] == format_time(NOW + 50_000)
    assert explained["planned_attempts"][1]["due_at"] == format_time(NOW + 110_000)


@pytest.mark.parametrize("owned", [True, False])
async def test_due_and_not_taken_up(api: Api, owned: bool) -> None:
    api.engine.owned = owned
    explained = await explain(api, await api.create())
    assert explained["waiting_for"] == "owner"
    assert ("this instance" if owned else "another instance") in explained["detail"]


async def test_a_paused_business(api: Api) -> None:
    task = await api.create(delay=60)
    await api.call("PUT", "/businesses/orders", {"status": "paused"}, by="admin")
    explained = await explain(api, task)
    assert (explained["waiting_for"], explained["expected_start_at"]) == ("paused", None)
    assert "its business is paused" in explained["summary"]


async def test_a_deadline_that_comes_first(api: Api) -> None:
    task = await api.create(delay=60, deadline=format_time(NOW + 30_000))
    explained = await explain(api, task)
    assert (explained["planned_attempts"], explained["expected_start_at"]) == ([], None)
    assert explained["waiting_for"] == "deadline"
    assert explained["summary"].endswith("its deadline comes first, so it will fail.")
    assert format_time(NOW + 30_000) in explained["detail"]


async def test_an_attempt_on_its_way(api: Api) -> None:
    task = await api.create(retry_intervals=[60])
    await api.claim(task["id"])
    explained = await explain(api, task)
    assert (explained["state"], explained["waiting_for"]) == ("running", "in_flight")
    assert explained["summary"] == "Attempt 1 of 2 has been started; its attempt is on its way."


async def test_retrying_with_its_past(api: Api, autojump_clock: MockClock) -> None:
    task = await api.create(retry_intervals=[60, 120])
    await api.attempt(
        task["id"],
        status=Status.RETRYING,
        at=NOW + 60_000,
        wait_reason="rate_limit",
        lateness_ms=953.5,
        policy_wait_ms=950.0,
    )
    explained = await explain(api, task)
    assert explained["summary"].startswith("Attempt 2 of 3 is due in 1 min")
    assert [planned["attempt"] for planned in explained["planned_attempts"]] == [2, 3]
    (past,) = explained["past_attempts"]
    assert past["lateness"] == {"scheduler_ms": 3.5, "policy_wait_ms": 950, "receiver_ms": 40.25}
    assert (past["attempt"], past["status"], past["wait_reason"]) == (1, "http_error", "rate_limit")


async def test_lateness_of_the_services_own_doing(api: Api) -> None:
    task = await api.create()
    await api.attempt(task["id"], status=Status.SUCCEEDED)
    (past,) = (await explain(api, task))["past_attempts"]
    assert past["lateness"] == {"scheduler_ms": 3.5, "policy_wait_ms": 0, "receiver_ms": 40.25}


async def test_runs_to_come(api: Api) -> None:
    schedule = {"cron": "0 9 * * *", "timezone": "Asia/Shanghai", "max_runs": 3}
    explained = await explain(api, await api.create(schedule=schedule))
    assert [run["due_at"] for run in explained["planned_runs"]] == [
        "2027-01-17T01:00:00.000Z", "2027-01-18T01:00:00.000Z",
    ]  # fmt: skip
    assert [run["run"] for run in explained["planned_runs"]] == [2, 3]
    endless = await explain(api, await api.create("b", schedule={"every": 60}, delay=5))
    assert len(endless["planned_runs"]) == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.SUCCEEDED, "It succeeded at "), (Status.FAILED, "the list of retries is used up"),
        (Status.STOPPED, "It was stopped at "), (Status.CANCELLED, "It was cancelled at "),
    ],
)  # fmt: skip
async def test_ended(api: Api, status: Status, words: str) -> None:
    task = await api.create()
    if status is Status.CANCELLED:
        await api.call("DELETE", f"/tasks/{task['id']}")
    else:
        await api.attempt(task["id"], status=status)
    explained = await explain(api, task)
    assert words in explained["summary"]
    assert explained["summary"].endswith(".")
    assert explained["state"] == status.value
    assert (explained["waiting_for"], explained["planned_attempts"], explained["expected_start_at"]) == (None, [], None)
