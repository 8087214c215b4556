"""A log that cannot be written costs its lines and nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio
from tests.flow.kit import PLAIN, Receiver, Service, business
from tests.servers import free_port

pytestmark = pytest.mark.real_time
PATIENCE_S = 120.0


async def ready(service: Service) -> None:
    with trio.fail_after(PATIENCE_S):
        async with httpx.AsyncClient(trust_env=False, verify=PLAIN) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get(f"{service.url}/health/ready")).status_code == 200:
                        return
                await trio.sleep(0.05)


@pytest.mark.parametrize("kind", ["a full disk", "nobody who reads"])
async def test_the_service_goes_on_and_ends_well(tmp_path: Path, kind: str) -> None:
    port = free_port()
    service = Service(f"sqlite:///{tmp_path / 'a.db'}", tmp_path, TASKCENTER_BIND=f"127.0.0.1:{port}")
    service.port = port
    if kind == "a full disk":
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        gone, stdout = os.pipe()
        os.close(gone)
    receiver = Receiver()
    service.launch(stdout)
    os.close(stdout)
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.serve)
        try:
            await ready(service)
            async with business(service) as api:
                task = await api.ok("POST", "/tasks", {"business_id": "t", "callback_url": receiver.url})
                await api.until_status(task["id"], "succeeded", timeout_s=PATIENCE_S)
            assert await service.terminate() == 0, service.tail()
        finally:
            if service.running:
                service.kill()
            nursery.cancel_scope.cancel()
    assert service.log_text() == "", "its lines went nowhere, its stderr says nothing"
