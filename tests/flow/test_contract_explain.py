"""`GET /tasks/{id}/explain`: every reason a task may have to wait, brought about and asked for from outside."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.flow.contract_kit import Business, Live, serving
from tests.flow.kit import Answer

pytestmark = pytest.mark.real_time


def explain(business: Business, task: Any, waiting_for: str) -> Any:
    """What is said of the task, once it waits for that."""
    return business.api.until(f"/tasks/{task['id']}/explain", lambda told: told["waiting_for"] == waiting_for)


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_the_time(live: Live) -> None:
    business = live.business()
    task = business.task(live, delay=3600, retry_intervals=[60, 120])
    told = explain(business, task, "time")
    assert told["state"] == "pending" and "due in" in told["summary"]
    assert told["expected_start_at"] == told["next_execute_at"] == task["next_execute_at"]
    planned = told["planned_attempts"]
    assert [attempt["attempt"] for attempt in planned] == [1, 2, 3]
    assert [seconds_between(task["next_execute_at"], attempt["due_at"]) for attempt in planned] == [0, 60, 180]
    assert (told["past_attempts"], told["position"]) == ([], None)


def test_a_paused_business(live: Live) -> None:
    business = live.business()
    live.admin.ok("PUT", f"/businesses/{business.code}", {"status": "paused"})
    told = explain(business, business.task(live), "paused")
    assert "paused" in told["summary"] and told["expected_start_at"] is None


def test_the_rate_limit_with_place_and_time(live: Live) -> None:
    business = live.business(rate_limit=1)
    business.api.ended(business.task(live))
    held = [business.task(live) for _ in range(3)]
    explain(business, held[-1], "rate_limit")
    told = [explain(business, task, "rate_limit") for task in held]
    assert [each["position"] for each in told] == [0, 1, 2]
    assert "1 of 1 used in the last minute" in told[0]["detail"]
    starts = [each["expected_start_at"] for each in told]
    assert starts[0] > told[0]["next_execute_at"]
    assert [seconds_between(*pair) for pair in pairwise(starts)] == [pytest.approx(60.25)] * 2


def test_the_breaker_with_its_next_probe(live: Live) -> None:
    business = live.business(breaker={"failure_threshold": 1, "open_seconds": 30})
    live.receiver.on[business.path] = lambda _: Answer(500)
    business.api.ended(business.task(live))
    told = explain(business, business.task(live), "breaker")
    assert "breaker of its destination is open" in told["summary"]
    assert told["detail"] == "the breaker of 127.0.0.1 is open: 1 failure in a row, last: the receiver answered 500"
    assert 0 < seconds_between(told["next_execute_at"], told["expected_start_at"]) <= 60


def test_concurrency_and_an_attempt_on_its_way(live: Live) -> None:
    business = live.business(max_concurrent_tasks=1)
    go = threading.Event()
    live.receiver.on[business.path] = lambda _: Answer(go=go)
    first = business.task(live, retry_intervals=[60], timeout=30)
    live.receiver.wait_for(business.path)
    second = business.task(live)
    told = explain(business, second, "concurrency")
    assert "callbacks on their way: 1 of 1" in told["detail"] and told["position"] == 0
    told = explain(business, first, "in_flight")
    assert told["state"] == "running" and "Attempt 1 of 2 has been started" in told["summary"]
    go.set()


def test_the_limit_of_its_flow(live: Live) -> None:
    business = live.business()
    flow = {"flow_key": "customer-7", "flow_limit": {"rate": 1, "period": 60}}
    business.api.ended(business.task(live, **flow))
    told = explain(business, business.task(live, **flow), "flow")
    assert "1 of 1" in told["detail"] and told["expected_start_at"] > told["next_execute_at"]


def test_a_service_that_has_as_many_on_their_way_as_it_can(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'taskcenter.db'}"
    with serving(url, tmp_path, TASKCENTER_MAX_IN_FLIGHT="1") as live:
        business = live.business()
        go = threading.Event()
        live.receiver.on[business.path] = lambda _: Answer(go=go)
        business.task(live, timeout=30)
        live.receiver.wait_for(business.path)
        assert "the process has its most" in explain(business, business.task(live), "capacity")["detail"]
        go.set()


def test_how_it_ended_and_where_the_time_went(live: Live) -> None:
    business = live.business(max_concurrent_tasks=1, breaker={"enabled": False})
    go = threading.Event()
    live.receiver.on[business.path] = lambda call: Answer(500 if call.json["attempt"] == 1 else 200, delay_s=0.3, go=go)
    held = [business.task(live, retry_intervals=[1], timeout=30) for _ in range(2)][1]
    explain(business, held, "concurrency")
    time.sleep(0.2)
    go.set()
    business.api.ended(held)
    ended = business.api.ok("GET", f"/tasks/{held['id']}/explain")
    assert ended["state"] == "succeeded" and "the receiver accepted it" in ended["summary"]
    assert (ended["waiting_for"], ended["expected_start_at"], ended["planned_attempts"]) == (None, None, [])
    second, first = ended["past_attempts"]
    assert (first["attempt"], first["status"], first["wait_reason"]) == (1, "http_error", "concurrency")
    assert (second["attempt"], second["status"]) == (2, "success")
    late = first["lateness"]
    assert late["policy_wait_ms"] > 100 and late["scheduler_ms"] > 0 and late["receiver_ms"] >= 300
    cancelled = business.task(live, delay=3600)
    business.api.ok("DELETE", f"/tasks/{cancelled['id']}")
    assert "cancelled" in business.api.ok("GET", f"/tasks/{cancelled['id']}/explain")["summary"]
