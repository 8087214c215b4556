"""Cancelled at every place where an exchange can wait: no slot, no connection, no descriptor is left behind.

Each dial below is a few lines that stall at one phase; the exchange is cancelled there, and what is left is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from tests.actors.receivers import (
    OK,
    StaticResolver,
    answer_of,
    answering,
    call,
    open_descriptors,
    receiving,
    transport_to_loopback,
)

from taskcenter.actors.egress.exchange import Answered, Exchange, Faulted
from taskcenter.actors.egress.transport import CallbackTransport
from taskcenter.actors.egress.wire import Address, Dial, Wire

URL = "http://127.0.0.1:81/"


class StallingWire:
    """Answers `answers` exchanges, then stalls at `phase`: "send", "head", "body"; counts those not closed."""

    open_now = 0

    def __init__(self, phase: str, answers: int = 0) -> None:
        StallingWire.open_now += 1
        self._phase = phase
        self._answers = answers
        self._inbox: list[bytes] = []
        self._closed = False

    def begin_send(self, data: bytes) -> bool:
        if self._answers:
            self._answers -= 1
            self._inbox = [OK]
            return True
        self._inbox = {"send": [], "head": [b"HTTP/1.1 200 OK\r\n"], "body": [OK[:-1]]}[self._phase]
        return self._phase != "send"

    async def finish_send(self) -> None:
        await trio.sleep_forever()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._inbox:
            await trio.sleep_forever()
        return self._inbox.pop(0)

    def receive_nowait(self) -> bytes | None:
        return None

    def untaken(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            StallingWire.open_now -= 1


class OneAnswerWire(StallingWire):
    """Answers once; the second request finds it dead."""

    def __init__(self) -> None:
        super().__init__("head", answers=1)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"" if self._inbox != [OK] else self._inbox.pop()


class StallingResolver:
    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        await trio.sleep_forever()


async def never_connected(address: Address) -> Wire:
    await trio.sleep_forever()


def stalling_at(phase: str, answers: int = 0) -> Dial:
    async def dial(address: Address) -> Wire:
        await trio.lowlevel.checkpoint()
        return StallingWire(phase, answers)

    return dial


PHASES: dict[str, tuple[Dial, str, bool]] = {
    "dial": (never_connected, URL, False),
    "look-up": (never_connected, "http://name.example/", False),
    "handshake": (stalling_at("send"), "https://127.0.0.1:81/", False),
    "send": (stalling_at("send"), URL, True),
    "head": (stalling_at("head"), URL, True),
    "body": (stalling_at("body"), URL, True),
    "head of a second exchange": (stalling_at("head", 1), URL, True),
    "send of a second exchange": (stalling_at("send", 1), URL, True),
}


@pytest.mark.parametrize(("dial", "url", "sent"), PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("own_deadline", [True, False])
async def test_cancelled_at_a_phase(
    dial: Dial, url: str, sent: bool, own_deadline: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """By its own deadline it ends as a timeout; by somebody else's cancellation as that, never as a result."""
    StallingWire.open_now = 0
    transport = transport_to_loopback(dial=dial, resolver=StallingResolver(), max_connections=1)
    result: Exchange | None = None
    with trio.move_on_after(1000 if own_deadline else 3):
        result = await call(transport, url, 5)
        while isinstance(result, Answered):
            result = await call(transport, url, 5)
    if own_deadline:
        assert isinstance(result, Faulted)
        assert (result.kind, result.sent) == ("timeout", sent)
    else:
        assert not isinstance(result, Faulted)
        assert trio.current_time() == pytest.approx(3)
    assert StallingWire.open_now == 0
    assert transport.statistics().open == 0
    assert "0 of 1 slots taken" in repr(transport)


async def test_cancelled_before_it_begins_nothing_is_sent(loopback_clock: object) -> None:
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback()
        await answer_of(transport, receiver.url())
        with trio.CancelScope() as scope:
            scope.cancel()
            await call(transport, receiver.url())
        assert scope.cancelled_caught
        assert len(receiver.requests) == 1
        assert transport.statistics().idle == 1
        await transport.aclose()


