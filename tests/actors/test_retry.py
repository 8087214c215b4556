"""What follows an attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.answers import Decision, Deferred, Retry, Stop, Success
from taskcenter.actors.retry import (
    MAX_DEFERRALS,
    Defer,
    Finish,
    GiveUp,
    NextStep,
    RetryAt,
    next_step,
    planned_attempts,
)
from taskcenter.store.records import ExecutionStatus
from taskcenter.task import FinishReason, Status

END = 1_000_000
FAILED = Retry(ExecutionStatus.HTTP_ERROR, "the receiver answered 500")
LATER = Deferred(END + 30_000, status_code_503=False, reason="busy")


def step(
    decision: Decision,
    *,
    attempt: int = 1,
    manual: bool = False,
    deferrals: int = 0,
    intervals: tuple[int, ...] = (1000, 5000),
    deadline_ms: int | None = None,
) -> NextStep:
    return next_step(
        decision,
        attempt=attempt,
        manual=manual,
        deferrals=deferrals,
        retry_intervals_ms=intervals,
        ended_ms=END,
        deadline_ms=deadline_ms,
    )


def test_attempt_k_plus_1_is_due_the_kth_interval_after_attempt_k_ended() -> None:
    assert step(FAILED, attempt=1) == RetryAt(END + 1000, 2)
    assert step(FAILED, attempt=2) == RetryAt(END + 5000, 3)
    assert step(FAILED, attempt=3) == GiveUp(FinishReason.RETRIES_EXHAUSTED)


def test_a_retry_that_was_asked_for_before_its_time_is_not_used_up() -> None:
    assert step(FAILED, attempt=2, manual=True) == RetryAt(END + 1000, 2)
    assert step(FAILED, attempt=3, manual=True) == RetryAt(END + 5000, 3), "the last one too"
    assert step(LATER, attempt=3, manual=True) == Defer(END + 30_000)
    assert step(FAILED, attempt=4, manual=True) == GiveUp(FinishReason.RETRIES_EXHAUSTED), "of a list cut since"
    assert step(FAILED, attempt=2, manual=True, deadline_ms=END) == GiveUp(FinishReason.DEADLINE_PASSED)


def test_an_empty_list_is_one_attempt() -> None:
    assert step(FAILED, intervals=()) == GiveUp(FinishReason.RETRIES_EXHAUSTED)


def test_success_and_stop_end_the_run_whatever_else() -> None:
    for attempt in (1, 3, 9):
        assert step(Success(), attempt=attempt, deadline_ms=0) == Finish(Status.SUCCEEDED, None)
        assert step(Stop("enough"), attempt=attempt, deadline_ms=0) == Finish(
            Status.STOPPED, FinishReason.RECEIVER_STOPPED
        )


def test_a_deferral_uses_nothing_up_until_the_twentieth() -> None:
    assert step(LATER, deferrals=0) == Defer(END + 30_000)
    assert step(LATER, deferrals=19) == Defer(END + 30_000)
    assert step(LATER, deferrals=20) == RetryAt(END + 1000, 2)
    assert step(LATER, deferrals=20, attempt=3) == GiveUp(FinishReason.RETRIES_EXHAUSTED)
    assert step(LATER, attempt=3, deferrals=19) == Defer(END + 30_000)  # the last attempt may be deferred too


def test_nothing_is_planned_past_the_deadline() -> None:
    assert step(FAILED, deadline_ms=END + 1000) == RetryAt(END + 1000, 2)
    assert step(FAILED, deadline_ms=END + 999) == GiveUp(FinishReason.DEADLINE_PASSED)
    assert step(LATER, deadline_ms=END + 30_000) == Defer(END + 30_000)
    assert step(LATER, deadline_ms=END + 29_999) == GiveUp(FinishReason.DEADLINE_PASSED)
    assert step(FAILED, attempt=3, deadline_ms=0) == GiveUp(FinishReason.RETRIES_EXHAUSTED)


@given(
    st.lists(st.integers(1000, 604_800_000), max_size=10),
    st.lists(st.booleans(), min_size=40, max_size=200),
    st.none() | st.integers(0, 10_000_000_000),
)
def test_every_run_ends_within_its_list_and_its_deferrals(
    intervals: list[int], deferring: list[bool], deadline_ms: int | None
) -> None:
    now, attempt, deferrals, sends = 0, 1, 0, 0
    for defers in deferring:
        sends += 1
        decision: Decision = Deferred(now + 1000, status_code_503=False, reason="busy") if defers else FAILED
        following = next_step(
            decision,
            attempt=attempt,
            manual=False,
            deferrals=deferrals,
            retry_intervals_ms=intervals,
            ended_ms=now,
            deadline_ms=deadline_ms,
        )
        if isinstance(following, GiveUp):
            break
        assert isinstance(following, RetryAt | Defer)
        assert following.due_ms > now
        assert deadline_ms is None or following.due_ms <= deadline_ms
        if isinstance(following, RetryAt):
            assert following.attempt == attempt + 1
            assert following.due_ms == now + intervals[attempt - 1]
            attempt = following.attempt
        else:
            deferrals += 1
        now = following.due_ms
    else:
        pytest.fail("the run did not end")
    assert sends <= len(intervals) + 1 + MAX_DEFERRALS


@pytest.mark.parametrize(
    ("attempt", "manual", "deadline_ms", "planned"),
    [
        (1, False, None, [(1, 100), (2, 1100), (3, 6100)]),
        (2, False, None, [(2, 100), (3, 5100)]),
        (3, False, None, [(3, 100)]),
        (2, True, None, [(2, 100), (2, 1100), (3, 6100)]),
        (3, True, None, [(3, 100), (3, 5100)]),
        (1, False, 1100, [(1, 100), (2, 1100)]),
        (1, False, 99, []),
    ],
)
def test_planned_attempts_stop_at_the_end_of_the_list_and_at_the_deadline(
    attempt: int, manual: bool, deadline_ms: int | None, planned: list[tuple[int, int]]
) -> None:
    assert planned == planned_attempts(
        first_due_ms=100, attempt=attempt, manual=manual, retry_intervals_ms=(1000, 5000), deadline_ms=deadline_ms
    )
