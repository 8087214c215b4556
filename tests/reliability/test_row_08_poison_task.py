"""Row 8: a task whose sending kills its process, each time, on every store. After three it is given up as a suspect."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import httpx
import pytest
import trio
from tests.flow.kit import Answer, Api, Service, business, running
from tests.reliability.conftest import Figure

pytestmark = pytest.mark.real_time
POISONED = (sys.executable, "-m", "tests.reliability.crashing")
OTHERS = 200
OVER_S = 10.0


async def supervise(service: Service, deaths: list[float]) -> None:
    """Start it again whenever it has ended, as systemd would; it may not live long enough to be ready."""
    while True:
        while service.running:
            await trio.sleep(0.02)
            if not service.port:
                await service.is_ready()
        deaths.append(trio.current_time())
        assert service.status == -signal.SIGKILL, service.tail()
        service.port = 0
        service.launch()


async def ended(api: Api, task_id: str) -> dict[str, object]:
    """The task, once it has ended, whoever dies meanwhile."""
    with trio.fail_after(60):
        while True:
            try:
                answer = await api.call("GET", f"/tasks/{task_id}")
            except httpx.HTTPError:  # it is dead, or dies
                answer = None
            if answer is not None and answer.status_code == 200 and answer.json()["finished_at"]:
                return dict(answer.json())
            await trio.sleep(0.1)


async def test_a_task_that_kills_its_process_three_times_is_given_up(
    database_url: str, tmp_path: Path, figure: Figure
) -> None:
    async with running(database_url, tmp_path, program=POISONED) as (service, receiver):
        receiver.decide = lambda call: Answer()
        deaths: list[float] = []
        async with business(service, "bad") as bad, business(service, "good") as good:
            items = [
                {"business_id": f"g{n}", "callback_url": receiver.url, "delay": 1 + OVER_S * n / OTHERS}
                for n in range(OTHERS)
            ]
            await good.ok("POST", "/tasks/batch", {"tasks": items})
            poison = {"business_id": "p", "callback_url": f"{receiver.url}/poison", "delay": 2}
            made = await bad.ok("POST", "/tasks", poison)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervise, service, deaths)
                task = await ended(bad, made["id"])
                await receiver.wait_for(OTHERS + 3, timeout_s=30)
                nursery.cancel_scope.cancel()
            assert (task["status"], task["finish_reason"], len(deaths)) == ("failed", "crash_suspect", 3)
            history = (await bad.ok("GET", f"/tasks/{made['id']}/executions"))["items"]
            assert [one["status"] for one in history] == ["interrupted"] * 3
            assert {one["attempt"] for one in history} == {1}
            calls = [call for call in receiver.calls if call.path == "/poison"]
            assert len(calls) == 3
            assert [call.headers.get("x-taskcenter-redelivery") for call in calls] == [
                None, "possible-duplicate", "possible-duplicate",
            ]  # fmt: skip
            late = sorted(call.arrived_at - call.due_at for call in receiver.calls if call.path != "/poison")
            assert late[0] >= 0
            figure("kills before it is given up", len(deaths))
            figure("others' lateness, p50", late[len(late) // 2], "ms")
            figure("others' lateness, worst (the restart)", late[-1], "ms")
