"""The checker over a trial's books: a sound trial has no violation, and each planted one is found by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.reliability.books import Rules
from tests.reliability.judge import KINDS, verdict
from tests.reliability.ledger import Change, Create, Disruption, Execution, Ledger, Send, Sight, TaskRow

KILLED = Disruption("SIGKILL", 2_040, 2_040)
RULES = Rules(rate_limits={"shop": 3})


def sound() -> Ledger:
    """`once` succeeds; `again` fails and is retried; `twice` is on its way when its owner dies, under term 1, and is
    sent again under term 2; `gone` is cancelled. They are of two businesses, so that their terms are apart.
    """
    ledger = Ledger()
    for business, task_id in (("shop", "once"), ("shop", "again"), ("till", "twice"), ("shop", "gone")):
        ledger.add(Create(business, f"b-{task_id}", 0, 10, "created", task_id, 1_000 if task_id != "twice" else 2_000))
    ledger.add(Send("once", "shop", 1, 1, 1, 1_000, 1_001, 1_050, status=200))
    ledger.add(Send("again", "shop", 1, 1, 1, 1_000, 1_002, 1_051, status=500))
    ledger.add(Send("twice", "till", 1, 1, 1, 2_000, 2_001, 2_050, status=200))
    ledger.add(KILLED)
    ledger.add(Send("again", "shop", 1, 2, 1, 6_060, 6_061, 6_070, status=200))
    ledger.add(Send("twice", "till", 1, 1, 2, 12_000, 12_001, 12_050, redelivery=True, status=200))
    ledger.add(Change("gone", "cancel", 100, 120, "done"))
    ledger.add(Sight("once", 20, 30, 1, "pending"))
    ledger.add(Sight("once", 1_100, 1_110, 3, "succeeded"))
    ledger.close(
        [
            TaskRow(
                "once", "shop", "b-once", "succeeded",
                (Execution(1, 1, 1, 1, "success", 1_000, 1_000, 1_055, 200),),
            ),
            TaskRow(
                "again", "shop", "b-again", "succeeded",
                (
                    Execution(1, 1, 1, 1, "http_error", 1_000, 1_000, 1_060, 500),
                    Execution(2, 1, 2, 1, "success", 6_060, 6_060, 6_075, 200),
                ),
                retry_intervals_ms=(5_000,),
            ),
            TaskRow(
                "twice", "till", "b-twice", "succeeded",
                (
                    Execution(1, 1, 1, 1, "interrupted", 2_000, 2_000, 2_000),
                    Execution(2, 1, 1, 2, "success", 12_000, 12_000, 12_055, 200),
                ),
            ),
            TaskRow("gone", "shop", "b-gone", "cancelled"),
        ]
    )  # fmt: skip
    return ledger


def test_a_sound_trial_has_no_violation_and_is_measured() -> None:
    found = verdict(sound(), RULES)
    assert found.violations == (), str(found)
    assert (found.acknowledged, found.sends, found.repeats) == (4, 5, 1)
    assert found.lateness(1) == 10_001, "a repeat is late by when the attempt was due at first"
    assert "no violation" in str(found)


def test_a_task_is_not_late_by_its_clients_own_delay() -> None:
    ledger = sound()
    ledger.creates[0] = replace(ledger.creates[0], asked_at=1_000.75)
    assert verdict(ledger, RULES).lateness(0) == 0.25


Plant = Callable[[Ledger], object]


def _send(ledger: Ledger, task_id: str, last: bool = False, **changes: object) -> None:
    """Change a task's first (or last) callback in the receiver's record."""
    indices = [index for index, send in enumerate(ledger.sends) if send.task_id == task_id]
    at = indices[-1 if last else 0]
    ledger.sends[at] = replace(ledger.sends[at], **changes)  # type: ignore[arg-type]  # the test names a field


def _row(ledger: Ledger, task_id: str, **changes: object) -> None:
    ledger.rows[task_id] = replace(ledger.rows[task_id], **changes)  # type: ignore[arg-type]  # the test names a field


def _execution(ledger: Ledger, task_id: str, at: int, **changes: object) -> None:
    executions = list(ledger.rows[task_id].executions)
    executions[at] = replace(executions[at], **changes)  # type: ignore[arg-type]  # the test names a field
    _row(ledger, task_id, executions=tuple(executions))


def _more(ledger: Ledger, task_id: str, **changes: object) -> None:
    """One more callback like the task's last one."""
    last = [send for send in ledger.sends if send.task_id == task_id][-1]
    ledger.add(replace(last, **changes))  # type: ignore[arg-type]  # the test names a field


