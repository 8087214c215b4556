"""A worker whose loop stands still is killed, and one that answers late, or has not begun to serve, is not."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from taskcenter.runtime.processes import MISSED_PINGS, PING_S, Parent, Running
from taskcenter.runtime.worker_link import Link

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class Ears:
    """Answers as long as `well`."""

    well = True

    async def answer(self, what: str, argument: Any) -> Any:
        if not self.well:
            await trio.sleep_forever()

    def told(self, what: str, value: Any) -> None:
        """Nothing is said."""


@asynccontextmanager
async def watched(*, serving: bool = True) -> AsyncIterator[tuple[Running, Ears]]:
    """A real process with a real socket, watched for as long as it lives."""
    parent, ears = Parent(SLEEP, {}, 2, 20.0), Ears()
    mine, its = trio.socket.socketpair()
    process = await trio.lowlevel.open_process(SLEEP)
    worker = Running(0, process, parent.merged.join(0))
    worker.serving = serving
    worker.link = Link(trio.SocketStream(mine), Ears())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.link.run)
            nursery.start_soon(Link(trio.SocketStream(its), ears).run)
            nursery.start_soon(parent.watch, worker)
            yield worker, ears
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        await process.wait()


async def test_one_that_answers_lives(autojump_clock: object) -> None:
    async with watched() as (worker, ears):
        await trio.sleep(600)
        ears.well = False
        await trio.sleep((MISSED_PINGS - 2) * 2 * PING_S)
        ears.well = True  # late, and yet in time
        await trio.sleep(600)
        assert worker.process.poll() is None


async def test_one_that_stands_still_is_killed(autojump_clock: object) -> None:
    async with watched() as (worker, ears):
        await trio.sleep(60)
        ears.well = False
        assert await worker.process.wait() == -signal.SIGKILL


async def test_one_that_does_not_serve_yet_may_take_its_time(autojump_clock: object) -> None:
    async with watched(serving=False) as (worker, ears):
        ears.well = False
        await trio.sleep(600)
        assert worker.process.poll() is None
