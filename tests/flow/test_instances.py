"""Three instances over one server: each task once, a killed one replaced, a rolling restart that nobody notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.flow.kit import Answer, Api, Service, business, metric, several
from tests.flow.test_crash import all_ended

pytestmark = pytest.mark.real_time
INSTANCES = 3


async def spread(api: Api, url: str, count: int, over_s: float, start_s: float) -> list[str]:
    ids: list[str] = []
    for first in range(0, count, 400):
        items = [
            {"business_id": f"t{number}", "callback_url": url, "delay": start_s + over_s * number / count}
            for number in range(first, min(first + 400, count))
        ]
        ids += [result["task"]["id"] for result in (await api.ok("POST", "/tasks/batch", {"tasks": items}))["results"]]
    return ids


async def at_once(service: Service, of: Api, url: str) -> list[str]:
    """Ten tasks due now, created through one instance."""
    api = Api(service, of.token)
    bodies = [{"business_id": f"now-{service.port}-{number}", "callback_url": url} for number in range(10)]
    made = [await api.ok("POST", "/tasks", body) for body in bodies]
    await api.aclose()
    return [task["id"] for task in made]


async def held_back(services: list[Service], of: Api, url: str) -> None:
    """Whichever instance is asked why a task does not start, it says what its owner knows."""
    *_, task = [
        await of.ok("POST", "/tasks", {"business_id": f"slow-{number}", "callback_url": url}) for number in range(3)
    ]
    for service in services:
        api = Api(service, of.token)
        with trio.fail_after(20):
            while (told := await api.ok("GET", f"/tasks/{task['id']}/explain"))["waiting_for"] != "rate_limit":
                await trio.sleep(0.05)
        await api.aclose()
        assert (told["position"], told["expected_start_at"] > told["next_execute_at"]) == (1, True)


def server_url(mariadb_server: object) -> str:
    create: Callable[[], str] = mariadb_server.create_database  # type: ignore[attr-defined]  # tests.servers' fixture
    return create()


async def test_each_task_is_called_once_and_a_killed_owner_is_replaced(mariadb_server: object, tmp_path: Path) -> None:
    async with several(server_url(mariadb_server), tmp_path, INSTANCES) as (services, receiver):
        receiver.decide = lambda call: Answer(delay_s=0.05)
        async with business(services[0], "one") as one, business(services[1], "two") as two:
            quiet = await spread(one, receiver.url, 300, 1, 1)
            assert await all_ended(one, quiet) == {"succeeded": 300}
            await the_quota_is_exact(services)
            assert Counter(call.headers["x-taskcenter-task-id"] for call in receiver.calls) == dict.fromkeys(quiet, 1)

            receiver.calls.clear()
            now = [task_id for service in services for task_id in await at_once(service, one, receiver.url)]
            assert await all_ended(one, [*quiet, *now]) == {"succeeded": 330}
            kinds = ("sent", "taken", "refused")
            sent, taken, refused = [
                sum([await metric(each, "peer_datagrams_total", kind=kind) for each in services]) for kind in kinds
            ]
            assert sent >= taken > 0 == refused, "whichever instance was asked, the owner of the shard is told"

            async with business(services[0], "slow", rate_limit=1) as slow:
                await held_back(services, slow, receiver.url)
            receiver.calls.clear()
            loaded = await spread(two, receiver.url, 900, 6, 1)
            await receiver.wait_for(200)
            services[2].kill()
            assert await all_ended(two, loaded, timeout_s=90) == {"succeeded": 900}
            counts = Counter(call.headers["x-taskcenter-task-id"] for call in receiver.calls)
            assert counts.keys() == set(loaded)
            flagged = {
                call.headers["x-taskcenter-task-id"]
                for call in receiver.calls
                if call.headers.get("x-taskcenter-redelivery") == "possible-duplicate"
            }
            assert {task_id for task_id, count in counts.items() if count > 1} <= flagged
            assert all(call.arrived_at >= call.due_at for call in receiver.calls)


async def the_quota_is_exact(services: list[Service]) -> None:
    """Creates at all instances at once, one by one and in batches: never one more than may be active."""
    async with business(services[0], "full", max_active_tasks=25) as api:
        apis = [Api(service, api.token) for service in services]
        seen: Counter[str] = Counter()

        def body(name: str) -> dict[str, object]:
            return {"business_id": name, "callback_url": "http://127.0.0.1:9/", "delay": 3600}

        async def single(number: int) -> None:
            answer = await apis[number % len(apis)].call("POST", "/tasks", body(f"s{number}"))
            assert answer.status_code == 201 or answer.json()["code"] == "quota_exceeded", answer.text
            assert answer.status_code == 201 or answer.headers["Retry-After"]
            seen[str(answer.status_code)] += 1

        async def batch(number: int) -> None:
            items = [body(f"b{number}-{item}") for item in range(10)]
            for result in (await apis[number].ok("POST", "/tasks/batch", {"tasks": items}))["results"]:
                seen[str(result["status"])] += 1

        async with trio.open_nursery() as nursery:
            for number in range(len(apis)):
                nursery.start_soon(batch, number)
            for number in range(30):
                nursery.start_soon(single, number)
        assert seen == {"201": 25, "429": 30 + 10 * len(apis) - 25}
        assert (await api.ok("GET", "/businesses/full/stats"))["active"] == 25
        for one in apis:
            await one.aclose()


async def test_a_rolling_restart_repeats_and_loses_nothing(mysql_server: object, tmp_path: Path) -> None:
    async with several(server_url(mysql_server), tmp_path, INSTANCES) as (services, receiver):
        receiver.decide = lambda call: Answer(delay_s=0.05)
        async with business(services[0], "shop") as api:
            ids = await spread(api, receiver.url, 900, 15, 1)
            await receiver.wait_for(50)
            for service in services:
                assert await service.terminate() == 0, service.tail()
                await service.start()
            assert await all_ended(api, ids, timeout_s=60) == {"succeeded": 900}
            counts = Counter(call.headers["x-taskcenter-task-id"] for call in receiver.calls)
            assert counts == dict.fromkeys(ids, 1)
            latest = max(receiver.calls, key=lambda call: call.arrived_at)
            assert latest.arrived_at - latest.due_at < 15_000, "within the lease's time, whoever owned it"
