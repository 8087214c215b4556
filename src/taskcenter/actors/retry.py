"""What comes after an attempt: where a decision meets the retry list, the deferrals and the deadline. Pure.

Rules (CONTRACT.md §4): attempt k+1 is due `retry_intervals[k-1]` after attempt k *ended*. A deferral repeats the same
attempt at the time the receiver named and uses nothing up, at most 20 times a run; from then on it counts as a failed
attempt. A retry that was asked for before its time (`manual`) and fails is not used up: it is due again, after its
interval. Nothing is planned past the task's deadline: a due time after it ends the task instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from taskcenter.actors.answers import Decision, Deferred, Stop, Success
from taskcenter.task import FinishReason, Status
from taskcenter.values import value_class

MAX_DEFERRALS: Final = 20  # a run


@value_class(frozen=True, slots=True)
class RetryAt:
    """The attempt failed; the next one of the list follows."""

    due_ms: int
    attempt: int  # the next one's number


@value_class(frozen=True, slots=True)
class Defer:
    """The same attempt again; one more deferral of the run is used."""

    due_ms: int


@value_class(frozen=True, slots=True)
class GiveUp:
    """The run has failed."""

    reason: FinishReason  # RETRIES_EXHAUSTED | DEADLINE_PASSED


@value_class(frozen=True, slots=True)
class Finish:
    """The run has ended as the receiver wished."""

    status: Status  # SUCCEEDED | STOPPED
    reason: FinishReason | None  # RECEIVER_STOPPED, or None for a success


NextStep = RetryAt | Defer | GiveUp | Finish


def next_step(
    decision: Decision,
    *,
    attempt: int,
    manual: bool,
    deferrals: int,
    retry_intervals_ms: Sequence[int],
    ended_ms: int,
    deadline_ms: int | None,
) -> NextStep:
    """What follows the attempt numbered `attempt` (from 1) that ended at `ended_ms` with `decision`.

    `deferrals`: those of this run before this answer. `deadline_ms`: the last moment an attempt may start.
    """
    match decision:
        case Success():
            return Finish(Status.SUCCEEDED, None)
        case Stop():
            return Finish(Status.STOPPED, FinishReason.RECEIVER_STOPPED)
        case Deferred(until_ms=until_ms) if deferrals < MAX_DEFERRALS:
            return Defer(until_ms) if _in_time(until_ms, deadline_ms) else GiveUp(FinishReason.DEADLINE_PASSED)
    used = _used(attempt, manual)
    if used > len(retry_intervals_ms):
        return GiveUp(FinishReason.RETRIES_EXHAUSTED)
    due_ms = ended_ms + retry_intervals_ms[used - 1]
    return RetryAt(due_ms, used + 1) if _in_time(due_ms, deadline_ms) else GiveUp(FinishReason.DEADLINE_PASSED)


def planned_attempts(
    *, first_due_ms: int, attempt: int, manual: bool, retry_intervals_ms: Sequence[int], deadline_ms: int | None
) -> list[tuple[int, int]]:
    """(number, due time) of the attempts from `attempt` on if each fails at once: the earliest times, for `explain`."""
    used = _used(attempt, manual)
    due_ms, planned = first_due_ms, [(attempt, first_due_ms)]
    for number, interval_ms in enumerate(retry_intervals_ms[used - 1 :], used + 1):
        due_ms += interval_ms
        planned.append((number, due_ms))
    return [(number, due_ms) for number, due_ms in planned if _in_time(due_ms, deadline_ms)]


def _used(attempt: int, manual: bool) -> int:
    """The attempts of the list that are used up when this one has failed."""
    return attempt - 1 if manual else attempt


def _in_time(due_ms: int, deadline_ms: int | None) -> bool:
    return deadline_ms is None or due_ms <= deadline_ms
