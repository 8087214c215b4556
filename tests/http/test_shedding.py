"""Overload at the door: creates are refused at the wire, the connection lives on, everything else is answered."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from taskcenter.http.limits import ServerMeter, ServerSettings
from taskcenter.http.server import serve_api
from taskcenter.http.shedding import MOST_AWAY_S, MOST_OPEN, REFUSALS, RetryAfter, Shedder

BODY = b'{"business_id": "a"}'
CREATE = (
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine-7\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)
READ = b"GET /api/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n"


class Door:
    """A server whose app answers 200, or keeps everybody waiting; `reason` is why it sheds."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.shed = 0
        self.served: list[str] = []
        self.hold: trio.Event | None = None
        self.meter = ServerMeter()
        self.address = ("", 0)

    async def app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            continue
        self.served.append(scope["method"])
        if self.hold is not None:
            await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def count(self) -> None:
        self.shed += 1

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    async def ask(self, stream: trio.SocketStream, data: bytes) -> tuple[int, dict[str, str], bytes]:
        await stream.send_all(data)
        return await self.answer(stream)

    @staticmethod
    async def answer(stream: trio.SocketStream) -> tuple[int, dict[str, str], bytes]:
        data = b""
        with trio.fail_after(10):
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some(65536) or b"closed\r\n\r\n"
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            while len(body) < int(headers.get("content-length", 0)):
                body += await stream.receive_some(65536)
        return int(first.split(" ")[1]), headers, body


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    made, shutdown = Door(), trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_api, made.app, ServerSettings(bind=("127.0.0.1:0",)), shutdown=shutdown, meter=made.meter,
            shedder=Shedder(lambda: made.reason, made.count, lambda: 0.0),
        )  # fmt: skip
        (address,) = await nursery.start(serve)
        host, _, port = address.rpartition(":")
        made.address = (host, int(port))
        yield made
        nursery.cancel_scope.cancel()


async def test_creates_are_refused_and_told_when_to_come_back_and_the_connection_lives_on() -> None:
    async with door() as the, await the.connect() as stream:
        the.reason = "the event loop is 400 ms late"
        status, headers, body = await the.ask(stream, CREATE)
        assert (status, headers["retry-after"], headers["x-request-id"]) == (503, "1", "mine-7")
        assert headers["content-type"] == "application/problem+json"
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        problem = json.loads(body)
        assert (problem["code"], problem["detail"], problem["status"]) == ("overloaded", the.reason, 503)
        assert (problem["type"], problem["instance"]) == ("/docs#problem-overloaded", "/api/v1/tasks"), "as any other"
        assert (await the.ask(stream, READ))[0] == 200, "reads are answered, on the same connection"
        the.reason = None
        assert (await the.ask(stream, CREATE))[0] == 200
        assert (the.served, the.shed) == (["GET", "POST"], 1)
        assert the.meter.statistics().refused == {"overloaded": 1}


async def test_what_is_not_plainly_one_create_takes_the_long_way() -> None:
    async with door() as the:
        the.reason = "busy"
        long_ways = [
            CREATE.replace(b"/tasks ", b"/tasks/1/run "),
            CREATE.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")[: -len(BODY)]
            + b"0\r\n\r\n",
            CREATE.replace(b"Host: a", b"Host: a\r\nConnection: keep-alive"),
        ]
        for data in long_ways:
            async with await the.connect() as stream:
                assert (await the.ask(stream, data))[0] == 200, data
        async with await the.connect() as stream:  # in two pieces
            await stream.send_all(CREATE[:-3])
            await trio.sleep(0.05)
            assert (await the.ask(stream, CREATE[-3:]))[0] == 200
        async with await the.connect() as stream:  # two at once: the second is not to be lost
            await stream.send_all(CREATE + CREATE)
            assert [(await the.answer(stream))[0]] == [200]
        async with await the.connect() as stream:
            assert (await the.ask(stream, CREATE.replace(b"Host: a\r\n", b"")))[0] == 400, "malformed stays malformed"
        assert the.shed == 0


async def test_a_flood_is_met_at_the_door_before_any_queue_is_seen_to_stand() -> None:
    async with door() as the:
        the.hold = trio.Event()
        streams = [await the.connect() for _ in range(MOST_OPEN)]
        for stream in streams:
            await stream.send_all(CREATE)
        with trio.fail_after(10):
            while len(the.served) < MOST_OPEN:
                await trio.sleep(0.01)
        async with await the.connect() as stream:
            status, _, body = await the.ask(stream, CREATE)
            assert status == 503 and f"{MOST_OPEN} requests are on their way" in body.decode()
        the.hold.set()
        for stream in streams:
            assert (await the.answer(stream))[0] == 200
            await stream.aclose()
        async with await the.connect() as stream:
            assert (await the.ask(stream, CREATE))[0] == 200
        with trio.fail_after(5):
            while the.meter.requests_open:
                await trio.sleep(0.01)


def test_clients_that_heed_their_retry_after_come_back_no_faster_than_refusing_them_is_cheap() -> None:
    """Any number of clients, each back as soon as it was told: the refusals a second settle."""
    for clients in (50, 299, 1_500, 2_500):
        retry, due = RetryAfter(Random(clients).random), [(number / clients, number) for number in range(clients)]
        heapq.heapify(due)
        by_second: Counter[int] = Counter()
        while due[0][0] < 60:
            at, number = heapq.heappop(due)
            by_second[int(at)] += 1
            heapq.heappush(due, (at + retry.refused(at), number))
        late = [by_second[second] for second in range(30, 60)]
        assert sum(late) / len(late) <= max(clients / MOST_AWAY_S, 1.1 * REFUSALS)
        assert retry.seconds == 1 or clients > REFUSALS


def test_who_are_refused_together_do_not_come_back_together() -> None:
    """A crowd that comes within a tenth of a second spreads over the seconds there are."""
    retry, due = RetryAfter(Random(7).random), [(number / 15_000, number) for number in range(1_500)]
    heapq.heapify(due)
    waves: Counter[int] = Counter()  # by the tenth of a second
    while due[0][0] < 90:
        at, number = heapq.heappop(due)
        waves[int(at * 10)] += 1
        heapq.heappush(due, (at + retry.refused(at), number))
    assert waves[0] == 1_500
    assert max(count for tenth, count in waves.items() if tenth >= 600) <= 2 * REFUSALS


def test_once_the_flood_is_over_a_second_is_enough_again() -> None:
    retry = RetryAfter(Random(1).random)
    for number in range(4_000):
        retry.refused(number / 2_000)
    assert 1 < retry.seconds <= MOST_AWAY_S
    told = {retry.refused(2.0) for _ in range(500)}
    assert (min(told), max(told)) == ((retry.seconds + 1) // 2, retry.seconds + retry.seconds // 2)
    assert retry.refused(100.0) == 1
