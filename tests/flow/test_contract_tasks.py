"""CONTRACT.md §3, tasks: create, replay, batch, list, change, cancel, run, redeliver, explain."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.flow.contract_kit import Live, refused
from tests.flow.kit import Answer

pytestmark = pytest.mark.real_time
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,}Z")
READ = {
    "id", "business_code", "status", "finish_reason", "current_retry", "max_retries", "next_execute_at", "last_error",
    "version", "created_at", "updated_at", "finished_at", "runs", "business_id", "callback_url", "callback_method",
    "headers", "payload", "retry_intervals", "timeout", "schedule", "deadline", "finish_url", "tags",
}  # fmt: skip
EXECUTION = {
    "id", "task_id", "run", "attempt", "scheduled_at", "started_at", "duration_ms", "lateness_ms", "status",
    "response_status", "response_headers", "response_body", "error_message", "request_headers",
}  # fmt: skip


def later(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_created_task_can_be_read_with_every_field(live: Live) -> None:
    business = live.business()
    at = later(hours=2)
    body = business.body(
        live, execute_at=at, payload={"a": [1, None, "ü"]}, headers={"X-A": "b"},
        retry_intervals=["90s", "5m", "2h", 7], timeout="5s", deadline=later(days=1),
        finish_url=f"{live.receiver.url}/f", tags=["x", "y"], callback_method="PUT",
    )  # fmt: skip
    answer = business.api.call("POST", "/tasks", body)
    assert answer.status_code == 201 and answer.headers["content-type"].startswith("application/json")
    task = answer.json()
    assert task.keys() >= READ
    assert (task["status"], task["business_code"], task["current_retry"], task["max_retries"]) == (
        "pending", business.code, 0, 4,
    )  # fmt: skip
    assert task["retry_intervals"] == [90, 300, 7200, 7] and task["timeout"] == 5
    assert task["next_execute_at"] == at and task["payload"] == body["payload"] and task["headers"] == {"X-A": "b"}
    assert TIME.fullmatch(task["created_at"]) and TIME.fullmatch(task["updated_at"]) and task["finished_at"] is None
    read = business.api.ok("GET", f"/tasks/{task['id']}")
    assert read.pop("executions") == [] and read == task
    assert business.api.ok("GET", f"/tasks/business/{task['business_id']}")["id"] == task["id"]


def test_the_same_business_id_again_is_replayed_or_conflicts(live: Live) -> None:
    business = live.business()
    body = business.body(live, delay=3600)
    task = business.api.ok("POST", "/tasks", body)
    again = business.api.call("POST", "/tasks", body)
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()["id"]) == (200, "true", task["id"])
    problem = refused(business.api.call("POST", "/tasks", {**body, "payload": 1}), 409, "business_id_conflict")
    assert problem["existing_task_id"] == task["id"]
    business.api.ok("DELETE", f"/tasks/{task['id']}")
    assert business.api.call("POST", "/tasks", body).json()["status"] == "cancelled", "unique for ever"
    assert live.business().api.call("POST", "/tasks", body).status_code == 201, "unique in the business only"


@pytest.mark.parametrize(
    "wrong",
    [
        {"business_id": ""}, {"business_id": "x" * 129}, {"business_id": "a\nb"}, {"callback_url": "ftp://a.example/"},
        {"callback_url": "http://example.com/" + "x" * 2048}, {"callback_method": "HEAD"},
        {"headers": {f"X-{number}": "1" for number in range(33)}}, {"headers": {"Connection": "close"}},
        {"headers": {"webhook-id": "1"}}, {"payload": "x" * (256 * 1024)}, {"retry_intervals": [1] * 11},
        {"retry_intervals": [0.5]}, {"retry_intervals": ["8d"]}, {"timeout": 0.05}, {"timeout": 30.5},
        {"delay": 1, "execute_at": "2030-01-01T00:00:00Z"}, {"execute_at": "2030-01-01T00:00:00"},
        {"schedule": {"cron": "* * * *"}}, {"schedule": {"cron": "* * * * *", "every": 5}}, {"schedule": {}},
        {"schedule": {"cron": "* * * * *", "timezone": "Mars/Base"}}, {"schedule": {"every": 5, "misfire": "all"}},
        {"callback_url": "http://10.0.0.1/"}, {"callback_url": "http://169.254.169.254/latest"},
        {"callback_url": "http://[::1]/"}, {"callback_url": "http://0x0a000001/"}, {"finish_url": "http://192.168.1.1/"},
    ],
    ids="-".join,
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_with_the_field_named(live: Live, wrong: dict[str, Any]) -> None:
    business = live.business()
    problem = refused(business.api.call("POST", "/tasks", business.body(live, **wrong)), 422, "invalid_request")
    named = {fault["field"].split(".")[0] for fault in problem["errors"]}
    assert named & wrong.keys()


def test_the_limits_are_inclusive(live: Live) -> None:
    business = live.business()
    task = business.task(
        live, business_id="x" * 128, payload="y" * (256 * 1024 - 2), retry_intervals=[1] * 9 + ["7d"], timeout=30,
        headers={f"X-{number}": "1" for number in range(32)}, delay="1d",
    )  # fmt: skip
    assert task["max_retries"] == 10 and task["timeout"] == 30 and len(task["headers"]) == 32


def test_a_batch_has_a_result_for_each_item_in_order(live: Live) -> None:
    business = live.business()
    good, twin = business.body(live, delay=3600), business.body(live, delay=3600)
    items = [good, {"business_id": "x"}, twin, twin, {**good, "payload": 2}, 7]
    results = business.api.ok("POST", "/tasks/batch", {"tasks": items})["results"]
    assert [result["status"] for result in results] == [201, 422, 201, 200, 409, 422]
    assert results[0]["task"]["business_id"] == good["business_id"]
    assert results[1]["error"]["code"] == "invalid_request" and results[1]["error"]["errors"]
    assert results[4]["error"]["code"] == "business_id_conflict"
    assert results[4]["error"]["existing_task_id"] == results[0]["task"]["id"]
    many = [business.body(live, delay=3600) for _ in range(1000)]
    answer = business.api.ok("POST", "/tasks/batch", {"tasks": many})["results"]
    assert [result["task"]["business_id"] for result in answer] == [item["business_id"] for item in many]
    refused(business.api.call("POST", "/tasks/batch", {"tasks": [*many, good]}), 422, "invalid_request")
    heavy = [business.body(live, payload="x" * 250_000) for _ in range(36)]
    refused(business.api.call("POST", "/tasks/batch", {"tasks": heavy}), 413, "payload_too_large")
    done = business.api.ok("DELETE", "/tasks?status=pending&limit=1000")
    assert done == {"matched": 1000, "cancelled": 1000, "in_flight": 0, "more": True}
    refused(business.api.call("DELETE", "/tasks"), 422, "invalid_request")


def test_the_list_filters_and_pages_stably(live: Live) -> None:
    business = live.business()
    for number in range(5):
        business.task(live, delay=3600 + number, tags=["even" if number % 2 == 0 else "odd"])
    business.task(live, callback_url="https://other.example/x", delay=7200)
    first = business.api.ok("GET", "/tasks?limit=2")
    assert len(first["items"]) == 2 and first["next_cursor"]
    business.task(live, delay=9000)
    seen = [task["id"] for task in first["items"]]
    cursor = first["next_cursor"]
    while cursor:
        page = business.api.ok("GET", f"/tasks?limit=2&cursor={cursor}")
        seen += [task["id"] for task in page["items"]]
        cursor = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 6, "an insert meanwhile moves nothing"

    def count(query: str) -> int:
        return len(business.api.ok("GET", f"/tasks?limit=200&{query}")["items"])

    assert (count("tag=even"), count("tag=odd"), count("tag=none")) == (3, 2, 0)
    assert (count("callback_host=other.example"), count("status=pending"), count("status=failed")) == (1, 7, 0)
    assert (count(f"created_after={later(minutes=-5)}"), count(f"created_before={later(minutes=-5)}")) == (7, 0)
    assert (count(f"due_after={later(minutes=90)}"), count(f"due_before={later(minutes=90)}")) == (2, 5)
    refused(business.api.call("GET", "/tasks?limit=201"), 422, "invalid_request")
    refused(business.api.call("GET", "/tasks?cursor=nonsense"), 422, "invalid_request")
    refused(business.api.call("GET", "/tasks?status=odd"), 422, "invalid_request")
    assert business.api.ok("DELETE", "/tasks?tag=even&dry_run=true") == {
        "matched": 3,
        "cancelled": 0,
        "in_flight": 0,
        "more": False,
    }
    done = business.api.ok("DELETE", "/tasks?tag=even")
    assert (done["matched"], done["cancelled"], count("status=cancelled")) == (3, 3, 3)


def test_a_waiting_task_can_be_changed_field_by_field(live: Live) -> None:
    business = live.business()
    task = business.task(live, delay=3600, payload=1)
    path = f"/tasks/{task['id']}"
    at = later(hours=3)
    change = {
        "callback_url": f"{live.receiver.url}/new", "callback_method": "PATCH", "headers": {"X-B": "1"},
        "payload": {"n": 2}, "retry_intervals": [5, 6], "timeout": 9, "execute_at": at, "tags": ["t"],
    }  # fmt: skip
    answer = business.api.call("PUT", path, change, **{"If-Match": str(task["version"])})
    assert answer.status_code == 200
    new = answer.json()
    assert {name: new[name] for name in change if name != "execute_at"} | {"execute_at": at} == change
    assert new["next_execute_at"] == at and new["max_retries"] == 2 and new["version"] == task["version"] + 1
    stale = business.api.call("PUT", path, {"tags": []}, **{"If-Match": f'"{task["version"]}"'})
    refused(stale, 409, "version_conflict")
    every = business.api.ok("PUT", path, {"schedule": {"every": "1h", "max_runs": 3}})
    assert every["schedule"]["every"] == 3600
    business.api.ok("DELETE", path)
    refused(business.api.call("PUT", path, {"tags": []}), 409, "task_finished")


def test_a_change_of_time_is_obeyed(live: Live) -> None:
    business = live.business()
    task = business.task(live, delay=3600)
    business.api.ok("PUT", f"/tasks/{task['id']}", {"execute_at": later(seconds=0.5), "payload": "new"})
    [call] = live.receiver.wait_for(business.path)
    assert call.json["payload"] == "new"


def test_cancelling_is_repeatable_and_refused_when_it_ended_otherwise(live: Live) -> None:
    business = live.business()
    task = business.task(live, delay=3600)
    for _ in range(2):
        gone = business.api.ok("DELETE", f"/tasks/{task['id']}")
        assert (gone["status"], gone["in_flight"], gone["next_execute_at"]) == ("cancelled", False, None)
    other = business.task(live, delay=3600)
    assert business.api.ok("DELETE", f"/tasks/business/{other['business_id']}")["status"] == "cancelled"
    done = business.task(live)
    business.api.ended(done)
    refused(business.api.call("DELETE", f"/tasks/{done['id']}"), 409, "not_cancellable")


def test_cancelling_tells_of_a_call_on_its_way_and_no_other_starts(live: Live) -> None:
    business = live.business()
    go = threading.Event()
    live.receiver.on[business.path] = lambda _: Answer(500, go=go)
    task = business.task(live, retry_intervals=[1])
    live.receiver.wait_for(business.path)
    gone = business.api.ok("DELETE", f"/tasks/{task['id']}")
    assert (gone["status"], gone["in_flight"]) == ("cancelled", True)
    go.set()
    seen = business.api.until(f"/tasks/{task['id']}", lambda task: task["executions"] != [])
    assert seen["status"] == "cancelled" and len(live.receiver.calls(business.path)) == 1


def test_run_makes_it_due_now_without_using_up_a_retry(live: Live) -> None:
    business = live.business()
    live.receiver.on[business.path] = lambda _: Answer(500)
    task = business.task(live, delay=3600, retry_intervals=["1h"])
    ran = business.api.ok("POST", f"/tasks/{task['id']}/run")
    assert ran["current_retry"] == 0
    retrying = business.api.until(f"/tasks/{task['id']}", lambda task: task["status"] == "retrying")
    assert retrying["current_retry"] == 1 and [e["attempt"] for e in retrying["executions"]] == [1]
    for sends in (2, 3):  # the retry itself, before its time: as often as one likes
        assert business.api.ok("POST", f"/tasks/{task['id']}/run")["current_retry"] == 1
        again = business.api.until(
            f"/tasks/{task['id']}",
            lambda task, sends=sends: task["status"] == "retrying" and len(task["executions"]) == sends,  # type: ignore[misc]  # its default is known
        )
        assert again["current_retry"] == 1 and again["executions"][0]["attempt"] == 2
        started = datetime.fromisoformat(again["executions"][0]["started_at"])
        wait_s = (datetime.fromisoformat(again["next_execute_at"]) - started).total_seconds()
        assert 3600 <= wait_s < 3660, "the list's interval once more, from this attempt's end"
    live.receiver.on[business.path] = lambda _: Answer(200)
    business.api.ok("POST", f"/tasks/{task['id']}/run")
    assert business.api.ended(task)["status"] == "succeeded"
    refused(business.api.call("POST", f"/tasks/{task['id']}/run"), 409, "not_runnable")


def test_a_finished_task_is_delivered_again_as_a_new_series(live: Live) -> None:
    business = live.business(breaker={"enabled": False})
    good: list[bool] = []
    live.receiver.on[business.path] = lambda _: Answer(200 if good else 500)
    tasks = [business.task(live, retry_intervals=[1]) for _ in range(3)]
    for task in tasks:
        assert business.api.ended(task)["status"] == "failed"
    good.append(True)
    again = business.api.ok("POST", f"/tasks/{tasks[0]['id']}/redeliver")
    assert again["status"] == "pending" and again["current_retry"] == 0
    done = business.api.ended(tasks[0])
    assert done["status"] == "succeeded"
    assert [(e["run"], e["attempt"]) for e in done["executions"]] == [(2, 1), (1, 2), (1, 1)]
    refused(business.api.call("POST", f"/tasks/{business.task(live, delay=99)['id']}/redeliver"), 409,
            "not_redeliverable")  # fmt: skip
    many = business.api.ok(
        "POST",
        "/tasks/redeliver",
        {"status": "failed", "after": later(hours=-1), "before": later(hours=1), "limit": 10},
    )
    assert (many["matched"], many["redelivered"]) == (2, 2)
    for task in tasks[1:]:
        business.api.until(f"/tasks/{task['id']}", lambda task: task["status"] == "succeeded")


def test_an_execution_has_every_field_and_the_history_pages(live: Live) -> None:
    business = live.business()
    live.receiver.on[business.path] = lambda _: Answer(
        500, b"x" * 10_000, {"X-Answer": "1", "Content-Type": "text/plain"}
    )
    task = business.task(live, retry_intervals=[1, 1], headers={"X-Api-Key": "hush", "X-Plain": "seen"})
    done = business.api.ended(task)
    assert [e["attempt"] for e in done["executions"]] == [3, 2, 1]
    execution = done["executions"][0]
    assert execution.keys() >= EXECUTION
    assert (execution["status"], execution["response_status"]) == ("http_error", 500)
    assert len(execution["response_body"]) == 4096 and "hush" not in str(execution)
    sent = {name.lower(): value for name, value in execution["request_headers"].items()}
    assert sent["x-plain"] == "seen"
    heads = {name.lower(): value for name, value in execution["response_headers"].items()}
    assert heads["x-answer"] == "1"
    page = business.api.ok("GET", f"/tasks/{task['id']}/executions?limit=2")
    rest = business.api.ok("GET", f"/tasks/{task['id']}/executions?limit=2&cursor={page['next_cursor']}")
    assert [e["attempt"] for e in page["items"] + rest["items"]] == [3, 2, 1] and rest["next_cursor"] is None


def test_the_quota_of_active_tasks_is_exact(live: Live) -> None:
    business = live.business(max_active_tasks=3)
    tasks = [business.task(live, delay=3600) for _ in range(3)]
    over = business.api.call("POST", "/tasks", business.body(live))
    refused(over, 429, "quota_exceeded")
    assert int(over.headers["retry-after"]) >= 1
    results = business.api.ok("POST", "/tasks/batch", {"tasks": [business.body(live)]})["results"]
    assert (results[0]["status"], results[0]["error"]["code"]) == (429, "quota_exceeded")
    business.api.ok("DELETE", f"/tasks/{tasks[0]['id']}")
    business.task(live, delay=3600)
