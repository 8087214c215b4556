"""One attempt: claim → hold until its start → send → classify → record. A type for each phase.

`Claimed` is a row that is ours and running; `Ended` is an exchange with its decision. Only an `Ended` can be recorded
as an execution, and only a `Claimed` can be handed back without one, so no path can mix them up.

Failure. The store refusing the claim raises `StoreUnavailable`: nothing was sent, the actor offers the reference
again. A bug while it is sent or its answer is read is recorded as a failed attempt, like any other; one in what decides
or records its end ends the task as `failed`, with the fault in its history: a claimed row is never left behind.
Cancellation (the process ends and its grace is over) leaves the row running: the next owner finds it under an older
term and sends it again, flagged as a possible duplicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

import trio

from taskcenter.actors.answers import decide
from taskcenter.actors.egress.exchange import CallbackRequest, Exchange, Faulted, Withheld
from taskcenter.actors.egress.targets import CallbackUrlError, check_url
from taskcenter.actors.ended import Ended, execution_of, log_fields
from taskcenter.actors.finish import last_of, ref_of
from taskcenter.actors.message import body_of, headers_of, masked
from taskcenter.actors.outcome import (
    Health,
    expired,
    faulted,
    finish_call,
    missed_run,
    move_after,
    receiver_health,
    withdrawn,
)
from taskcenter.actors.permit import Permit
from taskcenter.actors.signing import SigningSecret
from taskcenter.errors import StoreUnavailable
from taskcenter.store.engine_records import Applied, ClaimRequest, Move, Outcome, Stale, Superseded
from taskcenter.store.records import Execution, Task, TaskKind
from taskcenter.task import TERMINAL, FlowLimit, TaskRef
from taskcenter.values import value_class

if TYPE_CHECKING:
    from taskcenter.actors.business import BusinessActor

LATE_START_MS: Final = 50  # a start later than planned by more is noted in the limiter as it happened
LEASE_POLL_S: Final = 0.2
STORE_PAUSE_S: Final = 0.5
UNRECORDED: Final = {"taskcenter": "the store refused this exchange's details"}


@value_class(frozen=True, slots=True)
class Claimed:
    """The row is running under our term, and nothing has been sent."""

    task: Task
    secrets: Sequence[SigningSecret]


class Attempt:
    """Owner of all fields but `newer`, `dropped` and `on_its_way`: its own task. Those: the actor."""

    def __init__(self, permit: Permit) -> None:
        self.permit = permit
        self.ref = permit.ref
        self.start_at = permit.start_at
        self.sent = False
        self.restated = False  # the limits have it from when its first byte went out
        self.on_its_way = True  # until its exchange is over; changed by the actor
        self.withdrawn = False
        self.dropped = False  # the shard was given up or lost meanwhile
        self.health = Health.UNKNOWN
        self.cause = ""  # of a failure, for the breaker
        self.newer: TaskRef | None = None
        self.over = trio.Event()

    def withdraw(self) -> bool:
        """The task was cancelled. True if nothing has been sent, and so nothing will be."""
        self.withdrawn = True
        return not self.sent

    async def run(self, actor: BusinessActor) -> TaskRef | None:
        """The whole attempt. Returns where the task waits next, None when it does not (or is another's)."""
        tools = actor.tools
        term = tools.term_of(self.ref.shard)
        if term is None:
            return None
        secrets = await tools.secrets_of(self.ref.business_id)  # before the claim: a store that is out stops it here
        task = await tools.claims.submit(ClaimRequest(self.ref.task_id, self.ref.version, self.ref.shard, term))
        if task is None:
            (
                tools.metrics.claims_refused if tools.term_of(self.ref.shard) == term else tools.metrics.fenced_writes
            ).inc()
            return None
        self.permit.memory.settle(len(task.payload))
        actor.memory_settled()
        try:
            return await self._carry_out(actor, Claimed(task, secrets))
        except StoreUnavailable:
            raise
        except Exception as error:
            tools.log.error("attempt failed inside", task_id=task.id, exc_info=error)
            tools.alert("attempt_fault", f"task {task.id}: {type(error).__name__}")
            return await self._record_fault(actor, task, error)

    async def _carry_out(self, actor: BusinessActor, claimed: Claimed) -> TaskRef | None:
        tools, task = actor.tools, claimed.task
        if self.start_at > tools.clock.now_ms():
            await tools.clock.sleep_until(self.start_at)
        while True:
            await self._wait_for_lease(actor)
            if self.withdrawn:
                actor.end_exchange(self)
                # nobody else knows that nothing was sent, and that no end of it need be waited for
                await tools.outcomes.submit(self._outcome(actor, task, None, withdrawn(task)))
                return None
            if tools.term_of(task.shard) != task.term:
                tools.metrics.fenced_writes.inc()
                return None
            if (move := self._refusal(task, tools.clock.now_ms(), self.permit.held_by)) is not None:
                return await self._hand_back(actor, claimed, move)
            try:
                ended = await self._send(actor, claimed)
            except Withheld:
                self.sent = False
                continue
            actor.end_exchange(self)
            return await self._record(actor, ended)

    async def _wait_for_lease(self, actor: BusinessActor) -> None:
        """A lease that lapses between claim and send and is then renewed (the process stood still) loses nothing: the
        row is still ours, and nobody else would ever look at it.
        """
        term_of = actor.tools.term_of
        while term_of(self.ref.shard) is None and not (self.withdrawn or self.dropped):  # noqa: ASYNC110  # rare; no event
            await trio.sleep(LEASE_POLL_S)

    @staticmethod
    def _refusal(task: Task, now_ms: int, held_by: str | None) -> Move | None:
        """Why this attempt must not start after all."""
        if task.deadline_at is not None and now_ms > task.deadline_at:
            return expired(task, held_by)
        return missed_run(task, now_ms)

    async def _send(self, actor: BusinessActor, claimed: Claimed) -> Ended:
        tools, task = actor.tools, claimed.task
        self.sent = True
        attributes = {"taskcenter.task_id": task.id, "taskcenter.attempt": task.current_retry + 1}
        headers: list[tuple[str, str]] = []
        started_ms = tools.clock.now_ms_exact()
        try:
            body = body_of(task)
            with tools.tracer.span("callback", attributes):
                headers = headers_of(task, body, claimed.secrets, int(started_ms), tools.tracer.traceparent())
                target, may_send = check_url(task.callback_url), partial(self._may_send, actor, task)
                request = CallbackRequest(task.callback_method, target, headers, body, may_send=may_send)
                exchange, headers = await self._exchange(actor, request, task.timeout_ms / 1000)
            ended_ms = tools.clock.now_ms_exact()
            decision = decide(exchange, now_ms=int(ended_ms))
        except Withheld:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this attempt's fault, and recorded so
            exchange = self._faulted(actor, error)
            ended_ms = tools.clock.now_ms_exact()
            decision = decide(exchange, now_ms=int(ended_ms))
        self.health = receiver_health(exchange, decision)
        self.cause = decision.reason or ""
        return Ended(task, exchange, decision, masked(headers), started_ms, ended_ms)

    def _may_send(self, actor: BusinessActor, task: Task) -> bool:
        """Between the last look at the lease and the first byte come a token, a name, a handshake: seconds perhaps, or
        as long as the process stood still. The receiver's minute has this callback from that byte on.
        """
        if actor.tools.term_of(task.shard) != task.term:
            return False
        now = actor.tools.clock.now_ms()
        if not self.restated and now - self.start_at > LATE_START_MS:
            self.restated = True
            self.permit.restate(now)
        return True

    @staticmethod
    async def _exchange(
        actor: BusinessActor, request: CallbackRequest, timeout_s: float
    ) -> tuple[Exchange, list[tuple[str, str]]]:
        """What came of it, and the headers that were sent; within `timeout_s`, the business's credential included."""
        began = trio.current_time()
        authorized = await actor.client.authorize(request, timeout_s)
        if isinstance(authorized, Faulted):
            return authorized, list(request.headers)
        left_s = timeout_s - (trio.current_time() - began)
        if left_s <= 0:  # the process stood still meanwhile
            return Faulted("timeout", f"nothing was sent within {timeout_s:g} s", sent=False), list(request.headers)
        return await actor.client.exchange(authorized, left_s), list(authorized.headers)

    def _faulted(self, actor: BusinessActor, error: Exception) -> Faulted:
        if isinstance(error, CallbackUrlError):
            return Faulted("blocked", f"callback_url {error}", sent=False)
        actor.tools.log.error("attempt crashed", task_id=self.ref.task_id, exc_info=error)
        return Faulted("connection_error", _internal(error), sent=True)

    async def _record(self, actor: BusinessActor, ended: Ended) -> TaskRef | None:
        """Make the end durable; decide again when the task was changed while the call was on its way."""
        execution = execution_of(ended, self.permit.held_by, self.permit.start_at)
        task = ended.task
        while True:
            move = move_after(task, ended.decision, int(ended.started_ms), int(ended.ended_ms))
            try:
                outcome = self._outcome(actor, task, execution, move)
                recorded = await actor.tools.outcomes.submit(outcome)
            except StoreUnavailable:
                raise
            except Exception as error:
                if execution.request_headers == UNRECORDED:
                    raise
                actor.tools.log.error("history not recorded", task_id=task.id, exc_info=error)
                execution = replace(execution, response_headers={}, response_body=None, request_headers=UNRECORDED)
                continue
            if not isinstance(recorded, Stale):
                break
            task = recorded.task
        actor.meters.attempted(execution.status, execution.duration_ms, execution.lateness_ms)
        actor.tools.log.info("attempt", business=actor.business.code, **log_fields(ended, execution, move))
        return self._next(actor, task, outcome, recorded)

    async def _record_fault(self, actor: BusinessActor, task: Task, error: Exception) -> TaskRef | None:
        """What decides or records the end of this attempt is broken for this task: the task ends, and says so.

        If its end was recorded before the fault this finds it superseded and changes nothing.
        """
        now_ms = actor.tools.clock.now_ms_exact()
        exchange = Faulted("connection_error", _internal(error), sent=self.sent)
        ended = Ended(task, exchange, decide(exchange, now_ms=int(now_ms)), {}, now_ms, now_ms)
        move = faulted(task, _internal(error))
        outcome = Outcome(
            task.id,
            task.business_id,
            task.version,
            task.term,
            task.sends,
            execution_of(ended, self.permit.held_by, self.permit.start_at),
            move,
            None,
        )
        while isinstance(recorded := await actor.tools.outcomes.submit(outcome), Stale):
            outcome = replace(outcome, version=recorded.task.version)
        return self._next(actor, task, outcome, recorded)

    async def _hand_back(self, actor: BusinessActor, claimed: Claimed, move: Move) -> TaskRef | None:
        """Claimed, but nothing was sent: the row moves on without an execution."""
        task = claimed.task
        last = await self._last_of(actor, task)
        while True:
            outcome = replace(self._outcome(actor, task, last, move), execution=None)
            recorded = await actor.tools.outcomes.submit(outcome)
            if not isinstance(recorded, Stale):
                return self._next(actor, task, outcome, recorded)
            task = recorded.task
            move = self._refusal(task, actor.tools.clock.now_ms(), self.permit.held_by) or move

    @staticmethod
    async def _last_of(actor: BusinessActor, task: Task) -> Execution | None:
        """For as long as the store takes: the row is claimed, and must be moved on."""
        while True:
            try:
                return await last_of(actor.tools.task_store, task)
            except StoreUnavailable as error:
                actor.tools.log.warning("history not read", task_id=task.id, error=str(error))
            await trio.sleep(STORE_PAUSE_S)

    def _outcome(self, actor: BusinessActor, task: Task, execution: Execution | None, move: Move) -> Outcome:
        tools = actor.tools
        now = tools.clock.now_ms()
        finish = finish_call(task, move, execution, tools.ids.next(now), now)
        return Outcome(task.id, task.business_id, task.version, task.term, task.sends, execution, move, finish)

    def _next(
        self, actor: BusinessActor, task: Task, outcome: Outcome, recorded: Applied | Superseded
    ) -> TaskRef | None:
        move = outcome.move
        match recorded:
            case Superseded():
                if actor.tools.term_of(task.shard) != task.term:
                    actor.tools.metrics.fenced_writes.inc()
                return None
            case Applied(version=version):
                if outcome.finish is not None:
                    actor.tools.arm(ref_of(outcome.finish))
                if move.status in TERMINAL and task.kind is TaskKind.CALLBACK:
                    actor.meters.finished(move.status)
                if move.next_execute_at is None:
                    return None
                return TaskRef(
                    task.id,
                    task.business_id,
                    task.shard,
                    move.next_execute_at,
                    version,
                    task.callback_host,
                    task.deadline_at,
                    task.flow_key,
                    FlowLimit.of(task.flow_limit),
                )
            case _:
                assert_never(recorded)


def _internal(error: Exception) -> str:
    """The kind of fault alone: its words may hold what must not be shown."""
    return f"internal fault ({type(error).__name__})"
