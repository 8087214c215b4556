"""A business's attempts in sum: `interface.StatsStore` in SQL.

The hours are counted exactly. The percentiles are those of the newest `SAMPLE` attempts, found by the server, so that
one row comes back whatever the traffic was.
"""

from __future__ import annotations

from typing import Final

from taskcenter.store.connection import Connection, Database
from taskcenter.store.records import ExecutionStatus
from taskcenter.store.statements import stats as sql
from taskcenter.store.summaries import ExecutionSummary, HourCount, Percentiles

SAMPLE: Final = 5_000
MINUTE_MS: Final = 60_000


class SqlStatsStore:
    """`interface.StatsStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def execution_summary(self, business_id: int, since: int, now: int) -> ExecutionSummary:
        dialect = self._database.dialect

        async def work(connection: Connection) -> ExecutionSummary:
            hours = [
                HourCount(int(hour_at), ExecutionStatus(status), int(count))
                for hour_at, status, count in await connection.fetch(sql.BY_HOUR.on(dialect), (business_id, since))
            ]
            minute = await connection.fetch_one(sql.COUNT_SINCE.on(dialect), (business_id, now - MINUTE_MS))
            ranks = await connection.fetch_one(sql.PERCENTILES.on(dialect), (business_id, since, SAMPLE))
            assert minute is not None and ranks is not None  # aggregates always have a row
            return ExecutionSummary(
                hours, int(minute[0]), int(ranks[0] or 0), Percentiles(*ranks[1:4]), Percentiles(*ranks[4:7])
            )

        return await self._database.read(work)
