"""Row 25: a service that may open 256 files meets more clients than that, and callbacks that hang: it serves on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest
import trio
from bench.kit import percentile
from tests.flow.kit import ADMIN_TOKEN, Answer, Api, Call, Receiver, Service, business, metric
from tests.reliability.conftest import Figure
from tests.reliability.creating import create_all
from tests.reliability.recorder import now_ms, spread
from tests.reliability.slow_clients import SlowClients
from tests.reliability.vitals import Vitals, sample, spread_of, until_back, vitals
from tests.reliability.wire import Wire

from taskcenter.task import TERMINAL
from taskcenter.times import format_time

pytestmark = pytest.mark.real_time
DESCRIPTORS: Final = 256
CLIENTS: Final = 400
HANGING: Final = 300
HANG_S: Final = 8.0
SECONDS: Final = 25.0
RATE: Final = 10  # callbacks a second of the others
MOST_WAIT_S: Final = 20.0
MOST_LATE_MS: Final = 1000.0  # of half of them


class Confined(Service):
    """It may not open more files than that, nor allow itself more."""

    def __init__(self, database_url: str, directory: Path) -> None:
        super().__init__(database_url, directory, TASKCENTER_LOG_LEVEL="info")
        prlimit = shutil.which("prlimit")
        assert prlimit is not None, "prlimit of util-linux is needed"
        self._command = [prlimit, f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", *self._command]


def decide(call: Call) -> Answer:
    return Answer(delay_s=60) if call.path == "/hang" else Answer()


async def create(hanging: Api, well: Api, receiver: Receiver) -> int:
    """Callbacks that hang, all due now, and others that fall due one after the other; how many these are."""
    url, common = f"{receiver.url}/hang", {"timeout": HANG_S, "retry_intervals": []}
    await create_all(hanging, [common | {"business_id": f"h{n}", "callback_url": url} for n in range(HANGING)])
    due = [
        {"business_id": name, "callback_url": f"{receiver.url}/well", "execute_at": format_time(int(at_ms))}
        for name, at_ms in spread("w", int(RATE * SECONDS), now_ms() + 1000, SECONDS * 1000)
    ]
    await create_all(well, [item | {"retry_intervals": []} for item in due])
    return len(due)


async def ask_for_ever(service: Service, waits_s: list[float], checks: set[str]) -> None:
    """The health, on a new connection each time."""
    while True:
        wire, began = Wire(ADMIN_TOKEN, MOST_WAIT_S), trio.current_time()
        try:
            reply = await wire.ask(service.port, "GET", "/health")
        finally:
            await wire.aclose()
        assert reply.status == 200, reply
        checks.add(reply.json()["checks"]["api"])
        waits_s.append(trio.current_time() - began)
        await trio.sleep(0.2)


async def test_few_descriptors_are_shared_out_and_kill_nobody(tmp_path: Path, figure: Figure) -> None:
    service, receiver = Confined(f"sqlite:///{tmp_path / 'a.db'}", tmp_path), Receiver()
    receiver.decide = decide
    samples: list[Vitals] = []
    waits_s: list[float] = []
    checks: set[str] = set()
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.serve)
        await service.start()
        try:
            async with (
                business(service, "hangs", max_concurrent_tasks=HANGING, breaker={"enabled": False}) as hanging,
                business(service, "well", max_concurrent_tasks=HANGING) as well,
            ):
                before = vitals(service.pid)
                due = await create(hanging, well, receiver)
                async with trio.open_nursery() as flood:
                    flood.start_soon(SlowClients(service.port, CLIENTS).run)
                    flood.start_soon(ask_for_ever, service, waits_s, checks)
                    flood.start_soon(sample, service.pid, samples, 0.1)
                    await trio.sleep(SECONDS)
                    flood.cancel_scope.cancel()
                calls = await receiver.wait_for(HANGING + due, timeout_s=120)
                after = await until_back(service, before.descriptors + 8)
                assert await ends(hanging, "hangs", HANGING) == {"failed": HANGING}
                assert await ends(well, "well", due) == {"succeeded": due}
            lateness_ms = [call.arrived_at - call.due_at for call in calls if call.path == "/well"]
            counts = (before.descriptors, max(one.descriptors for one in samples), after.descriptors)
            figure("descriptors before, at most, after", ", ".join(map(str, counts)))
            figure("health on a new connection: number, p50, p95, worst wait", spread_of(waits_s), "s")
            figure("the others' callbacks: number, p50, p95, worst lateness", spread_of(lateness_ms), "ms")
            figure("refused a descriptor", await metric(service, "http_faults_total", kind="accept"))
            assert percentile(lateness_ms, 0.5) <= MOST_LATE_MS
            assert any(check.startswith("degraded: all ") for check in checks), checks
            assert '"few file descriptors"' in service.log_text()
            assert "out of file descriptors" not in service.log_text()
            assert await service.terminate() == 0, service.tail()
        finally:
            if service.running:
                service.kill()
            nursery.cancel_scope.cancel()


async def ends(api: Api, code: str, number: int) -> dict[str, int]:
    """The tasks by status, once so many have ended."""
    with trio.fail_after(30):
        while True:
            tasks = (await api.ok("GET", f"/businesses/{code}/stats"))["tasks"]
            if sum(tasks.get(status, 0) for status in TERMINAL) == number:
                return {status: count for status, count in tasks.items() if count}
            await trio.sleep(0.2)
