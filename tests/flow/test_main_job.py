"""The main job through real processes and sockets, on every store: created, waits, called, retried, recorded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import trio
from standardwebhooks.webhooks import Webhook
from tests.flow.kit import ADMIN_TOKEN, Answer, Api, Call, business, running

pytestmark = pytest.mark.real_time


async def test_a_task_is_called_at_its_time_with_the_promised_request_and_is_recorded(
    database_url: str, tmp_path: Path
) -> None:
    async with running(database_url, tmp_path) as (service, receiver):
        admin = Api(service, ADMIN_TOKEN)
        made = await admin.ok("POST", "/businesses", {"business_code": "shop", "business_name": "Shop"})
        api = Api(service, made["api_key"])
        task = await api.ok(
            "POST",
            "/tasks",
            {
                "business_id": "order 17/ü",
                "callback_url": f"{receiver.url}/hook?x=1",
                "delay": 1.5,
                "payload": {"order": 17, "text": "grüße"},
                "headers": {"X-Shop": "yes"},
            },
        )
        assert task["status"] == "pending"
        [call] = await receiver.wait_for(1)
        assert call.arrived_at >= call.due_at, "never early"
        assert (call.method, call.path, call.headers["x-shop"]) == ("POST", "/hook?x=1", "yes")
        assert call.json == {
            "task_id": task["id"],
            "business_code": "shop",
            "business_id": "order 17/ü",
            "attempt": 1,
            "max_attempts": 1,
            "run": 1,
            "scheduled_at": task["next_execute_at"],
            "payload": {"order": 17, "text": "grüße"},
        }
        assert call.headers["webhook-id"] == call.headers["idempotency-key"] == f"{task['id']}-1"
        Webhook(made["signing_secret"]).verify(call.body, call.headers)
        done = await api.until_status(task["id"], "succeeded")
        [execution] = done["executions"]
        assert (execution["attempt"], execution["status"], execution["response_status"]) == (1, "success", 200)
        assert execution["lateness_ms"] >= 0
        assert done["next_execute_at"] is None
        await api.aclose()
        await admin.aclose()


async def test_the_retry_list_is_followed_from_the_end_of_each_attempt(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        receiver.decide = lambda call: Answer(500, delay_s=0.2)
        task = await api.ok(
            "POST",
            "/tasks",
            {
                "business_id": "1",
                "callback_url": receiver.url,
                "retry_intervals": [1, "2s", 1],
            },
        )
        done = await api.until_status(task["id"], "failed")
        assert done["finish_reason"] == "retries_exhausted"
        executions = sorted(done["executions"], key=lambda execution: execution["attempt"])
        assert [execution["attempt"] for execution in executions] == [1, 2, 3, 4]
        arrivals = [call.arrived_at for call in receiver.calls]
        for (before, after), interval_s in zip(pairwise(arrivals), (1, 2, 1), strict=True):
            assert after - before >= (interval_s + 0.2) * 1000, "counted from the end of the attempt, never early"
        assert [call.json["attempt"] for call in receiver.calls] == [1, 2, 3, 4]
        assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1


async def test_an_empty_list_runs_once(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        receiver.decide = lambda call: Answer(500)
        task = await api.ok("POST", "/tasks", {"business_id": "1", "callback_url": receiver.url, "retry_intervals": []})
        done = await api.until_status(task["id"], "failed")
        assert (done["finish_reason"], len(receiver.calls)) == ("retries_exhausted", 1)


def answers(call: Call) -> Answer:
    """By path: what a receiver may say."""
    first = call.json["attempt"] == 1
    match call.path:
        case "/stop":
            return Answer(200, b'{"action": "stop", "reason": "enough"}')
        case "/gone":
            return Answer(410)
        case "/later":
            seen = call.headers["x-taskcenter-task-id"]
            deferred.setdefault(seen, 0)
            deferred[seen] += 1
            return Answer(503, headers={"Retry-After": "1"}) if deferred[seen] == 1 else Answer()
        case "/again":
            return Answer(200, b'{"action": "retry"}') if first else Answer()
    return Answer()


deferred: dict[str, int] = {}


async def test_the_receiver_steers_with_its_answers(database_url: str, tmp_path: Path) -> None:
    expected = {
        "/stop": ("stopped", ["stop"]),
        "/gone": ("stopped", ["stop"]),
        "/later": ("succeeded", ["deferred", "success"]),
        "/again": ("succeeded", ["retry", "success"]),
    }
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        receiver.decide = answers
        for path, (status, history) in expected.items():
            task = await api.ok(
                "POST",
                "/tasks",
                {
                    "business_id": path,
                    "callback_url": f"{receiver.url}{path}",
                    "retry_intervals": [1],
                },
            )
            done = await api.until_status(task["id"], status)
            assert [execution["status"] for execution in reversed(done["executions"])] == history, path


async def test_a_recurring_task_runs_until_its_schedule_ends(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        task = await api.ok(
            "POST",
            "/tasks",
            {
                "business_id": "1",
                "callback_url": receiver.url,
                "schedule": {"every": 1, "max_runs": 3},
            },
        )
        done = await api.until_status(task["id"], "succeeded")
        assert [call.json["run"] for call in receiver.calls] == [1, 2, 3]
        dues = [call.due_at for call in receiver.calls]
        assert all(later - earlier in range(1000, 60_000, 1000) for earlier, later in pairwise(dues)), "in its rhythm"
        assert done["runs"] == 3


async def test_a_cancelled_task_is_never_called(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        task = await api.ok("POST", "/tasks", {"business_id": "1", "callback_url": receiver.url, "delay": 4})
        gone = await api.ok("DELETE", f"/tasks/{task['id']}")
        assert (gone["status"], gone["in_flight"]) == ("cancelled", False)
        await trio.sleep(4.5)
        assert receiver.calls == []


async def test_a_finish_url_is_told_once(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        task = await api.ok(
            "POST",
            "/tasks",
            {
                "business_id": "1",
                "callback_url": f"{receiver.url}/work",
                "finish_url": f"{receiver.url}/finish",
            },
        )
        calls = await receiver.wait_for(2)
        finish = next(call for call in calls if call.path == "/finish")
        assert finish.json["task_id"] == task["id"]
        assert (finish.json["status"], finish.json["attempts"]) == ("succeeded", 1)
        assert finish.json["last_execution"]["response_status"] == 200
