"""Time and room: slow clients are cut, clients that do not read are cut, connections are capped, accept survives."""

from __future__ import annotations

import resource
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from quart import Response
from quart_trio import QuartTrio
from tests.http.test_server_kit import (
    HEALTH,
    PATIENT,
    QUICK,
    make_app,
    open_descriptors,
    parse,
    read_all,
    read_answer,
    serving,
    until,
)

from taskcenter.http.limits import ServerSettings, connection_cap


async def drip(stream: trio.SocketStream, data: bytes, pause_s: float = 0.03) -> None:
    """`data` byte by byte, until the server has had enough, or the test has closed the stream."""
    try:
        for at in range(len(data)):
            await stream.send_all(data[at : at + 1])
            await trio.sleep(pause_s)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


# --- slow ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"", HEALTH], ids=["first request", "second request"])
async def test_a_dripping_head_is_cut(first: bytes, loopback_clock: object) -> None:
    """However steadily it drips: the time is the head's, not a byte's."""
    async with serving() as served, await served.connect() as stream:
        if first:
            await stream.send_all(first)
            await read_answer(stream)
        began = trio.current_time()
        served.nursery.start_soon(drip, stream, b"GET /health HTTP/1.1\r\nX: " + b"x" * 1000)
        with trio.fail_after(2):
            answer = parse(await read_all(stream))
        assert 0.35 < trio.current_time() - began < 1.0
        assert (answer.status, answer.problem["code"]) == (408, "request_timeout")
        assert served.statistics.cut_slow == 1
        await until(lambda: served.statistics.connections_open == 0)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_dripping_body_is_cut_and_its_handler_cancelled(chunked: bool, loopback_clock: object) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1000"
    async with serving() as served, await served.connect() as stream:
        await stream.send_all(b"POST /echo HTTP/1.1\r\nHost: t\r\n" + framing + b"\r\n\r\n")
        served.nursery.start_soon(drip, stream, b"1\r\nx\r\n" * 200)
        with trio.fail_after(2):
            assert parse(await read_all(stream)).status == 408
        await until(lambda: served.statistics.connections_open == 0)
        assert (served.statistics.cut_slow, served.faults) == (1, [])


async def test_a_handler_may_take_longer_than_the_body_may(loopback_clock: object) -> None:
    async with serving() as served:
        answer = parse(await served.ask(b"GET /sleep/0.9 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"))
        assert answer.status == 200


@pytest.mark.parametrize("first", [b"", HEALTH], ids=["never a byte", "after a request"])
async def test_a_silent_connection_is_closed(first: bytes, loopback_clock: object) -> None:
    async with serving() as served, await served.connect() as stream:
        if first:
            await stream.send_all(first)
            await read_answer(stream)
        began = trio.current_time()
        with trio.fail_after(2):
            assert await read_all(stream) == b""
        assert trio.current_time() - began > 0.35
        assert (served.statistics.cut_idle, served.statistics.cut_slow) == (1, 0)


# --- not reading -----------------------------------------------------------------------------------------------------


