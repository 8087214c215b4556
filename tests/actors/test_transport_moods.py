"""Receivers of every mood on real sockets: each ends in time, as the right fault, with nothing left open."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from tests.actors.receivers import (
    OK,
    Receiver,
    answer_of,
    answering,
    call,
    fault_of,
    open_descriptors,
    receiving,
    transport_to_loopback,
)

from taskcenter.actors.egress.exchange import Answered, Faulted
from taskcenter.actors.egress.transport import CallbackTransport
from taskcenter.actors.egress.wire import Address, Wire, dial_tcp

Mood = Callable[[Receiver, trio.abc.Stream], Awaitable[None]]

DEADLINE_S = 0.4
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def dripping(before: bytes, drop: bytes, every_s: float = 0.01) -> Mood:
    """`before`, then `drop` for ever, often enough to keep a timeout per read from ever striking."""

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await stream.send_all(before)
        while True:
            await stream.send_all(drop)
            await trio.sleep(every_s)

    return mood


def flooding(before: bytes, drop: bytes) -> Mood:
    """`before`, then `drop` for ever as fast as it goes."""

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await stream.send_all(before)
        while True:
            await stream.send_all(drop)

    return mood


def saying(answer: bytes) -> Mood:
    """`answer`, then the connection stays open in silence."""

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await stream.send_all(answer)
        await trio.sleep_forever()

    return mood


async def silent(receiver: Receiver, stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def hanging_up(receiver: Receiver, stream: trio.abc.Stream) -> None:
    await stream.aclose()


def resetting(after: bytes) -> Mood:
    """`after`, then a reset."""

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await receiver.read_request(stream)
        await stream.send_all(after)
        await trio.sleep(0.01)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    return mood


def half_closing(answer: bytes) -> Mood:
    """`answer`, then the end of its own direction only."""

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await receiver.read_request(stream)
        await stream.send_all(answer)
        await stream.send_eof()
        await trio.sleep_forever()

    return mood


GALLERY: dict[str, tuple[Mood, str, str]] = {
    "silent": (silent, "timeout", "(connected, request sent, 0 bytes received)"),
    "hangs up": (hanging_up, "connection_error", ""),
    "headers drip": (dripping(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), "timeout", "bytes received)"),
    "header drips": (dripping(b"HTTP/1.1 200 OK\r\na: ", b"b"), "timeout", "bytes received)"),
    "status drips": (dripping(b"HTTP/1.1 2", b""), "timeout", "10 bytes received)"),
    "body drips": (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"), "timeout", "bytes received)"),
    "chunks drip": (dripping(CHUNKED, b"1\r\nx\r\n"), "timeout", "bytes received)"),
    "chunk size drips": (dripping(CHUNKED, b"0"), "timeout", "bytes received)"),
    "trailers drip": (dripping(CHUNKED + b"0\r\n", b"a: b\r\n"), "timeout", "bytes received)"),
    "interim drip": (  # seldom enough that a few seconds pass before they are too many
        dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n", every_s=0.28), "timeout", "bytes received)"
    ),
    "interim flood": (flooding(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), "invalid_response", "more than 16 interim"),
    "header flood": (flooding(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 500), "invalid_response", "larger than 64 KiB"),
    "one huge header": (flooding(b"HTTP/1.1 200 OK\r\na: ", b"x" * 9999), "invalid_response", "larger than 64 KiB"),
    "many headers": (
        saying(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"), "invalid_response", "more than 100 headers"
    ),
    "body without end": (flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536), "invalid_response", "too large"),
    "chunks without end": (flooding(CHUNKED, b"2000\r\n" + b"x" * 0x2000 + b"\r\n"), "invalid_response", "too large"),
    "crumbs": (flooding(CHUNKED, b"1\r\nx\r\n" * 1000), "invalid_response", "more than 8192 pieces"),
    "declares too much": (
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"), "invalid_response", "too large"
    ),
    "garbage": (saying(b"\x16\x03\x01garbage"), "invalid_response", "not HTTP"),
    "http/2": (saying(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), "invalid_response", "not HTTP"),
    "reset at once": (resetting(b""), "connection_error", "connection reset by 127.0.0.1:"),
    "reset in the head": (resetting(b"HTTP/1.1 200"), "connection_error", "connection reset by 127.0.0.1:"),
    "reset in the body": (
        resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"), "connection_error", "connection reset"
    ),
    "ends in the body": (
        half_closing(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"), "connection_error", "in the middle"
    ),
}  # fmt: skip


@pytest.mark.real_time
@pytest.mark.parametrize(("mood", "kind", "message"), GALLERY.values(), ids=GALLERY)
async def test_poison_receivers(mood: Mood, kind: str, message: str, loopback_clock: object) -> None:
    async with receiving(mood) as receiver:
        transport = transport_to_loopback()
        began = trio.current_time()
        fault = await fault_of(transport, receiver.url(), DEADLINE_S if kind == "timeout" else 5.0)
        assert (fault.kind, fault.sent) == (kind, True)
        assert message in fault.message
        if kind == "timeout":
            assert fault.message.startswith("no answer within 0.4 s (connected, request sent, ")
            assert trio.current_time() - began < DEADLINE_S + 1.0
        assert transport.statistics().open == 0
        await transport.aclose()


@pytest.mark.real_time
async def test_a_crowd_of_poison_receivers_leaves_nothing_behind(loopback_clock: object) -> None:
    """The gallery side by side with a healthy receiver: it is not disturbed, and every descriptor comes back."""
    ends: list[Faulted | Answered] = []

    async def one(mood: Mood) -> None:
        async with receiving(mood) as receiver:
            transport = transport_to_loopback(max_connections=4)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(collect, transport, receiver.url())
            assert transport.statistics().open == 0
            await transport.aclose()

    async def collect(transport: CallbackTransport, url: str) -> None:
        ends.append(await call(transport, url, 0.4))

    async with receiving(answering(OK)) as healthy:
        transport = transport_to_loopback()
        await answer_of(transport, healthy.url())
        before = open_descriptors()
        async with trio.open_nursery() as nursery:
            for mood, _, _ in GALLERY.values():
                nursery.start_soon(one, mood)
            for _ in range(20):
                assert (await answer_of(transport, healthy.url())).status == 200
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(ends) == 4 * len(GALLERY)
        assert all(isinstance(end, Faulted) for end in ends)
        assert open_descriptors() == before
        await transport.aclose()


async def test_a_half_closed_receiver_has_answered_and_is_not_used_again(loopback_clock: object) -> None:
    async with receiving(half_closing(OK)) as receiver:
        transport = transport_to_loopback()
        for _ in range(2):
            answer = await answer_of(transport, receiver.url())
            assert (answer.body, answer.reused) == (b"ok", False)
            await trio.testing.wait_all_tasks_blocked(0.01)
        await transport.aclose()


async def test_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        fault = await fault_of(transport_to_loopback(), f"http://127.0.0.1:{port}/")
    assert fault == Faulted("connection_error", f"connection refused by 127.0.0.1:{port}", sent=False)


async def test_a_name_that_does_not_exist() -> None:
    fault = await fault_of(transport_to_loopback(), "http://nowhere.example/")
    assert fault == Faulted("connection_error", "the name nowhere.example does not exist", sent=False)


async def test_a_dial_that_hangs(autojump_clock: trio.testing.MockClock) -> None:
    async def dial(address: Address) -> Wire:
        await trio.sleep_forever()

    fault = await fault_of(transport_to_loopback(dial=dial), "http://127.0.0.1:81/", 5)
    assert fault == Faulted("timeout", "no answer within 5 s (connecting to 127.0.0.1:81)", sent=False)
    assert trio.current_time() == pytest.approx(5.0)


async def test_out_of_descriptors_is_our_fault_in_words(autojump_clock: trio.testing.MockClock) -> None:
    async def dial(address: Address) -> Wire:
        raise OSError(24, "Too many open files")

    fault = await fault_of(transport_to_loopback(dial=dial), "http://127.0.0.1:81/", 5)
    words = "no answer within 5 s (this service is out of file descriptors)"
    assert fault == Faulted("timeout", words, sent=False)


async def test_a_descriptor_is_waited_for() -> None:
    tries = 0

    async def dial(address: Address) -> Wire:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(24, "Too many open files")
        return await dial_tcp(address)

    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback(dial=dial)
        answer = await answer_of(transport, receiver.url())
        await transport.aclose()
    assert (answer.status, tries) == (200, 3)


async def test_a_receiver_that_accepts_slowly_but_in_time(loopback_clock: object) -> None:
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        transport = transport_to_loopback()

        async def accept_late() -> None:
            await trio.sleep(0.05)
            connection, _ = await listener.accept()
            async with trio.SocketStream(connection) as stream:
                await stream.receive_some(65536)
                await stream.send_all(OK)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_late)
            assert (await answer_of(transport, f"http://127.0.0.1:{port}/")).status == 200
        await transport.aclose()


LARGE = b"x" * 8_000_000  # more than any socket buffer takes


async def test_a_large_request_arrives_whole(loopback_clock: object) -> None:
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback()
        for _ in range(2):
            assert (await answer_of(transport, receiver.url(), body=LARGE)).status == 200
        assert [len(request.partition(b"\r\n\r\n")[2]) for request in receiver.requests] == [len(LARGE)] * 2
        assert receiver.connections == 1
        await transport.aclose()


@pytest.mark.parametrize("closes", [False, True])
async def test_an_answer_before_the_body_is_out_is_the_answer(closes: bool, loopback_clock: object) -> None:
    async def refuses_early(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if closes:
            await stream.aclose()
        await trio.sleep_forever()

    async with receiving(refuses_early) as receiver:
        transport = transport_to_loopback()
        answer = await answer_of(transport, receiver.url(), body=LARGE)
        assert (answer.status, answer.body) == (413, b"big")
        assert transport.statistics().open == 0


@pytest.mark.real_time
async def test_a_receiver_that_never_reads_times_out_with_the_request_partly_sent(loopback_clock: object) -> None:
    async with receiving(silent) as receiver:
        fault = await fault_of(transport_to_loopback(), receiver.url(), DEADLINE_S, body=LARGE)
        assert fault == Faulted(
            "timeout", "no answer within 0.4 s (connected, request partly sent, 0 bytes received)", sent=True
        )