async def test_cancelled_while_waiting_for_a_slot_nobody_loses_a_turn(autojump_clock: trio.testing.MockClock) -> None:
    transport = transport_to_loopback(dial=stalling_at("head"), max_connections=2)
    ends: list[Exchange] = []

    async def one(deadline_s: float) -> None:
        ends.append(await call(transport, URL, deadline_s))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 10)
        nursery.start_soon(one, 10)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(20):
            nursery.start_soon(one, 5 if n % 2 else 15)  # half of them give up before a slot is free
        await trio.testing.wait_all_tasks_blocked()
        assert transport.statistics().waiting == 20
    assert [isinstance(end, Faulted) and end.kind for end in ends] == ["timeout"] * 22
    assert sum(isinstance(end, Faulted) and end.sent for end in ends) == 4  # two first, then two of those in line
    assert transport.statistics().open == transport.statistics().waiting == 0
    assert "0 of 2 slots taken" in repr(transport)


async def test_cancelled_in_the_same_tick_as_a_slot_is_handed_over(autojump_clock: trio.testing.MockClock) -> None:
    """Whichever comes first, the slot is with somebody or free."""
    transport = transport_to_loopback(dial=stalling_at("head"), max_connections=1)
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, transport, URL, 5)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(call, transport, URL, 5)
        assert "0 of 1 slots taken" in repr(transport)
        assert transport.statistics().waiting == 0


async def test_cancelled_anywhere_on_real_sockets_leaves_no_descriptor(loopback_clock: object) -> None:
    """The cancellation falls on each scheduling step of a real exchange in turn."""

    async def exchange_until(transport: CallbackTransport, url: str, steps: int) -> bool:
        done = False

        async def run(scope: trio.CancelScope) -> None:
            nonlocal done
            with scope:
                for _ in range(2):
                    await call(transport, url)
                done = True

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, scope)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        return done

    async with receiving(answering(OK)) as receiver:
        await trio.testing.wait_all_tasks_blocked()
        before = open_descriptors()
        outcomes = []
        for steps in range(60):
            transport = transport_to_loopback(max_connections=1)
            outcomes.append(await exchange_until(transport, receiver.url(), steps))
            assert transport.statistics().open in (0, 1)
            assert transport.statistics().open == transport.statistics().idle
            assert f"{transport.statistics().open} of 1 slots taken" in repr(transport)
            assert (await answer_of(transport, receiver.url())).status == 200
            await transport.aclose()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert open_descriptors() == before
        assert not outcomes[0]


async def test_closing_while_dialling_closes_what_was_dialled(autojump_clock: trio.testing.MockClock) -> None:
    StallingWire.open_now = 0

    async def slow_dial(address: Address) -> Wire:
        await trio.sleep(1)
        return StallingWire("head")

    transport = transport_to_loopback(dial=slow_dial, max_connections=1)
    refused: list[bool] = []

    async def one() -> None:
        try:
            await call(transport, URL)
        except trio.ClosedResourceError:
            refused.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)  # waits for the only slot
        await trio.testing.wait_all_tasks_blocked()
        await transport.aclose()
    assert refused == [True, True]
    assert StallingWire.open_now == 0
    assert "0 of 1 slots taken" in repr(transport)


async def test_a_crash_in_a_dial_is_passed_on_and_frees_the_slot() -> None:
    async def broken(address: Address) -> Wire:
        raise ZeroDivisionError

    transport = transport_to_loopback(dial=broken, max_connections=1, resolver=StaticResolver())
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await call(transport, URL)
    assert "0 of 1 slots taken" in repr(transport)


async def test_when_the_replacement_cannot_be_had_the_first_copy_still_counts_as_sent() -> None:
    dials = 0

    async def dial(address: Address) -> Wire:
        nonlocal dials
        dials += 1
        if dials > 1:
            raise ConnectionRefusedError(111, "refused")
        return OneAnswerWire()

    transport = transport_to_loopback(dial=dial)
    await answer_of(transport, URL)
    assert await call(transport, URL) == Faulted("connection_error", "connection refused by 127.0.0.1:81", sent=True)
    assert "0 of 64 slots taken" in repr(transport)


async def test_connections_handed_over_that_are_dead_are_replaced_once_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Three want one slot: the second is handed a dead connection, queues to dial anew, and is handed another one."""
    dials = 0
    ends: dict[int, Exchange] = {}

    async def dial(address: Address) -> Wire:
        nonlocal dials
        dials += 1
        await trio.sleep(1)
        return OneAnswerWire()

    async def one(n: int) -> None:
        ends[n] = await call(transport, URL)

    transport = transport_to_loopback(dial=dial, max_connections=1)
    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(one, n)
            await trio.testing.wait_all_tasks_blocked()
    assert [isinstance(ends[n], Answered) for n in range(3)] == [True, False, True]
    assert isinstance(ends[1], Faulted)
    assert ends[1].sent
    assert dials == 2
