"""Statements that sum up a business's attempts; each is served by `ix_task_executions_time`.

MySQL is told to use it: left alone it prefers to read the whole table when a business has much of it, and the table
holds ninety days where a day is asked for.
"""

from __future__ import annotations

from typing import Final

from taskcenter.store.statements.text import Query


def _by_time(sql: str) -> Query:
    """`FROM attempts` is the table, read by its index of times."""
    forced = "FROM task_executions FORCE INDEX (ix_task_executions_time)"
    return Query(
        mysql=sql.replace("FROM attempts", forced), sqlite=sql.replace("FROM attempts", "FROM task_executions")
    )


# attempts by the hour they were sent in, and by how they ended
BY_HOUR: Final = _by_time(
    "SELECT execution_time - execution_time % 3600000 AS hour_at, status, COUNT(*) FROM attempts"
    " WHERE business_id = ? AND execution_time >= ? GROUP BY hour_at, status ORDER BY hour_at, status"
)
# attempts of the last minute
COUNT_SINCE: Final = _by_time("SELECT COUNT(*) FROM attempts WHERE business_id = ? AND execution_time > ?")


def _rank(value: str, rank: str, percent: int) -> str:
    """The value of rank ceil(n × percent / 100) of n."""
    return (
        f"MAX(CASE WHEN {rank} * 100 >= total * {percent} AND ({rank} - 1) * 100 < total * {percent} THEN {value} END)"
    )


# nearest-rank percentiles over the newest attempts that have an end of their own
PERCENTILES: Final = _by_time(
    "SELECT MAX(total), "
    + ", ".join(
        _rank(value, rank, percent)
        for value, rank in (("duration", "by_duration"), ("lateness_ms", "by_lateness"))
        for percent in (50, 95, 99)
    )
    + " FROM (SELECT duration, lateness_ms, ROW_NUMBER() OVER (ORDER BY duration) AS by_duration,"
    " ROW_NUMBER() OVER (ORDER BY lateness_ms) AS by_lateness, COUNT(*) OVER () AS total"
    " FROM (SELECT duration, lateness_ms FROM attempts WHERE business_id = ? AND execution_time >= ?"
    " AND status NOT IN ('interrupted', 'blocked') ORDER BY execution_time DESC LIMIT ?) newest) ranked"
)
