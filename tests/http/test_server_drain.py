"""Shutdown: nobody new, the idle go, requests on their way get the grace, and hostile clients no more than that."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest
import trio
from tests.http.test_server_kit import HEALTH, PATIENT, make_app, read_all, read_answer, serving, until

GRACEFUL = replace(PATIENT, grace_s=10)


async def test_a_request_on_its_way_is_answered_and_its_connection_closed(loopback_clock: object) -> None:
    async with serving(settings=GRACEFUL) as served, await served.connect() as stream:
        await stream.send_all(b"GET /sleep/0.2 HTTP/1.1\r\nHost: t\r\n\r\n")
        await until(lambda: served.statistics.requests_total == 1)
        served.shutdown.set()
        answer = await read_answer(stream)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        with trio.fail_after(1):
            assert await read_all(stream) == b""
            await served.ended.wait()
        assert served.statistics.connections_open == 0


async def test_idle_connections_are_closed_and_nobody_new_is_let_in(loopback_clock: object) -> None:
    async with serving(settings=GRACEFUL) as served, await served.connect() as idle, await served.connect() as busy:
        await idle.send_all(HEALTH)
        await read_answer(idle)
        await busy.send_all(b"GET /sleep/0.3 HTTP/1.1\r\nHost: t\r\n\r\n")
        await until(lambda: served.statistics.requests_total == 2)
        served.shutdown.set()
        with trio.fail_after(0.2):
            assert await read_all(idle) == b""
            with pytest.raises(OSError, match=r"refused|connect"):
                await served.connect()
        assert (await read_answer(busy)).status == 200


async def test_who_waits_in_the_accept_queue_is_still_served(loopback_clock: object) -> None:
    async with serving(settings=GRACEFUL) as served:
        queue = []
        for _ in range(5):
            queue.append(socket.create_connection(served.address))  # blocking: the accept loop cannot run in between
            queue[-1].sendall(HEALTH)
        served.shutdown.set()
        for queued in queue:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(queued)) as stream:
                answer = await read_answer(stream)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        with trio.fail_after(1):
            await served.ended.wait()


async def test_after_the_grace_handlers_are_cancelled(loopback_clock: object) -> None:
    app, cancelled = make_app(), False

    @app.get("/endless")
    async def endless() -> str:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled = True

    async with serving(app, replace(PATIENT, grace_s=0.3)) as served, await served.connect() as stream:
        await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
        await until(lambda: served.statistics.requests_total == 1)
        began = trio.current_time()
        served.shutdown.set()
        with trio.fail_after(2):
            await served.ended.wait()
        assert trio.current_time() - began >= 0.3
        assert cancelled
        assert served.faults == []


async def test_hostile_clients_get_the_grace_and_no_more(loopback_clock: object) -> None:
    """RELIABILITY.md row 11, with time limits of 20 s all about, so that nothing but the grace can end it."""
    hostile = {
        "non-reader": b"GET /big HTTP/1.1\r\nHost: t\r\n\r\n",
        "half a head": b"GET /he",
        "half a body": b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf",
        "half a chunk": b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
        "pipelined": HEALTH + b"GET /sleep/60.0 HTTP/1.1\r\nHost: t\r\n\r\n" + HEALTH * 20,
        "silent": b"",
        "refused, not gone": b"nonsense\r\n\r\n",
    }
    async with serving(settings=replace(PATIENT, grace_s=0.4)) as served:
        streams = [await served.connect() for _ in range(3 * len(hostile))]
        for stream, data in zip(streams, [*hostile.values()] * 3, strict=True):
            await stream.send_all(data)
        await until(lambda: served.statistics.requests_total == 3 * 5)
        served.shutdown.set()
        with trio.fail_after(0.4 + 1):
            await served.ended.wait()
        assert served.statistics.connections_open == 0
        assert served.faults == []
        for stream in streams:
            await stream.aclose()


async def test_without_clients_the_server_ends_at_once(loopback_clock: object) -> None:
    async with serving(settings=GRACEFUL) as served:
        assert await served.healthy()
        await until(lambda: served.statistics.connections_open == 0)
        served.shutdown.set()
        with trio.fail_after(0.5):
            await served.ended.wait()


async def test_a_response_begun_before_the_shutdown_still_ends_its_connection(loopback_clock: object) -> None:
    """Its head says nothing of a close; a pipelined request after it is not begun any more."""
    app, go = make_app(), trio.Event()

    @app.get("/wait")
    async def wait() -> dict[str, str]:
        await go.wait()
        return {"waited": "yes"}

    async with serving(app, GRACEFUL) as served, await served.connect() as stream:
        await stream.send_all(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n" + HEALTH)
        await until(lambda: served.statistics.requests_total == 1)
        served.shutdown.set()
        go.set()
        data = await read_all(stream)
        assert data.count(b"HTTP/1.1 ") == 1
        assert json.loads(data.partition(b"\r\n\r\n")[2]) == {"waited": "yes"}
        with trio.fail_after(1):
            await served.ended.wait()
