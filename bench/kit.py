"""What the load scripts share: an nginx from Debian as the cheapest receiver, and two reference senders.

The receiver's access log is the record: arrival time and the due time that the request named. The references send the
same requests to the same nginx in the same run, without a store: a bare trio + h11 loop, and httpx with its own pool.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import h11
import httpx
import trio

BODY = b'{"order":17}'
CONFIG = """
worker_processes 1; daemon off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  log_format due '$msec $http_x_taskcenter_due $uri $http_x_taskcenter_task_id';
  access_log {directory}/access.log due;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "{{}}"; default_type application/json; }} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A callback as the receiver logged it; times in ms since 1970."""

    arrived_at: float
    due_at: int
    path: str
    task_id: str


class Nginx:
    """A private nginx on loopback; `arrivals` reads what has arrived."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/"
        self._directory = Path(tempfile.mkdtemp(prefix="taskcenter-bench-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        config = self._directory / "nginx.conf"
        config.write_text(CONFIG.format(directory=self._directory, port=self.port))
        binary = shutil.which("nginx", path="/usr/sbin:/usr/bin")
        if binary is None:
            raise SystemExit("nginx is needed: apt-get install nginx-light")
        self._process = subprocess.Popen([binary, "-c", str(config), "-p", str(self._directory)])
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                httpx.get(self.url, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return self
        raise SystemExit("nginx does not answer")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._directory)

    def arrivals(self) -> list[tuple[float, int]]:
        """(arrived, due) in ms of every callback so far."""
        return [(call.arrived_at, call.due_at) for call in self.calls()]

    def calls(self) -> list[Call]:
        """Every callback so far."""
        rows = (line.split() for line in (self._directory / "access.log").read_text().splitlines())
        return [
            Call(float(row[0]) * 1000, int(row[1]), row[2], row[3]) for row in rows if len(row) == 4 and row[1] != "-"
        ]


async def rate_of(send: Callable[[], Awaitable[None]], total: int, concurrency: int) -> float:
    """Requests/s of `send` called `total` times, `concurrency` at once."""
    left = total

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await send()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(worker)
    return total / (time.perf_counter() - began)


async def raw_rate(port: int, total: int, concurrency: int) -> float:
    """A bare loop: one keep-alive connection a worker, h11, nothing else."""

    async def worker(count: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        connection = h11.Connection(h11.CLIENT)
        headers = [("Host", "127.0.0.1"), ("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]
        for _ in range(count):
            request = h11.Request(method="POST", target="/", headers=headers)
            await stream.send_all(
                connection.send(request) + connection.send(h11.Data(data=BODY)) + connection.send(h11.EndOfMessage())
            )
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.EndOfMessage):
                    break
            connection.start_next_cycle()
        await stream.aclose()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(worker, total // concurrency)
    return total / (time.perf_counter() - began)


async def httpx_rate(url: str, total: int, concurrency: int) -> float:
    """httpx with its own pool."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=60) as client:

        async def send() -> None:
            await client.post(url, content=BODY)

        return await rate_of(send, total, concurrency)


def cpu_s(pid: int) -> float:
    """CPU time that a process has used so far, by the kernel's count in ticks of some ms."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Memory that a process has resident."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@asynccontextmanager
async def nginx() -> AsyncIterator[Nginx]:
    """On a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Nginx(port) as server:
        yield server
