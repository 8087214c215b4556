"""The API on a real socket, through the real server: what the in-process client cannot show."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
import trio
from tests.http.api_kit import URL, Api
from tests.http.gate import Gate

from taskcenter.config import split_address
from taskcenter.http.limits import ServerSettings
from taskcenter.http.server import serve_api

BODY = {"business_id": "a", "callback_url": URL}


@dataclass
class Client:
    http: httpx.AsyncClient
    address: tuple[str, int]


@asynccontextmanager
async def served(api: Api) -> AsyncGenerator[Client, None]:
    """The app behind the server, on a port of the kernel's choice."""
    shutdown = trio.Event()
    settings = ServerSettings(bind=("127.0.0.1:0",), grace_s=1)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(
            lambda *, task_status: serve_api(api.app, settings, shutdown=shutdown, task_status=task_status)
        )
        bearer = {"Authorization": f"Bearer {api.keys['orders']}"}
        async with httpx.AsyncClient(base_url=f"http://{address}/api/v1", headers=bearer, trust_env=False) as http:
            yield Client(http, split_address(address))
        shutdown.set()


async def test_the_life_of_a_task(api: Api) -> None:
    async with served(api) as client:
        body = {**BODY, "business_id": "order/1 é%2F", "payload": {"a": "业务"}, "delay": 60}
        created = await client.http.post("/tasks", json=body)
        assert (created.status_code, created.headers["Location"]) == (201, f"/api/v1/tasks/{created.json()['id']}")
        assert created.headers["X-Request-Id"]
        assert (await client.http.post("/tasks", json=body)).headers["Idempotent-Replayed"] == "true"
        by_name = await client.http.get("/tasks/business/order%2F1%20%C3%A9%252F")
        assert by_name.json()["id"] == created.json()["id"]
        cancelled = await client.http.delete("/tasks/business/order%2F1%20%C3%A9%252F")
        assert (cancelled.json()["status"], cancelled.json()["in_flight"]) == ("cancelled", False)
        assert (await client.http.get("/tasks?status=cancelled")).json()["items"][0]["payload"] == {"a": "业务"}


async def test_problems(api: Api) -> None:
    async with served(api) as client:
        answers = {
            400: await client.http.post("/tasks", content=b"{", headers={"Content-Type": "application/json"}),
            401: await client.http.get("/tasks", headers={"Authorization": "Bearer x"}),
            404: await client.http.get("/nope"),
            405: await client.http.patch("/tasks"),
            413: await client.http.post(
                "/tasks", content=b" " * 2_000_000, headers={"Content-Type": "application/json"}
            ),
            415: await client.http.post("/tasks", content=b"{}", headers={"Content-Type": "text/plain"}),
            422: await client.http.post("/tasks", json={}),
        }
        for status, answer in answers.items():
            assert (answer.status_code, answer.json()["status"]) == (status, status)
            assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_body_in_chunks(api: Api) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for letter in json.dumps(BODY):
            yield letter.encode()

    async with served(api) as client:
        answer = await client.http.post("/tasks", content=chunks(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 201


async def test_a_batch_of_a_thousand(api: Api) -> None:
    tasks = [{"business_id": f"n{number}", "callback_url": URL, "payload": "x" * 200} for number in range(1000)]
    async with served(api) as client:
        answer = await client.http.post("/tasks/batch", json={"tasks": tasks}, timeout=30)
    assert [result["status"] for result in answer.json()["results"]] == [201] * 1000


@pytest.mark.parametrize("path", ["/api/v1/tasks", "/api/v1/tasks/batch"])
async def test_a_client_that_disconnects_in_the_middle(api: Api, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    gate = Gate(api.store.tasks.create, hold="before")
    monkeypatch.setattr(api.store.tasks, "create", gate)
    body = json.dumps(BODY if path.endswith("tasks") else {"tasks": [BODY]})
    async with served(api) as client:
        stream = await trio.open_tcp_stream(*client.address)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.keys['orders']}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all((head + body).encode())
        await gate.reached.wait()
        await stream.aclose()
        labels = {"route": path, "method": "POST", "status": "499"}
        with trio.fail_after(5):
            while not api.metrics.registry.get_sample_value("taskcenter_http_request_seconds_count", labels):
                await trio.sleep(0.01)
        gate.open.set()
        with trio.fail_after(5):
            while not api.engine.offered:
                await trio.sleep(0.01)
        again = await client.http.post("/tasks", json=BODY)
        assert (again.status_code, again.json()["id"]) == (200, api.engine.offered[0].task_id)


async def test_the_docs(api: Api) -> None:
    async with served(api) as client:
        page = await client.http.get(f"http://{client.address[0]}:{client.address[1]}/docs")
        assert page.text.startswith("<!doctype html>")
        assert page.text.endswith("</html>")
