"""Start, stop and crash with real processes, on every store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing
from tests.flow.kit import Answer, Api, business, running

pytestmark = pytest.mark.real_time
TASKS = 900
ANSWERED = 100


async def create_burst(api: Api, url: str, count: int, over_s: float, start_s: float) -> list[str]:
    """`count` tasks due evenly over `over_s`, beginning in `start_s`."""
    ids: list[str] = []
    for first in range(0, count, 300):
        items = [
            {"business_id": f"t{number}", "callback_url": url, "delay": start_s + over_s * number / count}
            for number in range(first, min(first + 300, count))
        ]
        results = (await api.ok("POST", "/tasks/batch", {"tasks": items}))["results"]
        ids += [result["task"]["id"] for result in results]
    return ids


async def all_ended(api: Api, ids: list[str], timeout_s: float = 60.0) -> Counter[str]:
    """Statuses, once every task is terminal."""
    statuses: Counter[str] = Counter()
    with trio.move_on_after(timeout_s):
        while True:
            items, cursor = [], None
            while True:
                page = await api.read(f"/tasks?limit=200{f'&cursor={cursor}' if cursor else ''}")
                items += page["items"]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            statuses = Counter(item["status"] for item in items)
            if len(items) == len(ids) and not statuses.keys() & {"pending", "running", "retrying"}:
                return statuses
            await trio.sleep(0.3)
    raise AssertionError(f"still active after {timeout_s} s: {statuses}")


async def test_a_kill_in_the_middle_loses_nothing(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        receiver.decide = lambda call: Answer(delay_s=0.02)
        ids = await create_burst(api, receiver.url, TASKS, over_s=2, start_s=2)
        await receiver.wait_for(TASKS // 3)
        service.kill()
        await trio.testing.wait_all_tasks_blocked(0.1)  # what had reached the receiver's sockets is in its list
        before = Counter(call.headers["x-taskcenter-task-id"] for call in receiver.calls)
        await service.start()
        assert await all_ended(api, ids) == {"succeeded": TASKS}
        counts = Counter(call.headers["x-taskcenter-task-id"] for call in receiver.calls)
        assert counts.keys() == set(ids), "all arrive"
        repeated = {task_id for task_id, count in counts.items() if count > 1}
        assert max(counts.values()) <= 2
        assert repeated <= before.keys(), "only what was on its way at the kill repeats"
        for call in receiver.calls[sum(before.values()) :]:
            if call.headers["x-taskcenter-task-id"] in repeated:
                assert call.headers["x-taskcenter-redelivery"] == "possible-duplicate"
        assert all(call.arrived_at >= call.due_at for call in receiver.calls), "never early"


async def test_what_a_kill_leaves_in_doubt_is_told(tmp_path: Path) -> None:
    """Two calls are on their way, one of a task that was cancelled meanwhile: it stands in history as interrupted. The
    other is sent again, and its receiver, who puts it off, is told that he may have had it until he has answered it.
    """
    async with running(f"sqlite:///{tmp_path}/embedded.db", tmp_path) as (service, receiver), business(service) as api:
        receiver.decide = lambda _: Answer(delay_s=600)
        bodies = [{"business_id": name, "callback_url": f"{receiver.url}/{name}"} for name in ("doubted", "cancelled")]
        doubted, cancelled = [(await api.ok("POST", "/tasks", body))["id"] for body in bodies]
        await receiver.wait_for(2)
        assert (await api.ok("DELETE", f"/tasks/{cancelled}"))["in_flight"] is True
        answers = iter([Answer(429, headers={"Retry-After": "1"}), Answer()])
        receiver.decide = lambda _: next(answers)
        service.kill()
        await service.start()
        task = await api.until_status(doubted, "succeeded")
        ends = [(one["attempt"], one["status"]) for one in reversed(task["executions"])]
        assert ends == [(1, "interrupted"), (1, "deferred"), (1, "success")]
        calls = [call for call in receiver.calls if call.path == "/doubted"]
        flags = [call.headers.get("x-taskcenter-redelivery") for call in calls]
        assert flags == [None, "possible-duplicate", "possible-duplicate"]
        assert len(receiver.calls) == len(calls) + 1
        ((only,), version) = [(await api.ok("GET", f"/tasks/{cancelled}"))[name] for name in ("executions", "version")]
        assert (only["status"], only["attempt"], version) == ("interrupted", 1, 3)


async def test_sigterm_finishes_what_is_on_its_way_and_nothing_repeats(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        receiver.decide = lambda call: Answer(delay_s=0.3)
        ids = await create_burst(api, receiver.url, 200, over_s=2, start_s=1)
        await receiver.wait_for(60)
        assert await service.terminate() == 0, service.tail()
        await service.start()
        assert await all_ended(api, ids) == {"succeeded": 200}
        counts = Counter(call.headers["x-taskcenter-task-id"] for call in receiver.calls)
        assert set(counts.values()) == {1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx's, of requests that the kill cut
async def test_every_answered_create_survives_a_kill(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        answered: list[str] = []

        async def hammer(client: int) -> None:
            number = 0
            while True:
                number += 1
                body = {"business_id": f"{client}-{number}", "callback_url": receiver.url, "delay": 3600}
                try:
                    answer = await api.call("POST", "/tasks", body)
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    answered.append(answer.json()["id"])

        async with trio.open_nursery() as clients:
            for client in range(4):
                clients.start_soon(hammer, client)
            with trio.fail_after(60):
                while len(answered) < ANSWERED:
                    await trio.sleep(0.01)
            service.kill()
        await service.start()
        for task_id in answered:
            assert (await api.ok("GET", f"/tasks/{task_id}"))["status"] == "pending"
