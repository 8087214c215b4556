"""Look-ups: bounded by business and in all, kept, shared, and never given up by halves."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from taskcenter.actors.egress import resolver as resolver_module
from taskcenter.actors.egress.resolver import FAILURE_TTL_S, TTL_S, BusinessResolver, NameLookupError, NameService


class NameServer:
    """Stands in for `getaddrinfo`: names starting with "dead" hang their thread until `release`d."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = 0
        self.peak = 0
        self._let_go = threading.Event()
        self._lock = threading.Lock()

    def getaddrinfo(self, host: bytes, port: int, **_options: Any) -> list[tuple[Any, ...]]:
        name = host.decode()
        with self._lock:
            self.calls.append(name)
            self.running += 1
            self.peak = max(self.peak, self.running)
        try:
            if name.startswith("dead"):
                self._let_go.wait(10)
            if name.startswith("missing"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            if name.startswith("again"):
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
            if name.startswith("odd"):
                raise UnicodeError("label too long")
            if name.startswith("empty"):
                return []
            four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))
            six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port, 0, 7))
            return (
                [four, six, four]
                if not name.startswith("many")
                else [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", port)) for n in range(100)]
            )
        finally:
            with self._lock:
                self.running -= 1

    def release(self) -> None:
        self._let_go.set()


@contextmanager
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    try:
        yield server
    finally:
        server.release()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what the threads do, and a little longer, for what they should not."""
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked(0.02)


async def given_up(resolvers: list[BusinessResolver], names: list[str], *, when: Callable[[], object]) -> None:
    """Ask for the names side by side, each of the resolver of its turn, and give all up when that is reached."""
    async with trio.open_nursery() as nursery:
        for number, name in enumerate(names):
            nursery.start_soon(resolvers[number % len(resolvers)].resolve, name, 80)
        await until(when)
        nursery.cancel_scope.cancel()


async def test_addresses_come_with_the_port_once_each_in_order() -> None:
    with name_server() as server:
        resolver = NameService(getaddrinfo=server.getaddrinfo).for_business()
        assert await resolver.resolve("a.example", 8080) == [
            (socket.AF_INET, ("192.0.2.1", 8080)),
            (socket.AF_INET6, ("2001:db8::1", 8080, 0, 7)),
        ]
        assert [address[1][1] for address in await resolver.resolve("a.example", 9)] == [9, 9]
        assert len(await resolver.resolve("many.example", 80)) == resolver_module.MAX_ADDRESSES


async def test_answers_are_kept_for_a_while_and_failures_for_a_shorter_one(
    mock_clock: trio.testing.MockClock,
) -> None:
    with name_server() as server:
        service = NameService(getaddrinfo=server.getaddrinfo)
        one, other = service.for_business(), service.for_business()
        for resolver in (one, other, one):
            await resolver.resolve("a.example", 80)
            with pytest.raises(NameLookupError):
                await resolver.resolve("missing.example", 80)
        assert server.calls == ["a.example", "missing.example"]
        mock_clock.jump(FAILURE_TTL_S)
        with pytest.raises(NameLookupError):
            await one.resolve("missing.example", 80)
        await one.resolve("a.example", 80)
        assert server.calls == ["a.example", "missing.example", "missing.example"]
        mock_clock.jump(TTL_S)
        await one.resolve("a.example", 80)
        assert server.calls[3:] == ["a.example"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.example", "the name missing.example does not exist"),
        ("again.example", "the name servers gave no answer for again.example"),
        ("odd.example", "the name odd.example could not be looked up"),
        ("empty.example", "empty.example has no address"),
    ],
)
async def test_failures_in_words(name: str, message: str) -> None:
    with name_server() as server:
        resolver = NameService(getaddrinfo=server.getaddrinfo).for_business()
        for _ in range(2):
            with pytest.raises(NameLookupError, match=message):
                await resolver.resolve(name, 80)


async def test_many_who_want_one_name_share_a_look_up() -> None:
    with name_server() as server:
        resolver = NameService(getaddrinfo=server.getaddrinfo).for_business()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(resolver.resolve, "a.example", 80)
        assert server.calls == ["a.example"]


@pytest.mark.real_time
async def test_a_dead_name_costs_a_business_one_thread_and_others_nothing() -> None:
    with name_server() as server:
        service = NameService(getaddrinfo=server.getaddrinfo)
        unlucky, other = service.for_business(), service.for_business()

        await given_up([unlucky], ["dead.example"] * 200, when=lambda: server.calls)
        assert server.calls == ["dead.example"]  # its thread runs on, and nobody starts another
        with trio.fail_after(9):
            await unlucky.resolve("alive.example", 80)
            await other.resolve("b.example", 80)

        await given_up([unlucky], [f"dead{n}.example" for n in range(100)], when=lambda: server.peak >= 2)
        assert server.peak == 2
        with trio.fail_after(9):
            await other.resolve("c.example", 80)
        assert unlucky.threads.borrowed_tokens == 2
        assert "2 look-ups running" in repr(unlucky)


@pytest.mark.real_time
async def test_all_businesses_together_are_bounded() -> None:
    with name_server() as server:
        service = NameService(total=5, getaddrinfo=server.getaddrinfo)
        resolvers = [service.for_business() for _ in range(20)]
        await given_up(resolvers, [f"dead{n}.example" for n in range(20)], when=lambda: server.peak >= 5)
        assert (server.peak, service.threads.borrowed_tokens) == (5, 5)
        assert "5 look-ups running" in repr(service)


async def test_the_answer_of_a_look_up_that_nobody_waits_for_any_more_is_kept() -> None:
    with name_server() as server:
        resolver = NameService(getaddrinfo=server.getaddrinfo).for_business()
        await given_up([resolver], ["dead.example"], when=lambda: server.calls)
        server.release()
        addresses = await resolver.resolve("dead.example", 80)
        assert addresses[0] == (socket.AF_INET, ("192.0.2.1", 80))
        assert server.calls == ["dead.example"]
        assert (resolver.threads.borrowed_tokens, resolver.service.threads.borrowed_tokens) == (0, 0)


async def test_cancelled_before_its_thread_starts_leaves_no_trace() -> None:
    with name_server() as server:
        service = NameService(total=1, getaddrinfo=server.getaddrinfo)
        holder, resolver = service.for_business(), service.for_business(1)
        await given_up([holder], ["dead.example"], when=lambda: server.calls)
        with trio.move_on_after(0.01):
            await resolver.resolve("a.example", 80)  # waits for the process's only thread
        with trio.CancelScope() as scope:
            scope.cancel()
            await resolver.resolve("a.example", 80)
        assert resolver.threads.borrowed_tokens == 0
        assert "0 look-ups" in repr(resolver)
        server.release()
        assert await resolver.resolve("a.example", 80)


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "MAX_NAMES", 3)
    with name_server() as server:
        service = NameService(getaddrinfo=server.getaddrinfo)
        resolver = service.for_business()
        for name in ("a.example", "b.example", "c.example", "d.example", "b.example", "a.example"):
            await resolver.resolve(name, 80)
        assert server.calls == ["a.example", "b.example", "c.example", "d.example", "a.example"]
        assert "3 names" in repr(service)


async def test_the_real_look_up() -> None:
    resolver = NameService().for_business()
    addresses = await resolver.resolve("localhost", 80)
    assert {address[1][0] for address in addresses} <= {"127.0.0.1", "::1"}
    assert addresses
