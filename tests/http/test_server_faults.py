"""Whatever a handler, a client or a hook does wrong ends one request, one connection, and nothing else."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from tests.http.test_server_kit import (
    HEALTH,
    PATIENT,
    make_app,
    parse,
    read_answer,
    serving,
    until,
)

from taskcenter.http.limits import ServerMeter, leaf_name

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: caller-1\r\n\r\n"
OK = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}


class NoException(BaseException):
    """What nobody expects a handler to raise."""


def raw(handler: Callable[[Receive, Send], Awaitable[None]]) -> Any:
    """An ASGI app that answers /health and gives everything else to `handler`. It dies of any scope but http."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] != "/health":
            await handler(receive, send)
            return
        await send(OK)
        await send({"type": "http.response.body", "body": b"ok"})

    return app


def raising(error: BaseException) -> Any:
    async def handler(_receive: Receive, _send: Send) -> None:
        raise error

    return raw(handler)


@pytest.mark.parametrize(
    "error,name",
    [
        (ValueError("secret"), "ValueError"),
        (ExceptionGroup("secret", [ExceptionGroup("inner", [KeyError("secret")])]), "KeyError"),
        (BaseExceptionGroup("secret", [NoException("secret"), OSError("secret")]), "NoException"),
        (NoException("secret"), "NoException"),
        (SystemExit(3), "SystemExit"),
        (RecursionError("secret"), "RecursionError"),
        (trio.BrokenResourceError("secret"), "BrokenResourceError"),
    ],
    ids=repr,
)
async def test_whatever_a_handler_raises_ends_its_request_alone(
    error: BaseException, name: str, loopback_clock: object
) -> None:
    async with serving(raising(error)) as served:
        async with await served.connect() as bystander:
            await bystander.send_all(HEALTH)
            await read_answer(bystander)
            data = await served.ask(GET)
            answer = parse(data)
            assert (answer.status, answer.problem["code"]) == (500, "internal_error")
            assert answer.headers["x-request-id"] == "caller-1"
            assert b"secret" not in data
            await bystander.send_all(HEALTH)
            assert (await read_answer(bystander)).status == 200
        assert served.faults == [("handler", name)]
        assert served.statistics.faults == {"handler": 1}


async def test_quarts_own_errors_never_leave_quart(loopback_clock: object) -> None:
    app = make_app()
    app.logger.disabled = True
    async with serving(app) as served:
        answer = parse(await served.ask(b"GET /group HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"))
        assert answer.status == 500
        assert await served.healthy()


