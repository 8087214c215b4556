"""The transport on real sockets: connections kept and not kept, and who may be connected to."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.testing
from tests.actors.receivers import (
    OK,
    Receiver,
    StaticResolver,
    a_request,
    answer_of,
    answering,
    answering_once,
    call,
    dial_unsuspecting,
    fault_of,
    receiving,
    transport_to_loopback,
)

from taskcenter.actors.egress.exchange import Faulted, Withheld
from taskcenter.actors.egress.transport import TransportStatistics
from taskcenter.actors.egress.wire import Address, Wire, dial_tcp


async def test_one_connection_serves_many_exchanges(loopback_clock: object) -> None:
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback()
        answers = [await answer_of(transport, receiver.url(f"/hook/{n}"), body=b"%d" % n, X_A="1") for n in range(5)]
        assert [answer.reused for answer in answers] == [False, True, True, True, True]
        assert [(answer.status, answer.body, answer.body_size) for answer in answers] == [(200, b"ok", 2)] * 5
        assert receiver.connections == 1
        assert [request.split(b" ")[1] for request in receiver.requests] == [b"/hook/%d" % n for n in range(5)]
        assert [request[-1:] for request in receiver.requests] == [b"0", b"1", b"2", b"3", b"4"]
        assert transport.statistics() == TransportStatistics(1, 1, 0, dialled=1, reused=4, redialled=0)
        await transport.aclose()
        assert transport.statistics().open == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_families_as_literals(host: str, loopback_clock: object) -> None:
    async with receiving(answering(OK), host=host) as receiver:
        transport = transport_to_loopback()
        assert (await answer_of(transport, receiver.url())).status == 200
        assert b"\r\nHost: %b:%d\r\n" % (receiver.host.encode(), receiver.port) in receiver.requests[0]
        await transport.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + OK.replace(b"ok", b"no"),
        OK + b"\r\n",
    ],
)
async def test_a_connection_that_says_close_or_too_much_is_not_used_again(
    answer: bytes, loopback_clock: object
) -> None:
    async with receiving(answering(answer)) as receiver:
        transport = transport_to_loopback()
        for _ in range(3):
            got = await answer_of(transport, receiver.url())
            assert (got.body, got.reused) == (b"ok", False)
        assert receiver.connections == 3
        assert transport.statistics().open == 0


async def test_bytes_that_come_while_at_rest_are_never_an_answer(loopback_clock: object) -> None:
    rested = trio.Event()

    async def talks_out_of_turn(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await stream.send_all(OK)
        if receiver.connections == 1:
            await stream.send_all(OK.replace(b"ok", b"no"))
            rested.set()
            await trio.sleep_forever()

    async with receiving(talks_out_of_turn) as receiver:
        transport = transport_to_loopback()
        await answer_of(transport, receiver.url())
        await rested.wait()
        second = await answer_of(transport, receiver.url())
        assert (second.body, second.reused) == (b"ok", False)
        assert receiver.connections == 2
        await transport.aclose()


async def test_a_connection_that_ended_at_rest_is_replaced_unseen(loopback_clock: object) -> None:
    async with receiving(answering_once(OK)) as receiver:
        transport = transport_to_loopback()
        for _ in range(4):
            assert (await answer_of(transport, receiver.url())).body == b"ok"
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert receiver.connections == 4
        await transport.aclose()


async def test_a_request_that_met_a_connection_closed_at_rest_is_sent_once_more(loopback_clock: object) -> None:
    closed = trio.Event()

    async def closes_the_first_at_rest(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await stream.send_all(OK)
        if receiver.connections == 1:
            await stream.aclose()
            closed.set()
            return
        await receiver.read_request(stream)

    async with receiving(closes_the_first_at_rest) as receiver:
        transport = transport_to_loopback(dial=dial_unsuspecting)
        await answer_of(transport, receiver.url("/1"))
        await closed.wait()
        second = await answer_of(transport, receiver.url("/2"))
        assert (second.status, second.reused) == (200, False)
        assert [request.split(b" ")[1] for request in receiver.requests] == [b"/1", b"/2"]
        assert transport.statistics().redialled == 1
        await transport.aclose()


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_a_request_that_the_receiver_took_is_not_sent_again(loopback_clock: object, *, reset: bool) -> None:
    """The table of answers: refused, reset and the like are failed attempts, on a kept connection too."""

    async def ends_at_the_second_request(receiver: Receiver, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await receiver.read_request(stream)
        await stream.send_all(OK)
        await receiver.read_request(stream)
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with receiving(ends_at_the_second_request) as receiver:
        transport = transport_to_loopback()
        await answer_of(transport, receiver.url("/1"))
        fault = await fault_of(transport, receiver.url("/2"))
        assert (fault.kind, fault.sent) == ("connection_error", True)
        assert ("closed the connection without an answer" in fault.message) is not reset
        assert [request.split(b" ")[1] for request in receiver.requests] == [b"/1", b"/2"]
        assert transport.statistics().redialled == 0
        await transport.aclose()


async def test_only_once_and_only_before_the_first_byte_of_an_answer(loopback_clock: object) -> None:
    closed = trio.Event()

    async def dies_after_its_first_answer(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        if receiver.connections == 1:
            await stream.send_all(OK)
        await stream.aclose()
        closed.set()

    async with receiving(dies_after_its_first_answer) as receiver:
        transport = transport_to_loopback(dial=dial_unsuspecting)
        await answer_of(transport, receiver.url())
        await closed.wait()
        fault = await fault_of(transport, receiver.url())
        assert (fault.kind, fault.sent) == ("connection_error", True)
        assert "closed the connection without an answer" in fault.message
        assert len(receiver.requests) == 2

    async def dies_in_its_second_answer(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await stream.send_all(OK)
        await receiver.read_request(stream)
        await stream.send_all(b"HTTP/1.1 2")
        await stream.aclose()

    async with receiving(dies_in_its_second_answer) as receiver:
        await answer_of(transport, receiver.url())
        fault = await fault_of(transport, receiver.url())
        assert (fault.kind, fault.sent, len(receiver.requests)) == ("connection_error", True, 2)


async def test_a_fresh_connection_that_dies_is_not_repeated(loopback_clock: object) -> None:
    async with receiving(answering_once(b"")) as receiver:
        fault = await fault_of(transport_to_loopback(), receiver.url())
        assert (fault.kind, fault.sent, len(receiver.requests)) == ("connection_error", True, 1)


async def test_rest_and_age_are_bounded(mock_clock: trio.testing.MockClock) -> None:
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback(max_idle_s=20.0, max_age_s=50.0)
        reused = []
        for rest_s in (0.0, 20.0, 20.5, 19.0, 19.0, 19.0):
            mock_clock.jump(rest_s)
            reused.append((await answer_of(transport, receiver.url())).reused)
        assert reused == [False, True, False, True, True, True]  # the last one found it 57 s old, and it went
        assert transport.statistics().idle == 0
        await answer_of(transport, receiver.url())
        mock_clock.jump(20.0)
        assert transport.close_idle() == 0
        mock_clock.jump(0.5)
        assert transport.close_idle() == 1
        assert transport.statistics().open == 0


async def test_origins_do_not_share_connections(loopback_clock: object) -> None:
    async with receiving(answering(OK)) as one, receiving(answering(OK)) as other:
        resolver = StaticResolver({"a.example": ["127.0.0.1"], "b.example": ["127.0.0.1"]})
        transport = transport_to_loopback(resolver=resolver)
        for url in (one.url(), other.url(), one.url(host="a.example"), one.url(host="b.example")):
            assert not (await answer_of(transport, url)).reused
            assert (await answer_of(transport, url)).reused
        assert (one.connections, other.connections) == (3, 1)
        await transport.aclose()


async def test_the_next_address_is_tried_when_one_refuses_or_keeps_silent(loopback_clock: object) -> None:
    async def dial(address: Address) -> Wire:
        if address[1][0] == "127.0.0.2":
            await trio.sleep_forever()
        return await dial_tcp(address)

    async with receiving(answering(OK)) as receiver:
        answers = {"many.example": ["::1", "127.0.0.2", "127.0.0.1"]}  # refuses, silent, answers
        transport = transport_to_loopback(resolver=StaticResolver(answers), dial=dial)
        assert (await answer_of(transport, receiver.url(host="many.example"), deadline_s=0.6)).status == 200
        await transport.aclose()


@pytest.mark.parametrize("headers", [[("X-A", "1\r\nX-B: 2")], [("Bad Name", "1")]])
async def test_a_request_that_cannot_be_written_is_a_fault_with_nothing_sent(
    headers: Sequence[tuple[str, str]], loopback_clock: object
) -> None:
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback()
        request = a_request(receiver.url())
        bad = type(request)(request.method, request.target, headers, request.body)
        fault = await transport.exchange(bad, 1.0)
        assert isinstance(fault, Faulted)
        assert (fault.kind, fault.sent, receiver.connections) == ("connection_error", False, 0)
        assert "cannot be sent" in fault.message


async def test_at_the_bound_exchanges_wait_their_turn_and_all_are_served(loopback_clock: object) -> None:
    peak = 0

    async def slow(receiver: Receiver, stream: trio.abc.Stream) -> None:
        nonlocal peak
        while await receiver.read_request(stream):
            peak = max(peak, transport.statistics().open)
            await trio.sleep(0.002)
            await stream.send_all(OK)

    async with receiving(slow) as one, receiving(slow) as other:
        transport = transport_to_loopback(max_connections=3)
        async with trio.open_nursery() as nursery:
            for n in range(30):
                nursery.start_soon(answer_of, transport, (one, other)[n % 2].url())
        assert len(one.requests) == len(other.requests) == 15
        assert peak == 3
        statistics = transport.statistics()
        assert (statistics.open, statistics.waiting) == (statistics.idle, 0)
        await transport.aclose()


async def test_waiting_for_a_connection_is_inside_the_deadline(loopback_clock: object) -> None:
    async def silent(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await trio.sleep_forever()

    async with receiving(silent) as receiver, trio.open_nursery() as nursery:
        transport = transport_to_loopback(max_connections=1)
        nursery.start_soon(fault_of, transport, receiver.url(), 0.2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        fault = await fault_of(transport, receiver.url(), 0.05)
        assert (fault.kind, fault.sent) == ("timeout", False)
        assert fault.message == "no answer within 0.05 s (waiting for a connection: all 1 are in use)"


async def test_closing_ends_exchanges_as_faults_and_refuses_new_ones(loopback_clock: object) -> None:
    async def silent(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        if len(receiver.requests) == 1:
            await stream.send_all(OK)
            await receiver.read_request(stream)
        await trio.sleep_forever()

    faults: list[Faulted] = []

    async def one_more(receiver: Receiver) -> None:
        faults.append(await fault_of(transport, receiver.url()))

    async with receiving(silent) as receiver:
        transport = transport_to_loopback()
        await answer_of(transport, receiver.url())
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one_more, receiver)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await transport.aclose()
        assert [(fault.kind, fault.sent) for fault in faults] == [("connection_error", True)] * 3
        with pytest.raises(trio.ClosedResourceError):
            await call(transport, receiver.url())
        assert transport.statistics().open == 0
        await transport.aclose()
        assert "closed" in repr(transport)


async def test_what_may_not_be_sent_any_more_is_withheld_on_new_and_kept_connections(loopback_clock: object) -> None:
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback()
        try:
            for _ in range(2):  # the second one finds the connection of the answered call
                with pytest.raises(Withheld):
                    await transport.exchange(replace(a_request(receiver.url()), may_send=lambda: False), 5.0)
                assert (await answer_of(transport, receiver.url())).status == 200
            assert len(receiver.requests) == 2
        finally:
            await transport.aclose()
