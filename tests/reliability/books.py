"""A trial's books, sorted the ways the checks want them, and the rules they are judged by."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

from tests.reliability.ledger import Change, Create, Execution, Ledger, Send, Sight

Key = TypeVar("Key")
Item = TypeVar("Item")
ClaimKey = tuple[str, int, int, int, float]  # task, run, attempt, term, due: one claim, and so one send at most


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one trial."""

    settled: bool = True  # it was waited for until every task had ended
    rate_limits: Mapping[str, int] = field(default_factory=dict)  # callbacks a minute, by business code
    record_slack_ms: float = 1000.0  # between an answer and its record: a sender lost in it repeats rightly
    jitter_ms: float = 50.0  # by which two arrivals may have come closer than their starts


class Books:
    """Made once, when the trial is over."""

    def __init__(self, ledger: Ledger, rules: Rules) -> None:
        self.ledger = ledger
        self.rules = rules
        self.sends = sorted(ledger.sends, key=lambda send: send.arrived_at)

    @cached_property
    def by_task(self) -> dict[str, list[Send]]:
        return grouped(self.sends, lambda send: send.task_id)

    @cached_property
    def by_business(self) -> dict[str, list[Send]]:
        return grouped(self.sends, lambda send: send.business)

    @cached_property
    def by_claim(self) -> dict[ClaimKey, list[Send]]:
        return grouped(self.sends, claim_of)

    @cached_property
    def changes(self) -> dict[str, list[Change]]:
        return grouped(self.ledger.changes, lambda change: change.task_id)

    @cached_property
    def creates(self) -> dict[tuple[str, str], list[Create]]:
        return grouped(self.ledger.creates, lambda create: (create.business, create.business_id))

    @cached_property
    def sights(self) -> dict[str, list[Sight]]:
        return grouped(self.ledger.sights, lambda sight: sight.task_id)

    @cached_property
    def executions(self) -> dict[ClaimKey, Execution]:
        return {
            (row.id, one.run, one.attempt, one.term, one.scheduled_at): one
            for row in self.ledger.rows.values()
            for one in row.executions
        }

    @cached_property
    def followed(self) -> list[tuple[Send, Send]]:
        """Sends of one attempt that followed one another."""
        attempts = grouped(self.sends, lambda send: (send.task_id, send.run, send.attempt))
        return [pair for sends in attempts.values() for pair in pairwise(sends)]

    @cached_property
    def repeats(self) -> list[tuple[Send, Send]]:
        """Of these, but for those after one that the receiver put off."""
        return [(before, again) for before, again in self.followed if not self.put_off(before)]

    def put_off(self, send: Send) -> bool:
        """Whether the receiver answered that it wants it again later, and that was recorded."""
        execution = self.executions.get(claim_of(send))
        return execution is not None and execution.status == "deferred"

    @cached_property
    def _first_due(self) -> dict[ClaimKey, float]:
        found: dict[ClaimKey, float] = {}
        for row in self.ledger.rows.values():
            interrupted_due: float | None = None
            for one in row.executions:
                due = one.scheduled_at if interrupted_due is None else interrupted_due
                found[row.id, one.run, one.attempt, one.term, one.scheduled_at] = due
                interrupted_due = due if one.status == "interrupted" else None
        return found

    @cached_property
    def _taken_at(self) -> dict[str, float]:
        """When the service can have known of a task at the earliest."""
        found: dict[str, float] = {}
        for creates in self.creates.values():
            first = next((each for each in creates if each.result == "created"), creates[0])
            found.update({each.task_id: first.asked_at for each in creates if each.task_id is not None})
        return found

    def first_due(self, send: Send) -> float:
        """When it was due before senders were lost with it, but not before its client asked for it."""
        due_at = self._first_due.get(claim_of(send), send.due_at)
        return max(due_at, self._taken_at.get(send.task_id, due_at))

    def held_back(self, send: Send) -> tuple[float, str | None]:
        """For how long (ms) a limit, a breaker or the pace of a backlog kept it waiting, and which of them last."""
        one = self.executions.get(claim_of(send))
        return (0.0, None) if one is None else (one.policy_wait_ms, one.wait_reason)

    def changed(self, task_id: str, *kinds: str) -> bool:
        """Whether a client may have changed it in one of these ways."""
        return any(change.kind in kinds and change.result != "refused" for change in self.changes.get(task_id, ()))

    def excused(self, earlier: Send, later: Send | None = None) -> bool:
        """Whether the sender of the earlier one was lost with it, before the later one, its end not recorded.

        What was on its way when a sender was lost is known, or else taken from the times.
        """
        attempt = (earlier.task_id, earlier.run, earlier.attempt)
        recorded_at = earlier.ended_at + self.rules.record_slack_ms
        latest = math.inf if later is None else later.arrived_at
        return any(
            earlier.arrived_at <= disruption.until_at
            and disruption.from_at <= (min(latest, recorded_at) if disruption.lost is None else latest)
            and (disruption.lost is None or attempt in disruption.lost)
            for disruption in self.ledger.disruptions
        )


def claim_of(send: Send) -> ClaimKey:
    return (send.task_id, send.run, send.attempt, send.term, send.due_at)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by key, in their order."""
    found: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)
