"""Row 19: a business with 1,000 targets that hang, one behind a dead resolver, and a third whose callbacks are on time.

The resolver is dead for the service alone: it runs in a mount namespace in which /etc/resolv.conf names a server that
takes every question and answers none. That takes root.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from bench.kit import Nginx, nginx, percentile
from tests.flow.kit import Api, Service, business, metric
from tests.reliability.conftest import Figure
from tests.reliability.creating import create_all
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
HANGING, NAMES = 1000, 500
RATE, SECONDS = 50, 20
DEAD_RESOLVER = "127.0.0.9"
MOST_LATE_MS = 1000


class WithoutNames(Service):
    """A service whose resolver never answers."""

    def __init__(self, database_url: str, directory: Path) -> None:
        super().__init__(database_url, directory)
        unshare = shutil.which("unshare")
        assert unshare is not None, "unshare of util-linux is needed"
        own = directory / "resolv.conf"
        own.write_text(f"nameserver {DEAD_RESOLVER}\noptions timeout:10 attempts:3\n")
        real = Path("/etc/resolv.conf").resolve()
        script = f'mount --bind "{own}" "{real}" && exec "$@"'
        self._command = [unshare, "--mount", "--", "sh", "-c", script, "sh", *self._command]


@asynccontextmanager
async def hanging_targets() -> AsyncIterator[list[str]]:
    """A thousand hosts that accept, read, and never answer."""

    async def hang(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                while await stream.receive_some(65536):
                    continue
            except trio.BrokenResourceError:
                return

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="0.0.0.0", backlog=4096)
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, hang, listeners)
        yield [f"http://127.1.{number // 250}.{number % 250 + 1}:{port}/" for number in range(HANGING)]
        nursery.cancel_scope.cancel()


def tasks(mark: str, urls: list[str]) -> list[dict[str, Any]]:
    return [{"business_id": f"{mark}{number}", "callback_url": url, "timeout": 30} for number, url in enumerate(urls)]


async def under_way(service: Service, code: str, count: int) -> None:
    with trio.fail_after(60):
        while await metric(service, "callbacks_in_flight", business=code) < count:
            await trio.sleep(0.1)


async def steady_load(api: Api, receiver: Nginx) -> list[float]:
    """How late each of `RATE` callbacks a second for `SECONDS` arrived, in ms."""
    begin = time.time() + 3
    items = tasks("g", [receiver.url] * (RATE * SECONDS))
    for number, item in enumerate(items):
        item["execute_at"] = datetime.fromtimestamp(begin + number / RATE, UTC).isoformat()
    await create_all(api, items)
    with trio.fail_after(SECONDS + 60):
        while len(calls := receiver.calls()) < len(items):
            await trio.sleep(0.1)
    return [call.arrived_at - call.due_at for call in calls]


async def test_the_others_callbacks_are_on_time(mariadb_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    service = WithoutNames(mariadb_server.create_database(), tmp_path)
    patient = {"breaker": {"enabled": False}, "max_concurrent_tasks": HANGING, "max_active_tasks": 10_000}
    names = [f"http://n{number}.dead.example/" for number in range(NAMES)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as black_hole:
        black_hole.bind((DEAD_RESOLVER, 53))
        async with nginx() as receiver, hanging_targets() as targets:
            await service.start()
            try:
                async with (
                    business(service, "hanging", **patient) as hanging,
                    business(service, "nameless", **patient) as nameless,
                    business(service, "good") as good,
                ):
                    await create_all(hanging, tasks("h", targets))
                    await create_all(nameless, tasks("n", names))
                    await under_way(service, "hanging", HANGING)
                    await under_way(service, "nameless", NAMES)
                    late = await steady_load(good, receiver)
                    hung = await metric(service, "callbacks_in_flight", business="hanging")
            finally:
                service.kill()
    figure("hanging, unresolved, on their way as the others fell due", f"{HANGING:,}, {NAMES}")
    figure("of them still hanging at the end", hung)
    figure("the other's lateness, p50", percentile(late, 0.5), "ms")
    figure("the other's lateness, p95", percentile(late, 0.95), "ms")
    assert min(late) >= 0 and len(late) == RATE * SECONDS
    assert percentile(late, 0.95) <= MOST_LATE_MS
