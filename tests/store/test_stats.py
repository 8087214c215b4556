"""The sums over a business's attempts, on every store: hours counted exactly, percentiles by nearest rank."""

from __future__ import annotations

import random
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.plans import NotingDatabase, explain
from tests.store.store_kit import BUSINESS, NOW, add_business, database_of, execution, new_task, vault

from taskcenter.store.connection import Connection
from taskcenter.store.records import Execution, ExecutionStatus
from taskcenter.store.rows import born, execution_row
from taskcenter.store.sql_store import SqlStore
from taskcenter.store.statements import engine
from taskcenter.store.statements.text import chunks
from taskcenter.store.stats import SAMPLE, SqlStatsStore
from taskcenter.store.summaries import HourCount, Percentiles

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def attempt(started_at: int, status: ExecutionStatus = ExecutionStatus.SUCCESS, **given: Any) -> Execution:
    task = born(new_task(at=started_at))
    return replace(execution(task, status), number=1, started_at=started_at, **given)


async def insert(store: SqlStore, attempts: list[Execution]) -> None:
    rows = [execution_row(one, NOW, vault()) for one in attempts]

    async def work(connection: Connection) -> None:
        for some in chunks(rows, 500):
            await connection.insert_many(engine.INSERT_EXECUTION.on(connection.dialect), some)

    await database_of(store).write(work)


def rank(values: list[float], percent: int) -> float:
    return sorted(values)[ceil(len(values) * percent / 100) - 1]


async def test_a_business_without_attempts_has_no_figures(store: SqlStore) -> None:
    summary = await store.stats.execution_summary(BUSINESS, NOW - 24 * HOUR_MS, NOW)
    assert summary.hours == [] and summary.last_minute == summary.measured == 0
    assert summary.duration_ms == summary.lateness_ms == Percentiles(None, None, None)


async def test_hours_minutes_and_percentiles(store: SqlStore) -> None:
    rng = random.Random(5)
    await add_business(store, 8, "others")
    since = NOW - NOW % HOUR_MS - 23 * HOUR_MS
    attempts = [
        attempt(rng.randrange(since - HOUR_MS, NOW), rng.choice(list(ExecutionStatus)),
                duration_ms=rng.expovariate(0.01), lateness_ms=rng.expovariate(0.1))
        for _ in range(700)
    ]  # fmt: skip
    attempts += [attempt(NOW - MINUTE_MS + 1), attempt(NOW - MINUTE_MS), attempt(since), attempt(since - 1)]
    await insert(store, [*attempts, replace(attempt(NOW), business_id=8)])
    summary = await store.stats.execution_summary(BUSINESS, since, NOW)

    counted: dict[tuple[int, ExecutionStatus], int] = {}
    for one in attempts:
        if one.started_at >= since:
            key = one.started_at - one.started_at % HOUR_MS, one.status
            counted[key] = counted.get(key, 0) + 1
    assert summary.hours == [HourCount(at, status, counted[at, status]) for at, status in sorted(counted)]
    assert summary.last_minute == sum(one.started_at > NOW - MINUTE_MS for one in attempts)
    ended = [
        one for one in attempts
        if one.started_at >= since and one.status not in (ExecutionStatus.INTERRUPTED, ExecutionStatus.BLOCKED)
    ]  # fmt: skip
    assert summary.measured == len(ended)
    for found, values in (
        (summary.duration_ms, [one.duration_ms for one in ended]),
        (summary.lateness_ms, [one.lateness_ms for one in ended]),
    ):
        expected = [rank(values, percent) for percent in (50, 95, 99)]
        assert [found.p50, found.p95, found.p99] == pytest.approx(expected)


async def test_the_percentiles_are_of_the_newest_and_cost_one_row(store: SqlStore) -> None:
    old = [attempt(NOW - HOUR_MS + number, duration_ms=9_999.0) for number in range(600)]
    new = [attempt(NOW - SAMPLE + number, duration_ms=float(number % 100)) for number in range(SAMPLE)]
    await insert(store, old + new)
    summary = await store.stats.execution_summary(BUSINESS, NOW - 24 * HOUR_MS, NOW)
    assert summary.measured == SAMPLE and sum(hour.count for hour in summary.hours) == SAMPLE + 600
    assert summary.duration_ms == Percentiles(49.0, 94.0, 98.0)


async def test_every_statement_reads_by_the_index_of_times(store: SqlStore) -> None:
    await insert(store, [attempt(NOW - number) for number in range(500)])
    noting = NotingDatabase(database_of(store))
    await SqlStatsStore(noting).execution_summary(BUSINESS, NOW - 24 * HOUR_MS, NOW)
    assert len(noting.noted) == 3
    for statement in noting.noted:
        plan = await explain(database_of(store), statement)
        read = plan.indexes("task_executions")
        assert read and read <= {"ix_task_executions_time"}, plan


@given(st.integers(1, 400), st.sampled_from([50, 95, 99]))
def test_the_rank_in_integers_is_the_nearest_rank(total: int, percent: int) -> None:
    chosen = [r for r in range(1, total + 1) if r * 100 >= total * percent and (r - 1) * 100 < total * percent]
    assert chosen == [ceil(total * percent / 100)]
