"""The one store of all instances, and each instance's way to it, on which everything is lost that can be.

A block of work travels to the server, runs there as one transaction and its answer travels back: whoever asked may be
gone by then, or never hear. What a client of a real server hears is what is heard here: `refused` and `lost` when
nothing took effect, `CommitUnknown` when it may have.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import trio
from tests.simulation.journal import DDL, Journal
from tests.store.store_kit import vault
from tests.store.wrapped import WrappedDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.store.connection import (
    STATEMENT_TIMEOUT_S,
    Connection,
    LockConflict,
    StoreFault,
    T,
    Work,
)
from taskcenter.store.sql_store import SqlStore
from taskcenter.store.sqlite import SqliteDatabase
from taskcenter.store.sqlite_file import MEMORY

LATENCY_S: Final = 0.002
Fate = Literal["well", "lost", "unknown_undone", "unknown_done", "conflict"]
FATES: Final[tuple[Fate, ...]] = ("lost", "unknown_undone", "unknown_done", "conflict")


class Server:
    """The database. Its clock is `clock_ms`, which judges leases."""

    def __init__(self, seed: int, nursery: trio.Nursery, journal: Journal, now_ms: Callable[[], int]) -> None:
        self.database = SqliteDatabase(MEMORY, in_loop=True, durable=False, rng=random.Random(f"server {seed}"))
        self.nursery = nursery
        self.journal = journal
        self.step_ms = 0  # how far its clock is from the truth
        self.slow_s = 0.0
        self._now_ms = now_ms

    def clock_ms(self) -> int:
        return self._now_ms() + self.step_ms

    async def open(self) -> SqlStore:
        """With its schema and its journal; the store as somebody at the server itself sees it."""
        await self.database.open()
        store = SqlStore(self.database, vault())
        await store.create_schema()

        async def work(connection: Connection) -> None:
            for statement in DDL:
                await connection.execute(statement)

        await self.database.write(work)
        return store

    def store_for(self, wire: Wire) -> SqlStore:
        return SqlStore(wire, vault(), lease_clock=self.clock_ms)

    async def write(self, by: str, work: Work[T], attempts: int, *, conflicts: int) -> T:
        """One transaction; the first `conflicts` runs of it meet another's lock."""
        left = conflicts

        async def noted(connection: Connection) -> tuple[T, Any]:
            nonlocal left
            result = await work(connection)
            if left:
                left -= 1
                raise LockConflict("another transaction was first")
            return result, await Journal.collect(connection)

        result, changes = await self.database.write(noted, attempts=attempts)
        self.journal.add(changes, by)
        return result


@dataclass
class _Request:
    """A block on its way. `committing`: should whoever sent it not wait for the answer, its COMMIT is on its way by
    then, so that it takes effect all the same.
    """

    committing: bool
    answered: trio.Event = field(default_factory=trio.Event)
    results: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    taken: bool = False  # the server has begun with it
    done: bool = False  # it may have taken effect
    gone: bool = False  # whoever sent it waits no longer
    over: trio.Event = field(default_factory=trio.Event)  # the server has ended with it

    def fill(self, result: Any) -> None:
        self.results.append(result)
        self.answered.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.answered.set()


@dataclass
class Hold:
    """What is sent over one lane from now on stays on its way until it is let go."""

    lane: str
    reached: trio.Event = field(default_factory=trio.Event)  # something is held
    over: trio.Event = field(default_factory=trio.Event)


