"""What the service asks of the engine, as one small Protocol; `runtime` hands the real one in.

All calls are best effort and cheap: the row is the truth, the sweep finds what a lost call did not tell. An instance
that does not own the shard forwards a hint to the owner; `wait_view` asks the owner, and waits half a second at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from taskcenter.actors.breaker import Breaker
from taskcenter.store.records import Business
from taskcenter.task import TaskRef


@dataclass(frozen=True, slots=True)
class WaitView:
    """Why a task that is due here has not been sent: known only to the owner of its shard."""

    reason: str  # a `Hold.reason`, or in_flight | owner
    position: int | None  # in the business's ready queue, from 0
    expected_start_at: int | None  # ms
    detail: str


@dataclass(frozen=True, slots=True)
class HostBreaker:
    """The breaker of one destination host; times in ms."""

    host: str
    state: str  # closed | open | half_open
    since: int | None
    next_probe_at: int | None
    cause: str | None


def host_breaker(host: str, breaker: Breaker) -> HostBreaker:
    return HostBreaker(host, breaker.state.value, breaker.since, breaker.next_probe_at, breaker.cause)


@dataclass(frozen=True, slots=True)
class BusinessView:
    """A business's live state on its owner."""

    in_flight: int
    ready: int  # due, held back
    mailbox_depth: int
    restarts: int
    degraded: bool
    unwell: tuple[HostBreaker, ...]  # the breakers that are not closed, the worst first
    closed_since: int | None  # ms; when all are closed again
    rate_limit_used: int  # callbacks started in the last 60 s


class Engine(Protocol):
    @property
    def instance_id(self) -> str: ...

    def offer(self, ref: TaskRef) -> None:
        """A task was created, changed or is due now."""

    def withdraw(self, task_id: str, business_id: int) -> bool:
        """A task was cancelled. True: an attempt was held here, had not been sent and never will be."""

    def owns(self, shard: int) -> bool: ...

    def business_changed(self, business: Business) -> None: ...

    def secrets_changed(self, business_id: int) -> None:
        """Signing secrets of the business were changed by this process."""

    def business_view(self, business_id: int) -> BusinessView | None:
        """None: not running here."""

    async def wait_view(self, shard: int, business_id: int, task_id: str) -> WaitView | None:
        """What holds a due task back, by the owner of its shard's word. None: it has not been taken up yet."""

    def overloaded(self) -> str | None:
        """Why creates should be shed now (event loop lag, store queue), or None."""

    def statistics(self) -> dict[str, Any]:
        """For GET /stats: shards, wheel, committer, transport, actors, restarts."""

    def health(self) -> dict[str, str]:
        """check → ok | degraded: … | unavailable: …"""
