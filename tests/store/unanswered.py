"""A database whose COMMIT answers get lost on request, before or after the commit took effect."""

from dataclasses import dataclass
from typing import Literal

from tests.store.wrapped import WrappedDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.store.connection import Connection, Database, T, Work


@dataclass
class UnansweredDatabase(WrappedDatabase):
    """A real database; its lanes lose what it loses."""

    lost: Literal["before", "after"] | None = None  # the next write's COMMIT; reset when it was lost
    parent: "UnansweredDatabase | None" = None

    async def write(self, work: Work[T], *, attempts: int = 3) -> T:
        root = self.parent or self
        lost, root.lost = root.lost, None

        async def broken(connection: Connection) -> T:
            await work(connection)
            raise CommitUnknown("the COMMIT was lost on its way to the database")

        if lost == "before":
            return await self.inner.write(broken, attempts=attempts)
        result = await self.inner.write(work, attempts=attempts)
        if lost == "after":
            raise CommitUnknown("the answer to COMMIT was lost")
        return result

    async def lane(self, name: str) -> Database:
        return UnansweredDatabase(await self.inner.lane(name), parent=self.parent or self)
