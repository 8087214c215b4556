"""What the server's tests share: a tiny app, a running server, a client of raw bytes; and that these work."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import trio
from hypercorn.typing import ASGIFramework
from quart import Response, request
from quart_trio import QuartTrio

from taskcenter.config import split_address
from taskcenter.http.limits import ServerMeter, ServerSettings, ServerStatistics
from taskcenter.http.server import serve_api

QUICK: Final = ServerSettings(
    bind=("127.0.0.1:0",),
    head_timeout_s=0.4,
    body_timeout_s=0.4,
    keep_alive_s=0.4,
    send_timeout_s=0.4,
    linger_s=0.2,
    evict_after_s=0.1,
    grace_s=0.4,
    max_body_bytes=64 * 1024,
)
PATIENT: Final = replace(QUICK, head_timeout_s=20, body_timeout_s=20, keep_alive_s=20, send_timeout_s=20)
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"


@dataclass
class Served:
    """A server under test."""

    address: tuple[str, int]
    addresses: tuple[str, ...]
    shutdown: trio.Event
    meter: ServerMeter
    nursery: trio.Nursery
    faults: list[tuple[str, str]] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def statistics(self) -> ServerStatistics:
        return self.meter.statistics()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    async def ask(self, data: bytes, *, eof: bool = False) -> bytes:
        """Everything the server sends on a connection of its own, until it closes; `eof`: half-close after `data`."""
        async with await self.connect() as stream:
            try:
                await stream.send_all(data)
                if eof:
                    await stream.send_eof()
            except trio.BrokenResourceError:
                return b""  # the server was done with us before the end of `data`
            return await read_all(stream)

    async def healthy(self) -> bool:
        with trio.fail_after(5):
            async with await self.connect() as stream:
                await stream.send_all(HEALTH)
                return (await read_answer(stream)).status == 200


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        members = json.loads(self.body)
        assert isinstance(members, dict)
        return members


@asynccontextmanager
async def serving(app: Any = None, settings: ServerSettings = QUICK, **more: Any) -> AsyncGenerator[Served]:
    """A server for the block; cancelled after it. Fails if the server did not end at once, or raised."""
    shutdown, faults = trio.Event(), list[tuple[str, str]]()
    meter = ServerMeter(lambda kind, name: faults.append((kind, name)))
    ended = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        served: ASGIFramework = app or make_app()
        await serve_api(served, settings, shutdown=shutdown, meter=meter, task_status=task_status, **more)
        ended.set()

    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(serve)
        yield Served(split_address(addresses[0]), addresses, shutdown, meter, nursery, faults, ended)
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    try:
        async for chunk in stream:
            data += chunk
    except trio.BrokenResourceError:
        return data + b"<reset>"
    return data


async def read_answer(stream: trio.abc.ReceiveStream) -> Answer:
    """One response with a Content-Length, of a connection that may stay open."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        assert more, f"closed after {data!r}"
        data += more
    length = int(parse(data).headers.get("content-length", "0"))
    while len(parse(data).body) < length:
        more = await stream.receive_some()
        assert more, f"closed after {data!r}"
        data += more
    return parse(data)


def parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin1").split("\r\n")
    assert first.startswith("HTTP/1.1 "), data
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split(" ")[1]), headers, body)


def make_app() -> QuartTrio:
    """Routes that behave well, and some that do not."""
    app = QuartTrio("tiny")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/echo")
    async def echo() -> dict[str, int]:
        return {"bytes": len(await request.get_data())}

    @app.get("/big")
    async def big() -> Response:
        async def pieces() -> AsyncGenerator[bytes]:
            for _ in range(64):
                yield bytes(256 * 1024)

        return Response(pieces(), content_type="application/octet-stream")

    @app.get("/sleep/<float:time_s>")
    async def sleep(time_s: float) -> dict[str, float]:
        await trio.sleep(time_s)
        return {"slept": time_s}

    @app.get("/group")
    async def group() -> str:
        raise ExceptionGroup("two", [ValueError("one"), KeyError("other")])

    return app


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool], within_s: float = 3.0) -> None:
    """Wait for what other tasks or the kernel bring about."""
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.005)


async def test_a_served_app_answers_and_keeps_the_connection(loopback_clock: object) -> None:
    async with serving() as served, await served.connect() as stream:
        for _ in range(3):
            await stream.send_all(HEALTH)
            answer = await read_answer(stream)
            assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
            assert "server" not in answer.headers
            assert "connection" not in answer.headers
        assert served.statistics.connections_total == 1
        assert served.statistics.requests_total == 3
        assert served.statistics.connections_open == 1
    assert served.statistics.connections_open == 0


async def test_a_body_is_echoed_whatever_its_framing(loopback_clock: object) -> None:
    async with serving() as served:
        plain = b"POST /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
        chunked = (
            b"POST /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: t\r\n\r\n"
        )
        for data in (plain, chunked):
            answer = parse(await served.ask(data))
            assert (answer.status, json.loads(answer.body)) == (200, {"bytes": 5})
            assert answer.headers["connection"] == "close"


async def test_pipelined_requests_are_answered_in_order(loopback_clock: object) -> None:
    async with serving() as served:
        last = b"GET /missing HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        data = await served.ask(HEALTH + HEALTH + last)
        assert [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404]
