"""Ends of attempts, and moves without one: the transactions behind `EngineStore.record` and `settle`.

An outcome is compared with its row: still `running` under its own term and number of sends, it is **applied**, unless
an update came between (**stale**: the caller decides again on the fresh row). A row that went on without it —
cancelled, recovered by another owner, purged — makes it **superseded**; its attempt is kept in history all the same,
because it was sent, unless it is there as `interrupted`. The shard's term is on purpose not looked at: an outcome that
is late but finds its row untouched is true, and applying it saves a repeat.

A batch may be run again after an unknown commit. What the first run applied is recognised: the row is as the move left
it, or, when it has moved on since, the attempt's own history row is there. It is reported as applied, at the version
the row has now, so that the caller's next step is the same both times.

Order of locks: tasks by id, attempts of cancelled ones, then ledgers by business; settlements take their shards' rows
before that.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskcenter.store import audit as chains
from taskcenter.store.batch_update import update_batch
from taskcenter.store.cancelled import close
from taskcenter.store.connection import Connection, Param, Row
from taskcenter.store.engine_records import Applied, Move, Outcome, Recorded, Settlement, Stale, Superseded
from taskcenter.store.fence import held
from taskcenter.store.finishing import insert_finish
from taskcenter.store.ledger import Deltas, count
from taskcenter.store.records import Execution, ExecutionStatus, NewTask, Task, TaskKind
from taskcenter.store.rows import EXECUTION_STATUSES, KINDS, STATUSES, clipped, execution_row, open_task, to_json
from taskcenter.store.statements import engine as sql
from taskcenter.store.statements import tasks as task_sql
from taskcenter.store.statements.text import fetch_in
from taskcenter.store.vault import Vault
from taskcenter.task import TERMINAL, WAITING, Status
from taskcenter.values import value_class


@value_class(frozen=True, slots=True)
class Head:
    """What a move is compared with."""

    id: str
    kind: TaskKind
    shard: int
    status: Status
    version: int
    term: int
    sends: int
    interruptions: int
    next_execute_at: int | None


@value_class(frozen=True, slots=True)
class Attempt:
    """What history holds of an attempt."""

    term: int
    status: ExecutionStatus


def _is_claim_of(head: Head, outcome: Outcome) -> bool:
    """Whether the row still is this attempt's. Pure."""
    return head.status is Status.RUNNING and head.term == outcome.term and head.sends == outcome.sends


def was_applied(head: Head, outcome: Outcome, attempt: Attempt | None) -> bool:
    """Whether a row that is not this attempt's any more was moved on by this very outcome, in a former run. Pure."""
    same = head.term == outcome.term and head.sends == outcome.sends
    if same and head.version == outcome.version + 1:
        # A recovery leaves the same version, and perhaps the same status, but an interruption.
        return head.status is outcome.move.status and head.interruptions == 0
    if same and head.status is Status.CANCELLED:
        return False
    own = attempt is not None and attempt.term == outcome.term and attempt.status is not ExecutionStatus.INTERRUPTED
    return own and head.version > outcome.version


async def record(connection: Connection, vault: Vault, outcomes: Sequence[Outcome], now: int) -> list[Recorded]:
    """See `interface.EngineStore.record`."""
    heads = await _lock(connection, [outcome.task_id for outcome in outcomes])
    mine = {o.task_id for o in outcomes if o.task_id in heads and _is_claim_of(heads[o.task_id], o)}
    others = [o for o in outcomes if o.task_id in heads and o.task_id not in mine]
    # Before history is looked at: who takes the shard over may be telling of them.
    await close(connection, [(o.task_id, o.sends) for o in others])
    known = await _known_attempts(connection, others)
    fresh = await _whole(connection, vault, [o.task_id for o in outcomes if _is_stale(o, heads, mine)])
    results: list[Recorded] = []
    applied: list[Outcome] = []
    attempts: list[Execution] = []
    deltas = Deltas()
    for outcome in outcomes:
        head = heads.get(outcome.task_id)
        if outcome.task_id in fresh:
            results.append(Stale(fresh[outcome.task_id]))
            continue
        if head is not None and outcome.task_id in mine:
            applied.append(outcome)
            results.append(Applied(outcome.version + 1))
        elif head is not None and was_applied(head, outcome, known.get((head.id, outcome.sends))):
            results.append(Applied(head.version))
        else:
            results.append(Superseded())
        if head is not None and outcome.execution is not None and (head.id, outcome.sends) not in known:
            attempts.append(outcome.execution)
            if head.kind is TaskKind.CALLBACK:
                deltas[outcome.business_id].callbacks += 1
    await update_batch(connection, sql.RECORD, [_entry(item, now) for item in applied])
    _note(deltas, applied, heads)
    if attempts:
        rows = [execution_row(attempt, now, vault) for attempt in attempts]
        await connection.insert_many(sql.INSERT_EXECUTION.on(connection.dialect), rows)
    await _finish(connection, vault, [outcome.finish for outcome in applied], deltas)
    await chains.append_audit(connection, [outcome.audit for outcome in applied if outcome.audit is not None])
    return results


