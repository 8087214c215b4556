"""Retention, totals and the few values a service keeps about itself (`interface.MaintenanceStore`).

A purge is a walk through stages, and each call works on the first stage that has something: finished tasks with their
history and tags; old attempts of tasks that live on (schedules); the oldest entries of the audit chains; ended keys,
secrets and dead instances. So a call is short, and calling until it returns 0 leaves nothing that is too old. What a
stage deletes it has found by an index and locked, and looked at again behind the lock: never an active task.
"""

from __future__ import annotations

from taskcenter.store.connection import Connection, Database
from taskcenter.store.ledger import ENDED
from taskcenter.store.rows import STATUSES
from taskcenter.store.statements import maintenance as sql
from taskcenter.store.statements.text import chunks, fetch_in, in_list
from taskcenter.task import Status


class SqlMaintenanceStore:
    """See `interface.MaintenanceStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def purge(self, older_than: int, limit: int) -> int:
        async def work(connection: Connection) -> int:
            for stage in (_tasks, _attempts, _audit, _endings):
                if gone := await stage(connection, older_than, limit):
                    return gone
            return 0

        return await self._database.write(work)

    async def totals(self) -> dict[Status, int]:
        """The active ones counted, the ended ones from the ledgers: purged ones stay counted."""

        async def work(connection: Connection) -> dict[Status, int]:
            counts = dict.fromkeys(Status, 0)
            ended = await connection.fetch_one(sql.ENDED.on(connection.dialect))
            if ended is not None:
                counts |= {status: int(number or 0) for status, number in zip(ENDED, ended, strict=True)}
            return counts | {STATUSES[word]: number for word, number in await connection.fetch(sql.ACTIVE)}

        return await self._database.read(work)

    async def meta(self, key: str) -> bytes | None:
        async def work(connection: Connection) -> bytes | None:
            row = await connection.fetch_one(sql.META, (key,))
            return None if row is None else bytes(row[0])

        return await self._database.read(work)

    async def set_meta_once(self, key: str, value: bytes) -> bytes:
        async def work(connection: Connection) -> bytes:
            await connection.execute(sql.SET_META.on(connection.dialect), (key, value))
            row = await connection.fetch_one(sql.META, (key,))
            assert row is not None, "it was just set, by us or before"
            return bytes(row[0])

        return await self._database.write(work)

    async def ping(self) -> None:
        async def work(connection: Connection) -> None:
            await connection.fetch_one(sql.PING)

        await self._database.read(work)


async def _tasks(connection: Connection, older_than: int, limit: int) -> int:
    """Finished tasks with all that is theirs."""
    found = sorted(row[0] for row in await connection.fetch(sql.FINISHED, (older_than, limit)))
    locked = await fetch_in(connection, sql.STILL_FINISHED.on(connection.dialect), found, after=(older_than,))
    gone = 0
    for some in chunks([row[0] for row in locked]):
        for statement in (sql.DELETE_OPEN, sql.DELETE_EXECUTIONS, sql.DELETE_TAGS, sql.DELETE_TASKS):
            gone += await connection.execute(*in_list(statement, some))
    return gone


async def _attempts(connection: Connection, older_than: int, limit: int) -> int:
    """Attempts of one business that are too old, of tasks that are not."""
    business = await connection.fetch_one(sql.WITH_OLD_ATTEMPTS, (older_than,))
    if business is None:
        return 0
    found = await connection.fetch(sql.OLD_ATTEMPTS, (business[0], older_than, limit))
    gone = 0
    for task_id, number in found:
        gone += await connection.execute(sql.DELETE_ATTEMPT, (task_id, number))
    return gone


async def _audit(connection: Connection, older_than: int, limit: int) -> int:
    """The oldest entries of one chain, up to the first that is young enough: what is left stays a chain."""
    chain = await connection.fetch_one(sql.WITH_OLD_AUDIT, (older_than,))
    if chain is None:
        return 0
    last = None
    for seq, at in await connection.fetch(sql.OLD_AUDIT, (chain[0], limit)):
        if at >= older_than:
            break
        last = seq
    return 0 if last is None else await connection.execute(sql.DELETE_AUDIT, (chain[0], last))


async def _endings(connection: Connection, older_than: int, _limit: int) -> int:
    """Keys and secrets that ended, instances that died."""
    return (
        await connection.execute(sql.DELETE_CREDENTIALS, (older_than, older_than))
        + await connection.execute(sql.DELETE_SECRETS, (older_than,))
        + await connection.execute(sql.DELETE_INSTANCES, (older_than,))
    )