def endless_app() -> tuple[QuartTrio, trio.Event]:
    """With a handler that never ends and awaits nothing but its sends; the event is set when it was cancelled."""
    app, ended = make_app(), trio.Event()

    @app.get("/endless")
    async def endless() -> Response:
        async def pieces() -> AsyncGenerator[bytes]:
            try:
                while True:
                    yield bytes(256 * 1024)
            finally:
                ended.set()

        return Response(pieces(), content_type="application/octet-stream")

    return app, ended


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_endless_answer_ends_with_its_client_and_lets_others_run(method: bytes) -> None:
    """Half-closed, and read as fast as it comes; to HEAD there is nothing to send at all."""
    app, ended = endless_app()
    async with serving(app, PATIENT) as served, await served.connect() as stream:
        await stream.send_all(method + b" /endless HTTP/1.1\r\nHost: t\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert await served.healthy()
        await stream.send_eof()
        with trio.fail_after(15):
            while await stream.receive_some():
                pass
            await ended.wait()
        assert (served.statistics.cut_nonreading, served.faults) == (0, [])


async def test_a_client_that_does_not_read_is_cut_and_its_handler_cancelled(loopback_clock: object) -> None:
    app, ended = endless_app()
    async with serving(app) as served, await served.connect() as stream:
        await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
        with trio.fail_after(3):
            await ended.wait()
        await until(lambda: served.statistics.connections_open == 0)
        assert (served.statistics.cut_nonreading, served.faults) == (1, [])
        assert await served.healthy()


async def test_a_client_that_reads_slowly_is_not_cut(loopback_clock: object) -> None:
    """16 MiB take longer than send_timeout_s, but each 64 KiB do not; in 64 reads at least, whatever has gathered."""
    async with serving() as served, await served.connect() as stream:
        await stream.send_all(b"GET /big HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        began, taken = trio.current_time(), 0
        while data := await stream.receive_some(256 * 1024):
            taken += len(data)
            await trio.sleep(0.001 if trio.current_time() - began > 0.8 else 0.02)
        assert taken > 16 * 1024 * 1024
        assert trio.current_time() - began > 2 * QUICK.send_timeout_s
        assert served.statistics.cut_nonreading == 0


# --- the cap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked,descriptors,cap",
    [(2000, 20_000, 2000), (2000, 1024, 614), (2000, 256, 153), (10, 256, 10), (9, 1, 1)],
)
def test_the_cap_leaves_descriptors_to_the_engine(asked: int, descriptors: int, cap: int) -> None:
    assert connection_cap(ServerSettings(max_connections=asked), descriptors) == cap
    assert descriptors == 1 or descriptors - cap >= 0.4 * descriptors


async def test_at_the_cap_new_clients_wait_until_one_ends(loopback_clock: object) -> None:
    async with serving(settings=replace(PATIENT, max_connections=2)) as served:
        sleepers = [await served.connect() for _ in range(2)]
        for stream in sleepers:
            await stream.send_all(b"GET /sleep/0.4 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        await until(lambda: served.statistics.requests_total == 2)
        began = trio.current_time()
        assert await served.healthy()
        assert trio.current_time() - began > 0.2
        assert served.statistics.connections_total == 3
        for stream in sleepers:
            assert parse(await read_all(stream)).status == 200
            await stream.aclose()


async def test_at_the_cap_the_longest_silent_make_room(loopback_clock: object) -> None:
    async with serving(settings=replace(PATIENT, max_connections=3)) as served:
        silent, used, busy = [await served.connect() for _ in range(3)]
        await busy.send_all(b"GET /sleep/1.0 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        await trio.sleep(0.02)
        await used.send_all(HEALTH)
        await read_answer(used)
        with trio.fail_after(0.8):
            assert await served.healthy()  # in the place of the one that never spoke
            assert await read_all(silent) in (b"", b"<reset>")
        assert served.statistics.cut_idle == 1
        await used.send_all(HEALTH)
        assert (await read_answer(used)).status == 200
        assert parse(await read_all(busy)).status == 200
        for stream in (silent, used, busy):
            await stream.aclose()


async def test_slow_clients_at_the_cap_do_not_keep_others_out_for_ever(loopback_clock: object) -> None:
    """RELIABILITY.md row 25 in small: five times as many dripping clients as there is room for."""
    async with serving(settings=replace(QUICK, max_connections=20)) as served:
        streams = [await served.connect() for _ in range(100)]
        for stream in streams:
            await stream.send_all(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 99\r\n\r\nx")
        with trio.fail_after(6):
            assert await served.healthy()
        assert max(served.statistics.connections_open, 0) <= 20
        for stream in streams:
            await stream.aclose()


async def test_running_out_of_descriptors_pauses_accepting_and_kills_nobody(loopback_clock: object) -> None:
    async with serving(settings=PATIENT) as served, await served.connect() as before:
        await before.send_all(HEALTH)
        await read_answer(before)
        waiting = [trio.socket.socket() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64 + open_descriptors(), hard))
        try:
            with suppress(OSError):  # until there is no descriptor left
                while True:
                    fillers.append(trio.socket.socket())
            for sock in waiting:
                await sock.connect(served.address)
            await until(lambda: served.statistics.faults.get("accept", 0) >= 2)
            await before.send_all(HEALTH)
            assert (await read_answer(before)).status == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                filler.close()
        for sock in waiting:
            async with trio.SocketStream(sock) as stream:
                await stream.send_all(HEALTH)
                with trio.fail_after(3):
                    assert (await read_answer(stream)).status == 200
        assert set(served.faults) == {("accept", "OSError")}
