"""Real processes for the flow tests: the service as a user starts it, and a receiver that remembers everything."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio
from prometheus_client.parser import text_string_to_metric_families

ADMIN_TOKEN = "flow-tests-admin-token-0123456789"
ENCRYPTION_KEYS = "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
READY_TIMEOUT_S = 120.0
PROGRAM = (sys.executable, "-m", "taskcenter")
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no authorities, which take 50 ms to load: all here is plain HTTP


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    arrived_at: float  # ms since 1970

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def due_at(self) -> int:
        return int(self.headers["x-taskcenter-due"])


@dataclass
class Answer:
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    go: threading.Event | None = None  # is waited for first, by a receiver in threads


class Receiver:
    """An HTTP/1.1 receiver on loopback; `decide` gives the answer to each call."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self.calls: list[Call] = []
        self.decide: Callable[[Call], Answer] = lambda call: Answer()
        # told of each answer: when (ms) it began to leave; or, without a status, when the caller was found to be gone
        self.answered: Callable[[Call, int | None, float], None] = lambda call, status, at: None
        self.url = ""
        self._arrived = trio.Event()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host=self._host, backlog=1024)
            self.url = f"http://{self._host}:{listeners[0].socket.getsockname()[1]}"
            nursery.start_soon(trio.serve_listeners, self._connection, listeners)
            task_status.started()

    async def _connection(self, stream: trio.SocketStream) -> None:
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    chunk = await stream.receive_some(65536)
                    if not chunk:
                        return
                    buffer += chunk
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                arrived_at = time.time() * 1000
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                length = int(headers.get("content-length", 0))
                while len(buffer) < length:
                    buffer += await stream.receive_some(65536)
                body, buffer = buffer[:length], buffer[length:]
                method, path, _ = first.split(" ")
                call = Call(method, path, headers, body, arrived_at)
                self.calls.append(call)
                self._arrived.set()
                await self._answer(stream, call, self.decide(call))
        except trio.BrokenResourceError:
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream, call: Call, answer: Answer) -> None:
        status = None
        try:
            if answer.delay_s:
                await trio.sleep(answer.delay_s)
            extra = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            began_at = time.time() * 1000
            await stream.send_all(
                f"HTTP/1.1 {answer.status} X\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(answer.body)}\r\n{extra}\r\n".encode()
                + answer.body
            )
            status = answer.status
        finally:
            self.answered(call, status, began_at if status else time.time() * 1000)

    async def wait_for(self, count: int, timeout_s: float = 30.0) -> list[Call]:
        """The calls, once there are `count`."""
        with trio.move_on_after(timeout_s):
            while len(self.calls) < count:
                self._arrived = trio.Event()
                await self._arrived.wait()
        assert len(self.calls) >= count, f"{len(self.calls)} of {count} calls arrived in {timeout_s} s"
        return self.calls


