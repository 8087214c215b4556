"""CONTRACT.md §5: every name is on /metrics with its labels, and after traffic says what happened."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.flow.contract_kit import Live
from tests.flow.kit import Answer

pytestmark = pytest.mark.real_time
Samples = dict[str, list[tuple[dict[str, str], float]]]
BY_BUSINESS = {
    "tasks_created_total": set(), "tasks_finished_total": {"status"}, "tasks": {"status"},
    "callbacks_total": {"outcome"}, "callback_duration_seconds_count": set(), "callback_lateness_seconds_count": set(),
    "callbacks_in_flight": set(), "rate_limited_total": set(), "rate_limit_tokens": set(), "breaker_state": set(),
    "breaker_transitions_total": {"to"}, "auth_total": {"result", "reason"}, "actor_restarts_total": set(),
    "actor_mailbox_depth": set(),
}  # fmt: skip
OF_THE_PROCESS = {
    "wheel_timers": set(), "wheel_tick_lag_seconds": set(), "db_pool_size": set(), "db_pool_in_use": set(),
    "db_pool_waiting": set(), "db_query_seconds_count": set(), "shards_owned": set(), "lease_takeovers_total": set(),
    "fenced_writes_total": set(), "http_request_seconds_count": {"route", "method", "status"},
    "disk_free_bytes": set(), "db_errors_total": {"kind"}, "alerts_total": {"rule"},
}  # fmt: skip


def scrape(live: Live) -> tuple[set[str], Samples]:
    answer = live.client(None).http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    names: set[str] = set()
    samples: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        names.add(family.name)
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return names, samples


def value(samples: Samples, name: str, **labels: str) -> float | None:
    for given, number in samples.get(f"taskcenter_{name}", []):
        if labels.items() <= given.items():
            return number
    return None


def until(live: Live, good: Callable[[Samples], bool]) -> Samples:
    samples: Samples = {}
    for _ in range(300):
        samples = scrape(live)[1]
        if good(samples):
            return samples
        time.sleep(0.1)
    raise AssertionError(f"not in 30 s: {samples}")


def test_every_name_is_there_with_its_labels_and_true_values(live: Live) -> None:
    business = live.business(rate_limit=20, breaker={"failure_threshold": 2})
    code = business.code
    for _ in range(3):
        business.api.ended(business.task(live))
    business.task(live, delay=3600)
    live.receiver.on[business.path] = lambda _: Answer(500)
    for _ in range(2):
        business.api.ended(business.task(live))
    business.api.call("GET", "/tasks", **{"X-TaskCenter-Business": "somebody-else"})
    samples = until(
        live, lambda samples: value(samples, "tasks", business=code, status="pending") == 1
        and value(samples, "breaker_state", business=code) == 2
    )  # fmt: skip
    names = scrape(live)[0]
    assert "process_resident_memory_bytes" in names and "process_cpu_seconds" in names
    for name, labels in BY_BUSINESS.items():
        mine = [given for given, _ in samples[f"taskcenter_{name}"] if given.get("business") == code]
        assert mine and mine[0].keys() == labels | {"business"}, name
    for name, labels in OF_THE_PROCESS.items():
        assert samples[f"taskcenter_{name}"][0][0].keys() == labels, name
    for name in ("commit_batch_size_count", "commit_duration_seconds_count"):
        assert samples[f"taskcenter_{name}"]

    assert value(samples, "tasks_created_total", business=code) == 6
    assert value(samples, "tasks_finished_total", business=code, status="succeeded") == 3
    assert value(samples, "tasks_finished_total", business=code, status="failed") == 2
    assert value(samples, "tasks", business=code, status="running") == 0
    assert value(samples, "callbacks_total", business=code, outcome="success") == 3
    assert value(samples, "callbacks_total", business=code, outcome="http_error") == 2
    assert value(samples, "callback_duration_seconds_count", business=code) == 5
    assert value(samples, "callback_lateness_seconds_count", business=code) == 5
    assert value(samples, "callbacks_in_flight", business=code) == 0
    assert value(samples, "rate_limit_tokens", business=code) == 15
    assert value(samples, "breaker_transitions_total", business=code, to="open") == 1
    assert value(samples, "breaker_transitions_total", business=code, to="half_open") == 0
    assert value(samples, "db_errors_total", kind="lost") is not None
    assert value(samples, "alerts_total", rule="store_out") is not None
    assert (value(samples, "auth_total", business=code, result="ok", reason="api_key") or 0) >= 6
    assert value(samples, "auth_total", business=code, result="refused") == 1
    assert value(samples, "shards_owned") == 256
    assert (value(samples, "db_pool_size") or 0) >= 1 and (value(samples, "db_query_seconds_count") or 0) > 0
    assert (value(samples, "disk_free_bytes") or 0) > 0
    assert (value(samples, "wheel_timers") or 0) >= 0
    assert value(samples, "http_request_seconds_count", route="/api/v1/tasks", method="POST", status="201")


def test_a_held_back_callback_is_counted(live: Live) -> None:
    business = live.business(rate_limit=1)
    for _ in range(2):
        business.task(live)
    samples = until(live, lambda samples: value(samples, "rate_limited_total", business=business.code) == 1)
    assert value(samples, "rate_limit_tokens", business=business.code) == 0
    until(live, lambda samples: value(samples, "tasks", business=business.code, status="pending") == 1)


def test_openmetrics_on_request(live: Live) -> None:
    answer = live.client(None).http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
