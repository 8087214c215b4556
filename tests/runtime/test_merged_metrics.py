"""Several workers' metrics as one service's."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from taskcenter.metrics import Metrics, ParentMetrics
from taskcenter.runtime.merged_metrics import MergedMetrics, Snapshot, snapshot


def as_sent(metrics: Metrics) -> Snapshot:
    sent: Snapshot = json.loads(json.dumps(snapshot(metrics)))
    return sent


def values(merged: MergedMetrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(merged).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def worker(created: int = 0, batch: float | None = None, **gauges: float) -> Metrics:
    metrics = Metrics()
    metrics.tasks_created.labels("shop").inc(created)
    if batch is not None:
        metrics.commit_batch_size.labels("claim").observe(batch)
    for name, value in gauges.items():
        gauge: Any = getattr(metrics, name)
        (gauge.labels("shop") if gauge._labelnames else gauge).set(value)
    return metrics


SHOP = (("business", "shop"),)


def test_what_is_summed_what_is_the_greatest_and_what_is_each_ones() -> None:
    parent = ParentMetrics()
    parent.workers.labels("wanted").set(2)
    merged = MergedMetrics(parent.registry)
    first = worker(3, 2, callbacks_in_flight=4, breaker_state=2, wheel_timers=10, wheel_tick_lag=0.5)
    second = worker(4, 300, callbacks_in_flight=1, breaker_state=0, wheel_timers=5, wheel_tick_lag=0.1)
    merged.join(0).update(as_sent(first))
    merged.join(1).update(as_sent(second))
    found = values(merged)
    assert found["taskcenter_tasks_created_total"] == {SHOP: 7}
    assert found["taskcenter_callbacks_in_flight"] == {SHOP: 5}
    assert found["taskcenter_breaker_state"] == {SHOP: 2}
    assert found["taskcenter_wheel_timers"] == {(): 15}
    assert found["taskcenter_wheel_tick_lag_seconds"] == {(): 0.5}
    buckets = found["taskcenter_commit_batch_size_bucket"]
    assert buckets[("kind", "claim"), ("le", "2.0")] == 1 and buckets[("kind", "claim"), ("le", "+Inf")] == 2
    assert found["taskcenter_commit_batch_size_sum"] == {(("kind", "claim"),): 302}
    assert set(found["process_resident_memory_bytes"]) == {(("worker", "0"),), (("worker", "1"),)}
    assert found["taskcenter_workers"] == {(("state", "wanted"),): 2}


def test_a_worker_that_ended_leaves_its_totals_and_takes_its_gauges_with_it() -> None:
    merged = MergedMetrics(ParentMetrics().registry)
    killed, other = merged.join(0), merged.join(1)
    killed.update(as_sent(worker(3, callbacks_in_flight=4)))
    other.update(as_sent(worker(4, callbacks_in_flight=1)))
    began = values(merged)["taskcenter_tasks_created_created"]
    killed.end()
    killed.end()
    killed.update(as_sent(worker(9)))  # an answer that was on its way when it ended
    assert values(merged)["taskcenter_tasks_created_total"] == {SHOP: 7}
    assert values(merged)["taskcenter_callbacks_in_flight"] == {SHOP: 1}
    merged.join(0).update(as_sent(worker(1)))
    found = values(merged)
    assert found["taskcenter_tasks_created_total"] == {SHOP: 8}
    assert found["taskcenter_tasks_created_created"] == began, "a total began when the first of them did"
    assert found["process_cpu_seconds_total"].keys() == {(("worker", "0"),), (("worker", "1"),)}


def test_both_formats_are_what_a_single_process_gives() -> None:
    alone = worker(3, 2, callbacks_in_flight=4)
    merged = MergedMetrics(ParentMetrics().registry)
    merged.join(0).update(as_sent(alone))
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        encode, _ = choose_encoder(accept)
        ours, told = (encode(one).decode().splitlines() for one in (alone.registry, merged))
        assert set(without_process(ours)) <= set(without_process(told))
        assert without_process(told)[: len(without_process(ours)) - 1] == without_process(ours)[:-1]


def without_process(lines: list[str]) -> list[str]:
    return [line for line in lines if "process_" not in line and "taskcenter_worker" not in line]


@given(st.lists(st.tuples(st.sampled_from("cek"), st.integers(0, 2), st.integers(1, 5)), max_size=40))
def test_no_total_ever_goes_backwards(steps: list[tuple[str, int, int]]) -> None:
    """c: a worker counts and is asked; k: it counts, is not asked, and is killed; e: it ends having told all."""
    merged = MergedMetrics(ParentMetrics().registry)
    members = [merged.join(number) for number in range(3)]
    counts, shown = [0] * 3, 0.0
    for kind, number, by in steps:
        counts[number] += by
        if kind in "ce":
            members[number].update([["t", "counter", "T.", "sum", [["t_total", {}, counts[number]]]]])
        if kind in "ek":
            members[number].end()
            members[number], counts[number] = merged.join(number), 0
        now = values(merged).get("t_total", {(): 0})[()]
        assert now >= shown
        shown = now