def _cancelled(ledger: Ledger, *, in_flight: bool, late_sends: int) -> None:
    ledger.changes[0] = replace(ledger.changes[0], in_flight=in_flight)
    for attempt in range(1, late_sends + 1):
        ledger.add(Send("gone", "shop", 1, attempt, 1, 1_000, 1_000 + attempt, 1_010, status=200))


def _put_off(ledger: Ledger, *, flagged: bool) -> None:
    """The receiver puts off what was sent to it again, and gets it once more."""
    _send(ledger, "twice", last=True, status=503)
    put_off = Execution(2, 1, 1, 2, "deferred", 12_000, 12_000, 12_055, 503)
    end = Execution(3, 1, 1, 2, "success", 13_100, 13_100, 13_155, 200)
    _row(ledger, "twice", executions=(ledger.rows["twice"].executions[0], put_off, end))
    ledger.add(Send("twice", "till", 1, 1, 2, 13_100, 13_101, 13_150, status=200, redelivery=flagged))


def _lost_after_cancel(ledger: Ledger, *executions: Execution) -> None:
    _cancelled(ledger, in_flight=True, late_sends=1)
    ledger.add(Disruption("SIGKILL", 1_005, 1_005))
    _row(ledger, "gone", executions=executions)


PLANTED: list[tuple[str, str, Plant]] = [
    ("acknowledged, not there", "lost", lambda books: books.rows.pop("gone")),
    ("replayed, not there", "lost", lambda books: books.add(Create("shop", "b-x", 0, 1, "replayed", "x"))),
    ("still waiting", "unfinished", lambda books: _row(books, "again", status="retrying")),
    ("refused, but there", "phantom", lambda books: books.creates.__setitem__(
        0, replace(books.creates[0], result="refused", task_id=None))),
    ("never asked for", "phantom", lambda books: books.close(
        [*books.rows.values(), TaskRow("y", "shop", "b-y", "failed")])),
    ("a callback from nowhere", "phantom", lambda books: books.sends.__setitem__(
        0, replace(books.sends[0], task_id="nobody"))),
    ("one id, two rows", "doubled", lambda books: books.close(
        [*books.rows.values(), replace(books.rows["gone"], id="gone-2")])),
    ("another id on replay", "doubled", lambda books: books.add(Create("shop", "b-once", 20, 30, "replayed", "again"))),
    ("another business's", "foreign", lambda books: _send(books, "once", business="till")),
    ("before it was due", "early", lambda books: _send(books, "once", arrived_at=999.5)),
    ("before the client's time", "early", lambda books: books.creates.__setitem__(
        0, replace(books.creates[0], due_at=1_500.0))),
    ("no fault at all", "repeated", lambda books: books.disruptions.clear()),
    ("recorded long before the fault", "repeated", lambda books: books.disruptions.__setitem__(
        0, Disruption("SIGKILL", 5_000, 5_000))),
    ("the fault was over before", "repeated", lambda books: books.disruptions.__setitem__(
        0, Disruption("SIGSTOP", 100, 1_500))),
    ("not what was on its way at the kill", "repeated", lambda books: books.disruptions.__setitem__(
        0, replace(KILLED, lost=frozenset({("once", 1, 1)})))),
    ("twice for one fault", "repeated", lambda books: _more(books, "twice", term=3, due_at=20_000, arrived_at=20_001)),
    ("not flagged", "unflagged", lambda books: _send(books, "twice", last=True, redelivery=False)),
    ("put off, then not flagged", "unflagged", lambda books: _put_off(books, flagged=False)),
    ("history says it went well", "unreasoned", lambda books: _execution(books, "twice", 0, status="success")),
    ("a retry before the answer", "overlapping", lambda books: _send(books, "again", ended_at=7_000)),
    ("a term that was over", "out_of_term", lambda books: books.sends.append(
        Send("gone", "till", 1, 1, 1, 1_000, 12_500, 12_501))),
    ("two senders of one term", "out_of_term", lambda books: (
        _send(books, "once", sender="a"), _send(books, "again", sender="b"))),
    ("left a terminal state", "resurrected", lambda books: books.add(Sight("once", 1_200, 1_210, 4, "pending"))),
    ("two states, one version", "resurrected", lambda books: books.add(Sight("once", 40, 50, 1, "running"))),
    ("an older version later", "resurrected", lambda books: books.add(Sight("once", 1_300, 1_310, 2, "running"))),
    ("ended otherwise", "resurrected", lambda books: _row(books, "once", status="failed")),
    ("called after the cancel", "uncancelled", lambda books: _cancelled(books, in_flight=False, late_sends=1)),
    ("more than the one in flight", "uncancelled", lambda books: _cancelled(books, in_flight=True, late_sends=2)),
    ("not in history", "unrecorded", lambda books: _row(books, "again", executions=books.rows["again"].executions[:1])),
    ("not in history, though cancelled", "unrecorded", lambda books: _lost_after_cancel(books)),
    ("answered, never seen", "unsent", lambda books: books.sends.pop(0)),
    ("another answer", "misrecorded", lambda books: _execution(books, "again", 0, response_status=502)),
    ("blocked, yet it came", "misrecorded", lambda books: _execution(books, "again", 0, status="blocked")),
    ("started after it came", "misrecorded", lambda books: _execution(books, "once", 0, started_at=1_020)),
    ("one claim, two callbacks", "misrecorded", lambda books: _more(books, "once", arrived_at=1_060)),
    ("succeeded without a success", "misrecorded", lambda books: _row(books, "again", executions=())),
    ("an interval cut short", "gap", lambda books: _execution(books, "again", 0, ended_at=1_100)),
    ("a third and fourth in the minute", "over_rate", lambda books: _more(books, "again", attempt=3, arrived_at=6_100)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "plant"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED])
