"""Bugs on purpose. Each is planted in the running code for one test, and the simulation must find it.

They show that a run without a violation means something. What is planted is what a hurried change might leave out: the
fence, a guard, a wait, a mark in the history.

Not planted, for another guard covers it by design: an outcome that is compared by its term alone or by its number of
sends alone (a row that another claims has both changed), and the statement `RECORD` without its guard (the row is
locked, and compared, in the same transaction). What is planted is leaving out both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import trio
from pytest import MonkeyPatch  # noqa: PT013  # a type, for the signatures

from taskcenter.actors import attempt, business, message
from taskcenter.actors.committer import Committer
from taskcenter.actors.outcome import move_after
from taskcenter.actors.registry import ActorRegistry
from taskcenter.clock import Clock
from taskcenter.runtime import leases, shares
from taskcenter.runtime.engine import Engine
from taskcenter.store import changes, outcomes, recovery
from taskcenter.store import engine as engine_store
from taskcenter.store.cancelled import leave_open
from taskcenter.store.connection import Connection
from taskcenter.store.engine import SqlEngineStore
from taskcenter.store.engine_records import Outcome
from taskcenter.store.statements import engine as sql
from taskcenter.store.statements import leases as lease_sql
from taskcenter.store.statements.text import by_key, fetch_in
from taskcenter.task import Status
from taskcenter.wheel.loader import Loader

Plant = Callable[[MonkeyPatch], None]


@dataclass(frozen=True)
class Planted:
    plant: Plant
    shown_by: tuple[int, ...]  # seeds that showed it lately: tried first

    @property
    def name(self) -> str:
        return self.plant.__name__


class _Anything:
    """Equal to every term."""

    def get(self, _: int) -> _Anything:
        return self

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # that is how Python spells it


def claim_without_fence(patch: MonkeyPatch) -> None:
    async def held(*_: object) -> _Anything:
        return _Anything()

    patch.setattr(engine_store, "held", held)


def claim_of_any_version(patch: MonkeyPatch) -> None:
    claim = SqlEngineStore.claim

    async def versionless(self: SqlEngineStore, requests: Sequence[Any], now: int) -> Any:
        async def work(connection: Any) -> dict[str, int]:
            ids = [request.task_id for request in requests]
            return dict(await fetch_in(connection, "SELECT id, version FROM tasks WHERE id IN (...)", ids))

        versions = await self._database.read(work)
        asked = [replace(request, version=versions.get(request.task_id, 0)) for request in requests]
        return await claim(self, asked, now)

    patch.setattr(SqlEngineStore, "claim", versionless)


def unanswered_claims_are_forgotten(patch: MonkeyPatch) -> None:
    claim = SqlEngineStore.claim

    async def forgetful(self: SqlEngineStore, requests: Sequence[Any], now: int) -> Any:
        self._unanswered.clear()
        return await claim(self, requests, now)

    patch.setattr(SqlEngineStore, "claim", forgetful)


def outcome_of_any_claim(patch: MonkeyPatch) -> None:
    patch.setattr(outcomes, "_is_claim_of", lambda head, _: head.status is Status.RUNNING)
    guardless = sql._update(sql._MOVES, {**sql._MOVED, "interruptions": "0"}, "tasks.status = 'running'")
    patch.setattr(sql, "RECORD", guardless)


def local_deadline_is_ignored(patch: MonkeyPatch) -> None:
    patch.setattr(leases.LeaseKeeper, "term_of", lambda self, shard: self._terms.get(shard))


def outcome_of_another_claim(patch: MonkeyPatch) -> None:
    patch.setattr(outcomes, "_is_claim_of", lambda head, _: head.status is Status.RUNNING)


def shards_are_released_without_draining(patch: MonkeyPatch) -> None:
    async def at_once(self: Engine, _: frozenset[int]) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Engine, "_settled", at_once)
    patch.setattr(Engine, "_busy", lambda self, shards: frozenset())


def drain_waits_for_nothing(patch: MonkeyPatch) -> None:
    async def at_once(self: ActorRegistry) -> None:
        self._draining = True
        await trio.lowlevel.checkpoint()

    patch.setattr(ActorRegistry, "drain", at_once)


def shards_are_taken_from_the_living(patch: MonkeyPatch) -> None:
    patch.setattr(lease_sql, "ACQUIRE", by_key("UPDATE shards SET owner = ?, term = term + 1 WHERE shard IN (...)"))


def recovery_is_left_out(patch: MonkeyPatch) -> None:
    async def nothing(*_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return []

    patch.setattr(SqlEngineStore, "recover", nothing)


def recovery_burns_an_attempt(patch: MonkeyPatch) -> None:
    update = sql.RECOVER
    burning = ("SET ", "SET current_retry = current_retry + 1, ")
    patch.setattr(
        sql, "RECOVER",
        replace(
            update,
            each=replace(update.each, sqlite=update.each.sqlite.replace(*burning)),
            alike=replace(update.alike, sqlite=update.alike.sqlite.replace(*burning)),
        ),
    )  # fmt: skip


def recovery_marks_nothing(patch: MonkeyPatch) -> None:
    write = recovery._write

    async def unmarked(connection: Any, vault: Any, lost: Any, after: Any, now: int) -> None:
        class Unwritten:
            dialect = connection.dialect
            execute, fetch = connection.execute, connection.fetch

            @staticmethod
            async def insert_many(*_: object) -> int:
                return 0

        await write(cast("Connection", Unwritten), vault, lost, after, now)

    patch.setattr(recovery, "_write", unmarked)


def repeats_are_not_flagged(patch: MonkeyPatch) -> None:
    headers_of = message.headers_of
    patch.setattr(attempt, "headers_of", lambda task, *rest: headers_of(replace(task, doubtful=False), *rest))


def a_deferral_ends_the_doubt(patch: MonkeyPatch) -> None:
    patch.setattr(
        attempt, "move_after",
        lambda task, what, began, ended: replace(move_after(task, what, began, ended), doubtful=False),
    )  # fmt: skip


def attempts_of_cancelled_tasks_are_not_noted(patch: MonkeyPatch) -> None:
    patch.setattr(changes, "leave_open", lambda connection, _: leave_open(connection, []))


def attempts_of_cancelled_tasks_are_not_taken_over(patch: MonkeyPatch) -> None:
    async def nothing(*_: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return []

    patch.setattr(SqlEngineStore, "recover_cancelled", nothing)


def claims_cancelled_in_doubt_stay_noted(patch: MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(engine_store, "close", nothing)


def withdrawn_attempts_are_not_told_of(patch: MonkeyPatch) -> None:
    submit = Committer.submit

    async def silent(self: Committer[Any, Any], item: Any) -> Any:
        if isinstance(item, Outcome) and item.move.status is Status.CANCELLED:
            return None
        return await submit(self, item)

    patch.setattr(Committer, "submit", silent)


def limiter_is_not_rebuilt(patch: MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(business, "rebuild", nothing)


def concurrency_is_not_counted(patch: MonkeyPatch) -> None:
    start = business.BusinessActor._start

    def uncounted(self: business.BusinessActor, attempts: trio.Nursery, permit: Any) -> None:
        start(self, attempts, permit)
        self.on_their_way = 0

    patch.setattr(business.BusinessActor, "_start", uncounted)


def pause_is_not_heard(patch: MonkeyPatch) -> None:
    patch.setattr(Engine, "business_changed", lambda self, _: None)


def retries_count_from_the_start(patch: MonkeyPatch) -> None:
    patch.setattr(attempt, "move_after", lambda task, what, began, ended: move_after(task, what, began, began))


def outcomes_are_dropped_on_error(patch: MonkeyPatch) -> None:
    async def once(self: Committer[Any, Any], items: Sequence[Any]) -> Any:
        return await self._commit(items)

    patch.setattr(Committer, "_commit_until_known", once)


def who_starts_takes_what_the_others_take(patch: MonkeyPatch) -> None:
    patch.setattr(shares, "_in_my_order", lambda free, *_: free)
    patch.setattr(leases, "EXPECTING_S", leases.LOOK_S)


def sweep_passes_over_what_is_overdue(patch: MonkeyPatch) -> None:
    take = Loader._take

    def young(self: Loader, read: Any, rows: list[Any]) -> None:
        accept = self._accept
        self._accept = lambda ref: ref.due_at >= self._clock.now_ms() - 500 and accept(ref)
        try:
            take(self, read, rows)
        finally:
            self._accept = accept

    patch.setattr(Loader, "_take", young)


def attempts_start_early(patch: MonkeyPatch) -> None:
    async def at_once(self: Clock, _: int) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Clock, "sleep_until", at_once)


def withdrawn_attempts_go_on(patch: MonkeyPatch) -> None:
    patch.setattr(attempt.Attempt, "withdraw", lambda self: not self.sent)


def cancel_never_tells_what_is_on_its_way(patch: MonkeyPatch) -> None:
    patch.setattr(attempt.Attempt, "withdraw", lambda self: True)


PLANTS: Final = (
    Planted(claim_without_fence, (30,)),
    Planted(local_deadline_is_ignored, (17,)),
    Planted(claim_of_any_version, (5, 25)),
    Planted(unanswered_claims_are_forgotten, (1,)),
    Planted(outcome_of_any_claim, (51,)),
    Planted(outcome_of_another_claim, (51,)),
    Planted(limiter_is_not_rebuilt, (32, 35)),
    Planted(shards_are_released_without_draining, (0, 5)),
    Planted(drain_waits_for_nothing, (96,)),
    Planted(shards_are_taken_from_the_living, (0, 1)),
    Planted(recovery_is_left_out, (4,)),
    Planted(recovery_burns_an_attempt, (0, 4)),
    Planted(recovery_marks_nothing, (0, 4)),
    Planted(repeats_are_not_flagged, (0, 8)),
    Planted(a_deferral_ends_the_doubt, (25,)),
    Planted(attempts_of_cancelled_tasks_are_not_noted, (14,)),
    Planted(attempts_of_cancelled_tasks_are_not_taken_over, (14,)),
    Planted(claims_cancelled_in_doubt_stay_noted, (1021, 1598)),
    Planted(withdrawn_attempts_are_not_told_of, (0,)),
    Planted(concurrency_is_not_counted, (0, 1)),
    Planted(pause_is_not_heard, (3, 8)),
    Planted(retries_count_from_the_start, (0, 1)),
    Planted(outcomes_are_dropped_on_error, (20,)),
    Planted(who_starts_takes_what_the_others_take, (28, 71)),
    Planted(sweep_passes_over_what_is_overdue, (0,)),
    Planted(attempts_start_early, (1,)),
    Planted(withdrawn_attempts_go_on, (0,)),
    Planted(cancel_never_tells_what_is_on_its_way, (0,)),
)
