"""CONTRACT.md §4: what a receiver gets, and what its answers mean."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import jsonschema_rs
import pytest
from standardwebhooks.webhooks import Webhook
from tests.flow.contract_kit import Business, Live, refused
from tests.flow.kit import Answer

pytestmark = pytest.mark.real_time


def later(seconds: float) -> str:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def history(business: Business, task: Any) -> list[str]:
    done = business.api.ended(task)
    return [execution["status"] for execution in reversed(done["executions"])]


def test_the_request_is_as_promised(live: Live) -> None:
    business = live.business()
    task = business.task(live, payload={"n": 1}, retry_intervals=[60], headers={"X-Own": "1"})
    [call] = live.receiver.wait_for(business.path)
    seen = business.api.ended(task)
    assert call.method == "POST" and call.headers["content-type"] == "application/json"
    assert call.json == {
        "task_id": task["id"], "business_code": business.code, "business_id": task["business_id"], "attempt": 1,
        "max_attempts": 2, "run": 1, "scheduled_at": task["next_execute_at"], "payload": {"n": 1},
    }  # fmt: skip
    heads = call.headers
    assert heads["webhook-id"] == heads["idempotency-key"] == f"{task['id']}-1" and "." not in heads["webhook-id"]
    Webhook(business.made["signing_secret"]).verify(call.body, heads)
    assert heads["x-taskcenter-task-id"] == task["id"]
    assert heads["x-taskcenter-business-id"] == task["business_id"]
    assert heads["x-taskcenter-attempt"] == "1" and int(heads["x-taskcenter-term"]) >= 1
    due = datetime.fromtimestamp(int(heads["x-taskcenter-due"]) / 1000, UTC)
    assert due.isoformat(timespec="milliseconds").replace("+00:00", "Z") == task["next_execute_at"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", heads["traceparent"])
    assert re.fullmatch(r"TaskCenter/\d+\.\d+\.\d+\S*", heads["user-agent"])
    assert heads["x-own"] == "1" and "x-taskcenter-redelivery" not in heads
    assert (seen["executions"][0]["status"], seen["last_error"]) == ("success", None)


def test_the_document_describes_what_a_receiver_gets(live: Live) -> None:
    """`webhooks` of /openapi.json against a callback and a finish call as they arrive."""
    document = live.client(None).http.get("/openapi.json").json()
    business = live.business()
    business.task(live, payload=[1], finish_url=f"{live.receiver.url}{business.path}-finish")
    for name, path in (("callback", business.path), ("finished", f"{business.path}-finish")):
        [call] = live.receiver.wait_for(path)
        described = document["webhooks"][name]["post"]
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        validate = jsonschema_rs.validator_for({**schema, "components": document["components"]})
        assert [error.message for error in validate.iter_errors(call.json)] == []
        shown = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
        assert call.json.keys() == shown.keys(), "nothing undocumented either"
        required = {header["name"].lower() for header in described["parameters"] if header["required"]}
        assert required <= call.headers.keys()
        own = {name for name in call.headers if name.startswith(("x-taskcenter-", "webhook-"))}
        assert own <= required


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_carry_the_fields_in_headers(live: Live, method: str) -> None:
    business = live.business()
    task = business.task(live, callback_method=method, payload={"order": "ü"})
    [call] = live.receiver.wait_for(business.path)
    business.api.ended(task)
    assert (call.method, call.body) == (method, b"") and "content-type" not in call.headers
    heads = call.headers
    assert heads["x-taskcenter-business-code"] == business.code
    assert (heads["x-taskcenter-max-attempts"], heads["x-taskcenter-run"]) == ("1", "1")
    assert heads["x-taskcenter-scheduled-at"] == task["next_execute_at"]
    assert heads["x-taskcenter-payload"] == '{"order":"\\u00fc"}'
    signed_at = datetime.fromtimestamp(int(heads["webhook-timestamp"]), UTC)
    signature = Webhook(business.made["signing_secret"]).sign(heads["webhook-id"], signed_at, "")
    assert heads["webhook-signature"] == signature


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_payload_is_any_json_and_arrives_as_it_was(live: Live, method: str) -> None:
    payload = {"z": 10**30, "a": -(2**70), "\0": "\0 \u2028 😀", "f": [1.5e300, 0.1, 1e-7], "n": None, "": {"": []}}
    business = live.business()
    task = business.task(live, callback_method=method, payload=payload)
    assert (task["payload"], list(task["payload"])) == (payload, list(payload))
    [call] = live.receiver.wait_for(business.path)
    sent = json.loads(call.body)["payload"] if method == "POST" else json.loads(call.headers["x-taskcenter-payload"])
    assert (sent, list(sent)) == (payload, list(payload))
    assert business.api.ended(task)["payload"] == payload


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_the_largest_payload_a_header_takes_arrives_and_a_larger_one_is_refused(live: Live, method: str) -> None:
    business = live.business()
    payload = "é" * 682  # as JSON in ASCII: 4094 characters
    business.task(live, callback_method=method, payload=payload)
    [call] = live.receiver.wait_for(business.path)
    assert json.loads(call.headers["x-taskcenter-payload"]) == payload
    body = business.body(live, callback_method=method, payload=payload + "é")
    problem = refused(business.api.call("POST", "/tasks", body), 422, "invalid_request")
    [fault] = problem["errors"]
    assert fault["field"] == "payload" and "4096" in fault["message"] and "POST" in fault["message"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_put_and_patch_carry_the_body(live: Live, method: str) -> None:
    business = live.business()
    business.task(live, callback_method=method, payload=3)
    [call] = live.receiver.wait_for(business.path)
    assert call.method == method and call.json["payload"] == 3


ANSWERS = {
    "204": (Answer(204, b""), "succeeded", ["success"]),
    "200 not json": (Answer(200, b"<html>", {"Content-Type": "text/html"}), "succeeded", ["success"]),
    "retry": (Answer(200, b'{"action": "retry"}'), "failed", ["retry"]),
    "stop": (Answer(200, b'{"action": "stop", "reason": "enough"}'), "stopped", ["stop"]),
    "500 stop": (Answer(500, b'{"action": "stop"}'), "stopped", ["stop"]),
    "410": (Answer(410), "stopped", ["stop"]),
    "489": (Answer(489), "stopped", ["stop"]),
    "header": (Answer(500, headers={"X-TaskCenter-Action": "stop"}), "stopped", ["stop"]),
    "abort": (Answer(400, headers={"webhook-delivery": "abort-message"}), "stopped", ["stop"]),
    "404": (Answer(404), "failed", ["http_error"]),
    "302": (Answer(302, headers={"Location": "/elsewhere"}), "failed", ["http_error"]),
    "429 without": (Answer(429), "failed", ["http_error"]),
    "slow": (Answer(delay_s=10), "failed", ["timeout"]),
    "large": (Answer(200, b"x" * (1024 * 1024 + 1)), "failed", ["invalid_response"]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_an_answer_means(live: Live, name: str) -> None:
    answer, status, statuses = ANSWERS[name]
    business = live.business()
    live.receiver.on[business.path] = lambda _: answer
    task = business.task(live, timeout=1 if name == "slow" else 30)
    assert history(business, task) == statuses
    done = business.api.ended(task)
    assert done["status"] == status
    if status == "stopped":
        assert done["finish_reason"] == "receiver_stopped"
    if name == "stop":
        assert "enough" in done["last_error"]
    assert live.receiver.calls("/elsewhere") == []


def test_a_failed_attempt_of_each_kind_is_retried_by_the_list(live: Live) -> None:
    business = live.business()
    live.receiver.on[business.path] = lambda call: Answer(500 if call.json["attempt"] == 1 else 200, delay_s=0.5)
    done = business.api.ended(business.task(live, retry_intervals=[1, 1]))
    first, second = reversed(done["executions"])
    assert (done["status"], done["current_retry"], second["status"]) == ("succeeded", 1, "success")
    ended = datetime.fromisoformat(first["started_at"]) + timedelta(milliseconds=first["duration_ms"])
    waited = (datetime.fromisoformat(second["scheduled_at"]) - ended).total_seconds()
    assert 0.99 <= waited < 4, "counted from the end of the attempt, not from its beginning"


@pytest.mark.parametrize("how", ["seconds", "date", "body"])
def test_a_deferral_uses_no_retry(live: Live, how: str) -> None:
    business = live.business()
    first: list[float] = []

    def decide(_: Any) -> Answer:
        if first:
            return Answer()
        first.append(time.time())
        if how == "body":
            return Answer(200, b'{"action": "retry", "retry_after": 1.5}')
        at = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
        return Answer(503 if how == "date" else 429, headers={"Retry-After": at if how == "date" else "1"})

    live.receiver.on[business.path] = decide
    task = business.task(live)
    assert history(business, task) == ["deferred", "success"]
    calls = live.receiver.calls(business.path)
    assert [call.json["attempt"] for call in calls] == [1, 1]
    waited = calls[1].arrived_at / 1000 - first[0]
    assert waited >= {"seconds": 1.0, "body": 1.5, "date": 1.9}[how]


def test_the_twenty_first_deferral_is_a_failed_attempt(live: Live) -> None:
    business = live.business(breaker={"enabled": False})
    live.receiver.on[business.path] = lambda _: Answer(429, headers={"Retry-After": "300"})
    task = business.task(live)

    def waits_again(attempts: int) -> Callable[[Any], bool]:
        return lambda seen: seen["attempts"] == attempts and seen["status"] != "running"

    for count in range(2, 22):  # each is made due at once
        seen = business.api.until(f"/tasks/{task['id']}", waits_again(count - 1))
        assert (seen["deferrals"], seen["current_retry"]) == (count - 1, 0)
        if count == 5:
            why = business.api.ok("GET", f"/tasks/{task['id']}/explain")
            assert why["deferrals"] == 4 and "deferred by its receiver 4 of 20 times" in why["summary"]
        business.api.ok("POST", f"/tasks/{task['id']}/run")
        live.receiver.wait_for(business.path, count)
    done = business.api.ended(task)
    assert (done["status"], done["finish_reason"], done["attempts"]) == ("failed", "retries_exhausted", 21)


def test_refused_and_blocked_are_failed_attempts(live: Live) -> None:
    business = live.business(breaker={"enabled": False})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        task = business.task(live, callback_url=f"http://127.0.0.1:{port}/")
        assert history(business, task) == ["connection_error"]


def test_the_deadline_ends_a_task_and_its_finish_url_is_told(live: Live) -> None:
    business = live.business()
    live.receiver.on[business.path] = lambda _: Answer(500)
    finish = f"{business.path}-finish"
    task = business.task(live, retry_intervals=["1h"], deadline=later(30), finish_url=f"{live.receiver.url}{finish}")
    done = business.api.ended(task)
    assert (done["status"], done["finish_reason"]) == ("failed", "deadline_passed")
    [call] = live.receiver.wait_for(finish)
    assert (call.json["status"], call.json["finish_reason"], call.json["attempts"]) == ("failed", "deadline_passed", 1)
    assert call.json["last_execution"]["response_status"] == 500
    Webhook(business.made["signing_secret"]).verify(call.body, call.headers)


def test_a_deadline_that_passes_while_it_waits_ends_the_task(live: Live) -> None:
    business = live.business()
    live.admin.ok("PUT", f"/businesses/{business.code}", {"status": "paused"})
    finish = f"{business.path}-finish"
    task = business.task(live, deadline=later(4), finish_url=f"{live.receiver.url}{finish}")
    done = business.api.ended(task)
    assert (done["status"], done["finish_reason"]) == ("failed", "deadline_passed")
    live.admin.ok("PUT", f"/businesses/{business.code}", {"status": "active"})
    [call] = live.receiver.wait_for(finish)
    assert call.json["last_execution"] is None and live.receiver.calls(business.path) == []


def test_cancelling_tells_the_finish_url_once(live: Live) -> None:
    business = live.business()
    live.receiver.on[business.path] = lambda _: Answer(500)
    finish = f"{business.path}-finish"
    live.receiver.on[finish] = lambda call: Answer(500 if call.headers["x-taskcenter-attempt"] == "1" else 200)
    task = business.task(live, retry_intervals=[1, 3600], finish_url=f"{live.receiver.url}{finish}")
    business.api.until(f"/tasks/{task['id']}", lambda seen: seen["current_retry"] == 2)
    for _ in range(2):
        business.api.ok("DELETE", f"/tasks/{task['id']}")
    first, second = live.receiver.wait_for(finish, 2)
    assert first.body == second.body, "retried like any callback"
    told = first.json
    assert {"task_id", "business_id", "status", "finish_reason", "attempts", "last_execution"} <= told.keys()
    assert (told["task_id"], told["status"], told["attempts"]) == (task["id"], "cancelled", 2)
    assert told["last_execution"]["response_status"] == 500
    Webhook(business.made["signing_secret"]).verify(first.body, first.headers)


def test_cancelling_by_filter_tells_every_finish_url(live: Live) -> None:
    business = live.business()
    live.receiver.on[business.path] = lambda _: Answer(500)
    finish = f"{business.path}-finish"
    given = {"tags": ["gone"], "finish_url": f"{live.receiver.url}{finish}", "retry_intervals": ["1h"]}
    tried = [business.task(live, **given) for _ in range(2)]
    for task in tried:
        business.api.until(f"/tasks/{task['id']}", lambda seen: seen["status"] == "retrying")
    business.task(live, delay=3600, **given)
    assert business.api.ok("DELETE", "/tasks?tag=gone")["cancelled"] == 3
    calls = live.receiver.wait_for(finish, 3)
    last = {call.json["task_id"]: call.json["last_execution"] for call in calls}
    assert len(last) == 3
    assert {task_id: told["id"] for task_id, told in last.items() if told} == {
        task["id"]: f"{task['id']}-1" for task in tried
    }
    assert business.api.ok("GET", "/tasks?limit=200")["items"][0]["status"] == "cancelled"
    assert len(business.api.ok("GET", "/tasks?limit=200")["items"]) == 3, "the finish calls are no tasks of the caller"


def test_a_recurring_task_keeps_its_rhythm_and_ends(live: Live) -> None:
    business = live.business()
    task = business.task(live, schedule={"every": 1, "max_runs": 2})
    calls = live.receiver.wait_for(business.path, 2)
    done = business.api.ended(task)
    assert (done["status"], done["finish_reason"], done["runs"]) == ("succeeded", "schedule_ended", 2)
    assert [call.json["run"] for call in calls] == [1, 2] and calls[1].due_at - calls[0].due_at == 1000
    assert [call.headers["webhook-id"] for call in calls] == [f"{task['id']}-{run}" for run in (1, 2)]
