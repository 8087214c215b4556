"""Which of a business's due tasks may start now, and why the others may not. Pure; `now` is passed in.

A round (`round`) looks at the references in order of due time and asks in this order: may the business send at all
(paused, store, lease, concurrency, memory), does its rate limit let one start, does the destination's breaker, is it
part of a backlog that is let go at a measured pace, do its host's and its flow's limits let it start, and has the
process a place for it. `_judge` decides and returns what it found: `Halt` stops the round, `Skip` only that host,
`Park` only that flow, `Go` makes a permit. Whatever holds a reference back leaves it where it is: waiting uses no
attempt.

Admission is ahead of time (`LEAD_MS`): an admitted reference is claimed in the store and then sent at its planned
start, so the claim's latency does not add to lateness.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from taskcenter.actors.backlog import WHOLE, Backlog
from taskcenter.actors.breaker import BreakerSettings, Transition
from taskcenter.actors.breakers import Breakers
from taskcenter.actors.flows import Flow, Flows
from taskcenter.actors.gate import FairGate
from taskcenter.actors.hold import Hold, breaker_hold
from taskcenter.actors.host_limits import HostLimits
from taskcenter.actors.limiter import SlidingWindowLimiter
from taskcenter.actors.memory import MemoryBudget
from taskcenter.actors.permit import Permit
from taskcenter.actors.ready import ReadyQueue
from taskcenter.store.engine_records import SendPoint
from taskcenter.store.records import Business
from taskcenter.task import TaskRef
from taskcenter.values import value_class

LEAD_MS: Final = 50  # admitted and claimed this long before the start
READY_CAPACITY: Final = 10_000
NOTICEABLE_MS: Final = 20  # a start this late was held back by something
OUTAGES: Final = frozenset({"paused", "store"})  # what waited for one of these is let go at a measured pace


@value_class(frozen=True, slots=True)
class Halt:
    """Nothing of the business may start."""

    hold: Hold


@value_class(frozen=True, slots=True)
class Skip:
    """Nothing to this host may start; the others are looked at."""

    hold: Hold


@value_class(frozen=True, slots=True)
class Park:
    """Nothing of this flow may start; the others are looked at."""

    hold: Hold


@value_class(frozen=True, slots=True)
class Go:
    start_at: int
    flows: tuple[Flow, ...]
    paced: bool


Verdict = Halt | Skip | Park | Go


@value_class(frozen=True, slots=True)
class Surroundings:
    """What admission is told and tells. `outside`: what beyond its own limits stops the business."""

    gate: FairGate
    outside: Callable[[int, TaskRef], Hold | None]
    wake: Callable[[], None]
    rate_limited: Callable[[str], None]  # a task waits for the rate limit
    breaker_moved: Callable[[str, Transition], None]
    chance: Callable[[], float]


class Admission:
    """Owner: the business actor. What is waiting, and every limit it may wait for."""

    def __init__(
        self, business: Business, surroundings: Surroundings, *, now_ms: int, pace: float, memory_bytes: int
    ) -> None:
        self.ready = ReadyQueue(READY_CAPACITY)
        self.limiter = SlidingWindowLimiter(business.rate_limit)
        self.breakers = Breakers(BreakerSettings.of(business.breaker), surroundings.chance, surroundings.breaker_moved)
        self.hosts = HostLimits(business.host_limits)
        self.flows = Flows(self.ready.has_parked, now_ms)
        self.backlog = Backlog(business.rate_limit, pace)
        self.memory = MemoryBudget(memory_bytes)
        self.hold: Hold | None = None  # what held the whole business in the last round
        self.again_at: int | None = None  # when another round may find something, ms; None: when woken
        self._business_id = business.id
        self._around = surroundings
        self._host_holds: dict[str, Hold] = {}
        self._last_reasons: dict[str, str] = {}  # host → what last held it back, for the history

    def reconfigure(self, business: Business) -> None:
        """New settings, in force at once."""
        self.limiter.limit = business.rate_limit
        self.backlog.reconfigure(business.rate_limit)
        self.breakers.reconfigure(BreakerSettings.of(business.breaker))
        self.hosts.reconfigure(business.host_limits)

    def rebuild(
        self, minute: Iterable[SendPoint], quarter: Iterable[SendPoint], by_host: Iterable[SendPoint], now_ms: int
    ) -> None:
        """As the history, oldest first, left the limiter, the breakers and the hosts' windows."""
        self.limiter.rebuild(point.started_at for point in minute)
        self.breakers.replay(quarter)
        self.hosts.rebuild(((point.callback_host, point.started_at) for point in by_host), now_ms)

    def quiet(self, now_ms: int) -> bool:
        """Whether forgetting it all changes nothing that the history does not tell."""
        return self.breakers.all_closed and self.flows.quiet(now_ms) and self.hosts.quiet(now_ms)

    # --- a round --------------------------------------------------------------------------------------------------

    def round(self, now: int) -> Iterator[Permit]:
        """Permits for those that may start, earliest due first. Start each before asking for the next: a reference
        leaves the queue only then.
        """
        self._host_holds.clear()
        self.hold, in_line = None, False
        for flow_key in self.flows.take_due(now):
            self.ready.unpark(flow_key)
        heads = [(ref.due_at, ref.task_id, ref) for ref in self.ready.heads()]
        while heads:
            _, _, ref = heapq.heappop(heads)
            following: TaskRef | None = None
            match verdict := self._judge(ref, now):
                case Halt(hold=hold):
                    self.hold = hold
                    break
                case Skip(hold=hold):
                    self._host_holds[ref.host] = hold
                case Park(hold=hold):
                    self.flows.wait(ref, hold)
                    following = self.ready.park(ref)
                case Go():
                    if not self._around.gate.take(self._business_id, self._around.wake):
                        self.hold = Hold("capacity", None, "the process has its most callbacks in flight")
                        in_line = True
                        break
                    yield self._permit(ref, verdict, now)
                    following = self.ready.pop(ref)
            if following is not None:
                heapq.heappush(heads, (following.due_at, following.task_id, following))
        if not in_line:
            self._around.gate.decline(self._business_id)  # a slot that was kept for it is of use to others
        self._conclude()

    def _judge(self, ref: TaskRef, now: int) -> Verdict:
        if (outside := self._around.outside(now, ref)) is not None:
            if outside.reason in OUTAGES:
                self.backlog.held(WHOLE)
            return Halt(outside)
        start_at = self.limiter.available_at(max(ref.due_at, now))
        if start_at > now + LEAD_MS:
            return Halt(self._not_yet(ref, start_at, now))
        breaker = self.breakers.of(ref.host)
        if not breaker.admits(now):
            self.backlog.held(ref.host)
            return Skip(breaker_hold(ref.host, breaker))
        scope = self.backlog.scope_of(ref, now)
        if scope is not None:
            start_at = self.backlog.available_at(start_at)
            if start_at > now + LEAD_MS:
                detail = f"overdue tasks are let go at {self.backlog.per_second:.4g} a second"
                hold = Hold("backlog", start_at - LEAD_MS, detail)
                return Halt(hold) if scope == WHOLE else Skip(hold)
        host, flow = self.hosts.of(ref.host, now), self.flows.of(ref, now)
        if host is not None and (host_hold := host.hold(start_at, now, LEAD_MS)) is not None:
            return Skip(host_hold)
        if flow is not None and (flow_hold := flow.hold(start_at, now, LEAD_MS)) is not None:
            return Park(flow_hold)
        flows = tuple(one for one in (host, flow) if one is not None)
        for one in flows:
            start_at = max(start_at, one.available_at(start_at))
        return Go(start_at, flows, paced=scope is not None)

    def _not_yet(self, ref: TaskRef, start_at: int, now: int) -> Hold:
        """Its time has not come, or the rate limit's."""
        if start_at <= ref.due_at:
            return Hold("time", start_at - LEAD_MS, "not due yet")
        self._around.rate_limited(ref.task_id)
        used = self.limiter.used(now)
        return Hold("rate_limit", start_at - LEAD_MS, f"{used} of {self.limiter.limit} used in the last minute")

    def _permit(self, ref: TaskRef, go: Go, now: int) -> Permit:
        held_by = self.held_by(ref) if max(go.start_at, now) - ref.due_at > NOTICEABLE_MS else None
        breaker = self.breakers.of(ref.host)
        if go.paced:
            self.backlog.take(go.start_at)
        permit = Permit(
            ref,
            go.start_at,
            held_by,
            self.limiter,
            self.limiter.take(go.start_at),
            breaker,
            breaker.start(),
            tuple(flow.start(go.start_at) for flow in go.flows),
            self.memory.reserve(),
        )
        if ref.flow_key is not None and (flow := self.flows.get(ref.flow_key)) is not None:
            flow.holding = self.ready.has_parked(ref.flow_key)
            self._unpark(ref.flow_key)
        return permit

    def _unpark(self, flow_key: str | None) -> None:
        """The flow may have room: let its next be looked at, in this round or the following."""
        if self.ready.unpark(flow_key) is not None:
            self._around.wake()

    def _conclude(self) -> None:
        """When to look again, and what to remember of what held whom back."""
        deadline = self.ready.next_deadline()
        holds = [self.hold, *self._host_holds.values()]
        times = [hold.until for hold in holds if hold is not None]
        times += [self.flows.next_at, None if deadline is None else deadline + 1]
        self.again_at = min((at for at in times if at is not None), default=None)
        for host, hold in self._host_holds.items():
            self._last_reasons[host] = hold.reason
        if self.hold is not None and self.hold.reason != "time":
            self._last_reasons.update((head.host, self.hold.reason) for head in self.ready.heads())
        if not self.ready:
            self._last_reasons.clear()

    # --- ends, and what is asked of it ----------------------------------------------------------------------------

    def ended(self, permit: Permit) -> None:
        """The attempt of this permit is over: its flow's next may have room."""
        self._unpark(permit.ref.flow_key)

    def hold_for(self, ref: TaskRef, now: int) -> Hold | None:
        """What holds a waiting reference back."""
        if self.ready.is_parked(ref.task_id):
            return self.flows.hold_of(ref, now, LEAD_MS) or self.hold
        return self._host_holds.get(ref.host) or self.hold

    def held_by(self, ref: TaskRef) -> str | None:
        """In one word what has held it back so far, for its history."""
        return "flow" if self.flows.holding(ref) else self._last_reasons.get(ref.host)

    def __repr__(self) -> str:
        return f"<Admission ready={len(self.ready)} hold={self.hold.reason if self.hold else None}>"
