"""The values that go into the store and come out of it. Times are ms since 1970 UTC, durations say their unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Final

from taskcenter.store.callback_credentials import CallbackAuth, CallbackTls
from taskcenter.task import FinishReason, FlowLimit, Status, TaskRef
from taskcenter.values import value_class

JsonObject = Mapping[str, Any]


class BusinessStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"  # creates are accepted, no callback starts
    DISABLED = "disabled"  # credentials are refused, no callback starts


@value_class(frozen=True, slots=True)
class Business:
    id: int
    code: str
    name: str
    shard: int
    status: BusinessStatus
    rate_limit: int  # callbacks in any 60 s
    max_concurrent_tasks: int  # callbacks on their way at once
    max_active_tasks: int
    default_timeout_ms: int
    breaker: JsonObject  # CONTRACT.md §3, `breaker`
    host_limits: JsonObject  # destination host, or `*` for every other → {rate, period (s), parallelism}
    version: int
    created_at: int
    updated_at: int
    last_access_at: int | None
    callback_auth: CallbackAuth | None = None
    callback_tls: CallbackTls | None = None


@value_class(frozen=True, slots=True)
class Credential:
    """An API key as it is kept: by its public id, with a keyed hash of the secret part."""

    key_id: str
    business_id: int
    secret_hash: bytes = field(repr=False)
    created_at: int
    expires_at: int
    revoked_at: int | None = None
    last_used_at: int | None = None


@value_class(frozen=True, slots=True)
class SigningSecret:
    """A business's `whsec_…`; sealed at rest. The newest signs first, those in grace sign beside it."""

    id: str
    business_id: int
    secret: str = field(repr=False)
    created_at: int
    expires_at: int | None  # end of grace; None for the current one


class TaskKind(StrEnum):
    CALLBACK = "callback"
    FINISH = "finish"  # the one call of a task's finish_url; hidden from lists, quotas and counts


@value_class(frozen=True, slots=True)
class NewTask:
    id: str
    business_id: int
    business_code: str
    shard: int
    business_unique_id: str  # the API's `business_id`
    request_hash: bytes  # 32 bytes over the canonical body: tells a replay from a conflict
    callback_url: str
    callback_host: str
    callback_method: str
    headers: Mapping[str, str] = field(repr=False)
    payload: bytes = field(repr=False)  # JSON text
    retry_intervals_ms: tuple[int, ...]
    timeout_ms: int
    due_at: int
    created_at: int
    schedule: JsonObject | None = None
    deadline_at: int | None = None
    finish_url: str | None = None
    tags: tuple[str, ...] = ()
    flow_key: str | None = None
    flow_limit: JsonObject | None = None
    kind: TaskKind = TaskKind.CALLBACK


@value_class(frozen=True, slots=True)
class Task:
    """A row of `tasks`, opened."""

    id: str
    business_id: int
    business_code: str
    shard: int
    business_unique_id: str
    callback_url: str
    callback_host: str
    callback_method: str
    headers: Mapping[str, str] = field(repr=False)
    payload: bytes = field(repr=False)
    retry_intervals_ms: tuple[int, ...]
    timeout_ms: int
    schedule: JsonObject | None
    deadline_at: int | None
    finish_url: str | None
    tags: tuple[str, ...]
    flow_key: str | None
    flow_limit: JsonObject | None
    kind: TaskKind
    status: Status
    finish_reason: FinishReason | None
    current_retry: int  # failed attempts of this run; the attempt to be sent is current_retry + 1
    deferrals: int  # of this run
    interruptions: int  # owners lost in a row while this attempt was on its way
    doubtful: bool  # an earlier send of this attempt has no known end: the receiver is told that it may be a duplicate
    manual: bool  # the retry to be sent was asked for before its time: if it fails it is not used up
    run: int  # from 1
    runs_done: int  # finished runs of a schedule
    sends: int  # claims in its whole life; numbers the executions
    term: int  # fencing term of the last claim
    scheduled_at: int  # due time of the present or last attempt
    anchor_at: int  # first due time of the present schedule or series: `every` counts from it
    next_execute_at: int | None  # None unless pending or retrying
    version: int
    last_error: str | None
    created_at: int
    updated_at: int
    finished_at: int | None

    @property
    def max_retries(self) -> int:
        return len(self.retry_intervals_ms)

    @property
    def ref(self) -> TaskRef | None:
        """What the engine needs while it waits; None when it does not."""
        if self.next_execute_at is None:
            return None
        return TaskRef(
            self.id,
            self.business_id,
            self.shard,
            self.next_execute_at,
            self.version,
            self.callback_host,
            self.deadline_at,
            self.flow_key,
            FlowLimit.of(self.flow_limit),
        )