def test_a_planted_violation_is_found(kind: str, plant: Plant) -> None:
    ledger = sound()
    plant(ledger)
    found = verdict(ledger, RULES)
    assert kind in found.counts, str(found)
    assert kind in str(found)


def test_every_kind_is_planted_and_explained() -> None:
    assert {kind for _, kind, _ in PLANTED} == KINDS.keys()


INNOCENT: list[tuple[str, Plant]] = [
    ("a put-off attempt comes again", lambda books: (
        _execution(books, "again", 0, status="deferred"),
        _execution(books, "again", 1, attempt=1),
        _send(books, "again", last=True, attempt=1))),
    ("a repeat is put off and comes once more, as the receiver wished", lambda books: _put_off(books, flagged=True)),
    ("a kept connection that ended is tried once more", lambda books: (
        _send(books, "once", status=None, ended_at=1_004),
        _more(books, "once", arrived_at=1_005, status=200))),
    ("the one in flight at a cancel", lambda books: (
        _cancelled(books, in_flight=True, late_sends=1),
        _row(books, "gone", executions=(Execution(1, 1, 1, 1, "success", 1_000, 1_000, 1_012, 200),)))),
    ("cancelled on its way, and its sender lost", lambda books: _lost_after_cancel(
        books, Execution(1, 1, 1, 1, "interrupted", 1_000, 1_001, 1_001))),
    ("known to be on its way at the kill, answered long before", lambda books: (
        books.disruptions.__setitem__(0, Disruption("SIGKILL", 5_000, 5_000, frozenset({("twice", 1, 1)}))))),
    ("claimed by the dead and never sent", lambda books: (
        books.sends.__delitem__(2), books.disruptions.clear())),
    ("an unanswered create that took effect", lambda books: books.creates.__setitem__(
        0, replace(books.creates[0], result="unknown", task_id=None))),
    ("an unanswered create that did not", lambda books: books.add(Create("shop", "b-z", 0, 1, "unknown"))),
    ("redelivered at a client's wish", lambda books: (
        books.add(Change("once", "redeliver", 1_150, 1_160, "done")),
        books.add(Sight("once", 1_200, 1_210, 4, "pending")))),
    ("a finish call", lambda books: books.close(
        [*books.rows.values(), TaskRow("f", "shop", "once", "succeeded", (
            Execution(1, 1, 1, 1, "success", 1_100, 1_100, 1_110, 200),), derived=True)])),
]  # fmt: skip


@pytest.mark.parametrize("plant", [row[1] for row in INNOCENT], ids=[row[0] for row in INNOCENT])
def test_what_may_happen_is_no_violation(plant: Plant) -> None:
    ledger = sound()
    plant(ledger)
    found = verdict(ledger, replace(RULES, rate_limits={}))
    assert found.violations == (), str(found)
