"""Row 11: whatever its clients do, the process ends within the grace and 5 s after SIGTERM, its callbacks recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.flow.kit import Answer, Receiver, Service, business, running
from tests.reliability.conftest import Figure

pytestmark = pytest.mark.real_time
GRACE_S = 4
CREATE = b"POST /api/v1/tasks HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
HOSTILE = {
    "does not read": b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n" * 200,
    "idle": b"",
    "idle after an answer": b"GET /health/live HTTP/1.1\r\nHost: t\r\n\r\n",
    "half a head": b"GET /health/li",
    "half a body": CREATE + b"Content-Length: 900\r\n\r\nhalf",
    "half a chunk": CREATE + b"Transfer-Encoding: chunked\r\n\r\nff\r\nhalf",
    "refused, not gone": b"nonsense\r\n\r\n",
}
EACH = 20


async def hostile_clients(service: Service) -> list[trio.SocketStream]:
    streams = []
    for data in HOSTILE.values():
        for _ in range(EACH):
            stream = await trio.open_tcp_stream("127.0.0.1", service.port)
            streams.append(stream)
            with trio.move_on_after(0.05):  # one that does not read soon cannot be written to either
                await stream.send_all(data)
    return streams


async def callbacks_under_way(service: Service, receiver: Receiver) -> list[str]:
    receiver.decide = lambda call: Answer(delay_s=GRACE_S / 2)
    async with business(service) as api:
        made = [
            await api.ok("POST", "/tasks", {"business_id": f"t{number}", "callback_url": receiver.url})
            for number in range(10)
        ]
    await receiver.wait_for(10)
    return [task["id"] for task in made]


async def test_hostile_clients_cost_the_grace_and_no_more(tmp_path: Path, figure: Figure) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with running(url, tmp_path, TASKCENTER_SHUTDOWN_GRACE=str(GRACE_S)) as (service, receiver):
        streams = await hostile_clients(service)
        try:
            sent = await callbacks_under_way(service, receiver)
            began = trio.current_time()
            assert await service.terminate(timeout_s=GRACE_S + 5) == 0, service.tail()
            figure("from SIGTERM to the end, grace 4 s", trio.current_time() - began, "s")
        finally:
            for stream in streams:
                await trio.aclose_forcefully(stream)
        await service.start()
        assert len(receiver.calls) == len(sent), "what was on its way was recorded before the end: nothing is repeated"
        assert await service.terminate() == 0
    figure("hostile connections", len(streams))
