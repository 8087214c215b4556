"""Where an attempt's end takes its task: every row of CONTRACT.md §4, then schedules, deadlines and finish calls."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.actors.tasks import MINUTE, NOW, attempt_of, claimed

from taskcenter.actors.answers import Decision, Deferred, Retry, Stop, Success, decide
from taskcenter.actors.egress.exchange import Answered, Exchange, Faulted, FaultKind
from taskcenter.actors.finish import finish_of
from taskcenter.actors.outcome import (
    FINISH_RETRIES_MS,
    Health,
    expired,
    finish_call,
    health_of,
    missed_run,
    move_after,
    receiver_health,
)
from taskcenter.actors.retry import MAX_DEFERRALS
from taskcenter.schedule import validate
from taskcenter.store.engine_records import Move, SendPoint
from taskcenter.store.records import ExecutionStatus, Task, TaskKind
from taskcenter.task import FinishReason, Status

START = NOW + 5
END = NOW + 45
NEW_ID = "01K00000000000000000000009"
JSON = (("content-type", "application/json"),)
HOURLY = validate({"every": 3600})
HOUR = 60 * MINUTE


def answer(status: int, said: Any = None, *headers: tuple[str, str]) -> Answered:
    body = b"" if said is None else json.dumps(said).encode()
    return Answered(status, (*headers, *(JSON if body else ())), body, len(body), reused=False)


def after_exchange(task: Task, exchange: Exchange) -> Move:
    return move_after(task, decide(exchange, now_ms=END), START, END)


FAULTS: list[FaultKind] = ["timeout", "connection_error", "blocked", "invalid_response"]
FAILED_ATTEMPTS: list[Exchange] = [
    *(answer(status) for status in (300, 301, 302, 304, 307, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504)),
    answer(200, {"action": "retry"}),
    answer(204, {"action": "retry", "reason": "busy"}),
    answer(200, {"action": "retry", "retry_after": "soon"}),
    answer(500, {"action": "nonsense"}),
    answer(500, None, ("retry-after", "9")),
    *(Faulted(kind, "told", sent=True) for kind in FAULTS),
]
STOPS: list[Exchange] = [
    answer(410),
    answer(489),
    *(answer(status, {"action": "stop", "reason": "sold out"}) for status in (200, 404, 500)),
    *(answer(status, None, ("x-taskcenter-action", "stop")) for status in (200, 400, 503)),
    *(answer(status, None, ("webhook-delivery", "abort-message")) for status in (202, 500)),
]
DEFERRALS: list[tuple[Exchange, int]] = [
    (answer(429, None, ("retry-after", "30")), END + 30_000),
    (answer(503, None, ("retry-after", "30")), END + 30_000),
    (answer(503, None, ("retry-after", "Fri, 15 Jan 2027 08:01:00 GMT")), NOW + MINUTE),
    (answer(429, None, ("retry-after", "0")), END + 1_000),
    (answer(429, None, ("retry-after", "86400")), END + HOUR),
    (answer(200, {"action": "retry", "retry_after": 2.5}), END + 2_500),
    (answer(500, {"action": "retry", "retry_after": 7}), END + 7_000),
]


@pytest.mark.parametrize("exchange", [answer(200), answer(201), answer(204), answer(200, {"ok": True}), answer(299)])
def test_a_2xx_succeeds(exchange: Exchange) -> None:
    move = after_exchange(claimed(current_retry=1, last_error="before"), exchange)
    assert move == Move(Status.SUCCEEDED, current_retry=1, deferrals=0, run=1, runs_done=0)


@pytest.mark.parametrize("exchange", FAILED_ATTEMPTS, ids=repr)
def test_a_failed_attempt_is_followed_by_the_lists_next(exchange: Exchange) -> None:
    move = after_exchange(claimed(), exchange)
    assert (move.status, move.current_retry, move.next_execute_at) == (Status.RETRYING, 1, END + 1_000)
    assert move.finish_reason is None
    assert move.last_error


@pytest.mark.parametrize("exchange", FAILED_ATTEMPTS, ids=repr)
def test_the_last_failed_attempt_ends_the_task(exchange: Exchange) -> None:
    move = after_exchange(claimed(current_retry=2), exchange)
    assert (move.status, move.finish_reason) == (Status.FAILED, FinishReason.RETRIES_EXHAUSTED)
    assert (move.current_retry, move.next_execute_at) == (2, None)
    assert move.last_error


@pytest.mark.parametrize("exchange", STOPS, ids=repr)
def test_a_stop_ends_the_task_whatever_is_left_of_the_list(exchange: Exchange) -> None:
    move = after_exchange(claimed(), exchange)
    assert (move.status, move.finish_reason) == (Status.STOPPED, FinishReason.RECEIVER_STOPPED)
    assert move.next_execute_at is None


@pytest.mark.parametrize(("exchange", "due_at"), DEFERRALS, ids=repr)
def test_a_deferral_is_the_same_attempt_again_at_the_receivers_time(exchange: Exchange, due_at: int) -> None:
    move = after_exchange(claimed(current_retry=1, deferrals=3), exchange)
    assert (move.status, move.next_execute_at) == (Status.RETRYING, due_at)
    assert (move.current_retry, move.deferrals, move.doubtful) == (1, 4, False)
    assert after_exchange(claimed(doubtful=True), exchange).doubtful  # it may have come in before, unheard of
    assert not after_exchange(claimed(doubtful=True), answer(500)).doubtful


def test_from_the_twenty_first_on_a_deferral_counts_as_a_failed_attempt() -> None:
    exchange = DEFERRALS[0][0]
    assert after_exchange(claimed(deferrals=MAX_DEFERRALS - 1), exchange).deferrals == MAX_DEFERRALS == 20
    move = after_exchange(claimed(deferrals=MAX_DEFERRALS), exchange)
    assert (move.current_retry, move.deferrals, move.next_execute_at) == (1, MAX_DEFERRALS, END + 1_000)
    move = after_exchange(claimed(deferrals=MAX_DEFERRALS, current_retry=2), exchange)
    assert (move.status, move.finish_reason) == (Status.FAILED, FinishReason.RETRIES_EXHAUSTED)


def test_each_attempt_is_due_its_interval_after_the_former_one_ended() -> None:
    intervals = (1_000, 10_000, 600_000)
    for retry, interval in enumerate(intervals):
        move = after_exchange(claimed(retry_intervals_ms=intervals, current_retry=retry), answer(500))
        assert move.next_execute_at == END + interval


def test_an_empty_list_means_once() -> None:
    assert after_exchange(claimed(retry_intervals_ms=()), answer(500)).finish_reason is FinishReason.RETRIES_EXHAUSTED


def test_a_long_error_is_cut() -> None:
    move = move_after(claimed(), Retry(ExecutionStatus.HTTP_ERROR, "x" * 5_000), START, END)
    assert move.last_error == "x" * 1_000


# --- health ---------------------------------------------------------------------------------------------------------

HEALTH: list[tuple[Exchange, Health]] = [
    (answer(200), Health.WELL),
    (answer(404), Health.WELL),
    (answer(301), Health.WELL),
    (answer(410), Health.WELL),
    (answer(500, {"action": "stop"}), Health.WELL),
    (answer(429), Health.WELL),
    (answer(429, None, ("retry-after", "5")), Health.WELL),
    (answer(503, None, ("retry-after", "5")), Health.UNWELL),
    (answer(500), Health.UNWELL),
    (Faulted("timeout", "m", sent=True), Health.UNWELL),
    (Faulted("connection_error", "m", sent=False), Health.UNWELL),
    (Faulted("invalid_response", "m", sent=True), Health.UNWELL),
    (Faulted("blocked", "m", sent=False), Health.UNKNOWN),
]


@pytest.mark.parametrize(("exchange", "health"), HEALTH, ids=repr)
def test_what_an_exchange_says_about_its_receiver(exchange: Exchange, health: Health) -> None:
    decision = decide(exchange, now_ms=END)
    assert receiver_health(exchange, decision) is health
    status = exchange.status if isinstance(exchange, Answered) else None
    assert health_of(SendPoint(NOW, decision.status, "h", status)) is health  # history says the same


def test_an_interrupted_attempt_says_nothing() -> None:
    assert health_of(SendPoint(NOW, ExecutionStatus.INTERRUPTED, "h", None)) is Health.UNKNOWN


# --- deadline -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [Retry(ExecutionStatus.TIMEOUT, "m"), Deferred(END + 1_000, False, "m")], ids=repr)
def test_nothing_is_planned_past_the_deadline(decision: Decision) -> None:
    at_it = move_after(claimed(deadline_at=END + 1_000), decision, START, END)
    assert (at_it.status, at_it.next_execute_at) == (Status.RETRYING, END + 1_000)
    past_it = move_after(claimed(deadline_at=END + 999), decision, START, END)
    assert (past_it.status, past_it.finish_reason) == (Status.FAILED, FinishReason.DEADLINE_PASSED)
    assert past_it.last_error == "m"


def test_a_claimed_task_whose_deadline_has_passed_says_so_and_what_it_waited_for_and_what_went_wrong_before() -> None:
    move = expired(claimed(deadline_at=NOW - 1), None)
    assert (move.status, move.finish_reason) == (Status.FAILED, FinishReason.DEADLINE_PASSED)
    assert move.last_error == "the deadline 2027-01-15T07:59:59.999Z passed"
    waited = expired(claimed(deadline_at=NOW - 1, last_error="refused"), "breaker").last_error or ""
    assert waited.endswith("passed while it waited for the breaker; before that: refused")


# --- schedules ------------------------------------------------------------------------------------------------------


def recurring(**given: Any) -> Task:
    return claimed(**({"schedule": HOURLY, "run": 3, "runs_done": 2} | given))


@pytest.mark.parametrize(
    ("decision", "error"), [(Success(), None), (Retry(ExecutionStatus.TIMEOUT, "late"), "late")], ids=repr
)
def test_a_run_that_ends_is_followed_by_the_next(decision: Decision, error: str | None) -> None:
    move = move_after(recurring(current_retry=2, deferrals=4), decision, START, END)
    assert move == Move(
        Status.PENDING, current_retry=0, deferrals=0, run=4, runs_done=3, next_execute_at=NOW + HOUR, last_error=error
    )


def test_a_stop_ends_a_schedule_too() -> None:
    move = move_after(recurring(), Stop("enough"), START, END)
    assert (move.status, move.finish_reason, move.next_execute_at) == (
        Status.STOPPED,
        FinishReason.RECEIVER_STOPPED,
        None,
    )


@pytest.mark.parametrize(
    ("limit", "deadline_at"),
    [({"max_runs": 3}, None), ({"end_at": "2027-01-15T08:59:59.999Z"}, None), ({}, NOW + HOUR - 1)],
)
def test_the_last_run_decides_how_a_schedule_ends(limit: dict[str, Any], deadline_at: int | None) -> None:
    task = recurring(schedule=validate({"every": 3600} | limit), deadline_at=deadline_at, current_retry=2)
    well = move_after(task, Success(), START, END)
    assert (well.status, well.finish_reason, well.runs_done) == (Status.SUCCEEDED, FinishReason.SCHEDULE_ENDED, 3)
    ill = move_after(task, Retry(ExecutionStatus.HTTP_ERROR, "500"), START, END)
    assert (ill.status, ill.finish_reason, ill.runs_done) == (Status.FAILED, FinishReason.RETRIES_EXHAUSTED, 3)


def test_missed_times_are_made_up_for_once_or_passed_over() -> None:
    ended = NOW + 2 * HOUR + MINUTE  # the run was long: two times went by
    once = move_after(recurring(), Success(), START, ended)
    assert once.next_execute_at == NOW + 2 * HOUR
    skip = move_after(recurring(schedule=validate({"every": 3600, "misfire": "skip"})), Success(), START, ended)
    assert skip.next_execute_at == NOW + 3 * HOUR


def test_a_run_that_began_late_has_made_up_for_the_times_before_it() -> None:
    began = NOW + 2 * HOUR + MINUTE
    move = move_after(recurring(), Success(), began, began + 40)
    assert move.next_execute_at == NOW + 3 * HOUR


def skipping(**given: Any) -> Task:
    return recurring(**({"schedule": validate({"every": 3600, "misfire": "skip"})} | given))


def test_a_run_is_missed_when_the_next_one_is_due_as_well() -> None:
    assert missed_run(skipping(), NOW + HOUR - 1) is None
    move = missed_run(skipping(last_error="before"), NOW + 2 * HOUR + 1)
    assert move == Move(
        Status.PENDING, current_retry=0, deferrals=0, run=3, runs_done=2, next_execute_at=NOW + 3 * HOUR,
        last_error="before",
    )  # fmt: skip


@pytest.mark.parametrize(
    "task",
    [recurring(), claimed(), skipping(current_retry=1), skipping(deferrals=1), skipping(doubtful=True)],
    ids=["once", "no schedule", "retry", "deferred", "lost with its sender"],
)
def test_only_the_first_attempt_of_a_skipping_schedule_is_ever_missed(task: Task) -> None:
    assert missed_run(task, NOW + 5 * HOUR) is None


def test_a_missed_run_with_none_after_it_ends_the_schedule_and_the_last_one_is_made_late() -> None:
    ending = validate({"every": 3600, "misfire": "skip", "end_at": "2027-01-15T09:30:00Z"})
    move = missed_run(skipping(schedule=ending), NOW + 3 * HOUR)
    assert move is not None
    assert (move.status, move.finish_reason) == (Status.SUCCEEDED, FinishReason.SCHEDULE_ENDED)
    assert missed_run(skipping(schedule=ending, scheduled_at=NOW + HOUR), NOW + 3 * HOUR) is None


# --- finish calls ---------------------------------------------------------------------------------------------------

URL = "https://receiver.test:8443/finished"
FAILED = Move(
    Status.FAILED, current_retry=2, deferrals=0, run=1, runs_done=0, finish_reason=FinishReason.RETRIES_EXHAUSTED
)


def test_a_finish_call_is_a_task_of_its_own_that_tells_how_it_ended() -> None:
    task = claimed(finish_url=URL, current_retry=2, sends=3, timeout_ms=2_000)
    last = attempt_of(task, status=ExecutionStatus.HTTP_ERROR, response_status=500, error_message="told")
    new = finish_call(task, FAILED, last, NEW_ID, END)
    assert new is not None
    assert json.loads(new.payload) == {
        "task_id": task.id,
        "business_code": "shop",
        "business_id": "order-1",
        "status": "failed",
        "finish_reason": "retries_exhausted",
        "run": 1,
        "attempts": 3,
        "last_execution": {
            "id": last.id,
            "attempt": 3,
            "run": 1,
            "status": "http_error",
            "response_status": 500,
            "started_at": "2027-01-15T08:00:00.002Z",
            "duration_ms": 40.123,
            "error_message": "told",
        },
    }
    assert (new.id, new.kind, new.due_at, new.business_id, new.shard) == (NEW_ID, TaskKind.FINISH, END, 7, task.shard)
    assert (new.callback_url, new.callback_host, new.callback_method) == (URL, "receiver.test", "POST")
    assert (new.retry_intervals_ms, new.timeout_ms, new.finish_url) == (task.retry_intervals_ms, 2_000, None)


def test_a_task_that_is_tried_once_has_its_end_told_with_patience() -> None:
    new = finish_call(claimed(finish_url=URL, retry_intervals_ms=()), FAILED, None, NEW_ID, END)
    assert new is not None
    assert new.retry_intervals_ms == FINISH_RETRIES_MS
    assert json.loads(new.payload)["last_execution"] is None


@pytest.mark.parametrize(
    ("task", "move"),
    [
        (claimed(), FAILED),
        (claimed(finish_url=URL), replace(FAILED, status=Status.RETRYING, finish_reason=None, next_execute_at=END)),
        (claimed(finish_url=URL, kind=TaskKind.FINISH), FAILED),
    ],
    ids=["none asked for", "not over", "a finish call itself"],
)
def test_there_is_no_finish_call(task: Task, move: Move) -> None:
    assert finish_call(task, move, attempt_of(task), NEW_ID, END) is None


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.STOPPED, Status.CANCELLED])
def test_every_end_is_told_once_a_run(status: Status) -> None:
    task = claimed(finish_url=URL)
    first = finish_call(task, replace(FAILED, status=status), None, NEW_ID, END)
    again = finish_call(task, replace(FAILED, status=status, run=2), None, NEW_ID, END)
    assert first is not None
    assert again is not None
    assert json.loads(first.payload)["status"] == status
    assert first.business_unique_id != again.business_unique_id


def test_an_end_outside_of_an_attempt_gives_birth_to_the_same_task_however_often_it_is_decided() -> None:
    ended = claimed(finish_url=URL, status=Status.CANCELLED, finish_reason=FinishReason.CANCELLED)
    born = finish_of(END)(ended, None)
    assert born is not None
    assert born == finish_of(END)(ended, None)
    other = finish_of(END)(replace(ended, run=2), None)
    assert other is not None
    assert other.id != born.id
