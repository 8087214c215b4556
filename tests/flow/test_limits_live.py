"""Limits through real processes and sockets: over a kill, under a full process, under a flood of creates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from tests.flow.kit import Answer, Api, Call, Receiver, Service, business, running

pytestmark = pytest.mark.real_time
FLOOD = 400


async def create(api: Api, receiver: Receiver, count: int, name: str, path: str = "/hook", **fields: Any) -> list[str]:
    items = [
        {"business_id": f"{name}-{number}", "callback_url": f"{receiver.url}{path}", **fields}
        for number in range(count)
    ]
    results = (await api.ok("POST", "/tasks/batch", {"tasks": items}))["results"]
    return [result["task"]["id"] for result in results]


async def test_a_rate_limit_and_a_flows_outlive_a_kill(tmp_path: Path) -> None:
    async with running(f"sqlite:///{tmp_path / 'a.db'}", tmp_path) as (service, receiver):
        receiver.decide = lambda call: Answer(delay_s=0.3)
        async with business(service, rate_limit=20) as api:
            flow = {"flow_key": "customer", "flow_limit": {"rate": 3, "period": 600}}
            await create(api, receiver, 6, "f", "/flow", **flow)
            await receiver.wait_for(3)
            await create(api, receiver, 60, "t")
            await receiver.wait_for(20)  # of these the last are on their way
            service.kill()
            await service.start()
            await trio.sleep(3)
            assert len(receiver.calls) == 20, "what was sent before the kill counts, and what was cut off by it"
            assert sum(call.path == "/flow" for call in receiver.calls) == 3
            stats = await api.ok("GET", "/businesses/shop/stats")
            assert stats["rate_limit"] == {"limit": 20, "used_last_minute": 20}


async def test_a_full_process_is_shared_and_a_flood_of_creates_is_met_at_the_door(tmp_path: Path) -> None:
    async with running(f"sqlite:///{tmp_path / 'a.db'}", tmp_path, TASKCENTER_MAX_IN_FLIGHT="6") as (service, receiver):
        async with business(service, "many", max_concurrent_tasks=100) as many, business(service, "few") as few:
            await it_is_shared_by_turns(receiver, many, few)
            await a_flood_is_shed_and_the_rest_is_answered(service, receiver, few)


async def it_is_shared_by_turns(receiver: Receiver, many: Api, few: Api) -> None:
    starts: list[str] = []

    def decide(call: Call) -> Answer:
        starts.append(call.path)
        return Answer(delay_s=0.1)

    receiver.decide = decide
    await create(many, receiver, 300, "m", "/many")
    await receiver.wait_for(12)
    ids = await create(few, receiver, 20, "f", "/few")
    for task_id in ids:
        await few.until_status(task_id, "succeeded")
    first, last = starts.index("/few"), len(starts) - 1 - starts[::-1].index("/few")
    between = Counter(starts[first : last + 1])
    assert between["/many"] <= 20 + 12, "turn by turn while both have work, and not the many first"
    assert starts.count("/many") < 300


async def a_flood_is_shed_and_the_rest_is_answered(service: Service, receiver: Receiver, api: Api) -> None:
    """More at once than the door lets in; clients that are refused come back when they are told to."""
    refused: list[dict[str, Any]] = []
    made: list[str] = []
    streams = [await trio.open_tcp_stream("127.0.0.1", service.port) for _ in range(FLOOD)]
    for number, stream in enumerate(streams):
        await stream.send_all(request(api, f"flood-{number}", receiver.url))
    assert (await api.call("GET", "/health")).status_code == 200
    assert (await api.call("GET", "/tasks?limit=1")).status_code == 200

    async def until_made(number: int, stream: trio.SocketStream) -> None:
        while True:
            status, answer = await answer_of(stream)
            if status == 201:
                made.append(answer["id"])
                return
            assert status == 503, answer
            refused.append(answer)
            await trio.sleep(1)
            await stream.send_all(request(api, f"flood-{number}", receiver.url))

    async with trio.open_nursery() as nursery:
        for number, stream in enumerate(streams):
            nursery.start_soon(until_made, number, stream)
    for stream in streams:
        await stream.aclose()
    assert len(set(made)) == FLOOD, "nothing was lost or made twice"
    assert refused and {answer["code"] for answer in refused} == {"overloaded"}
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{service.url}/metrics")).text
    assert f"taskcenter_creates_shed_total {len(refused)}.0" in text


def request(api: Api, name: str, url: str) -> bytes:
    body = json.dumps({"business_id": name, "callback_url": f"{url}/later", "delay": 3600}).encode()
    head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {api.token}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def answer_of(stream: trio.SocketStream) -> tuple[int, dict[str, Any]]:
    data = b""
    with trio.fail_after(30):
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(65536) or b"closed early\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += await stream.receive_some(65536)
    assert int(head[9:12]) != 503 or b"\r\nretry-after: 1\r\n" in head.lower()
    return int(head[9:12]), json.loads(body)
