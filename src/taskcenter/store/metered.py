"""A database whose failures and connections are counted in the process's metrics."""

from __future__ import annotations

from collections.abc import Sequence

from taskcenter.errors import StoreUnavailable
from taskcenter.metrics import Metrics
from taskcenter.store.connection import Database, Dialect, PoolStatistics, StoreFault, T, Work


class MeteredDatabase:
    """`Database` around another one; `taskcenter_db_errors_total` counts what its callers had to bear."""

    def __init__(self, inner: Database, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics

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
        try:
            return await self._inner.read(work)
        except StoreUnavailable as error:
            self._count(error)
            raise

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        try:
            return await self._inner.write(work, attempts=attempts)
        except StoreUnavailable as error:
            self._count(error)
            raise

    async def lane(self, name: str) -> Database:
        return MeteredDatabase(await self._inner.lane(name), self._metrics)

    def statistics(self) -> PoolStatistics:
        return self._inner.statistics()

    def _count(self, error: StoreUnavailable) -> None:
        self._metrics.db_errors.labels(error.kind if isinstance(error, StoreFault) else error.code).inc()

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
