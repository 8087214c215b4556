"""Changes through a socket, at every moment of a task's life: before its time, between attempts, on its way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.flow.contract_kit import Business, Live, refused
from tests.flow.kit import Answer

pytestmark = pytest.mark.real_time


def at(seconds: float) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def change(business: Business, task: Any, **fields: Any) -> Any:
    return business.api.ok("PUT", f"/tasks/{task['id']}", fields)


def test_the_same_create_32_times_at_once_makes_one_task(live: Live) -> None:
    business = live.business()
    body = business.body(live, delay=3600, payload={"n": 1})
    with ThreadPoolExecutor(32) as callers:
        answers = list(callers.map(lambda _: business.api.call("POST", "/tasks", body), range(32)))
    assert sorted(answer.status_code for answer in answers) == [200] * 31 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    replayed = [answer for answer in answers if answer.headers.get("idempotent-replayed") == "true"]
    assert [answer.status_code for answer in replayed] == [200] * 31
    assert len(business.api.ok("GET", "/tasks")["items"]) == 1


def test_a_later_time_is_obeyed_too(live: Live) -> None:
    business = live.business()
    task = business.task(live, delay=1.2)
    later = at(2.2)
    assert change(business, task, execute_at=later)["next_execute_at"] == later
    [call] = live.receiver.wait_for(business.path)
    assert call.due_at == round(datetime.fromisoformat(later).timestamp() * 1000) <= call.arrived_at
    assert business.api.ended(task)["attempts"] == 1


def test_between_attempts_the_next_one_is_moved_and_carries_the_change(live: Live) -> None:
    business = live.business()
    live.receiver.on[business.path] = lambda call: Answer(500 if call.json["attempt"] == 1 else 200)
    task = business.task(live, retry_intervals=["1h"], payload="old")
    business.api.until(f"/tasks/{task['id']}", lambda seen: seen["status"] == "retrying")
    moved = change(business, task, delay=0.2, payload="new", retry_intervals=["1h", "2h"])
    assert (moved["status"], moved["current_retry"], moved["max_retries"]) == ("retrying", 1, 2)
    _, call = live.receiver.wait_for(business.path, 2)
    assert (call.json["payload"], call.json["attempt"], call.json["max_attempts"]) == ("new", 2, 3)
    assert business.api.ended(task)["status"] == "succeeded"


def test_while_an_attempt_is_on_its_way_the_change_is_for_the_next(live: Live) -> None:
    business = live.business()
    go = threading.Event()
    live.receiver.on[business.path] = lambda call: Answer(500 if call.json["attempt"] == 1 else 200, go=go)
    task = business.task(live, payload="old")
    live.receiver.wait_for(business.path)
    changed = change(business, task, payload="new", retry_intervals=[1], timeout=20)
    assert (changed["status"], changed["next_execute_at"]) == ("running", None)
    go.set()
    first, second = live.receiver.wait_for(business.path, 2)
    assert (first.json["payload"], first.json["max_attempts"]) == ("old", 1)
    assert (second.json["payload"], second.json["max_attempts"]) == ("new", 2)
    done = business.api.ended(task)
    assert (done["status"], done["attempts"], done["timeout"]) == ("succeeded", 2, 20)


def test_a_new_schedule_holds_at_once(live: Live) -> None:
    business = live.business()
    task = business.task(live, schedule={"every": "1h"}, delay=3600)
    change(business, task, schedule={"every": 1, "max_runs": 2})
    first, second = live.receiver.wait_for(business.path, 2)
    assert second.due_at - first.due_at in range(1000, 60_000, 1000), "a run for each s, less those that were missed"
    assert business.api.ended(task)["finish_reason"] == "schedule_ended"


def test_of_two_who_changed_the_same_version_one_is_told(live: Live) -> None:
    business = live.business()
    task = business.task(live, delay=3600)
    path, match = f"/tasks/{task['id']}", {"If-Match": f'"{task["version"]}"'}
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda n: business.api.call("PUT", path, {"payload": n}, **match), range(8)))
    [won] = [answer for answer in answers if answer.status_code == 200]
    for lost in answers:
        if lost is not won:
            assert refused(lost, 409, "version_conflict")["version"] == task["version"] + 1
    assert business.api.ok("GET", path)["payload"] == won.json()["payload"]


def test_a_redelivery_by_filter_is_counted_first(live: Live) -> None:
    business = live.business(breaker={"enabled": False})
    live.receiver.on[business.path] = lambda _: Answer(500)
    began = at(0)
    tasks = [business.task(live, tags=["a" if number else "b"]) for number in range(3)]
    for task in tasks:
        business.api.ended(task)
    where = {"status": "failed", "after": began, "before": at(60), "tag": "a"}
    counted = business.api.ok("POST", "/tasks/redeliver", {**where, "dry_run": True})
    assert counted == {"matched": 2, "redelivered": 0, "more": False}
    time.sleep(0.3)
    assert len(live.receiver.calls(business.path)) == 3, "counting sends nothing"
    live.receiver.on[business.path] = lambda _: Answer()
    done = business.api.ok("POST", "/tasks/redeliver", where)
    assert done == {"matched": 2, "redelivered": 2, "more": False}
    live.receiver.wait_for(business.path, 5)
    for task in tasks[1:]:
        business.api.until(f"/tasks/{task['id']}", lambda seen: seen["status"] == "succeeded")
    assert business.api.ok("GET", f"/tasks/{tasks[0]['id']}")["status"] == "failed"
