"""What the engine asks of the store (`interface.EngineStore`): due references, claims, outcomes, recovery.

**Claim.** One transaction: share-lock the shards' rows and compare their terms with the batch's, so that no shard can
change hands before it is over and a stale owner claims nothing; lock the tasks; write `running` for those that still
wait at the version asked for. Each claim is answered once: a second request for the same version gets nothing, so one
instance cannot send twice. The exception is a claim whose COMMIT was never answered: the attempts it would have begun
are remembered here, and the repeated request gets those that it finds running. Of one whose task was cancelled
meanwhile it takes away what the cancel noted (`cancelled`): nothing was sent. If this process dies instead, they are
recovered like all that was running under its terms.

**Outcomes and recovery**: see `outcomes` and `recovery`. Claims and outcomes have a connection each, so that neither
waits for the other or for the API's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

from taskcenter import log
from taskcenter.store import outcomes, recovery
from taskcenter.store.batch_update import Entry, update_batch
from taskcenter.store.cancelled import close
from taskcenter.store.connection import Connection, Database, Param, Row
from taskcenter.store.engine_records import (
    ClaimRequest,
    FinishOf,
    OpenAttempt,
    Outcome,
    Recorded,
    SendPoint,
    Settlement,
)
from taskcenter.store.fence import held
from taskcenter.store.records import ExecutionStatus, Task
from taskcenter.store.rows import EXECUTION_STATUSES, open_task, ref_of
from taskcenter.store.statements import engine as sql
from taskcenter.store.statements.text import fetch_in, in_list
from taskcenter.store.vault import Unsealable, Vault
from taskcenter.task import SHARDS, WAITING, Status, TaskRef

Found = TypeVar("Found")
MOST_UNANSWERED: Final = 10_000
_log = log.get("store")


@dataclass(frozen=True, slots=True)
class _Begun:
    """The attempt that a claim begins, if it is committed."""

    request: ClaimRequest
    number: int  # the task's `sends` after it


class SqlEngineStore:
    """See `interface.EngineStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = self._claims = self._outcomes = self._sweeps = self._takeovers = database
        self._vault = vault
        # Of claims whose COMMIT was not answered, by task: changed by `claim` only.
        self._unanswered: dict[str, _Begun] = {}

    def use_lanes(self, claims: Database, outcomes: Database, sweeps: Database, takeovers: Database) -> None:
        """From now on claims, outcomes, the reading of what is due, and recovery go over these."""
        self._claims, self._outcomes, self._sweeps, self._takeovers = claims, outcomes, sweeps, takeovers

    # --- due -------------------------------------------------------------------------------------------------------

    async def due_refs(
        self, shards: frozenset[int] | None, due_from_ms: int, due_to_ms: int, after: tuple[int, str] | None, limit: int
    ) -> list[TaskRef]:
        if shards is not None and not shards:
            return []
        some = None if shards is None or len(shards) == SHARDS else sorted(shards)
        dialect = self._database.dialect
        params: list[Param] = [due_from_ms, due_to_ms]
        if after is None:
            text = sql.DUE if some is None else sql.DUE_IN
        else:
            text = (sql.DUE_AFTER if some is None else sql.DUE_IN_AFTER).on(dialect)
            params = _after(after, due_from_ms, due_to_ms)
        padded: Sequence[Param] = ()
        if some is not None:
            text, padded = in_list(text, some)
        return await self._refs(text, [*params, *padded, limit])

    async def due_refs_of(
        self, business_id: int, due_to_ms: int, after: tuple[int, str] | None, limit: int
    ) -> list[TaskRef]:
        if after is None:
            return await self._refs(sql.DUE_OF, [business_id, 0, due_to_ms, limit])
        text = sql.DUE_OF_AFTER.on(self._database.dialect)
        return await self._refs(text, [business_id, *_after(after, 0, due_to_ms), limit])

    async def _refs(self, text: str, params: Sequence[Param]) -> list[TaskRef]:
        async def work(connection: Connection) -> list[Row]:
            return await connection.fetch(text, params)

        return [ref_of(row) for row in await self._sweeps.read(work)]

    # --- claims ----------------------------------------------------------------------------------------------------

    async def claim(self, requests: Sequence[ClaimRequest], now: int) -> list[Task]:
        if not requests:
            return []
        asked: dict[str, ClaimRequest] = {}
        for request in requests:
            former = asked.get(request.task_id)
            if former is None or former.version < request.version:
                asked[request.task_id] = request
        began: list[_Begun] = []  # what the latest run of the transaction has claimed
        answered = False
        try:
            tasks = await self._claims.write(partial(self._claim, asked=asked, now=now, began=began))
            answered = True
        finally:  # cancelled counts as unanswered too
            if not answered and len(self._unanswered) < MOST_UNANSWERED:
                self._unanswered.update((attempt.request.task_id, attempt) for attempt in began)
        for task_id in asked:
            self._unanswered.pop(task_id, None)
        return tasks

    async def _claim(
        self, connection: Connection, asked: Mapping[str, ClaimRequest], now: int, began: list[_Begun]
    ) -> list[Task]:
        began.clear()
        fenced = await held(connection, {request.shard for request in asked.values()})
        wanted = sorted(id_ for id_, request in asked.items() if fenced.get(request.shard) == request.term)
        waiting: list[Task] = []
        ours: list[Task] = []
        withdrawn: list[tuple[str, int]] = []
        for row in await fetch_in(connection, sql.LOCK.on(connection.dialect), wanted):
            task = self._opened(row)
            if task is None or task.shard != asked[task.id].shard:
                continue
            request, former = asked[task.id], self._unanswered.get(task.id)
            if task.status in WAITING and task.version == request.version:
                waiting.append(task)
            elif former is not None and former.request == request:
                if _is_begun(former, task):
                    ours.append(task)
                else:
                    withdrawn.append((task.id, former.number))
        claimed = [_claimed(task, asked[task.id].term, now) for task in waiting]
        entries: list[Entry] = [
            {"id": old.id, "version": old.version, "term": new.term, "due": new.scheduled_at, "at": now}
            for old, new in zip(waiting, claimed, strict=True)
        ]
        await update_batch(connection, sql.CLAIM, entries)
        await close(connection, withdrawn)
        began.extend(_Begun(asked[task.id], task.sends) for task in (*claimed, *ours))
        return claimed + ours

    def _opened(self, row: Row) -> Task | None:
        """The task, or None when its payload cannot be opened: that one stays where it is, the others go on."""
        try:
            return open_task(row, self._vault)
        except Unsealable as error:
            _log.error("a task cannot be claimed", task_id=row[0], business_id=row[1], fault=str(error))
            return None

    # --- outcomes and recovery -------------------------------------------------------------------------------------

    async def record(self, outcomes_: Sequence[Outcome], now: int) -> list[Recorded]:
        if not outcomes_:
            return []
        return await self._outcomes.write(partial(outcomes.record, vault=self._vault, outcomes=outcomes_, now=now))

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Recorded]:
        if not settlements:
            return []
        return await self._outcomes.write(partial(outcomes.settle, vault=self._vault, settlements=settlements, now=now))

    async def recover(
        self, terms: Mapping[int, int], now: int, limit: int, *, finish: FinishOf | None = None
    ) -> list[Task]:
        """Pages whose rows went on meanwhile do not count as the end: see `recovery`."""
        if not terms:
            return []
        work = partial(recovery.recover, vault=self._vault, terms=terms, now=now, finish=finish)
        return await self._pages(work, limit)

    async def recover_cancelled(self, terms: Mapping[int, int], now: int, limit: int) -> list[OpenAttempt]:
        """As `recover`."""
        if not terms:
            return []
        work = partial(recovery.recover_cancelled, vault=self._vault, terms=terms, now=now)
        return await self._pages(work, limit)

    async def _pages(self, work: Callable[..., Awaitable[recovery.Page[Found]]], limit: int) -> list[Found]:
        recovered: list[Found] = []
        while True:
            wanted = limit - len(recovered)
            page = await self._takeovers.write(partial(work, limit=wanted))
            recovered += page.recovered
            if page.seen < wanted or len(recovered) >= limit:
                return recovered

    async def recent_sends(self, business_id: int, since: int, limit: int) -> list[SendPoint]:
        async def work(connection: Connection) -> tuple[list[Row], list[Row]]:
            sent = await connection.fetch(sql.RECENT, (business_id, since, limit))
            return sent, await connection.fetch(sql.ON_THEIR_WAY, (business_id, limit))

        sent, running = await self._database.read(work)
        points = [SendPoint(at, EXECUTION_STATUSES[status], host, answer) for at, status, host, answer in sent]
        points += [
            SendPoint(max(scheduled_at, updated_at), ExecutionStatus.INTERRUPTED, host, None)
            for scheduled_at, updated_at, host in running
            if max(scheduled_at, updated_at) >= since
        ]
        return sorted(points, key=lambda point: point.started_at)[-limit:]

    async def flow_starts(self, business_id: int, since: int, limit: int) -> list[tuple[str, int]]:
        async def work(connection: Connection) -> list[Row]:
            return await connection.fetch(sql.FLOW_STARTS, (business_id, since, limit))

        return [(key, at) for key, at in reversed(await self._database.read(work))]


def _after(after: tuple[int, str], due_from: int, due_to: int) -> list[Param]:
    due, task_id = after if after[0] >= due_from else (due_from, "")
    return [due, task_id, due, due_to]


def _claimed(task: Task, term: int, now: int) -> Task:
    """A waiting task after its claim. Pure."""
    assert task.next_execute_at is not None, "a waiting task has a due time"
    return replace(
        task, status=Status.RUNNING, sends=task.sends + 1, term=term, scheduled_at=task.next_execute_at,
        next_execute_at=None, version=task.version + 1, updated_at=now,
    )  # fmt: skip


def _is_begun(attempt: _Begun, task: Task) -> bool:
    """Whether the row is running this attempt, which no other can have begun; an update may have come since. Pure."""
    return task.status is Status.RUNNING and task.term == attempt.request.term and task.sends == attempt.number