@pytest.mark.parametrize(
    "messages,fault",
    [
        ([], None),
        ([{"type": "http.response.body", "body": b"x"}], "UnexpectedMessageError"),
        ([{"type": "websocket.accept"}], "UnexpectedMessageError"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a\nb", b"c")]}], "LocalProtocolError"),
    ],
    ids=["silent", "body first", "websocket", "bad header"],
)
async def test_a_handler_that_breaks_asgi_ends_its_request_alone(
    messages: list[Any], fault: str | None, loopback_clock: object
) -> None:
    async def handler(_receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async with serving(raw(handler)) as served:
        data = await served.ask(GET)
        assert data == b"" or parse(data).status == 500
        assert served.faults == ([] if fault is None else [("handler", fault)])
        assert await served.healthy()


@pytest.mark.parametrize("body", [b"o", b"okay"], ids=["too short", "too long"])
async def test_a_response_that_lies_about_its_length_ends_its_connection(body: bytes, loopback_clock: object) -> None:
    async def handler(_receive: Receive, send: Send) -> None:
        await send(OK)
        await send({"type": "http.response.body", "body": body})

    async with serving(raw(handler)) as served:
        assert len(parse(await served.ask(GET)).body) < 2
        assert served.faults == [("handler", "LocalProtocolError")]
        assert await served.healthy()


async def test_a_fault_in_the_middle_of_a_response_truncates_it(loopback_clock: object) -> None:
    async def handler(_receive: Receive, send: Send) -> None:
        await send(OK)
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        raise ValueError

    async with serving(raw(handler)) as served:
        assert parse(await served.ask(GET)).body == b"o"
        assert await served.healthy()


async def test_a_fault_of_the_connection_itself_ends_it_alone(loopback_clock: object) -> None:
    def no_more_ids() -> str:
        raise LookupError

    async with serving(new_request_id=no_more_ids) as served:
        assert await served.ask(b"nonsense\r\n\r\n") in (b"", b"<reset>")
        assert served.faults == [("connection", "LookupError")]
        assert await served.healthy()


async def test_a_hook_that_fails_is_counted_and_harms_nobody() -> None:
    def hook(_kind: str, _name: str) -> None:
        raise RuntimeError

    meter = ServerMeter(hook)
    meter.fault("handler", ExceptionGroup("g", [ValueError()]))
    assert meter.statistics().faults == {"handler": 1, "hook": 1}
    assert repr(meter) == "<ServerMeter open=0/0 faults=2>"
    assert leaf_name(ExceptionGroup("g", [ValueError()])) == "ValueError"


async def test_an_interrupt_is_not_held_back(loopback_clock: object) -> None:
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with serving(raising(KeyboardInterrupt())) as served:
            await served.ask(GET)


async def test_a_handler_that_leaves_the_body_unread_does_not_hold_the_connection(loopback_clock: object) -> None:
    async def handler(_receive: Receive, send: Send) -> None:
        await trio.sleep(0.05)  # the reader has filled the channel of ten messages by now
        await send(OK)
        await send({"type": "http.response.body", "body": b"ok"})

    chunked = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50 + b"0\r\n\r\n"
    async with serving(raw(handler)) as served:
        with trio.fail_after(3):
            assert parse(await served.ask(chunked)).status == 200
        await until(lambda: served.statistics.connections_open == 0)


async def test_a_handler_sees_the_body_as_it_arrives_and_its_end_once(loopback_clock: object) -> None:
    heard: list[tuple[bytes, bool]] = []

    async def handler(receive: Receive, send: Send) -> None:
        while not heard or heard[-1][1]:
            message = await receive()
            heard.append((message["body"], message["more_body"]))
        await send(OK)
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(raw(handler)) as served, await served.connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
        await until(lambda: heard == [(b"ab", True)])
        await stream.send_all(b"1\r\nc\r\n0\r\n\r\n")
        assert (await read_answer(stream)).status == 200
        assert heard == [(b"ab", True), (b"c", False)]


@pytest.mark.parametrize("half", [False, True], ids=["disconnect", "half-close"])
async def test_a_client_that_leaves_cancels_its_quart_handler(half: bool, loopback_clock: object) -> None:
    app, cancelled = make_app(), trio.Event()

    @app.get("/wait")
    async def wait() -> str:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app) as served:
        stream = await served.connect()
        await stream.send_all(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        await until(lambda: served.statistics.requests_total == 1)
        await (stream.send_eof() if half else stream.aclose())
        with trio.fail_after(2):
            await cancelled.wait()
        await until(lambda: served.statistics.connections_open == 0)
        assert served.faults == []
        await stream.aclose()


async def test_a_client_that_resets_after_pipelining_leaves_no_connection_behind(loopback_clock: object) -> None:
    """The reader waits for the first response's end then; the failed send of it must release the reader."""
    async with serving(settings=PATIENT) as served:
        stream = await served.connect()
        await stream.send_all(b"GET /sleep/0.1 HTTP/1.1\r\nHost: t\r\n\r\n" + HEALTH)
        await until(lambda: served.statistics.requests_total == 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await until(lambda: served.statistics.connections_open == 0)
        assert served.faults == []


async def test_receive_says_disconnect_as_often_as_it_is_asked(loopback_clock: object) -> None:
    heard: list[str] = []

    async def handler(receive: Receive, _send: Send) -> None:
        while len(heard) < 3:
            heard.append((await receive())["type"])

    async with serving(raw(handler)) as served:
        stream = await served.connect()
        await stream.send_all(GET)
        await until(lambda: heard == ["http.request"])
        await stream.aclose()
        await until(lambda: served.statistics.connections_open == 0)
    assert heard == ["http.request", "http.disconnect", "http.disconnect"]