class ExecutionStatus(StrEnum):
    SUCCESS = "success"
    RETRY = "retry"
    DEFERRED = "deferred"
    STOP = "stop"
    TIMEOUT = "timeout"
    CONNECTION_ERROR = "connection_error"
    HTTP_ERROR = "http_error"
    BLOCKED = "blocked"
    INVALID_RESPONSE = "invalid_response"
    INTERRUPTED = "interrupted"


@value_class(frozen=True, slots=True)
class Execution:
    """One attempt that was sent, or may have been. `(task_id, number)` is its key, so recording twice is harmless."""

    task_id: str
    business_id: int
    number: int  # the task's `sends` at the claim
    run: int
    attempt: int
    term: int
    scheduled_at: int
    started_at: int
    duration_ms: float
    lateness_ms: float
    status: ExecutionStatus
    response_status: int | None = None
    response_headers: Mapping[str, str] = field(default_factory=dict)
    response_body: bytes | None = field(default=None, repr=False)  # first 4 KiB
    error_message: str | None = None
    request_headers: Mapping[str, str] = field(default_factory=dict)  # secrets masked
    wait_reason: str | None = None  # what policy held it back last: rate_limit, breaker, concurrency, paused …
    policy_wait_ms: float = 0.0  # of its lateness, until the policies let it start; the rest is the service's own

    @property
    def id(self) -> str:
        return f"{self.task_id}-{self.number}"


# --- API: creates, changes, reads ----------------------------------------------------------------------------------


@value_class(frozen=True, slots=True)
class Created:
    task: Task


@value_class(frozen=True, slots=True)
class Replayed:
    task: Task


@value_class(frozen=True, slots=True)
class IdConflict:
    existing_task_id: str


@value_class(frozen=True, slots=True)
class QuotaFull:
    limit: int
    active: int


CreateResult = Created | Replayed | IdConflict | QuotaFull


class Unset(StrEnum):
    UNSET = "unset"


UNSET: Final = Unset.UNSET


@value_class(frozen=True, slots=True)
class TaskChange:
    """What an update sets; UNSET leaves a column alone."""

    callback_url: str | Unset = UNSET
    callback_host: str | Unset = UNSET
    callback_method: str | Unset = UNSET
    headers: Mapping[str, str] | Unset = UNSET
    payload: bytes | Unset = UNSET
    retry_intervals_ms: tuple[int, ...] | Unset = UNSET
    timeout_ms: int | Unset = UNSET
    schedule: JsonObject | Unset | None = UNSET
    tags: tuple[str, ...] | Unset = UNSET
    due_at: int | Unset = UNSET  # new next_execute_at (and anchor) of a waiting task; ignored while running
    deadline_at: int | Unset | None = UNSET
    finish_url: str | Unset | None = UNSET


# Raises an error of the caller's for what a change would make of a task. Called inside the transaction, perhaps twice
# and perhaps in another thread, so it must be pure.
TaskCheck = Callable[[Task], None]


IN_FLIGHT_SLACK_MS: Final = 305_000  # the longest lease and a little: who claimed it and stood still may send so late


@value_class(frozen=True, slots=True)
class Changed:
    task: Task
    previous: Status
    cancelled_in_flight: bool = False  # its attempt was on its way
    former_in_flight: bool = False  # an earlier one may be: see `cancelled.may_arrive`


@value_class(frozen=True, slots=True)
class Missing:
    """No such task in this business."""


@value_class(frozen=True, slots=True)
class WrongState:
    task: Task


@value_class(frozen=True, slots=True)
class VersionMismatch:
    task: Task


ChangeResult = Changed | Missing | WrongState | VersionMismatch


@value_class(frozen=True, slots=True)
class TaskFilter:
    statuses: frozenset[Status] = frozenset()
    callback_host: str | None = None
    tag: str | None = None
    created_after: int | None = None  # inclusive
    created_before: int | None = None  # exclusive
    due_after: int | None = None
    due_before: int | None = None
    finished_after: int | None = None
    finished_before: int | None = None


@value_class(frozen=True, slots=True)
class NewAuditEntry:
    business_id: int  # 0: the system's own chain
    at: int
    actor_kind: str  # admin | api_key | jwt | system | anonymous
    actor_key_id: str | None
    action: str  # task.create, task.cancel, credentials.rotate, auth.failure …
    target: str
    result: str  # ok | refused | …
    ip: str | None
    request_id: str | None


@value_class(frozen=True, slots=True)
class AuditEntry:
    business_id: int
    seq: int  # gapless within a business
    at: int
    actor_kind: str
    actor_key_id: str | None
    action: str
    target: str
    result: str
    ip: str | None
    request_id: str | None
    hash: bytes  # SHA-256 over the former hash and this entry


@value_class(frozen=True, slots=True)
class Counters:
    """A business's running totals; `active` is exact, kept in the transactions that change it."""

    business_id: int
    active: int
    created: int
    succeeded: int
    failed: int
    stopped: int
    cancelled: int
    callbacks: int