def _is_stale(outcome: Outcome, heads: dict[str, Head], mine: set[str]) -> bool:
    return outcome.task_id in mine and heads[outcome.task_id].version != outcome.version


async def settle(connection: Connection, vault: Vault, settlements: Sequence[Settlement], now: int) -> list[Recorded]:
    """See `interface.EngineStore.settle`."""
    terms = await held(connection, {settlement.shard for settlement in settlements})
    heads = await _lock(connection, [settlement.task_id for settlement in settlements])
    mine = {
        s.task_id: heads[s.task_id] for s in settlements
        if s.task_id in heads and terms.get(s.shard) == s.term and heads[s.task_id].shard == s.shard
    }  # fmt: skip
    changed = [s.task_id for s in settlements if _waits_otherwise(s, mine.get(s.task_id))]
    fresh = await _whole(connection, vault, changed)
    results: list[Recorded] = []
    applied: list[Settlement] = []
    for settlement in settlements:
        head = mine.get(settlement.task_id)
        if head is None:
            results.append(Superseded())
        elif _is_done(settlement, head):
            results.append(Applied(head.version))
        elif settlement.task_id in fresh:
            results.append(Stale(fresh[settlement.task_id]))
        elif head.status in WAITING:
            applied.append(settlement)
            results.append(Applied(settlement.version + 1))
        else:
            results.append(Superseded())
    deltas = Deltas()
    await update_batch(connection, sql.SETTLE, [_entry(item, now) for item in applied])
    _note(deltas, applied, heads)
    await _finish(connection, vault, [settlement.finish for settlement in applied], deltas)
    return results


def _is_done(settlement: Settlement, head: Head) -> bool:
    """Whether the row is as this settlement leaves it: a former run of it was committed. Pure."""
    move = settlement.move
    return (
        head.version == settlement.version + 1
        and head.status is move.status
        and head.next_execute_at == move.next_execute_at
    )


def _waits_otherwise(settlement: Settlement, head: Head | None) -> bool:
    """Whether it waits still, but was changed since the settlement was decided. Pure."""
    return (
        head is not None
        and head.status in WAITING
        and head.version != settlement.version
        and not _is_done(settlement, head)
    )


# --- what both do --------------------------------------------------------------------------------------------------


async def _lock(connection: Connection, task_ids: Sequence[str]) -> dict[str, Head]:
    rows = await fetch_in(connection, sql.HEADS.on(connection.dialect), sorted(set(task_ids)))
    return {row[0]: _head(row) for row in rows}


def _head(row: Row) -> Head:
    task_id, kind, shard, status, *rest = row
    return Head(task_id, KINDS[kind], shard, STATUSES[status], *rest)


async def _whole(connection: Connection, vault: Vault, task_ids: Sequence[str]) -> dict[str, Task]:
    if not task_ids:
        return {}
    rows = await fetch_in(connection, task_sql.GET_MANY, sorted(set(task_ids)))
    return {row[0]: open_task(row, vault) for row in rows}


async def _known_attempts(connection: Connection, outcomes: Sequence[Outcome]) -> dict[tuple[str, int], Attempt]:
    if not outcomes:
        return {}
    doc = to_json([{"id": outcome.task_id, "number": outcome.sends} for outcome in outcomes])
    rows = await connection.fetch(sql.KNOWN_ATTEMPTS.on(connection.dialect), (doc,))
    return {(task_id, number): Attempt(term, EXECUTION_STATUSES[status]) for task_id, number, term, status in rows}


def _note(deltas: Deltas, applied: Sequence[Outcome] | Sequence[Settlement], heads: dict[str, Head]) -> None:
    """What the moves do to the counters."""
    for item in applied:
        head = heads[item.task_id]
        if head.kind is TaskKind.CALLBACK:
            deltas[item.business_id].move(head.status, item.move.status)


def _entry(item: Outcome | Settlement, now: int) -> dict[str, Param]:
    move: Move = item.move
    entry: dict[str, Param] = {
        "id": item.task_id, "version": item.version, "status": move.status, "current_retry": move.current_retry,
        "deferrals": move.deferrals, "doubtful": int(move.doubtful), "manual": int(move.manual), "run": move.run,
        "runs_done": move.runs_done,
        "next_execute_at": move.next_execute_at, "finish_reason": move.finish_reason,
        "last_error": clipped(move.last_error), "finished_at": now if move.status in TERMINAL else None, "at": now,
    }  # fmt: skip
    if isinstance(item, Outcome):
        entry |= {"term": item.term, "sends": item.sends}
    return entry


async def _finish(connection: Connection, vault: Vault, tasks: Sequence[NewTask | None], deltas: Deltas) -> None:
    """What follows from the moves: the finish_urls' tasks and the counters."""
    await insert_finish(connection, vault, [task for task in tasks if task is not None])
    await count(connection, deltas)
