"""Births: which tasks of a batch are new, which are known, which find no room; and their rows.

All creates of a business queue at its ledger row. Behind that lock the taken unique ids and the number of active tasks
stand still, so a replay is told from a conflict and the quota is exact, without an error path for lost races. What the
rows hold is made before the transaction, in slices, so that sealing a thousand payloads does not hold up the loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from taskcenter.store import audit as chains
from taskcenter.store.connection import Connection, Database, LockConflict, Param
from taskcenter.store.ledger import Deltas, count, lock_active
from taskcenter.store.records import (
    Created,
    CreateResult,
    IdConflict,
    NewAuditEntry,
    NewTask,
    QuotaFull,
    Replayed,
    Task,
    TaskKind,
)
from taskcenter.store.rows import born, new_task_row, open_request_hash, open_task, unique_key
from taskcenter.store.statements import tasks as sql
from taskcenter.store.statements.text import chunks, fetch_in
from taskcenter.store.vault import Vault
from taskcenter.values import value_class

ROWS_AT_ONCE = 250  # one statement's: some ms of our own time
SEALED_AT_ONCE = 32
Key = tuple[int, bytes]  # business, unique id as it is stored


@value_class(frozen=True, slots=True)
class Known:
    """A task that has the unique id already."""

    id: str
    request_hash: bytes


@dataclass(slots=True)
class Plan:
    """What is to become of each item of a batch; a `Known` stands for the replay of a stored task."""

    results: list[CreateResult | Known] = field(default_factory=list)
    born: list[int] = field(default_factory=list)  # positions in the batch


def plan(
    tasks: Sequence[NewTask],
    keys: Sequence[Key],
    taken: Mapping[Key, Known],
    active: Mapping[int, int],
    max_active: Mapping[int, int],
) -> Plan:
    """Decide item by item, in order; an item sees those before it. Pure."""
    decided = Plan()
    known = dict(taken)
    room = {business_id: max_active.get(business_id, 0) - number for business_id, number in active.items()}
    here: dict[str, NewTask] = {}
    for position, (task, key) in enumerate(zip(tasks, keys, strict=True)):
        former = known.get(key)
        if former is not None:
            decided.results.append(_again(task, former, here))
            continue
        if task.kind is TaskKind.CALLBACK:
            if room[task.business_id] <= 0:
                limit = max_active[task.business_id]
                decided.results.append(QuotaFull(limit, limit - room[task.business_id]))
                continue
            room[task.business_id] -= 1
        known[key] = Known(task.id, task.request_hash)
        here[task.id] = task
        decided.results.append(Created(born(task)))
        decided.born.append(position)
    return decided


def _again(task: NewTask, former: Known, here: Mapping[str, NewTask]) -> CreateResult | Known:
    if former.request_hash != task.request_hash:
        return IdConflict(former.id)
    first = here.get(former.id)
    return Replayed(born(first)) if first is not None else former


async def prepare(tasks: Sequence[NewTask], vault: Vault) -> list[tuple[Param, ...]]:
    """The rows, sealed, with a pause after every few."""
    rows: list[tuple[Param, ...]] = []
    for some in chunks(tasks, SEALED_AT_ONCE):
        rows += [new_task_row(task, vault) for task in some]
        await trio.lowlevel.checkpoint()
    return rows


async def create(
    database: Database,
    vault: Vault,
    tasks: Sequence[NewTask],
    max_active: Mapping[int, int],
    audit: Sequence[NewAuditEntry | None],
) -> list[CreateResult]:
    """See `interface.TaskStore.create`."""
    rows = await prepare(tasks, vault)
    keys = [(task.business_id, unique_key(task.business_unique_id, task.kind)) for task in tasks]
    counted = sorted({task.business_id for task in tasks})

    async def work(connection: Connection) -> list[CreateResult]:
        active = await lock_active(connection, counted)
        taken = await _taken(connection, vault, keys)
        decided = plan(tasks, keys, taken, active, max_active)
        results = await _replays(connection, vault, tasks, decided.results)
        if decided.born:
            await _insert(connection, tasks, rows, decided.born)
            deltas = Deltas()
            for position in decided.born:
                if tasks[position].kind is TaskKind.CALLBACK:
                    delta = deltas[tasks[position].business_id]
                    delta.created += 1
                    delta.active += 1
            await count(connection, deltas)
            await chains.append_audit(connection, [entry for at in decided.born if (entry := audit[at]) is not None])
        return results

    return await database.write(work)


async def _taken(connection: Connection, vault: Vault, keys: Sequence[Key]) -> dict[Key, Known]:
    by_business: dict[int, set[bytes]] = {}
    for business_id, unique in keys:
        by_business.setdefault(business_id, set()).add(unique)
    taken: dict[Key, Known] = {}
    for business_id, uniques in by_business.items():
        rows = await fetch_in(connection, sql.TAKEN, sorted(uniques), before=(business_id,))
        for task_id, unique, sealed in rows:
            taken[business_id, unique] = Known(task_id, open_request_hash(sealed, task_id, vault))
    return taken


async def _replays(
    connection: Connection, vault: Vault, tasks: Sequence[NewTask], results: Sequence[CreateResult | Known]
) -> list[CreateResult]:
    """The stored tasks for those that are replays. One with the very id asked for is this call's, committed earlier."""
    wanted = sorted({result.id for result in results if isinstance(result, Known)})
    stored: dict[str, Task] = {}
    if wanted:
        stored = {row[0]: open_task(row, vault) for row in await fetch_in(connection, sql.GET_MANY, wanted)}
        if len(stored) < len(wanted):
            raise LockConflict("a task was purged while its unique id was asked for")  # once more, and it is free
    done: list[CreateResult] = []
    for task, result in zip(tasks, results, strict=True):
        if not isinstance(result, Known):
            done.append(result)
        elif result.id == task.id:
            done.append(Created(stored[result.id]))
        else:
            done.append(Replayed(stored[result.id]))
    return done


async def _insert(
    connection: Connection, tasks: Sequence[NewTask], rows: Sequence[tuple[Param, ...]], positions: Sequence[int]
) -> None:
    for some in chunks(positions, ROWS_AT_ONCE):
        await connection.insert_many(sql.INSERT, [rows[position] for position in some])
    tags = [
        (tasks[position].business_id, tag.encode(), tasks[position].id)
        for position in positions
        for tag in dict.fromkeys(tasks[position].tags)
    ]
    for few in chunks(tags, ROWS_AT_ONCE * 4):
        await connection.insert_many(sql.INSERT_TAG, few)
