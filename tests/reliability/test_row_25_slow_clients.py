"""Row 25: 2,000 clients that are as slow as can be and come again when cut, twice; others are served as before.

They are as many as the service takes connections. TASKCENTER_RELIABILITY_SLOW: how many; …_SLOW_S: for how long.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio
from bench.kit import percentile
from tests.flow.kit import Api, Receiver, Service, business, metric, running
from tests.reliability.conftest import Figure
from tests.reliability.recorder import now_ms, spread
from tests.reliability.slow_clients import SlowClients
from tests.reliability.vitals import MIB, Vitals, sample, spread_of, until_back, vitals
from tests.reliability.wire import Wire

from taskcenter.times import format_time

pytestmark = pytest.mark.real_time
SLOW: Final = int(os.environ.get("TASKCENTER_RELIABILITY_SLOW", "2000"))
SLOW_S: Final = float(os.environ.get("TASKCENTER_RELIABILITY_SLOW_S", "30"))
MORE_DESCRIPTORS: Final = 8  # than before: what the callers of the trial hold
RATE: Final = 20  # callbacks a second
MOST_LATE_MS: Final = 2000.0  # of half of them, on a machine that is busy besides
MOST_BYTES: Final = 128 * 1024  # a client: two buffers of 64 KiB
MOST_WAIT_S: Final = 15.0  # a client that is new, at the cap


class WellBehaved:
    """One that asks for something each time on a new connection, as health checks do, and one that keeps its own."""

    def __init__(self, service: Service, token: str) -> None:
        self._service = service
        self._token = token
        self.answers: Counter[int] = Counter()
        self.waits_s: list[float] = []
        self.kept_waits_s: list[float] = []

    async def run(self) -> None:
        kept = Wire(self._token, MOST_WAIT_S)
        try:
            async with trio.open_nursery() as nursery:
                for path in ("/health/live", "/health/ready", "/api/v1/tasks?limit=5"):
                    nursery.start_soon(self._anew, path)
                while True:
                    self.kept_waits_s.append(await self._timed(kept, "/api/v1/tasks?limit=5"))
                    await trio.sleep(0.3)
        finally:
            await kept.aclose()

    async def _anew(self, path: str) -> None:
        while True:
            wire = Wire(self._token, MOST_WAIT_S)
            try:
                self.waits_s.append(await self._timed(wire, path))
            finally:
                await wire.aclose()
            await trio.sleep(0.5)

    async def _timed(self, wire: Wire, path: str) -> float:
        began = trio.current_time()
        reply = await wire.ask(self._service.port, "GET", path)
        self.answers[reply.status] += 1
        return trio.current_time() - began


async def create(api: Api, receiver: Receiver, wave: int) -> int:
    """What falls due while the slow ones are there; how many."""
    number = int(RATE * SLOW_S)
    tasks = [
        {"business_id": name, "callback_url": receiver.url, "execute_at": format_time(int(due_ms))}
        for name, due_ms in spread(f"w{wave}-", number, now_ms(), SLOW_S * 1000)
    ]
    answer = await api.ok("POST", "/tasks/batch", {"tasks": tasks})
    assert all(result["status"] == 201 for result in answer["results"])
    return number


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory of no disk, for a disk that others keep busy is not what this row is about."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@dataclass(frozen=True, slots=True)
class Phase:
    """What came of some seconds with so many slow clients."""

    connected: int  # at most
    cut: int
    peak_bytes: int
    left_bytes: int  # when they had gone
    lateness_ms: list[float]
    well: WellBehaved


async def phase(service: Service, api: Api, receiver: Receiver, number: int, slow: SlowClients) -> Phase:
    """The well-behaved and callbacks beside the slow ones; over when their descriptors are back."""
    well, samples, arrived = WellBehaved(service, api.token), list[Vitals](), len(receiver.calls)
    before, connected = vitals(service.pid), 0
    due = await create(api, receiver, number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.run)
        nursery.start_soon(well.run)
        nursery.start_soon(sample, service.pid, samples)
        for _ in range(int(SLOW_S)):
            await trio.sleep(1)
            connected = max(connected, slow.connected)
        nursery.cancel_scope.cancel()
    calls = (await receiver.wait_for(arrived + due, timeout_s=60))[arrived:]
    after = await until_back(service, before.descriptors + MORE_DESCRIPTORS)
    return Phase(
        connected, slow.cut.total(), max(one.resident_bytes for one in samples), after.resident_bytes,
        [call.arrived_at - call.due_at for call in calls], well,
    )  # fmt: skip


async def test_slow_clients_keep_nobody_out_and_leave_nothing_behind(
    tmp_path: Path, in_memory: Path, figure: Figure
) -> None:
    url = f"sqlite:///{in_memory / 'a.db'}"
    async with running(url, tmp_path) as (service, receiver), business(service, max_concurrent_tasks=200) as api:
        phases = [
            await phase(service, api, receiver, number, SlowClients(service.port, slow))
            for number, slow in enumerate((0, SLOW, SLOW))
        ]
        for name, each in zip(("without", "first wave", "second wave"), phases, strict=True):
            figure(f"{name}: connected at most, cut", f"{each.connected:,}, {each.cut:,}")
            sizes = f"{each.peak_bytes / MIB:.0f}, {each.left_bytes / MIB:.0f}"
            figure(f"{name}: resident at most, afterwards", sizes, "MiB")
            figure(f"{name}: new clients: number, p50, p95, worst wait", spread_of(each.well.waits_s), "s")
            figure(f"{name}: a kept connection: number, p50, p95, worst wait", spread_of(each.well.kept_waits_s), "s")
            figure(f"{name}: callbacks: number, p50, p95, worst lateness", spread_of(each.lateness_ms), "ms")
            figure(f"{name}: the well-behaved were answered", dict(each.well.answers))
        calm, first, second = phases
        held = (first.peak_bytes - calm.peak_bytes) / SLOW
        figure("memory a slow client", held / 1024, "KiB")
        assert not await metric(service, "http_faults_total")
        assert min(first.connected, second.connected) >= SLOW * 0.9
        assert held <= MOST_BYTES
        assert second.peak_bytes <= first.peak_bytes * 1.25, "what the first wave took up is used again by the next"
        for each in (first, second):
            assert each.well.answers[200] >= 0.95 * each.well.answers.total()
            assert percentile(each.lateness_ms, 0.5) <= MOST_LATE_MS
        assert await service.terminate() == 0, service.tail()
