"""What an admitted attempt has taken of its business's limits, and how it gives it back. Pure.

A permit ends exactly once, when its exchange is over or will not be: what limits callbacks on their way is free then.
Its share of memory is held until the attempt is recorded. One that was not sent leaves no trace in any window.
"""

from __future__ import annotations

from taskcenter.actors.breaker import Breaker, Ticket
from taskcenter.actors.flows import FlowTicket
from taskcenter.actors.limiter import SlidingWindowLimiter
from taskcenter.actors.memory import MemoryShare
from taskcenter.actors.outcome import Health
from taskcenter.task import TaskRef
from taskcenter.values import value_class


@value_class(frozen=True, slots=True)
class Permit:
    """`ref` may be sent at `start_at` (ms), not before."""

    ref: TaskRef
    start_at: int
    held_by: str | None  # what held it back past its due time, for the history
    limiter: SlidingWindowLimiter
    limiter_entry: int
    breaker: Breaker
    breaker_ticket: Ticket
    flow_tickets: tuple[FlowTicket, ...]  # of its flow key and of its host
    memory: MemoryShare

    def restate(self, at_ms: int) -> None:
        """It started at `at_ms`, later than planned."""
        self.limiter.restate(self.limiter_entry, at_ms)
        for ticket in self.flow_tickets:
            ticket.restate(at_ms)

    def end(self, now_ms: int, *, sent: bool, health: Health, cause: str) -> None:
        """The exchange is over; what it says about the receiver goes to the breaker."""
        if not sent:
            self.limiter.give_back(self.limiter_entry)
        for ticket in self.flow_tickets:
            ticket.end(sent=sent)
        match health:
            case Health.WELL:
                self.breaker.succeed(self.breaker_ticket, now_ms)
            case Health.UNWELL:
                self.breaker.fail(self.breaker_ticket, now_ms, cause)
            case Health.UNKNOWN:
                self.breaker.cancel(self.breaker_ticket)
