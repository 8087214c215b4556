"""Each task's life as the journal has it, replayed on the model of what the contract says (`tests/flow/life_model`).

A change of a row is one of the moves of `taskcenter.task.TRANSITIONS`, known by what it did to the columns. What moved
it — an answer, a loss, a call — is looked up in the other records; the model says what had to become of the task, its
next due time included, and the row must agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from tests.flow.life_model import WAITING, Model
from tests.simulation.journal import Move, Row

from taskcenter.errors import InvalidTransition
from taskcenter.task import TERMINAL, Event, Status, after
from taskcenter.times import parse_duration

if TYPE_CHECKING:
    from tests.simulation.receivers import Sent

ROUNDED_MS: Final = 2  # a time that went through whole ms twice
ENDS: Final = frozenset(status.value for status in TERMINAL)


@dataclass
class Life:
    """One task. `sends`: by (task, term, due); a claim has at most one."""

    moves: Sequence[Move]
    sends: dict[tuple[str, int, int], list[Sent]]
    model: Model = field(init=False)
    faults: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """What the contract does not allow, in words."""
        first = self.moves[0].row
        if self.moves[0].former != 0 or first.status != "pending" or first.version != 1:
            return [f"task {first.id} was born {first.status} at version {first.version}"]
        self.model = Model(
            first.id, {} if first.schedule is None else {"schedule": {}}, first.next_execute_at, first.max_retries,
            anchor=first.anchor_at,
        )  # fmt: skip
        self._adopt(first)
        for before, move in pairwise(self.moves):
            self._step(before.row, move)
            if self.faults:
                break
        return self.faults

    def _step(self, old: Row, move: Move) -> None:
        new = move.row
        if move.former != old.version or new.version != old.version + 1:
            self._wrong(move, f"version {old.version} became {move.former} → {new.version}")
            return
        event = _event(old, new)
        try:
            expected = after(Status(old.status), event)
        except InvalidTransition:
            self._wrong(move, f"{old.status} became {new.status}: a task that is {old.status} cannot {event}")
            return
        if expected != new.status:
            self._wrong(move, f"{event} took it from {old.status} to {new.status}, not {expected}")
            return
        self._apply(event, old, move)
        if not self.faults:
            self._compare(event, move)

    def _apply(self, event: Event, old: Row, move: Move) -> None:
        model, new = self.model, move.row
        match event:
            case Event.CLAIM:
                if (new.scheduled_at, new.next_execute_at) != (old.next_execute_at, None):
                    self._wrong(move, f"due {old.next_execute_at}, claimed for {new.scheduled_at}")
                if new.term < old.term:
                    self._wrong(move, f"claimed under term {new.term} after {old.term}")
                model.claimed(None)
            case Event.RECOVER | Event.GIVE_UP:
                model.interrupted()
                model.due = new.updated_at if new.status in WAITING else None
            case Event.CANCEL:
                model.cancelled()
            case Event.REDELIVER:
                model.again()
                self._adopt(new)
            case Event.UPDATE | Event.RUN_NOW:
                model.changed()
                self._adopt(new)
            case Event.EXPIRE if old.status != "running":
                if new.deadline_at is None or new.updated_at <= new.deadline_at:
                    self._wrong(move, "expired before its deadline")
                model.expired()
            case _:
                self._recorded(old, move)

    def _recorded(self, old: Row, move: Move) -> None:
        sent = self.sends.get((old.id, old.term, old.scheduled_at), [])
        if not sent:
            if old.deadline_at is None or move.row.updated_at <= old.deadline_at:
                self._wrong(move, "the end of an attempt was recorded that was never sent")
            self.model.expired()
            return
        one = sent[0]
        if one.mood is None:
            self._wrong(move, "the end of an attempt was recorded before its sender heard an answer")
            return
        intervals = [*json.loads(old.retry_intervals), 0]
        used = old.current_retry - old.manual
        listed = intervals[used] if used < len(intervals) else 0
        deferred = one.mood.meaning == "deferral" and old.deferrals < 20
        self.model.over(
            one.mood.meaning, old.scheduled_at, int(one.sender_ended_at), started_at=one.began_at,
            waits=one.mood.waits_ms if deferred else listed,
        )  # fmt: skip

    def _adopt(self, row: Row) -> None:
        """What only the caller knows."""
        model = self.model
        model.retries, model.deadline, model.manual = row.max_retries, row.deadline_at, bool(row.manual)
        if row.status in WAITING:
            model.due, model.anchor = row.next_execute_at, row.anchor_at
        if row.schedule is not None:
            schedule: dict[str, Any] = json.loads(row.schedule)
            model.every, model.most_runs = parse_duration(schedule["every"]), schedule["max_runs"]

    def _compare(self, event: Event, move: Move) -> None:
        row, seen = move.row, self.model.seen
        found = {
            "status": row.status, "finish_reason": row.finish_reason, "version": row.version, "run": row.run,
            "runs": row.runs_done, "current_retry": row.current_retry, "max_retries": row.max_retries,
            "attempts": row.sends, "deferrals": row.deferrals,
        }  # fmt: skip
        if found != seen:
            differing = {name: (seen[name], found[name]) for name in seen if seen[name] != found[name]}
            self._wrong(move, f"after {event} (due, found): {differing}")
        due, planned = row.next_execute_at, self.model.due
        if (due is None) != (planned is None) or abs((due or 0) - (planned or 0)) > ROUNDED_MS:
            self._wrong(move, f"after {event} due {due}, not {planned}")
        if row.status in WAITING and bool(row.manual) != self.model.manual:
            self._wrong(move, f"after {event} {'' if row.manual else 'not '}marked as asked for")
        if row.status in WAITING and bool(row.doubtful) != self.model.doubtful:
            self._wrong(move, f"after {event} {'' if row.doubtful else 'not '}marked as doubtful")
        if (row.finished_at is not None) != (row.status in ENDS):
            self._wrong(move, f"{row.status}, finished at {row.finished_at}")
        self.model.due = due  # to the ms: the next step counts from it

    def _wrong(self, move: Move, what: str) -> None:
        self.faults.append(f"task {move.row.id} at {move.at} by {move.by}: {what}")


def _event(old: Row, new: Row) -> Event:
    """What moved the row, by what it did to its columns."""
    if new.sends != old.sends:
        return Event.CLAIM
    if new.status == "cancelled":
        return Event.CANCEL
    if old.status in ENDS:
        return Event.REDELIVER
    if new.status == old.status and new.run == old.run and new.runs_done == old.runs_done:
        return Event.UPDATE
    if new.interruptions > old.interruptions:
        return Event.GIVE_UP if new.status == "failed" else Event.RECOVER
    if new.finish_reason == "deadline_passed":
        return Event.EXPIRE
    return _end_of_attempt(old, new)


def _end_of_attempt(old: Row, new: Row) -> Event:
    match new.status, new.finish_reason:
        case "retrying", _:
            return Event.DEFER if new.deferrals > old.deferrals else Event.RETRY
        case "pending", _:
            return Event.NEXT_RUN
        case "succeeded", reason:
            return Event.SUCCEED if reason is None else Event.END_SCHEDULE
        case "stopped", _:
            return Event.STOP
    return Event.EXHAUST


def lives(moves: dict[str, list[Move]], sends: dict[tuple[str, int, int], list[Sent]]) -> Iterator[str]:
    """What is wrong with any task's life."""
    for of_task in moves.values():
        yield from Life(of_task, sends).check()
    yield from _finish_calls(moves)


def _finish_calls(moves: dict[str, list[Move]]) -> Iterator[str]:
    """A task with a `finish_url` has one call of it for each run that ended for good, and nobody else has any."""
    calls = [of_task[0].row.business_unique_id for of_task in moves.values() if of_task[0].row.kind == "finish"]
    due = [
        f"finish:{move.row.id}:{move.row.run}".encode()
        for of_task in moves.values()
        for before, move in pairwise(of_task)
        if move.row.kind == "callback"
        and move.row.finish_url
        and move.row.status in ENDS
        and before.row.status not in ENDS
    ]
    found = sorted(call.lstrip(b"\0") for call in calls)
    if found != sorted(due):
        yield f"finish calls {found}, due {sorted(due)}"
