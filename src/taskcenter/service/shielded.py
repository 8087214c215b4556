"""Writes that outlive the client who asked for them.

A client that disconnects cancels its handler at any await (quart-trio). A store write that is cancelled half-way is at
best an unknown commit, and what has to follow it (the nudge to the engine, the withdrawal of a cancelled task) would
not happen. So every write runs in a nursery of the service's own and the handler waits for its result beside it: when
the handler goes, the write goes on to its end.

Invariants. At most `most` writes are under way; one more is refused (`Overloaded`), so a stalled store fills no memory.
A handler waits at most `WAIT_S`, then it is told that the outcome is unknown; every write is safe to repeat. Writes of
one business lock the same ledger row, so more than `ABREAST` of them at the store would only hold connections that
others need; the rest wait here. Who has waited here for `PATIENCE_S` when one before it is refused by the store is
refused with it, for it would only wait for the same thing again.

On failure. An error belongs to the waiting handler; nobody waiting, it is logged, unless it is a plain refusal.
Shutdown: `close` refuses new writes and `run` returns when those under way have ended; cancelling `run` ends them, and
their handlers are told "unknown".
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

import trio

from taskcenter import log
from taskcenter.errors import (
    CommitUnknown,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    StoreUnavailable,
    TooMany,
)

WAIT_S: Final = 5.0
ABREAST: Final = 2  # writes of one business at the store at once
PATIENCE_S: Final = 0.2  # with the store's own time it keeps a 503 under 2 s

REFUSALS: Final = (Conflict, Forbidden, InvalidInput, NotFound, Overloaded, TooMany)  # the caller's, or nobody's

Result = TypeVar("Result")
_log = log.get("writes")


class Slot(Generic[Result]):
    """Where a result or an error is left for whoever waits. Filled once, by the one who works."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._value: list[Result] = []
        self._error: BaseException | None = None
        self.awaited = True  # false when the waiter has gone; changed by the waiter

    def fill(self, value: Result) -> None:
        self._value.append(value)
        self._done.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done.set()

    @property
    def filled(self) -> bool:
        return self._done.is_set()

    async def result(self, wait_s: float = WAIT_S) -> Result:
        """Raises what the work raised, or `CommitUnknown` when it takes longer than `wait_s`."""
        try:
            with trio.move_on_after(wait_s):
                await self._done.wait()
        finally:
            self.awaited = False
        if self._error is not None:
            raise self._error
        if not self._value:
            raise CommitUnknown("the store did not answer in time; the request can be repeated")
        return self._value[0]


def _note_unheard(error: Exception) -> None:
    """An error whose client has gone."""
    if isinstance(error, StoreUnavailable):
        _log.warning("a write was not taken, and its client had gone", fault=str(error))
    elif not isinstance(error, REFUSALS):
        _log.error("a write failed after its client had gone", exc_info=error)


class _Lane:
    """The writes of one business. Changed by those writes only."""

    def __init__(self) -> None:
        self.places = trio.CapacityLimiter(ABREAST)
        self.refused_at = -math.inf


class Writes:
    """The nursery of writes under way; one per process, run beside the server."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._nursery: trio.Nursery | None = None
        self._closing = trio.Event()
        self._under_way = 0
        self._lanes: dict[int, _Lane] = {}  # business → its writes at the store; dropped when empty

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `close`, and then until the last write has ended."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._closing.wait()

    def close(self) -> None:
        self._closing.set()

    async def call(self, work: Callable[[], Awaitable[Result]], business_id: int | None = None) -> Result:
        """The result of `work`, which runs to its end whether or not the caller stays. Raises what it raises.

        `business_id`: whose ledger the work writes to.
        """
        if self._nursery is None or self._closing.is_set():
            raise Overloaded("the service is stopping")
        if self._under_way >= self._most:
            raise Overloaded("too many writes are waiting for the store")
        slot: Slot[Result] = Slot()
        self._under_way += 1
        self._nursery.start_soon(self._do, work, slot, business_id)
        return await slot.result()

    async def _do(self, work: Callable[[], Awaitable[Result]], slot: Slot[Result], business_id: int | None) -> None:
        try:
            async with self._abreast(business_id):
                slot.fill(await work())
        except Exception as error:  # noqa: BLE001 - it is the waiting handler's, who raises it again
            if not slot.awaited:
                _note_unheard(error)
            slot.fail(error)
        finally:
            self._under_way -= 1
            if not slot.filled:
                slot.fail(CommitUnknown("the service was stopped; the request can be repeated"))

    @asynccontextmanager
    async def _abreast(self, business_id: int | None) -> AsyncIterator[None]:
        if business_id is None:
            yield
            return
        lane = self._lanes.setdefault(business_id, _Lane())
        asked_at = trio.current_time()
        try:
            async with lane.places:
                if asked_at + PATIENCE_S < trio.current_time() and asked_at < lane.refused_at:
                    raise StoreUnavailable("the store refused the write before this one")
                try:
                    yield
                except StoreUnavailable:
                    lane.refused_at = trio.current_time()
                    raise
        finally:
            if not lane.places.borrowed_tokens and not lane.places.statistics().tasks_waiting:
                self._lanes.pop(business_id, None)

    def __repr__(self) -> str:
        return f"<Writes {self._under_way} of {self._most} under way>"
