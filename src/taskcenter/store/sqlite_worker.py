"""A thread that owns one SQLite connection, and the way there and back: one hop for a whole block of work.

A block that was handed over runs to its end: the waiting task cannot be cancelled meanwhile, so the outcome of a
transaction is always known. A read may be stopped; it then ends with an error soon, not at once. `Inline` does the
same without a thread, for virtual time: nothing else in the loop runs while a block does.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import trio

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
STOP_CHECK_STEPS = 20_000  # virtual machine steps between two looks at the stop flag: some ms


class Executor(Protocol):
    """Where blocks run. One at a time: the caller sees to that."""

    async def start(self, connect: Callable[[], sqlite3.Connection]) -> None: ...
    async def run(self, job: Job[T], *, stoppable: bool) -> T: ...
    async def stop(self) -> None: ...


class Inline:
    """Blocks run in the event loop itself."""

    def __init__(self) -> None:
        self._raw: sqlite3.Connection | None = None

    async def start(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Raises whatever `connect` does."""
        self._raw = connect()

    async def run(self, job: Job[T], *, stoppable: bool) -> T:
        """A cancellation is seen before the block begins, never within."""
        await trio.lowlevel.checkpoint()
        if self._raw is None:
            raise trio.ClosedResourceError("not started")
        return job(self._raw)

    async def stop(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None


class Worker:
    """Blocks run in a thread of their own, which also makes and closes the connection."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._raw: sqlite3.Connection | None = None  # made and closed in the thread
        self._stop_read = False  # set in the loop, read in the thread; reset before each block

    async def start(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Raises whatever `connect` does; the thread is then gone again."""
        self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        self._thread.start()

        def begin() -> None:
            self._raw = connect()
            self._raw.set_progress_handler(lambda: self._stop_read, STOP_CHECK_STEPS)

        try:
            await self._hop(begin, stoppable=False)
        except BaseException:
            self._leave()
            raise

    async def run(self, job: Job[T], *, stoppable: bool) -> T:
        """The job's result or error. When `stoppable`, a cancellation makes it fail with SQLITE_INTERRUPT."""

        def call() -> T:
            if self._raw is None:
                raise trio.ClosedResourceError("not started")
            return job(self._raw)

        return await self._hop(call, stoppable=stoppable)

    async def stop(self) -> None:
        """Close the connection and end the thread."""

        def end() -> None:
            if self._raw is not None:
                self._raw.close()
                self._raw = None

        try:
            await self._hop(end, stoppable=False)
        finally:
            self._leave()

    def _leave(self) -> None:
        """End the thread, which has nothing to do: this takes microseconds."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()

    def _serve(self) -> None:
        while (call := self._jobs.get()) is not None:
            call()

    async def _hop(self, function: Callable[[], T], *, stoppable: bool) -> T:
        """Run in the thread and wait, uncancelled, for the end of it."""
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        context = copy_context()  # log fields bound by the caller
        result: list[T] = []
        failure: list[BaseException] = []
        self._stop_read = False

        def call() -> None:
            try:
                result.append(context.run(function))
            except BaseException as error:  # noqa: BLE001  # whatever it is, it belongs to the waiting task
                failure.append(error)
            token.run_sync_soon(trio.lowlevel.reschedule, task)

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            if stoppable:
                self._stop_read = True
                if self._raw is not None:
                    self._raw.interrupt()
            return trio.lowlevel.Abort.FAILED

        self._jobs.put(call)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if failure:
            raise failure.pop()
        return result.pop()
