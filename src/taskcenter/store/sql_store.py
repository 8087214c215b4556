"""The store, put together: one database, its lanes, and the verbs on them (`interface.Store`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from taskcenter.metrics import Metrics
from taskcenter.queueing import StandingQueue
from taskcenter.store.audit import GENESIS, SYSTEM, SqlAuditStore
from taskcenter.store.businesses import SqlBusinessStore
from taskcenter.store.connection import Connection, Database, PoolStatistics, QueryFault
from taskcenter.store.engine import SqlEngineStore
from taskcenter.store.leases import SqlLeaseStore
from taskcenter.store.maintenance import SqlMaintenanceStore
from taskcenter.store.metered import MeteredDatabase, together
from taskcenter.store.mysql import MysqlDatabase
from taskcenter.store.resealing import SqlResealStore
from taskcenter.store.sqlite import SqliteDatabase
from taskcenter.store.statements import businesses as business_sql
from taskcenter.store.statements import leases as lease_sql
from taskcenter.store.stats import SqlStatsStore
from taskcenter.store.tasks import SqlTaskStore
from taskcenter.store.url import MysqlUrl, SqliteUrl, parse_database_url
from taskcenter.store.vault import Vault
from taskcenter.store.watch import StoreWatch
from taskcenter.task import SHARDS

LANES: Final = ("claims", "outcomes", "sweeps", "leases", "heart")


class SqlStore:
    """See `interface.Store`. What the engine does has connections of its own: none of it waits for the API's."""

    def __init__(self, database: Database, vault: Vault, *, lease_clock: Callable[[], int] | None = None) -> None:
        """`lease_clock` stands for the store's clock on SQLite (virtual time): ms since 1970."""
        self._database = database
        self._lanes: list[Database] = []
        self.businesses = SqlBusinessStore(database, vault)
        self.tasks = SqlTaskStore(database, vault)
        self.engine = SqlEngineStore(database, vault)
        self.leases = SqlLeaseStore(database, lease_clock)
        self.audit = SqlAuditStore(database)
        self.maintenance = SqlMaintenanceStore(database)
        self.stats = SqlStatsStore(database)
        self.resealing = SqlResealStore(database, vault)

    @property
    def server(self) -> str:
        """Kind and version, as "mariadb 10.11.6"."""
        return self._database.server

    async def open(self) -> None:
        """Connect. Raises StoreUnavailable or ConfigError; may be called again then. The schema is for `migrate`."""
        await self._database.open()
        if not self._lanes:
            self._lanes = [await self._database.lane(name) for name in LANES]
            claims, outcomes, sweeps, leases, heart = self._lanes
            self.engine.use_lanes(claims, outcomes, sweeps, leases)
            self.leases.use_lanes(leases, heart)

    async def aclose(self) -> None:
        await self._database.aclose()

    async def create_schema(self) -> None:
        """Build the schema on a SQLite database in memory, which no migration can reach. For simulations."""
        if self._database.dialect != "sqlite":
            raise QueryFault("a server's schema is built by migrations")
        from taskcenter.store.schema import sqlite_ddl  # noqa: PLC0415  # SQLAlchemy, which serving needs nowhere else

        async def work(connection: Connection) -> None:
            for statement in sqlite_ddl():
                await connection.execute(statement)
            await connection.insert_many(lease_sql.INSERT_SHARD, [(shard, 0) for shard in range(SHARDS)])
            await connection.execute(business_sql.INSERT_LEDGER, (SYSTEM, GENESIS))

        await self._database.write(work)

    def statistics(self) -> PoolStatistics:
        """All connections, the lanes' included."""
        parts = [self._database, *self._lanes] if self._database.dialect == "mysql" else [self._database]
        return together([part.statistics() for part in parts])

    def __repr__(self) -> str:
        return f"<SqlStore on {self._database!r}>"


def open_store(
    url: str | SqliteUrl | MysqlUrl,
    vault: Vault,
    *,
    pool_size: int = 8,
    in_loop: bool = False,
    durable: bool = True,
    lease_clock: Callable[[], int] | None = None,
    rng: Random | None = None,
    metrics: Metrics | None = None,
    waits: StandingQueue | None = None,
    watch: StoreWatch | None = None,
) -> SqlStore:
    """A store on this database, still to be opened. Raises ConfigError for a wrong URL or unusable TLS files.

    `pool_size` bounds the connections of a server besides the five lanes. `in_loop`, `durable` and `lease_clock` are
    for SQLite: no thread, no wait for the disk, another clock for leases. `waits`: where it is noted, beside
    `metrics`, how long the API's work waited for a connection. `watch`: told, beside `metrics`, of all work.
    """
    parsed = parse_database_url(url) if isinstance(url, str) else url
    observe = None if metrics is None else partial(_observe, metrics)
    database: Database
    if isinstance(parsed, MysqlUrl):
        database = MysqlDatabase(parsed, pool_size=pool_size, rng=rng, observe=observe)
    else:
        database = SqliteDatabase(parsed.path, in_loop=in_loop, durable=durable, rng=rng, observe=observe)
    if metrics is not None:
        database = MeteredDatabase(database, metrics, waits, watch)
    store = SqlStore(database, vault, lease_clock=lease_clock)
    if metrics is not None:
        metrics.db_pool_size.set_function(lambda: store.statistics().size)
        metrics.db_pool_in_use.set_function(lambda: store.statistics().in_use)
        metrics.db_pool_waiting.set_function(lambda: store.statistics().waiting)
    return store


def _observe(metrics: Metrics, _kind: str, duration_s: float) -> None:
    metrics.db_query.observe(duration_s)
