"""An answer that is given before its request's body was read ends the connection, and says so."""

from __future__ import annotations

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio
from tests.http.test_server_kit import HEALTH, PATIENT, make_app, parse, read_all, read_answer, serving

HEAD = b"POST /refuse HTTP/1.1\r\nHost: t\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"


def refusing_app() -> QuartTrio:
    """`/refuse` answers 401 without a look at the body, as authentication does."""
    app = make_app()

    @app.post("/refuse")
    async def refuse() -> Response:
        return Response("no", 401)

    @app.post("/read")
    async def read() -> Response:
        return Response(str(len(await request.get_data())), 401)

    return app


@pytest.mark.parametrize(
    ("framing", "begun"),
    [
        (b"Content-Length: 40000\r\n\r\n", b"x" * 100),
        (b"Content-Length: 40000\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n"),
        (b"Expect: 100-continue\r\nContent-Length: 40000\r\n\r\n", b""),
    ],
    ids=["length", "head only", "chunked", "expect"],
)
async def test_an_early_answer_says_close_and_closes(framing: bytes, begun: bytes, loopback_clock: object) -> None:
    async with serving(refusing_app(), PATIENT) as served, await served.connect() as stream:
        await stream.send_all(HEALTH)
        assert (await read_answer(stream)).status == 200
        await stream.send_all(HEAD + framing + begun)
        with trio.fail_after(5):
            data = await read_all(stream)
        answer = parse(data[data.rindex(b"HTTP/1.1 ") :])  # behind a 100 Continue, if that was asked for
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert served.statistics.requests_total == 2
        assert await served.healthy()


async def test_the_rest_of_an_unread_body_is_not_taken_for_a_request(loopback_clock: object) -> None:
    async with serving(refusing_app(), PATIENT) as served, await served.connect() as stream:
        await stream.send_all(HEAD + b"Content-Length: %d\r\n\r\n" % (len(SMUGGLED) + 1000))
        with trio.fail_after(5):
            answer = await read_answer(stream)
            assert answer.headers["connection"] == "close"
            await stream.send_all(SMUGGLED)
            assert b"HTTP/1.1" not in await read_all(stream)
        assert served.statistics.requests_total == 1


@pytest.mark.parametrize("path", [b"/refuse", b"/read"])
async def test_a_refusal_whose_body_has_arrived_keeps_the_connection(path: bytes, loopback_clock: object) -> None:
    asked = b"POST " + path + b" HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello"
    async with serving(refusing_app(), PATIENT) as served, await served.connect() as stream:
        for _ in range(3):
            await stream.send_all(asked)
            answer = await read_answer(stream)
            assert answer.status == 401
            assert "connection" not in answer.headers
        assert served.statistics.connections_total == 1
