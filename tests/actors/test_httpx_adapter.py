"""The transport behind an ordinary `httpx.AsyncClient`."""

from __future__ import annotations

import gzip

import httpx
import pytest
import trio
from tests.actors.receivers import OK, Receiver, answering, receiving, transport_to_loopback

from taskcenter.actors.egress.httpx_adapter import EgressBlocked, deadline_of
from taskcenter.actors.egress.policy import EgressPolicy


async def test_requests_and_responses(loopback_clock: object) -> None:
    answer = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 8\r\n\r\n"
    async with receiving(answering(answer + b'{"a": 1}')) as receiver:
        async with httpx.AsyncClient(transport=transport_to_loopback()) as client:
            for reused in (False, True):
                response = await client.post(receiver.url("/ä?b=c d"), json={"x": 1}, headers={"X-B": "3"})
                assert (response.status_code, response.json()) == (201, {"a": 1})
                assert response.headers.get_list("x-a") == ["1", "2"]
                assert (response.extensions["reused"], response.extensions["body_size"]) == (reused, 8)
        request = receiver.requests[0]
        assert request.startswith(b"POST /%C3%A4?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:")
        assert request.endswith(b'\r\n\r\n{"x":1}')
        assert request.count(b"Content-Length: 7") == request.lower().count(b"content-length:") == 1
        assert b"Accept-Encoding: identity\r\n" in request
        assert request.lower().count(b"accept-encoding") == 1
        assert b"x-b: 3\r\n" in request.lower()


async def test_a_streamed_body_goes_out_whole(loopback_clock: object) -> None:
    async def stream() -> object:
        yield b"ab"
        yield b"cd"

    async with receiving(answering(OK)) as receiver:
        async with httpx.AsyncClient(transport=transport_to_loopback()) as client:
            assert (await client.put(receiver.url(), content=stream())).text == "ok"  # type: ignore[arg-type]  # a generator
        assert receiver.requests[0].endswith(b"Content-Length: 4\r\n\r\nabcd")


async def test_a_compressed_answer_stays_compressed(loopback_clock: object) -> None:
    packed = gzip.compress(bytes(10_000_000))
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    async with receiving(answering(answer)) as receiver:
        async with httpx.AsyncClient(transport=transport_to_loopback()) as client:
            response = await client.get(receiver.url())
            assert response.content == packed
            assert response.extensions["content_encoding"] == "gzip"


async def test_a_long_answer_is_cut(loopback_clock: object) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    async with receiving(answering(answer)) as receiver:
        async with httpx.AsyncClient(transport=transport_to_loopback()) as client:
            response = await client.get(receiver.url())
            assert (len(response.content), response.extensions["body_size"]) == (65_536, 100_000)


async def silent(receiver: Receiver, stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://10.0.0.1/", EgressBlocked),
        ("http://nowhere.example/", httpx.ConnectError),
        ("http://user:pw@example.com/", httpx.UnsupportedProtocol),
        ("http://127.0.0.1:1/", httpx.ConnectError),
    ],
)
async def test_faults_are_httpx_errors(url: str, kind: type[httpx.TransportError]) -> None:
    async with httpx.AsyncClient(transport=transport_to_loopback()) as client:
        with pytest.raises(httpx.TransportError) as caught:
            await client.post(url)
    assert type(caught.value) is kind


async def test_timeouts_breaks_and_garbage_are_httpx_errors(loopback_clock: object) -> None:
    async with httpx.AsyncClient(transport=transport_to_loopback()) as client:
        async with receiving(silent) as receiver:
            with pytest.raises(httpx.ReadTimeout, match=r"no answer within 0\.05 s"):
                await client.post(receiver.url(), timeout=0.05)
            with pytest.raises(httpx.ReadTimeout, match=r"no answer within 0\.06 s"):
                await client.post(receiver.url(), extensions={"deadline_s": 0.06})
        async with receiving(answering(b"garbage")) as receiver:
            with pytest.raises(httpx.RemoteProtocolError, match="not HTTP"):
                await client.post(receiver.url())
        async with receiving(lambda _receiver, stream: stream.aclose()) as receiver:
            with pytest.raises(httpx.ReadError):
                await client.post(receiver.url())


@pytest.mark.parametrize(
    ("extensions", "deadline_s"),
    [
        ({}, 30.0),
        ({"timeout": {"connect": None, "read": None}}, 30.0),
        ({"timeout": {"connect": 1, "read": 7.5, "pool": None}}, 7.5),
        ({"timeout": {"connect": 1}, "deadline_s": 3}, 3.0),
    ],
)
def test_the_deadline_of_a_request(extensions: dict[str, object], deadline_s: float) -> None:
    assert deadline_of(httpx.Request("GET", "http://example.com/", extensions=extensions)) == deadline_s


async def test_the_policy_holds_for_httpx_too(loopback_clock: object) -> None:
    async with receiving(answering(OK)) as receiver:
        async with httpx.AsyncClient(transport=transport_to_loopback(policy=EgressPolicy())) as client:
            with pytest.raises(EgressBlocked):
                await client.get(receiver.url())
        assert receiver.connections == 0
