"""What every actor of a process shares, handed in by `runtime`; and the meters of one business."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from taskcenter.actors.breaker import Breaker, BreakerState, Transition
from taskcenter.actors.committer import Committer
from taskcenter.actors.egress.exchange import CallbackRequest, Exchange, Faulted
from taskcenter.actors.gate import FairGate
from taskcenter.actors.signing import SigningSecret
from taskcenter.clock import Clock
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.store.engine_records import ClaimRequest, Outcome, Recorded
from taskcenter.store.interface import EngineStore, TaskStore
from taskcenter.store.records import Business, ExecutionStatus, Task
from taskcenter.task import TERMINAL, Status, TaskRef
from taskcenter.tracing import AttemptTracer


class CallbackClient(Protocol):
    """One business's connections, and its credentials for the receivers it calls."""

    async def authorize(self, request: CallbackRequest, deadline_s: float) -> CallbackRequest | Faulted: ...
    async def exchange(self, request: CallbackRequest, deadline_s: float) -> Exchange: ...
    def update(self, business: Business) -> None: ...
    def close_idle(self) -> int: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ActorTools:
    clock: Clock
    rng: random.Random
    ids: IdSource
    metrics: Metrics
    log: Any
    tracer: AttemptTracer
    gate: FairGate
    claims: Committer[ClaimRequest, Task | None]
    outcomes: Committer[Outcome, Recorded]
    engine_store: EngineStore
    task_store: TaskStore
    arm: Callable[[TaskRef], None]  # put a waiting task where it will wake: the wheel, or straight back here
    term_of: Callable[[int], int | None]  # shard → the fencing term under which we may send now
    secrets_of: Callable[[int], Awaitable[Sequence[SigningSecret]]]
    alert: Callable[[str, str], None]  # (rule, text)
    new_client: Callable[[Business], CallbackClient]
    backlog_pace: float  # times a business's rate limit; 0: overdue tasks are not paced
    business_memory: int  # bytes that one business's callbacks on their way may hold


class BusinessMeters:
    """The labelled children of one business, taken once."""

    def __init__(self, metrics: Metrics, code: str) -> None:
        self.in_flight = metrics.callbacks_in_flight.labels(code)
        self.depth = metrics.actor_mailbox_depth.labels(code)
        self.tokens = metrics.rate_limit_tokens.labels(code)
        self.restarts = metrics.actor_restarts.labels(code)
        self._limited = metrics.rate_limited.labels(code)
        self._limited_task: str | None = None
        self._duration = metrics.callback_duration.labels(code)
        self._lateness = metrics.callback_lateness.labels(code)
        self._breaker = metrics.breaker_state.labels(code)
        self._next_probe = metrics.breaker_next_probe.labels(code)
        self._transitions = {state: metrics.breaker_transitions.labels(code, state.value) for state in BreakerState}
        self._outcomes = {status: metrics.callbacks.labels(code, status.value) for status in ExecutionStatus}
        self._finished: dict[Status, Any] = {
            status: metrics.tasks_finished.labels(code, status.value) for status in TERMINAL
        }

    def rate_limited(self, task_id: str) -> None:
        """Count a callback once, however often the loop looks at it."""
        if task_id != self._limited_task:
            self._limited_task = task_id
            self._limited.inc()

    def attempted(self, status: ExecutionStatus, duration_ms: float, lateness_ms: float) -> None:
        self._outcomes[status].inc()
        self._duration.observe(duration_ms / 1000)
        self._lateness.observe(max(0.0, lateness_ms) / 1000)

    def finished(self, status: Status) -> None:
        self._finished[status].inc()

    def breaker_moved(self, transition: Transition) -> None:
        self._transitions[transition.to].inc()

    def breaker_state(self, breakers: Iterable[Breaker]) -> None:
        """The worst of the business's hosts, and the earliest of their next probes."""
        level, probe_at = 0, 0
        for breaker in breakers:
            level = max(level, _LEVEL[breaker.state])
            if breaker.next_probe_at is not None:
                probe_at = min(probe_at or breaker.next_probe_at, breaker.next_probe_at)
        self._breaker.set(level)
        self._next_probe.set(probe_at / 1000)


_LEVEL = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
