"""Overload: creates offered in an open loop at multiples of what the service can take (RELIABILITY.md §3, row 16).

First the peak: `--workers` callers, each with its next create as soon as the last was answered. Then, at each factor,
creates are sent on their own schedule whatever became of the former ones, for `--seconds`. Beside them one caller reads
a task and one asks for the health, 10 times a second each. The callers are one loop over epoll, in a process of its
own: a slower one would measure itself. `not sent`: all clients were waiting for an answer or for their `Retry-After`.
CPU is the service's, of a core: where it is far below 1 the machine had no more to give.

python -m bench.overload [--store sqlite|mariadb|mysql|URL] [--factors 1 2 5 10] [--seconds 10] [--workers 64]
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import select
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import trio
from bench.kit import percentile
from bench.stores import database
from tests.flow.kit import ADMIN_TOKEN, Api, Service

CONNECTIONS = 1500  # clients: one that is refused keeps away for as long as it was told
PATIENCE_S = 5.0


@dataclass
class Seen:
    """Latencies in ms by what was answered."""

    by_status: dict[int, list[float]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)

    def p(self, status: int, share: float = 0.95) -> str:
        values = self.by_status.get(status, [])
        return f"{percentile(values, share):.0f}" if values else "–"

    def rate(self, status: int, seconds: float) -> float:
        return len(self.by_status.get(status, [])) / seconds


@dataclass
class Source:
    """Requests of one kind: `rate` a second, or when 0 the next one as soon as the last was answered."""

    make: Callable[[], bytes]
    rate: float
    connections: int
    seen: Seen = field(default_factory=Seen)


class Line:
    """One keep-alive connection."""

    def __init__(self, port: int, source: Source) -> None:
        self.source = source
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.sent_at = 0.0
        self.retry_after_s = 0  # by the last answer
        self._data = b""

    def send(self) -> None:
        self.sent_at = time.monotonic()
        self.socket.send(self.source.make())  # small: it fits the buffer of a connection at rest

    def received(self) -> int | None:
        """The status, once the answer is whole. Raises OSError when the connection ended."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return None
        self._data = b""
        self.retry_after_s = int(head.lower().partition(b"retry-after:")[2].partition(b"\r\n")[0] or 0)
        return int(head[9:12])


class Callers:
    """All connections of one run."""

    def __init__(self, port: int, sources: list[Source]) -> None:
        self._port = port
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._idle: dict[int, deque[Line]] = {id(source): deque() for source in sources}
        self._sources = sources
        self._away: list[tuple[float, int, Line]] = []  # heap: until when
        for source in sources:
            for _ in range(source.connections):
                self._open(source)

    def _open(self, source: Source) -> None:
        line = Line(self._port, source)
        self._lines[line.socket.fileno()] = line
        self._poll.register(line.socket, select.EPOLLIN)
        self._idle[id(source)].append(line)

    def run(self, seconds: float) -> None:
        began = time.monotonic()
        due = [(began, number) for number, source in enumerate(self._sources) if source.rate]
        for source in self._sources:
            while not source.rate and self._idle[id(source)]:
                self._idle[id(source)].popleft().send()
        while (now := time.monotonic()) < began + seconds:
            while self._away and self._away[0][0] <= now:
                line = heapq.heappop(self._away)[2]
                self._idle[id(line.source)].append(line)
            while due and due[0][0] <= now:
                at, number = heapq.heappop(due)
                source = self._sources[number]
                heapq.heappush(due, (at + 1 / source.rate, number))
                if idle := self._idle[id(source)]:
                    idle.popleft().send()
                else:
                    source.seen.failed["not sent"] += 1
            self._receive(max(0.0, due[0][0] - time.monotonic()) if due else 0.1, again=True)
        until = time.monotonic() + PATIENCE_S
        while sum(len(idle) for idle in self._idle.values()) + len(self._away) < len(self._lines):
            if time.monotonic() > until:
                break
            self._receive(0.1, again=False)
        for line in self._lines.values():
            line.socket.close()

    def _receive(self, wait_s: float, *, again: bool) -> None:
        for number, _ in self._poll.poll(wait_s):
            line = self._lines[number]
            seen = line.source.seen
            try:
                status = line.received()
            except OSError:
                seen.failed["closed"] += 1
                self._poll.unregister(number)
                del self._lines[number]
                self._open(line.source)
                continue
            if status is None:
                continue
            seen.by_status.setdefault(status, []).append((time.monotonic() - line.sent_at) * 1000)
            if again and not line.source.rate:
                line.send()
            elif status == 503:
                heapq.heappush(self._away, (time.monotonic() + line.retry_after_s, id(line), line))
            else:
                self._idle[id(line.source)].append(line)


