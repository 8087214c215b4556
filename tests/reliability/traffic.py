"""What goes on while things are broken: tasks falling due at a steady rate, and requests of every kind beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count, cycle
from random import Random

import trio
from tests.reliability.recorder import Caller, now_ms, spread

AHEAD_MS = 1500.0  # tasks are created so long before they are due
BATCH_S = 0.5
MOST_KEPT = 500  # tasks that may still be looked at or cancelled


class Traffic:
    """Seeded. `run` until `stop`; what clients were told goes into the callers' ledger."""

    def __init__(self, callers: Sequence[Caller], rng: Random) -> None:
        self._callers = callers
        self._rng = rng
        self._number = count()
        self._made: list[tuple[Caller, str]] = []
        self._stopped = trio.Event()
        self.longest_s = 0.0  # a request, until it was told, its repeats included

    def stop(self) -> None:
        """Ask for nothing more. What has been asked is waited for by `run`."""
        self._stopped.set()

    async def run(self, *, callbacks: float, requests: float, **fields: object) -> None:
        """So many callbacks due and so many requests sent a second; `fields` go into every task."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._callbacks, nursery, callbacks, fields)
            if requests:
                nursery.start_soon(self._requests, nursery, requests)

    async def _callbacks(self, nursery: trio.Nursery, rate: float, fields: dict[str, object]) -> None:
        """A batch for each business in turn, due while the others' are created, so that all always have some due."""
        period_ms = BATCH_S * 1000 * len(self._callers)
        due_ms = now_ms() + AHEAD_MS
        for caller in cycle(self._callers):
            tasks = list(spread(f"c{next(self._number)}-", round(rate * BATCH_S), due_ms, period_ms))
            nursery.start_soon(partial(caller.create_many, tasks, **fields))
            due_ms += BATCH_S * 1000
            if await self._pause((due_ms - AHEAD_MS - now_ms()) / 1000):
                return

    async def _requests(self, nursery: trio.Nursery, rate: float) -> None:
        next_at = trio.current_time()
        for caller in cycle(self._callers):
            nursery.start_soon(self._timed, caller)
            next_at += 1 / rate
            if await self._pause(next_at - trio.current_time()):
                return

    async def _timed(self, caller: Caller) -> None:
        began = trio.current_time()
        await self._request(caller)
        self.longest_s = max(self.longest_s, trio.current_time() - began)

    async def _request(self, caller: Caller) -> None:
        kind = self._rng.random()
        if kind < 0.5 or not self._made:
            due_ms = None if kind < 0.1 else now_ms() + self._rng.uniform(200, 3000)
            task_id = await caller.create(f"r{next(self._number)}", due_ms)
            if task_id is not None:
                self._made = [*self._made[-MOST_KEPT:], (caller, task_id)]
        elif kind < 0.8:
            owner, task_id = self._rng.choice(self._made)
            await owner.look(task_id)
        else:
            owner, task_id = self._made.pop(self._rng.randrange(len(self._made)))
            await owner.cancel(task_id)

    async def _pause(self, seconds: float) -> bool:
        """Whether it was stopped meanwhile."""
        with trio.move_on_after(max(seconds, 0)):
            await self._stopped.wait()
        return self._stopped.is_set()