class Service:
    """`taskcenter serve` as a process of its own."""

    def __init__(
        self,
        database_url: str,
        directory: Path,
        *arguments: str,
        program: Sequence[str] = PROGRAM,
        **settings: str | None,
    ) -> None:
        """`settings`: variables of its environment; None takes one out. `program`: what stands for `taskcenter`."""
        self.log_path = directory / "service.log"
        self._command = [*program, "serve", "--migrate", *arguments]
        self.port = 0
        self._began_at = 0  # of its log
        environment: dict[str, str | None] = {
            **os.environ,
            "TASKCENTER_DATABASE_URL": database_url,
            "TASKCENTER_ADMIN_TOKEN": ADMIN_TOKEN,
            "TASKCENTER_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            "TASKCENTER_BIND": "127.0.0.1:0",
            "TASKCENTER_ALLOWED_CALLBACK_NETWORKS": "127.0.0.0/8",
            "TASKCENTER_LOG_FORMAT": "json",
            "TASKCENTER_API_RATE": "0",  # one caller plays many
            **settings,
        }
        self._environment = {name: value for name, value in environment.items() if value is not None}
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        with trio.move_on_after(READY_TIMEOUT_S):
            while not await self.is_ready():
                assert self._process is not None and self._process.poll() is None, f"the service ended: {self.tail()}"
                await trio.sleep(0.05)
            return
        raise AssertionError(f"not ready in {READY_TIMEOUT_S} s: {self.tail()}")

    def launch(self, stdout: int | None = None) -> None:
        """Start it and wait for nothing. `stdout`: a descriptor instead of the log."""
        with self.log_path.open("ab") as log:
            self._began_at = log.tell()
            out = log if stdout is None else stdout
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=out, stderr=log)

    async def is_ready(self) -> bool:
        """Whether it says so, since its latest launch; its `port` is known then."""
        with self.log_path.open("rb") as log:
            log.seek(self._began_at)
            for line in log:
                if b'"serving"' in line:
                    address = json.loads(line)["addresses"][0]
                    self.port = int(address.rpartition(":")[2])
        if not self.port:
            return False
        try:
            async with httpx.AsyncClient(trust_env=False, verify=PLAIN) as client:
                answer = await client.get(f"{self.url}/health/ready")
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def run_to_its_end(self, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Start it where it cannot serve; its exit status and what it said."""
        return subprocess.run(
            self._command, env=self._environment, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.port = 0

    async def terminate(self, timeout_s: float = 40.0) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        with trio.fail_after(timeout_s):
            while (status := self._process.poll()) is None:
                await trio.sleep(0.02)
        self.port = 0
        return status

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_text(self) -> str:
        """All it has logged, over all its starts."""
        return self.log_path.read_text("utf-8", "replace")

    def tail(self) -> str:
        """The end of it, for a message."""
        return self.log_text()[-4000:]


class Api:
    """The API as one caller sees it."""

    def __init__(self, service: Service, token: str) -> None:
        self._service = service
        self.token = token
        self._client = httpx.AsyncClient(trust_env=False, verify=PLAIN, timeout=20)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self._client.request(
            method,
            f"{self._service.url}/api/v1{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.token}", **headers},
        )

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.call(method, path, body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def read(self, path: str) -> Any:
        """Ask until it is not refused for the moment (503), as a client does."""
        while (answer := await self.call("GET", path)).status_code == 503:
            await trio.sleep(0.1)
        assert answer.is_success, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def until_status(self, task_id: str, *wanted: str, timeout_s: float = 60.0) -> Any:
        """The task, once its status is one of `wanted`."""
        task = None
        with trio.move_on_after(timeout_s):
            while True:
                task = await self.read(f"/tasks/{task_id}")
                if task["status"] in wanted:
                    return task
                await trio.sleep(0.02)
        raise AssertionError(f"not {wanted} in {timeout_s} s: {task}")

    async def aclose(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def running(
    database_url: str, directory: Path, *, program: Sequence[str] = PROGRAM, **settings: str
) -> AsyncIterator[tuple[Service, Receiver]]:
    """A service and a receiver; both are gone afterwards."""
    service, receiver = Service(database_url, directory, program=program, **settings), Receiver()
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.serve)
        try:
            await service.start()
            yield service, receiver
        finally:
            if service.running:
                service.kill()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def several(
    database_url: str, directory: Path, count: int, *, program: Sequence[str] = PROGRAM, **settings: str | None
) -> AsyncIterator[tuple[list[Service], Receiver]]:
    """Instances over one database, and a receiver; all are gone afterwards."""
    services, receiver = [], Receiver()
    for number in range(count):
        own = directory / str(number)
        own.mkdir()
        services.append(Service(database_url, own, program=program, **settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.serve)
        try:
            for service in services:
                await service.start()
            yield services, receiver
        finally:
            for service in services:
                if service.running:
                    service.kill()
            nursery.cancel_scope.cancel()


async def metric(service: Service, name: str, **labels: str) -> float:
    """A sample of /metrics, 0 when there is none. Asks again while another process's counts do not come in time."""
    async with httpx.AsyncClient(trust_env=False, verify=PLAIN, timeout=60) as client:
        with trio.fail_after(60):
            while (answer := await client.get(f"{service.url}/metrics")).status_code == 503:
                await trio.sleep(0.1)
    assert answer.status_code == 200, answer.text
    samples = (sample for family in text_string_to_metric_families(answer.text) for sample in family.samples)
    return sum(
        one.value for one in samples if one.name == f"taskcenter_{name}" and labels.items() <= one.labels.items()
    )


@asynccontextmanager
async def business(service: Service, code: str = "shop", **fields: Any) -> AsyncIterator[Api]:
    """A new business, and the API as it sees it."""
    body = {"business_code": code, "business_name": code, "rate_limit": 100_000, **fields}
    async with aclosing(Api(service, ADMIN_TOKEN)) as admin:
        made = await admin.ok("POST", "/businesses", body)
    async with aclosing(Api(service, made["api_key"])) as api:
        yield api
