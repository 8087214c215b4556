"""What a task is: its states, the moves between them, and the reference the engine carries about. Pure.

The whole life of a task is the table `TRANSITIONS`; `docs/states.md` is generated from it. Every SQL statement that
changes a task's status is one row of it, guarded by the states it may leave (`store/`). A move that is not in the table
raises `InvalidTransition`: that is a bug of ours, never a race. Races are lost in the guarded UPDATE, silently and
counted.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Self

from taskcenter.errors import InvalidTransition
from taskcenter.values import value_class

SHARDS: Final = 256


class Status(StrEnum):
    PENDING = "pending"  # waits for its time
    RUNNING = "running"  # claimed: an attempt may be on its way
    RETRYING = "retrying"  # waits for the next attempt of the same run
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # the receiver said stop
    CANCELLED = "cancelled"


WAITING: Final = frozenset({Status.PENDING, Status.RETRYING})
ACTIVE: Final = WAITING | {Status.RUNNING}
TERMINAL: Final = frozenset(Status) - ACTIVE


class FinishReason(StrEnum):
    """Why a task is in a terminal state; absent for a plain success."""

    RETRIES_EXHAUSTED = "retries_exhausted"
    DEADLINE_PASSED = "deadline_passed"
    CRASH_SUSPECT = "crash_suspect"
    RECEIVER_STOPPED = "receiver_stopped"
    SCHEDULE_ENDED = "schedule_ended"
    CANCELLED = "cancelled"


class Event(StrEnum):
    CLAIM = "claim"  # the owner takes it, just before the send
    SUCCEED = "succeed"  # 2xx
    RETRY = "retry"  # a failed attempt, the list has another
    DEFER = "defer"  # the receiver named a later time: the same attempt
    STOP = "stop"  # the receiver said stop
    EXHAUST = "exhaust"  # a failed attempt, the list is used up
    EXPIRE = "expire"  # no attempt may start after the deadline
    NEXT_RUN = "next_run"  # a recurring task's run ended, another follows
    SKIP_RUN = "skip_run"  # a missed run is passed over
    END_SCHEDULE = "end_schedule"  # no further run
    RECOVER = "recover"  # found running under an older term: the same attempt again
    GIVE_UP = "give_up"  # its owner died three times in a row with it
    CANCEL = "cancel"
    UPDATE = "update"
    RUN_NOW = "run_now"
    REDELIVER = "redeliver"  # a finished task's callback again, as a new run


TRANSITIONS: Final[dict[tuple[Status, Event], Status]] = {
    (Status.PENDING, Event.CLAIM): Status.RUNNING,
    (Status.RETRYING, Event.CLAIM): Status.RUNNING,
    (Status.RUNNING, Event.SUCCEED): Status.SUCCEEDED,
    (Status.RUNNING, Event.RETRY): Status.RETRYING,
    (Status.RUNNING, Event.DEFER): Status.RETRYING,
    (Status.RUNNING, Event.STOP): Status.STOPPED,
    (Status.RUNNING, Event.EXHAUST): Status.FAILED,
    (Status.RUNNING, Event.EXPIRE): Status.FAILED,
    (Status.RUNNING, Event.NEXT_RUN): Status.PENDING,
    (Status.RUNNING, Event.END_SCHEDULE): Status.SUCCEEDED,
    (Status.RUNNING, Event.RECOVER): Status.RETRYING,
    (Status.RUNNING, Event.GIVE_UP): Status.FAILED,
    (Status.PENDING, Event.EXPIRE): Status.FAILED,
    (Status.RETRYING, Event.EXPIRE): Status.FAILED,
    (Status.PENDING, Event.SKIP_RUN): Status.PENDING,
    (Status.RETRYING, Event.NEXT_RUN): Status.PENDING,
    (Status.PENDING, Event.END_SCHEDULE): Status.SUCCEEDED,
    (Status.PENDING, Event.CANCEL): Status.CANCELLED,
    (Status.RETRYING, Event.CANCEL): Status.CANCELLED,
    (Status.RUNNING, Event.CANCEL): Status.CANCELLED,
    (Status.PENDING, Event.UPDATE): Status.PENDING,
    (Status.RETRYING, Event.UPDATE): Status.RETRYING,
    (Status.RUNNING, Event.UPDATE): Status.RUNNING,
    (Status.PENDING, Event.RUN_NOW): Status.PENDING,
    (Status.RETRYING, Event.RUN_NOW): Status.RETRYING,
    (Status.SUCCEEDED, Event.REDELIVER): Status.PENDING,
    (Status.FAILED, Event.REDELIVER): Status.PENDING,
    (Status.STOPPED, Event.REDELIVER): Status.PENDING,
    (Status.CANCELLED, Event.REDELIVER): Status.PENDING,
}


def after(status: Status, event: Event) -> Status:
    """The state `event` leads to from `status`. Raises `InvalidTransition`, naming both, when there is none."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise InvalidTransition(f"a task that is {status} cannot {event}") from None


def states_allowing(event: Event) -> frozenset[Status]:
    """The states a guarded UPDATE for `event` may leave."""
    return frozenset(status for status, known in TRANSITIONS if known is event)


def shard_of(business_code: str) -> int:
    """The shard, 0 … 255, that all tasks of a business live in (DESIGN.md §3.5)."""
    return zlib.crc32(business_code.encode()) % SHARDS


@value_class(frozen=True, slots=True)
class FlowLimit:
    """What holds for all tasks of a business with the same flow key."""

    rate: int | None  # starts in any period; None: as many as may be
    period_ms: int
    parallelism: int | None  # callbacks on their way at once; None: as many as may be

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Self | None:
        """From the task's JSON: `{rate, period (s), parallelism}`."""
        if values is None:
            return None
        return cls(values.get("rate"), round(values.get("period", 60) * 1000), values.get("parallelism"))


@value_class(frozen=True, slots=True)
class TaskRef:
    """All the engine keeps in memory of a waiting task; the row is the truth and this can be dropped and re-read."""

    task_id: str
    business_id: int
    shard: int
    due_at: int  # ms since 1970, UTC
    version: int
    host: str = ""  # where the callback goes: one unwell host must not hold up the business's others
    deadline_at: int | None = None  # ms; no attempt starts after it
    flow_key: str | None = None
    flow_limit: FlowLimit | None = None
