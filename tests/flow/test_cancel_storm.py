"""Cancels that arrive around the due times, on every store: what `in_flight: false` promises is kept.

Half of the tasks are cancelled around their first attempt, half around their retry; by id and by `business_id`. The
receiver and the canceller share one event loop, so a call is counted either before or after the cancel's answer.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.flow.kit import Answer, Api, Call, Receiver, business, metric, running, several
from tests.servers import PrivateServer

from taskcenter.task import SHARDS

pytestmark = pytest.mark.real_time
TASKS = 150
STORMS = 4  # at most
START_S, SPREAD_S = 1.0, 0.6
BEFORE_S, AFTER_S = 0.12, 0.06  # cancels come from so long before an attempt's due time until so long after it
RETRY_S = 1


@dataclass
class Storm:
    """What was cancelled, what was called, and how many calls had arrived when each cancel was answered."""

    apis: list[Api]  # one for each instance
    rng: random.Random
    arrived: Counter[str] = field(default_factory=Counter)  # task id → calls
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)  # task id → the first cancel's answer
    refused: Counter[str] = field(default_factory=Counter)  # 503 by code
    arrived_by_then: dict[str, int] = field(default_factory=dict)
    how: Counter[str] = field(default_factory=Counter)  # what became of the tasks
    ends: Counter[str] = field(default_factory=Counter)  # their statuses

    def decide(self, call: Call) -> Answer:
        task_id = call.headers["x-taskcenter-task-id"]
        self.arrived[task_id] += 1
        again = call.path == "/twice" and call.headers["x-taskcenter-attempt"] == "1"
        return Answer(500 if again else 200, delay_s=self.rng.choice((0, 0.01, 0.04)))

    async def create(self, receiver: Receiver, storm: int) -> list[Any]:
        items = [
            {
                "business_id": f"order/{storm}/{number}", "delay": START_S + SPREAD_S * number / TASKS,
                "callback_url": f"{receiver.url}/{('once', 'twice')[number % 2]}", "retry_intervals": [RETRY_S],
            }
            for number in range(TASKS)
        ]  # fmt: skip
        results = (await self.apis[0].ok("POST", "/tasks/batch", {"tasks": items}))["results"]
        return [result["task"] for result in results]

    async def cancel(self, task: Any, at: float) -> None:
        await trio.sleep_until(at)
        by_id = self.rng.random() < 0.7
        path = f"/tasks/{task['id']}" if by_id else f"/tasks/business/{task['business_id']}"
        api = self.rng.choice(self.apis)
        while (answer := await api.call("DELETE", path)).status_code == 503:  # may be sent again, as promised
            self.refused[answer.json()["code"]] += 1
            await trio.sleep(float(answer.headers["Retry-After"]))
        self.arrived_by_then[task["id"]] = self.arrived[task["id"]]
        self.answers[task["id"]] = (answer.status_code, answer.json())

    async def rage(self, tasks: list[Any], begun_at: float) -> None:
        """All cancels, each around the due time of the attempt it aims at."""
        async with trio.open_nursery() as cancels:
            for number, task in enumerate(tasks):
                due_at = begun_at + START_S + SPREAD_S * number / TASKS + (RETRY_S + 0.03) * (number % 2)
                cancels.start_soon(self.cancel, task, due_at + self.rng.uniform(-BEFORE_S, AFTER_S))

    def check(self, end: Any) -> str:
        """One task's end against what was said and seen; returns how it went."""
        task_id, arrived = end["id"], self.arrived[end["id"]]
        status, answer = self.answers[task_id]
        executions = end["executions"]
        if status == 409:
            assert (answer["code"], end["status"]) == ("not_cancellable", "succeeded")
            assert arrived == len(executions) > 0
            assert executions[0]["status"] == "success"
            return "succeeded"
        assert (status, answer["status"], end["status"]) == (200, "cancelled", "cancelled")
        assert end["next_execute_at"] is None
        if answer["in_flight"]:
            assert arrived in {len(executions), len(executions) + 1}
            return "in flight"
        assert arrived == self.arrived_by_then[task_id], f"called after the cancel's answer: {end}"
        assert arrived == len(executions)
        return "cancelled"

    async def run(self, receiver: Receiver) -> None:
        """Storms until both sides of the due times were met: one, unless the machine stands still meanwhile."""
        receiver.decide = self.decide
        for storm in range(1, STORMS + 1):
            begun_at = trio.current_time()
            tasks = await self.create(receiver, storm)
            await self.rage(tasks, begun_at)
            await trio.sleep(0.6)  # what would be called in spite of the answer, is called by now
            for task in tasks:
                end = await self.apis[0].until_status(task["id"], "cancelled", "succeeded")
                self.how[self.check(end)] += 1
                self.ends[end["status"]] += 1
            assert len(self.answers) == storm * TASKS
            if self.how["cancelled"] and self.how["succeeded"] + self.how["in flight"]:
                break
        assert self.how["cancelled"], f"the storms came too late: {self.how}"
        assert self.how["succeeded"] + self.how["in flight"], f"the storms came too early: {self.how}"
        stats = (await self.apis[0].ok("GET", "/businesses/shop/stats"))["tasks"]
        assert {status: count for status, count in stats.items() if count} == self.ends


NEVER_OPEN = {"enabled": False}  # the first attempts of half the tasks fail


@pytest.mark.parametrize("seed", [7])
async def test_no_call_follows_a_cancel_that_denied_one(database_url: str, tmp_path: Path, seed: int) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service, breaker=NEVER_OPEN) as api:
        await Storm([api], random.Random(seed)).run(receiver)


async def test_nor_one_that_another_instance_denied(mariadb_server: PrivateServer, tmp_path: Path) -> None:
    """Half of the cancels reach an instance that does not own the shard and sends nothing itself."""
    url = mariadb_server.create_database()
    async with (
        several(url, tmp_path, 2) as ((one, other), receiver),
        business(one, breaker=NEVER_OPEN) as api,
    ):
        while await metric(other, "shards_owned") < SHARDS / 2:
            await trio.sleep(0.1)
        elsewhere = Api(other, api.token)
        storm = Storm([api, elsewhere], random.Random(7))
        await storm.run(receiver)
        await elsewhere.aclose()
