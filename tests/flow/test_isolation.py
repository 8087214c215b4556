"""One bad receiver harms nobody: breaker, limits and deadlines, through real processes and sockets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from tests.flow.kit import ADMIN_TOKEN, Answer, Api, Call, Receiver, Service, business, running

pytestmark = pytest.mark.real_time
BREAKER = {"failure_threshold": 5, "open_seconds": 8, "max_open_seconds": 8}
PATIENCE_S = 40.0  # less than anybody waits who is held up for LONG
LONG = {"open_seconds": 60, "max_open_seconds": 60}


async def create(api: Api, receiver: Receiver, name: str, path: str = "/hook", **fields: Any) -> Any:
    return await api.ok(
        "POST", "/tasks", {"business_id": name, "callback_url": f"{receiver.url}{path}", "timeout": 5, **fields}
    )


async def metrics_of(service: Service) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{service.url}/metrics")).text


async def explained(api: Api, task: Any, waiting_for: str) -> Any:
    """The explanation, once it names that reason."""
    found: Any = None
    with trio.move_on_after(PATIENCE_S):
        while True:
            found = await api.ok("GET", f"/tasks/{task['id']}/explain")
            if found["waiting_for"] == waiting_for:
                return found
            await trio.sleep(0.02)
    raise AssertionError(f"never waited for {waiting_for}: {found}")


async def breaker_of(service: Service, code: str, wanted: str) -> Any:
    admin = Api(service, ADMIN_TOKEN)
    stats: dict[str, Any] = {}
    with trio.move_on_after(PATIENCE_S):
        while stats.get("state") != wanted:
            stats = (await admin.ok("GET", f"/businesses/{code}/stats"))["breaker"]
            await trio.sleep(0.02)
    await admin.aclose()
    assert stats["state"] == wanted, stats
    return stats


async def test_the_breaker_opens_shows_itself_costs_no_attempt_and_closes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    told = tmp_path / "told"
    (tmp_path / "ops.py").write_text(f"def page(*alert):\n    open({str(told)!r}, 'a').write(repr(alert))\n")
    plugins = {"PYTHONPATH": str(tmp_path), "TASKCENTER_ALERT_PLUGINS": "ops:page"}
    async with running(url, tmp_path, **plugins) as (service, receiver), business(service, breaker=BREAKER) as api:
        well = False
        receiver.decide = lambda call: Answer(200 if well or call.path == "/warm" else 500)
        for number in range(5):
            failing = await create(api, receiver, f"f{number}")
            await api.until_status(failing["id"], "failed")
        stats = await breaker_of(service, "shop", "open")
        assert "5 failures in a row" in stats["cause"] and stats["next_probe_at"]
        waiting = [await create(api, receiver, f"w{number}", retry_intervals=[1]) for number in range(3)]
        soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat(timespec="milliseconds")
        doomed = await create(api, receiver, "doomed", deadline=soon)
        why = await explained(api, waiting[0], "breaker")
        assert "breaker" in why["summary"] and "5 failures in a row" in why["detail"] and why["expected_start_at"]
        text = await metrics_of(service)
        assert 'taskcenter_breaker_state{business="shop"} 2.0' in text
        assert 'taskcenter_breaker_transitions_total{business="shop",to="open"} 1.0' in text
        assert 'taskcenter_alerts_total{rule="breaker_open"} 1.0' in text
        alerts = [json.loads(line) for line in service.log_text().splitlines() if '"breaker_open"' in line]
        assert alerts and "5 failures in a row" in alerts[0]["text"]
        with trio.fail_after(PATIENCE_S):
            while not told.exists() or "5 failures in a row" not in told.read_text():
                await trio.sleep(0.02)
        # behind the open breaker a deadline passes: the task ends, with the reason, and was never sent
        gone = await api.until_status(doomed["id"], "failed")
        assert (gone["finish_reason"], gone["attempts"]) == ("deadline_passed", 0)
        assert "breaker" in (gone["last_error"] or ""), gone
        assert len(receiver.calls) == 5, "nothing was sent to it while the breaker was open"
        well = True
        for task in waiting:
            done = await api.until_status(task["id"], "succeeded")
            [execution] = done["executions"]
            assert (execution["attempt"], execution["wait_reason"], done["current_retry"]) == (1, "breaker", 0)
        await breaker_of(service, "shop", "closed")
        assert len(receiver.calls) == 8


async def test_a_bad_receiver_holds_up_neither_its_businesss_others_nor_anybody_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with trio.open_nursery() as nursery:
        other = Receiver("127.0.0.2")  # another host: breakers are by host
        await nursery.start(other.serve)
        async with (
            running(url, tmp_path, TASKCENTER_MAX_IN_FLIGHT="40") as (service, receiver),
            business(service, "bad", breaker=BREAKER | LONG, max_concurrent_tasks=20) as bad,
            business(service, "good") as good,
        ):
            receiver.decide = lambda call: Answer(500)
            broken = [await create(bad, receiver, f"f{number}") for number in range(30)]
            await breaker_of(service, "bad", "open")
            same_business = await create(bad, other, "same")
            neighbour = await create(good, receiver, "other")
            await bad.until_status(same_business["id"], "succeeded", timeout_s=PATIENCE_S)
            done = await good.until_status(neighbour["id"], "failed", timeout_s=PATIENCE_S)
            assert done["executions"][0]["status"] == "http_error", "another business's breaker is its own"
            assert (await bad.ok("GET", f"/tasks/{broken[-1]['id']}"))["attempts"] <= 1
            assert (await explained(bad, await create(bad, receiver, "last"), "breaker"))["position"] is not None
        nursery.cancel_scope.cancel()


async def test_limits_hold_at_the_receiver_and_what_waits_says_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with running(url, tmp_path) as (service, receiver):
        await the_eleventh_of_ten_a_minute_waits(service, receiver)
        await caps_on_concurrency_hold(service, receiver)


async def the_eleventh_of_ten_a_minute_waits(service: Service, receiver: Receiver) -> None:
    async with business(service, rate_limit=10) as api:
        tasks = [await create(api, receiver, str(number)) for number in range(11)]
        await receiver.wait_for(10)
        why = await explained(api, tasks[10], "rate_limit")
        assert "10 of 10" in why["detail"] and why["expected_start_at"] > tasks[10]["next_execute_at"]
        task = await api.ok("GET", f"/tasks/{tasks[10]['id']}")
        assert (task["status"], task["attempts"], len(receiver.calls)) == ("pending", 0, 10)
        assert 'taskcenter_rate_limited_total{business="shop"} 1.0' in await metrics_of(service)


async def caps_on_concurrency_hold(service: Service, receiver: Receiver) -> None:
    async with business(service, "capped", max_concurrent_tasks=4) as api:
        calls: list[tuple[float, str]] = []

        def decide(call: Call) -> Answer:
            calls.append((call.arrived_at, call.path))
            return Answer(delay_s=0.2)

        receiver.decide = decide
        limit = {"parallelism": 1}
        flow = [
            await create(api, receiver, f"f{n}", "/flow", flow_key="customer-7", flow_limit=limit) for n in range(4)
        ]
        assert (flow[0]["flow_key"], flow[0]["flow_limit"]) == ("customer-7", limit)
        await explained(api, flow[3], "flow")
        items = [{"business_id": f"c{number}", "callback_url": f"{receiver.url}/free"} for number in range(12)]
        free = [result["task"] for result in (await api.ok("POST", "/tasks/batch", {"tasks": items}))["results"]]
        for task in (*flow, *free):
            await api.until_status(task["id"], "succeeded")
        assert most_at_once([at for at, _ in calls]) <= 4
        assert most_at_once([at for at, path in calls if path == "/flow"]) == 1
        assert most_at_once([at for at, path in calls if path == "/free"]) >= 3, "and what may run does"


def most_at_once(arrivals: list[float], takes_ms: float = 195) -> int:
    return max(sum(at <= other < at + takes_ms for other in arrivals) for at in arrivals)
