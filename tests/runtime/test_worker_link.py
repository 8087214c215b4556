"""What a parent and a worker say to each other, over real socket pairs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from taskcenter.metrics import Metrics
from taskcenter.runtime.worker import Worker
from taskcenter.runtime.worker_link import Link, NoAnswer


class End:
    """One end, that answers by `replies` and keeps what it is told."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.link = Link(stream, self)
        self.heard: list[Any] = []
        self.hold = trio.Event()

    async def answer(self, what: str, argument: Any) -> Any:
        if what == "wait":
            await self.hold.wait()
        return [what, argument]

    def told(self, what: str, value: Any) -> None:
        self.heard.append((what, value))


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    one, other = trio.socket.socketpair()
    pair = End(trio.SocketStream(one)), End(trio.SocketStream(other))
    async with trio.open_nursery() as nursery:
        for end in pair:
            nursery.start_soon(end.link.run)
        try:
            yield pair
        finally:
            nursery.cancel_scope.cancel()


async def test_each_asks_and_tells_the_other(autojump_clock: object) -> None:
    async with ends() as (parent, worker):
        assert await parent.link.ask("snapshot", timeout_s=1) == ["snapshot", None]
        assert await worker.link.ask("metrics", "text/plain", timeout_s=1) == ["metrics", "text/plain"]
        parent.link.tell("serving", [1, 2])
        await worker.link.ask("after", timeout_s=1)
        await wait_all_tasks_blocked()
        assert (parent.heard, worker.heard) == ([], [("serving", [1, 2])])


async def test_both_send_much_at_once() -> None:
    """More than any socket buffer, from both sides, and each answer as large."""
    much = "x" * 5_000_000
    async with ends() as (parent, worker), trio.open_nursery() as nursery:

        async def ask(end: End, mark: int) -> None:
            assert await end.link.ask("echo", [mark, much], timeout_s=60) == ["echo", [mark, much]]

        for mark in range(3):
            nursery.start_soon(ask, parent, mark)
            nursery.start_soon(ask, worker, mark)


async def test_who_gives_up_leaves_the_line_whole(autojump_clock: object) -> None:
    async with ends() as (parent, worker):
        with pytest.raises(NoAnswer):
            await parent.link.ask("wait", timeout_s=1)
        worker.hold.set()  # its answer comes, and nobody waits for it
        assert await parent.link.ask("next", timeout_s=1) == ["next", None]


async def test_the_end_of_one_is_the_end_of_what_the_other_asks(autojump_clock: object) -> None:
    one, other = trio.socket.socketpair()
    worker = End(trio.SocketStream(one))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.link.run)

        async def ask() -> None:
            with pytest.raises(NoAnswer):
                await worker.link.ask("metrics", timeout_s=60)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        other.close()
    assert trio.current_time() - began < 60
    with pytest.raises(NoAnswer):
        await worker.link.ask("metrics", timeout_s=60)
    worker.link.tell("serving", None)


async def test_an_end_that_reads_nothing_holds_up_nobody(autojump_clock: object) -> None:
    """As a frozen worker does: questions time out, messages are dropped, and the line is still closed."""
    one, other = trio.socket.socketpair()
    parent = End(trio.SocketStream(one))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent.link.run)
        for _ in range(3):
            with pytest.raises(NoAnswer):
                await parent.link.ask("snapshot", "x" * 5_000_000, timeout_s=1)
        for _ in range(200):
            parent.link.tell("serving", [1, 2])
        nursery.cancel_scope.cancel()
    other.close()


def test_a_worker_is_as_well_as_it_is_told_the_others_are() -> None:
    worker = Worker(Metrics())
    assert worker.health() == "ok"
    worker.told("serving", [1, 2])
    assert worker.health() == "degraded: 1 of 2 processes serve"
    worker.told("serving", [2, 2])
    assert worker.health() == "ok"
