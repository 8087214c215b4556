"""Row 4: without a fault no attempt is repeated: each of very many tasks is called exactly once, by three instances."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
import trio
from tests.reliability.cluster import Cluster, cluster
from tests.reliability.conftest import Figure
from tests.reliability.judge import Verdict
from tests.reliability.recorder import now_ms, spread
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
TASKS = int(os.environ.get("TASKCENTER_RELIABILITY_TASKS", "10000"))
BUSINESSES = 24
RATE = 300.0  # tasks a second
BATCH = 250


async def called_once(trial: Cluster, tasks: int, rate: float) -> Verdict:
    """The verdict over so many tasks, created through all instances while others fall due."""
    callers = [await trial.caller(f"shop{number}") for number in range(BUSINESSES)]
    rng = Random(4)
    start = now_ms() + 2000
    for number, first in enumerate(range(0, tasks, BATCH)):
        count = min(BATCH, tasks - first)
        caller = callers[number % BUSINESSES]
        due = start + first / rate * 1000
        batch = list(spread(f"b{number}-", count, due, count / rate * 1000))
        rng.shuffle(batch)
        await caller.create_many(batch)
        await trio.sleep(max(0.0, (due - 1000 - now_ms()) / 1000))
    return await trial.judged(timeout_s=600)


async def test_each_task_is_called_exactly_once(database_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    async with cluster(database_server, tmp_path) as trial:
        found = await called_once(trial, TASKS, RATE)
        figure("tasks", found.acknowledged)
        figure("repeats", found.repeats)
        figure("lateness p99", found.lateness(0.99), "ms")
        figure("worst lateness", found.lateness(1), "ms")
        assert not found.violations, str(found)
        assert (found.acknowledged, found.sends, found.repeats) == (TASKS, TASKS, 0)


async def test_twelve_hundred_at_once_on_three_instances(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    """All due within two seconds."""
    async with cluster(database_server, tmp_path) as trial:
        found = await called_once(trial, 1200, 600.0)
        figure("tasks", found.acknowledged)
        figure("worst lateness", found.lateness(1), "ms")
        assert not found.violations, str(found)
        assert (found.sends, found.repeats) == (1200, 0)
