"""A database whose failures are counted in the process's metrics and told to its watch, and the waits for its
connections in a queue.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from taskcenter.errors import StoreUnavailable
from taskcenter.metrics import Metrics
from taskcenter.queueing import StandingQueue
from taskcenter.store.connection import FAULT_KINDS, Connection, Database, Dialect, PoolStatistics, StoreFault, T, Work
from taskcenter.store.watch import Kind, StoreWatch


class MeteredDatabase:
    """`Database` around another one; `taskcenter_db_errors_total` counts what its callers had to bear."""

    def __init__(
        self, inner: Database, metrics: Metrics, waits: StandingQueue | None = None, watch: StoreWatch | None = None
    ) -> None:
        """`waits`: where it is noted how long each work waited until it had a connection."""
        self._inner = inner
        self._metrics = metrics
        self._watch = StoreWatch() if watch is None else watch
        self._waits = waits
        for fault in FAULT_KINDS:  # from 0 on, so that a first failure is an increase to whoever watches
            metrics.db_errors.labels(fault)

    @property
    def dialect(self) -> Dialect:
        return self._inner.dialect

    @property
    def server(self) -> str:
        return self._inner.server

    async def open(self) -> None:
        await self._inner.open()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def read(self, work: Work[T]) -> T:
        return await self._watched("read", self._inner.read, work)

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        return await self._watched("write", partial(self._inner.write, attempts=attempts), work)

    async def _watched(self, kind: Kind, run: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
        try:
            result = await self._timed(run, work)
        except StoreUnavailable as error:
            fault = error.kind if isinstance(error, StoreFault) else error.code
            self._metrics.db_errors.labels(fault).inc()
            self._watch.failed(kind, fault, trio.current_time())
            raise
        self._watch.succeeded(kind, trio.current_time())
        return result

    async def _timed(self, run: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
        """`run(work)`; notes how long the work waited until it began, repetitions aside."""
        if self._waits is None:
            return await run(work)
        asked_at, begun_at = time.monotonic(), list[float]()

        async def timed(connection: Connection) -> T:
            begun_at.append(time.monotonic())  # perhaps in a thread, where the loop's clock cannot be read
            return await work(connection)

        try:
            return await run(timed)
        finally:
            if begun_at:
                self._waits.waited((begun_at[0] - asked_at) * 1000, trio.current_time() * 1000)

    async def lane(self, name: str) -> Database:
        return MeteredDatabase(await self._inner.lane(name), self._metrics, watch=self._watch)

    def statistics(self) -> PoolStatistics:
        return self._inner.statistics()

    def __repr__(self) -> str:
        return repr(self._inner)


def together(parts: Sequence[PoolStatistics]) -> PoolStatistics:
    """The connections of a database and its lanes as one."""
    errors: dict[str, int] = {}
    for part in parts:
        for kind, number in part.errors_total.items():
            errors[kind] = errors.get(kind, 0) + number
    return PoolStatistics(
        size=sum(part.size for part in parts),
        in_use=sum(part.in_use for part in parts),
        waiting=sum(part.waiting for part in parts),
        opened_total=sum(part.opened_total for part in parts),
        discarded_total=sum(part.discarded_total for part in parts),
        errors_total=errors,
    )
