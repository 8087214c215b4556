"""Lists and counts: which index serves which filter.

A list is found in two steps, both in one block: the ids, from one index and newest first, then the rows of one page.
For several states at once each state is read from its index as a sorted run, and the runs are merged: an `IN` would
sort all. On MySQL the indexes that may be used are named, because for `ORDER BY id LIMIT n` its optimiser likes the
primary key, which holds every business's tasks.

An id is born with its task, so bounds on `created_at` are bounds on the id too, give or take `SLACK_MS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from taskcenter.ids import first_id_at
from taskcenter.store.connection import Connection, Dialect, Param
from taskcenter.store.records import TaskFilter
from taskcenter.task import Status

SLACK_MS: Final = 1000
LATEST_MS: Final = (1 << 48) - 1
_BOUNDS: Final = (
    ("due_after", "t.next_execute_at >= ?"),
    ("due_before", "t.next_execute_at < ?"),
    ("finished_after", "t.finished_at >= ?"),
    ("finished_before", "t.finished_at < ?"),
    ("created_after", "t.created_at >= ?"),
    ("created_before", "t.created_at < ?"),
)


@dataclass(frozen=True, slots=True)
class Selection:
    """A SELECT of matching ids with its parameters."""

    sql: str
    params: list[Param]


def select_ids(dialect: Dialect, business_id: int, where: TaskFilter, before_id: str | None, limit: int) -> Selection:
    """Ids that match, newest first, below `before_id`. Pure."""
    statuses = sorted(where.statuses) if where.statuses and where.statuses != frozenset(Status) else []
    if len(statuses) <= 1:
        return _select(dialect, business_id, where, before_id=before_id, limit=limit, statuses=statuses)
    runs = [
        _select(dialect, business_id, where, before_id=before_id, limit=limit, statuses=[status]) for status in statuses
    ]
    union = " UNION ALL ".join(f"SELECT id FROM ({run.sql}) r{number}" for number, run in enumerate(runs))
    params = [param for run in runs for param in run.params]
    return Selection(f"SELECT id FROM ({union}) merged ORDER BY id DESC LIMIT ?", [*params, limit])


def _select(
    dialect: Dialect,
    business_id: int,
    where: TaskFilter,
    *,
    before_id: str | None,
    limit: int,
    statuses: Sequence[Status],
) -> Selection:
    """One sorted run: at most one status."""
    params: list[Param] = []
    if where.tag is not None:
        key, join = "g.task_id", "CROSS JOIN" if dialect == "sqlite" else "STRAIGHT_JOIN"
        table = f"task_tags g {join} tasks t ON t.id = g.task_id"
        conditions = ["g.business_id = ?", "g.tag = ?", "t.kind = 'callback'"]
        params += [business_id, where.tag.encode()]
    else:
        key, table = "t.id", f"tasks t{_candidates(dialect, where, statuses)}"
        conditions = ["t.business_id = ?", "t.kind = 'callback'"]
        params.append(business_id)
    if statuses:
        conditions.append("t.status = ?")
        params.append(statuses[0].value)
    if where.callback_host is not None:
        conditions.append("t.callback_host = ?")
        params.append(where.callback_host)
    for name, condition in _BOUNDS:
        value = getattr(where, name)
        if value is not None:
            conditions.append(condition)
            params.append(value)
    for condition, bound in _id_bounds(where, before_id):
        conditions.append(f"{key} {condition} ?")
        params.append(bound)
    text = f"SELECT {key} AS id FROM {table} WHERE {' AND '.join(conditions)} ORDER BY {key} DESC LIMIT ?"
    return Selection(text, [*params, limit])


def _candidates(dialect: Dialect, where: TaskFilter, statuses: Sequence[Status]) -> str:
    """The indexes the server may choose from: those the filter speaks of, or the plain list's.

    SQLite knows no statistics and would take any equality before a range on a time, so it is told in that case alone.
    """
    names: list[str] = []
    if statuses:
        names.append("ix_tasks_business_status")
    if where.callback_host is not None:
        names.append("ix_tasks_business_host")
    if where.due_after is not None or where.due_before is not None:
        names.append("ix_tasks_business_due")
    if where.finished_after is not None or where.finished_before is not None:
        names.append("ix_tasks_business_finished")
    if dialect == "sqlite":
        by_time = names and names[0] in ("ix_tasks_business_due", "ix_tasks_business_finished")
        return f" INDEXED BY {names[0]}" if by_time else ""
    if where.created_after is not None or where.created_before is not None or not names:
        names.append("ix_tasks_business")
    return f" FORCE INDEX ({', '.join(names)})"


def _id_bounds(where: TaskFilter, before_id: str | None) -> list[tuple[str, str]]:
    bounds: list[tuple[str, str]] = []
    below = [before_id] if before_id is not None else []
    if where.created_before is not None:
        below.append(first_id_at(min(where.created_before + SLACK_MS, LATEST_MS)))
    if below:
        bounds.append(("<", min(below)))
    if where.created_after is not None:
        bounds.append((">=", first_id_at(min(where.created_after - SLACK_MS, LATEST_MS))))
    return bounds


async def matching_ids(
    connection: Connection, business_id: int, where: TaskFilter, before_id: str | None, limit: int
) -> list[str]:
    """Newest first."""
    selection = select_ids(connection.dialect, business_id, where, before_id, limit)
    return [row[0] for row in await connection.fetch(selection.sql, selection.params)]


async def matching_count(connection: Connection, business_id: int, where: TaskFilter, limit: int) -> int:
    """How many match, counted up to `limit`."""
    selection = select_ids(connection.dialect, business_id, where, None, limit)
    row = await connection.fetch_one(f"SELECT COUNT(*) FROM ({selection.sql}) matching", selection.params)
    return 0 if row is None else int(row[0])
