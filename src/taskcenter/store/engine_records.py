"""What the engine gives the store and gets from it: claims, outcomes, leases. Times are ms since 1970 UTC."""

from __future__ import annotations

from collections.abc import Callable

from taskcenter.store.records import Execution, ExecutionStatus, NewAuditEntry, NewTask, Task
from taskcenter.task import FinishReason, Status
from taskcenter.values import value_class


@value_class(frozen=True, slots=True)
class ClaimRequest:
    task_id: str
    version: int
    shard: int
    term: int


@value_class(frozen=True, slots=True)
class Move:
    """Where an outcome takes the task. Waiting states name `next_execute_at`, terminal ones `finish_reason`."""

    status: Status
    current_retry: int
    deferrals: int
    run: int
    runs_done: int
    next_execute_at: int | None = None
    finish_reason: FinishReason | None = None
    last_error: str | None = None
    manual: bool = False  # see `Task.manual`
    doubtful: bool = False  # see `Task.doubtful`


@value_class(frozen=True, slots=True)
class OpenAttempt:
    """An attempt that was claimed, and whose end nobody has told yet."""

    task_id: str
    number: int  # the task's `sends` at the claim
    business_id: int
    business_code: str
    shard: int
    term: int
    run: int
    attempt: int
    scheduled_at: int
    claimed_at: int  # or changed by the API since


@value_class(frozen=True, slots=True)
class Outcome:
    """The end of a sent attempt: recorded by compare-and-set on (running, term, sends, version)."""

    task_id: str
    business_id: int
    version: int  # of the claim
    term: int
    sends: int
    execution: Execution | None  # None: claimed, but nothing was sent (deadline passed, run skipped, handed back)
    move: Move
    finish: NewTask | None = None  # the finish_url's own task, born in the same transaction
    audit: NewAuditEntry | None = None


@value_class(frozen=True, slots=True)
class Settlement:
    """A move of a waiting task without an attempt: its deadline passed. Guarded by version and term."""

    task_id: str
    business_id: int
    shard: int
    version: int
    term: int
    move: Move
    finish: NewTask | None = None


@value_class(frozen=True, slots=True)
class Applied:
    version: int  # the row's, now


@value_class(frozen=True, slots=True)
class Stale:
    """The row was changed (an update) since the claim: decide again on `task` and record again."""

    task: Task


@value_class(frozen=True, slots=True)
class Superseded:
    """The row is no longer this attempt's: cancelled, recovered by another owner, gone. The history row was kept."""


Recorded = Applied | Stale | Superseded

# The finish_url's own task for a task that has just ended, its last attempt given (None: it had none), or None. Called
# inside the transaction that ends it, perhaps twice and perhaps in another thread, so it must be pure: draw identifiers
# beforehand. `recover` hands it the task with headers and payload left empty; the attempt is without its data always.
FinishOf = Callable[[Task, Execution | None], NewTask | None]


@value_class(frozen=True, slots=True)
class SendPoint:
    """One callback of the last minutes: what rebuilds limiter and breaker after a change of owner."""

    started_at: int
    status: ExecutionStatus
    callback_host: str
    response_status: int | None


@value_class(frozen=True, slots=True)
class Instance:
    id: str
    address: str | None  # where peers reach its nudge port; None when alone
    host_identity: str  # boot, pid namespace, pid, start time: lets a neighbour see that it is dead
    seq: int
    dead: bool
    expires_in_ms: int  # by the store's clock
    started_at: int
    leaving: bool = False  # it has been told to end, and lets its shards go


@value_class(frozen=True, slots=True)
class ShardLease:
    shard: int
    owner: str | None
    term: int
