"""A database behind which another one stands: what the tests' databases with a twist have in common."""

from dataclasses import dataclass

from taskcenter.store.connection import Database, Dialect, PoolStatistics, T, Work


@dataclass
class WrappedDatabase:
    """Passes everything on to `inner` but `lane`, which each twist has to wrap again."""

    inner: Database

    @property
    def dialect(self) -> Dialect:
        return self.inner.dialect

    @property
    def server(self) -> str:
        return self.inner.server

    async def open(self) -> None:
        await self.inner.open()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def read(self, work: Work[T]) -> T:
        return await self.inner.read(work)

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        return await self.inner.write(work, attempts=attempts)

    def statistics(self) -> PoolStatistics:
        return self.inner.statistics()