@dataclass(frozen=True, slots=True)
class Offered:
    """What one rate brought."""

    seconds: float
    creates: Seen
    reads: Seen
    health: Seen
    cpu: float  # of a core

    @property
    def goodput(self) -> float:
        """Tasks created a second."""
        return self.creates.rate(201, self.seconds)

    def row(self, peak: float) -> str:
        """As the table has it."""
        seen = self.creates
        other = {str(status): len(values) for status, values in seen.by_status.items() if status not in {201, 503}}
        cells = [f"{self.goodput:.0f}", f"{self.goodput / peak:.0%}", seen.p(201, 0.5), seen.p(201)]
        cells += [f"{seen.rate(503, self.seconds):.0f}", seen.p(503), self.reads.p(200), self.health.p(200)]
        cells += [f"{self.cpu:.2f}", str(other | dict(seen.failed) or "")]
        return f"| {' | '.join(cells)} |"


class Flood:
    """What is sent."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self._number = 0

    def _request(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._token}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def _create(self) -> bytes:
        self._number += 1
        body = {"business_id": f"o-{self._number}", "callback_url": "http://127.0.0.1:9/", "delay": 86400}
        return self._request("POST", "/api/v1/tasks", json.dumps(body).encode())

    def peak(self, workers: int, seconds: float) -> float:
        creates = Source(self._create, 0, workers)
        Callers(self._port, [creates]).run(seconds)
        return creates.seen.rate(201, seconds)

    async def cpu(self) -> float:
        """Seconds the service has used."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{self._port}/metrics")).text
        used = re.search(r"process_cpu_seconds_total ([0-9.]+)", text)
        assert used is not None
        return float(used[1])

    async def offer(self, rate: float, seconds: float) -> Offered:
        """Creates at `rate` for `seconds`, and what became of them and of those who read beside them."""
        before = await self.cpu()
        creates = Source(self._create, rate, CONNECTIONS)
        reads = Source(lambda: self._request("GET", "/api/v1/tasks/business/o-1"), 10, 5)
        health = Source(lambda: self._request("GET", "/health"), 10, 5)
        Callers(self._port, [creates, reads, health]).run(seconds)
        return Offered(seconds, creates.seen, reads.seen, health.seen, (await self.cpu() - before) / seconds)


async def main(store: str, factors: list[float], seconds: float, workers: int) -> None:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        service = Service(url, Path(directory))
        await service.start()
        try:
            admin = Api(service, ADMIN_TOKEN)
            fields = {"business_code": "flood", "business_name": "flood", "max_active_tasks": 1_000_000}
            token = (await admin.ok("POST", "/businesses", fields))["api_key"]
            await admin.aclose()
            flood = Flood(service.port, token)
            flood.peak(workers, 2)
            before = await flood.cpu()
            peak = flood.peak(workers, seconds)
            used = (await flood.cpu() - before) / seconds
            print(
                f"{store}: at most {peak:.0f} creates/s with {workers} callers, CPU {used:.2f}; {seconds:g} s a row\n"
            )
            columns = "offered | created/s | of peak | p50 | p95 | refused/s | their p95 | read p95 | health p95 | CPU"
            print(f"| {columns} | other |")
            print(f"|{' --- |' * 11}")
            for factor in factors:
                time.sleep(3)  # noqa: ASYNC251  # nothing else runs here
                print(f"| {factor:g}× {(await flood.offer(factor * peak, seconds)).row(peak)}")
        finally:
            await service.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="mariadb")
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, default=64)
    arguments = parser.parse_args()
    trio.run(main, arguments.store, arguments.factors, arguments.seconds, arguments.workers)