class Wire(WrappedDatabase):
    """One instance's connections."""

    def __init__(self, server: Server, name: str, rng: random.Random) -> None:
        super().__init__(server.database)
        self._server = server
        self._name = name
        self._rng = rng
        self.plugged = True  # out: the process is dead
        self.cut: Literal["", "refused", "silent"] = ""
        self.loss = 0.0  # the part of the writes whose fate is bad
        self.slow_s = 0.0
        self._hold: Hold | None = None

    def hold(self, lane: str) -> Hold:
        self.let_go()
        self._hold = Hold(lane)
        return self._hold

    def let_go(self) -> None:
        """What was held goes on to the server, if its sender could not take it back."""
        if self._hold is not None:
            self._hold.over.set()
            self._hold = None

    async def open(self) -> None:
        """The server is open."""

    async def aclose(self) -> None:
        """The server stays open."""

    async def lane(self, name: str) -> Lane:
        return Lane(self, name)

    def about_to_write(self, lane: str) -> None:
        self._server.journal.notify(self._name, lane)

    async def read(self, work: Work[T]) -> T:
        fate: Fate = "lost" if self._rng.random() < self.loss / 2 else "well"
        return await self._ask(partial(self._server.database.read, work), fate, writes=False)

    async def write(self, work: Work[T], *, attempts: int = 3, lane: str = "") -> T:
        fate: Fate = self._rng.choice(FATES) if self._rng.random() < self.loss else "well"
        conflicts = self._rng.randint(1, 2) if fate == "conflict" else 0
        block = partial(self._server.write, self._name, work, attempts, conflicts=conflicts)
        hold = self._hold if self._hold is not None and self._hold.lane == lane else None
        return await self._ask(block, fate, writes=True, hold=hold)

    async def _ask(self, block: Callable[[], Awaitable[T]], fate: Fate, *, writes: bool, hold: Hold | None = None) -> T:
        if self.cut == "refused" or not self.plugged:
            await trio.lowlevel.checkpoint()
            raise StoreFault("refused", "no connection to the store")
        delay_s = LATENCY_S + (self.slow_s + self._server.slow_s) * 2 * self._rng.random()
        request = _Request(committing=writes and self._rng.random() < 0.5)
        self._server.nursery.start_soon(self._serve, request, block, fate, delay_s, hold)
        try:
            with trio.move_on_after(STATEMENT_TIMEOUT_S):
                await request.answered.wait()
        finally:
            await self._abandon(request, block)
        if request.error is not None:
            raise request.error
        if request.results:
            result: T = request.results[0]
            return result
        if request.done or (writes and request.taken):
            raise CommitUnknown("no answer to COMMIT in time")
        raise StoreFault("timeout", "no answer in time")

    async def _abandon(self, request: _Request, block: Callable[[], Awaitable[Any]]) -> None:
        """Whoever asked waits no longer. A COMMIT that is on its way takes effect; of a process that is dead, later."""
        request.gone = True
        if (
            request.taken and not request.answered.is_set()
        ):  # it is at the COMMIT by now: what comes before is the sender's
            with trio.CancelScope(shield=True):
                await request.over.wait()
        reached = self.plugged and not self.cut and not request.taken
        if reached and request.committing and not request.answered.is_set():
            request.taken = request.done = True
            with trio.CancelScope(shield=True), suppress(Exception):
                await block()

    async def _serve(
        self, request: _Request, block: Callable[[], Awaitable[Any]], fate: Fate, delay_s: float, hold: Hold | None
    ) -> None:
        await trio.sleep(delay_s)
        if hold is not None:
            hold.reached.set()
            await hold.over.wait()
        if self.cut == "silent" or request.taken or (request.gone and (self.plugged or not request.committing)):
            return
        request.taken = True
        if fate == "lost":
            request.fail(StoreFault("lost", "the connection broke"))
            return
        if fate == "unknown_undone":
            request.fail(CommitUnknown("the connection broke in COMMIT"))
            return
        try:
            result = await block()
        except Exception as error:  # noqa: BLE001  # it is the client's
            request.fail(error)
            return
        finally:
            request.over.set()
        request.done = True
        if fate == "unknown_done":
            request.fail(CommitUnknown("the connection broke in COMMIT"))
        elif not self.cut:
            request.fill(result)


@dataclass
class Lane(WrappedDatabase):
    """A connection of its own to the same end; what is written over it may be waited for by its name (`faults`)."""

    inner: Wire
    name: str

    async def aclose(self) -> None:
        """Nothing of its own to close."""

    async def lane(self, name: str) -> Lane:
        return await self.inner.lane(name)

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        self.inner.about_to_write(self.name)
        await trio.lowlevel.checkpoint()  # where its process may be stopped
        return await self.inner.write(work, attempts=attempts, lane=self.name)
