"""What a trial is judged by: the receiver's record, the API clients' record, and what the service says of itself.

Nothing here reads a clock, a socket or a file, so a simulation fills the same books as a run of real processes. The
books are only ever added to. `judge.verdict` compares them. Times are ms since 1970 by one clock, the receiver's and
the clients' alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Send:
    """One request as the receiver saw it."""

    task_id: str
    business: str  # its code
    run: int
    attempt: int
    term: int
    due_at: float
    arrived_at: float
    ended_at: float = math.inf  # its answer began to leave, or its connection was gone; infinite: not yet
    redelivery: bool = False
    status: int | None = None  # of the answer; None: there was none
    sender: str | None = None  # the instance, where the trial can know it


@dataclass(frozen=True, slots=True)
class Create:
    """One answer (or none) to a client that asked for a task."""

    business: str
    business_id: str
    asked_at: float
    told_at: float
    result: str  # created, replayed, refused, or unknown: no answer, or one that leaves it open
    task_id: str | None = None
    due_at: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One answer (or none) to a client that asked for a change of a task."""

    task_id: str
    kind: str  # cancel, update, run, redeliver
    asked_at: float
    told_at: float
    result: str  # done, refused, unknown
    in_flight: bool = False  # of a cancel


@dataclass(frozen=True, slots=True)
class Sight:
    """A task as a client read it."""

    task_id: str
    asked_at: float
    told_at: float
    version: int
    status: str


@dataclass(frozen=True, slots=True)
class Execution:
    """An attempt, as the service's history has it."""

    number: int  # grows with every claim of the task
    run: int
    attempt: int
    term: int
    status: str
    scheduled_at: float
    started_at: float
    ended_at: float
    response_status: int | None = None
    policy_wait_ms: float = 0.0  # of its lateness, while a limit, a breaker or the pace of a backlog held it back
    wait_reason: str | None = None  # the last of these


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task, as the store has it at the end. `executions` in the order of their numbers."""

    id: str
    business: str
    business_id: str
    status: str
    executions: tuple[Execution, ...] = ()
    retry_intervals_ms: tuple[float, ...] = ()
    recurring: bool = False
    derived: bool = False  # made by the service itself: a finish call


@dataclass(frozen=True, slots=True)
class Disruption:
    """What was done to an instance or to the store: the only excuse for a repeat. One that was over at once (SIGKILL)
    ends where it begins.
    """

    kind: str
    from_at: float
    until_at: float
    lost: frozenset[tuple[str, int, int]] | None = None  # (task, run, attempt) on their way then; None: not known


@dataclass(slots=True)
class Ledger:
    """The books of one trial, in the order in which their entries were made."""

    sends: list[Send] = field(default_factory=list)
    creates: list[Create] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    disruptions: list[Disruption] = field(default_factory=list)
    rows: dict[str, TaskRow] = field(default_factory=dict)  # by id; the last read of each

    def add(self, entry: Send | Create | Change | Sight | Disruption) -> None:
        match entry:
            case Send():
                self.sends.append(entry)
            case Create():
                self.creates.append(entry)
            case Change():
                self.changes.append(entry)
            case Sight():
                self.sights.append(entry)
            case Disruption():
                self.disruptions.append(entry)

    def close(self, rows: Iterable[TaskRow]) -> None:
        """The state of the store when all was over."""
        self.rows = {row.id: row for row in rows}
