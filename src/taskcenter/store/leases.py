"""Leases on shards (`interface.LeaseStore`; RELIABILITY.md §2).

**Theory.** An instance lives while its one row in `instances` is renewed; it owns the shards whose row names it. The
store's clock alone says when a row has expired, so no two instances need to agree on the time. A shard's `term` grows
with every new owner, and whoever writes as an owner share-locks the shard's row and compares terms (`fence`).

**Invariants.** A shard has at most one owner. Only a free shard, or one whose owner is dead or unknown, can be taken,
and only by an instance that is not dead itself. A term is given out once. A dead instance never lives again under the
same id.

**On failure.** Every verb may be repeated: `acquire` tells what is mine now, whichever call took it. A clock read that
is old by the time it is used (this process was frozen in between) shortens the own lease or spares another's: both are
safe. A frozen owner's open claim holds its shards' rows; those are passed over, and taken when the server has cut its
session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from taskcenter.store.connection import Connection, Database, DuplicateKey, Row
from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.store.statements import leases as sql
from taskcenter.store.statements.text import fetch_in, in_list


class SqlLeaseStore:
    """See `interface.LeaseStore`. `clock` replaces the store's own on SQLite, for virtual time; ms since 1970."""

    def __init__(self, database: Database, clock: Callable[[], int] | None = None) -> None:
        self._database = self._heart = database
        self._clock = clock if database.dialect == "sqlite" else None

    def use_lanes(self, leases: Database, heart: Database) -> None:
        """From now on heartbeats go over a connection of their own, where they wait behind nothing, the rest over
        another.
        """
        self._database, self._heart = leases, heart

    async def _now(self, connection: Connection) -> int:
        if self._clock is not None:
            return self._clock()
        row = await connection.fetch_one(sql.NOW.on(connection.dialect))
        assert row is not None, "an expression has a value"
        return int(row[0])

    async def now(self) -> int:
        return await self._database.read(self._now)

    async def register(self, instance_id: str, *, address: str | None, host_identity: str, ttl_ms: int) -> int:
        async def work(connection: Connection) -> int:
            now = await self._now(connection)
            try:
                await connection.execute(sql.REGISTER, (instance_id, address, host_identity, now + ttl_ms, now))
            except DuplicateKey:  # this call's, committed earlier
                await connection.execute(sql.HEARTBEAT, (now + ttl_ms, instance_id))
            return now

        return await self._heart.write(work)

    async def heartbeat(self, instance_id: str, *, ttl_ms: int) -> int | None:
        async def work(connection: Connection) -> int | None:
            now = await self._now(connection)
            alive = await connection.execute(sql.HEARTBEAT, (now + ttl_ms, instance_id))
            return now if alive else None

        return await self._heart.write(work)

    async def reap(self, stalled: Sequence[tuple[str, int]], *, not_after: int | None = None) -> list[str]:
        async def work(connection: Connection) -> list[str]:
            now = await self._now(connection)
            if not_after is not None:
                now = min(now, not_after)
            buried: list[str] = []
            for (instance_id,) in await connection.fetch(sql.EXPIRED, (now,)):
                if await connection.execute(sql.BURY_EXPIRED, (instance_id, now)):
                    buried.append(instance_id)
            for instance_id, seq in sorted(stalled):
                if await connection.execute(sql.BURY_STALLED, (instance_id, seq)):
                    buried.append(instance_id)
            return buried

        return await self._database.write(work)

    async def instances(self) -> list[Instance]:
        async def work(connection: Connection) -> tuple[int, list[Row]]:
            return await self._now(connection), await connection.fetch(sql.INSTANCES)

        now, rows = await self._database.read(work)
        return [
            Instance(instance_id, address, identity, seq, bool(dead), expires_at - now, started_at, bool(leaving))
            for instance_id, address, identity, seq, dead, leaving, expires_at, started_at in rows
        ]

    async def shards(self) -> list[ShardLease]:
        async def work(connection: Connection) -> list[Row]:
            return await connection.fetch(sql.SHARDS)

        return [ShardLease(*row) for row in await self._database.read(work)]

    async def acquire(self, instance_id: str, shards: Sequence[int]) -> dict[int, int]:
        wanted = sorted(set(shards))
        if not wanted:
            return {}

        async def work(connection: Connection) -> dict[int, int]:
            if await connection.fetch_one(sql.ALIVE.on(connection.dialect), (instance_id,)) is None:
                return {}
            unheld = [row[0] for row in await fetch_in(connection, sql.UNHELD.on(connection.dialect), wanted)]
            if unheld:
                statement, values = in_list(sql.ACQUIRE.on(connection.dialect), unheld)
                await connection.execute(statement, [instance_id, *values])
            return dict(await fetch_in(connection, sql.MINE, wanted, after=(instance_id,)))

        return await self._database.write(work)

    async def release(self, instance_id: str, shards: Mapping[int, int]) -> None:
        async def work(connection: Connection) -> None:
            for shard, term in sorted(shards.items()):
                await connection.execute(sql.RELEASE, (shard, instance_id, term))

        await self._database.write(work)

    async def leave(self, instance_id: str) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(sql.LEAVE, (instance_id,))

        await self._database.write(work)

    async def retire(self, instance_id: str) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(sql.RELEASE_ALL, (instance_id,))
            await connection.execute(sql.RETIRE, (instance_id,))

        await self._database.write(work)
