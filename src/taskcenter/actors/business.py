"""The actor of one business: what is due for it, and when each of it may start.

The loop is: empty the mailbox into the ready queue, admit what may start, sleep until the next moment at which
something may have changed, or until somebody wakes it. Admission is a plain function (`_admit`): it looks, in order
of due time, at the business (paused?), its concurrency, its rate limit, the destination's breaker, the task's flow and
the process's gate, and starts an attempt for each reference that passes. Whatever holds a reference back leaves the row
untouched: waiting uses no attempt.

Admission is ahead of time (`LEAD_MS`): an admitted reference is claimed in the store and then sent at its planned
start, so the claim's latency does not add to lateness.

Attempts run in a nursery of the supervisor's, not in the loop's: a crash of the loop (a bug) ends no attempt and
loses no reference; the restarted loop goes on with the same queue. All state below is touched by plain functions on
one thread only.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from taskcenter.actors.attempt import Attempt
from taskcenter.actors.breaker import Breaker, BreakerSettings, BreakerState, Transition
from taskcenter.actors.breakers import Breakers
from taskcenter.actors.budget import RestartBudget
from taskcenter.actors.expiry import expire
from taskcenter.actors.flows import Flow, Flows
from taskcenter.actors.hold import Hold, breaker_hold
from taskcenter.actors.limiter import WINDOW_MS, SlidingWindowLimiter
from taskcenter.actors.mailbox import Mailbox, Offer
from taskcenter.actors.outcome import Health
from taskcenter.actors.ready import ReadyQueue
from taskcenter.actors.refill import Refill
from taskcenter.actors.tools import ActorTools, BusinessMeters
from taskcenter.errors import StoreUnavailable
from taskcenter.store.records import Business, BusinessStatus
from taskcenter.task import TaskRef

LEAD_MS: Final = 50  # admitted and claimed this long before the start
MAILBOX_CAPACITY: Final = 10_000
READY_CAPACITY: Final = 10_000
STORE_PAUSE_MS: Final = 500  # no claims for this long after the store refused one
LEAST_SLEEP_S: Final = 0.001  # above the rounding of UTC milliseconds as floats, so that time does move
NOTICEABLE_MS: Final = 20  # a start this late was held back by something


class BusinessActor:
    """One business's engine. `offer`, `withdraw`, `update` and the views are sync and may be called from anywhere."""

    def __init__(self, business: Business, tools: ActorTools) -> None:
        self.business = business
        self.tools = tools
        self.mailbox: Mailbox[TaskRef] = Mailbox(MAILBOX_CAPACITY)
        self.ready = ReadyQueue(READY_CAPACITY)
        self.limiter = SlidingWindowLimiter(business.rate_limit)
        self.in_flight: dict[str, Attempt] = {}  # by task id, from admission until recorded
        self.meters = BusinessMeters(tools.metrics, business.code)
        self.hold: Hold | None = None
        self.restarts = 0
        self.budget = RestartBudget()
        self.idle_since: int | None = None
        self.client = tools.new_client(business)
        self.breakers = Breakers(BreakerSettings.of(business.breaker), tools.rng.random, self._on_transition)
        self.flows = Flows(self.ready.has_parked)
        self._host_holds: dict[str, Hold] = {}
        self._last_reasons: dict[str, str] = {}  # host → what last held it back, for the history
        self._store_pause_until = 0
        self._refill = Refill()
        self._wake = trio.Event()

    # --- what others may call -----------------------------------------------------------------------------------

    def offer(self, ref: TaskRef) -> Offer:
        result = self.mailbox.offer(ref)
        if result is Offer.FULL:
            self._refill.wanted = True
        self.wake()
        return result

    def withdraw(self, task_id: str) -> bool:
        """Drop the task. True if an attempt of it is held here, was not sent, and never will be.

        No attempt here says nothing: another instance may be the one that is sending it.
        """
        self.ready.discard(task_id)
        attempt = self.in_flight.get(task_id)
        return attempt is not None and attempt.withdraw()

    def update(self, business: Business) -> None:
        """New settings, in force at once."""
        self.business = business
        self.limiter.limit = business.rate_limit
        self.breakers.reconfigure(BreakerSettings.of(business.breaker))
        self.client.update(business)
        self.wake()

    def forget_waiting(self) -> None:
        """The shard is another's now: drop what waits. Attempts on their way go on to their end."""
        for _ in self.mailbox.drain():
            continue
        self.ready.clear()
        self._refill.forget()
        for attempt in self.in_flight.values():
            attempt.newer, attempt.dropped = None, True
        self.wake()

    def holds(self, ref: TaskRef) -> bool:
        """Whether this version of the task is here already."""
        attempt = self.in_flight.get(ref.task_id)
        if attempt is not None and attempt.ref.version >= ref.version:
            return True
        held = self.ready.get(ref.task_id)
        return held is not None and held.version >= ref.version

    def wake(self) -> None:
        self._wake.set()

    @property
    def degraded(self) -> bool:
        """Its loop crashed too often, and has not stood for a while since."""
        return self.budget.still_degraded(trio.current_time())

    @property
    def idle(self) -> bool:
        return not (self.mailbox or self.ready or self.in_flight or self._refill.wanted)

    def hold_for(self, ref: TaskRef) -> Hold | None:
        if self.ready.is_parked(ref.task_id):
            return self.flows.hold_of(ref, self.tools.clock.now_ms(), LEAD_MS) or self.hold
        return self._host_holds.get(ref.host) or self.hold

    # --- the loop -----------------------------------------------------------------------------------------------

    async def rebuild(self) -> None:
        """Limiter and breakers from the history: a change of owner neither doubles the rate nor forgets a dead host."""
        now = self.tools.clock.now_ms()
        sends = await self.tools.engine_store.recent_sends(
            self.business.id, now - WINDOW_MS - 1000, self.business.rate_limit
        )
        self.limiter.rebuild(point.started_at for point in sends)
        self.breakers.replay(sends)

    async def run(self, attempts: trio.Nursery) -> None:
        """Admit for ever; `attempts` outlives this loop."""
        self.ready.unpark_each()
        while True:
            self._wake = trio.Event()
            again_at = self._admit(attempts)
            self._measure()
            with trio.CancelScope() as scope:
                if again_at is not None:
                    at_least = trio.current_time() + LEAST_SLEEP_S
                    scope.deadline = max(self.tools.clock.deadline_for(again_at), at_least)
                await self._wake.wait()

    def _admit(self, attempts: trio.Nursery) -> int | None:
        """Start everything that may start now. Returns when to look again (ms), None: when woken."""
        for ref in self.mailbox.drain():
            self.accept(ref)
        now = self.tools.clock.now_ms()
        for ref in self.ready.take_expired(now):
            attempts.start_soon(self._contained, partial(expire, self, ref, self._held_by(ref)))
        if self._refill.wanted and not self._refill.running and len(self.ready) <= READY_CAPACITY // 2:
            self._refill.running = True
            attempts.start_soon(self._contained, partial(self._refill.run, self))
        self._host_holds.clear()
        for flow_key in self.flows.take_due(now):
            self.ready.unpark(flow_key)
        again_at = self._start_heads(attempts, now)
        deadline = self.ready.next_deadline()
        return min(
            (at for at in (again_at, None if deadline is None else deadline + 1) if at is not None), default=None
        )

    def _start_heads(self, attempts: trio.Nursery, now: int) -> int | None:
        again: list[int] = []
        heads = [(ref.due_at, ref.task_id, ref) for ref in self.ready.heads()]
        self.hold = None
        while heads:
            _, _, ref = heapq.heappop(heads)
            start_at = self.limiter.available_at(max(ref.due_at, now))
            self.hold = self._business_hold(now, start_at, ref)
            if self.hold is not None:
                if self.hold.until is not None:
                    again.append(self.hold.until)
                self.tools.gate.decline(self.business.id)  # a slot that was kept for it is of use to others
                break
            if (host_hold := self._host_hold(ref.host, now)) is not None:
                self._host_holds[ref.host] = host_hold
                if host_hold.until is not None:
                    again.append(host_hold.until)
                continue
            flow = self.flows.of(ref)
            if flow is not None:
                if (flow_hold := flow.hold(start_at, now, LEAD_MS)) is not None:
                    self.flows.wait(ref, flow_hold)
                    following = self.ready.park(ref)
                    if following is not None:
                        heapq.heappush(heads, (following.due_at, following.task_id, following))
                    continue
                start_at = flow.available_at(start_at)
            if not self.tools.gate.take(self.business.id, self.wake):
                self.hold = Hold("capacity", None, "the process has its most callbacks in flight")
                break
            self._start(attempts, ref, start_at, now, flow)
            following = self.ready.pop(ref)
            if following is not None:
                heapq.heappush(heads, (following.due_at, following.task_id, following))
        else:
            self.tools.gate.decline(self.business.id)
        if (flow_at := self.flows.next_at) is not None:
            again.append(flow_at)
        return min(again, default=None)

    def _business_hold(self, now: int, start_at: int, ref: TaskRef) -> Hold | None:
        if self.business.status is not BusinessStatus.ACTIVE:
            return Hold("paused", None, f"the business is {self.business.status}")
        if now < self._store_pause_until:
            return Hold("store", self._store_pause_until, "the store did not take the last claim")
        if self.tools.term_of(ref.shard) is None:
            return Hold("store", now + STORE_PAUSE_MS, "the lease could not be renewed")
        if len(self.in_flight) >= self.business.max_concurrent_tasks:
            return Hold("concurrency", None, f"{len(self.in_flight)} callbacks are on their way")
        if start_at > now + LEAD_MS:
            if start_at <= ref.due_at:
                return Hold("time", start_at - LEAD_MS, "not due yet")
            self.meters.rate_limited(ref.task_id)
            used = self.limiter.used(now)
            return Hold("rate_limit", start_at - LEAD_MS, f"{used} of {self.limiter.limit} used in the last minute")
        return None

    def _host_hold(self, host: str, now: int) -> Hold | None:
        breaker = self.breakers.of(host)
        return None if breaker.admits(now) else breaker_hold(host, breaker)

    def _unpark(self, flow_key: str | None) -> None:
        """The flow may have room: let its next be looked at, in this round or the following."""
        if self.ready.unpark(flow_key) is not None:
            self.wake()

    def _held_by(self, ref: TaskRef) -> str | None:
        return "flow" if self.flows.holding(ref) else self._last_reasons.get(ref.host)

    def _start(self, attempts: trio.Nursery, ref: TaskRef, start_at: int, now: int, flow: Flow | None) -> None:
        held_by = self._held_by(ref) if max(start_at, now) - ref.due_at > NOTICEABLE_MS else None
        entry = self.limiter.take(start_at)
        flow_ticket = None if flow is None else flow.start(start_at)
        breaker_ticket = self.breakers.of(ref.host).start()
        attempt = Attempt(
            ref, start_at, limiter_entry=entry, breaker_ticket=breaker_ticket, flow_ticket=flow_ticket, held_by=held_by
        )
        if flow is not None and ref.flow_key is not None:
            flow.holding = self.ready.has_parked(ref.flow_key)
            self._unpark(ref.flow_key)
        self.in_flight[ref.task_id] = attempt
        self.meters.in_flight.inc()
        attempts.start_soon(self._attend, attempt)

    async def _attend(self, attempt: Attempt) -> None:
        """An attempt from its claim to its record, whatever happens in it."""
        breaker = self.breakers.of(attempt.ref.host)
        following: TaskRef | None = None
        try:
            following = await attempt.run(self)
        except StoreUnavailable:
            self._store_pause_until = self.tools.clock.now_ms() + STORE_PAUSE_MS
            following = attempt.ref  # never claimed, as far as is known: offered again, the version decides
        except Exception as error:
            self.tools.log.error("attempt lost", task_id=attempt.ref.task_id, exc_info=error)
            self.tools.alert("attempt_lost", f"task {attempt.ref.task_id}: {type(error).__name__}")
        finally:
            self._finish(attempt, breaker)
        if following is not None:
            self.tools.arm(following)

    def _finish(self, attempt: Attempt, breaker: Breaker) -> None:
        now = self.tools.clock.now_ms()
        if not attempt.sent:
            self.limiter.give_back(attempt.limiter_entry)
        if attempt.flow_ticket is not None:
            attempt.flow_ticket.end(sent=attempt.sent)
            self._unpark(attempt.ref.flow_key)
        match attempt.health:
            case Health.WELL:
                breaker.succeed(attempt.breaker_ticket, now)
            case Health.UNWELL:
                breaker.fail(attempt.breaker_ticket, now, attempt.cause)
            case Health.UNKNOWN:
                breaker.cancel(attempt.breaker_ticket)
        if self.in_flight.get(attempt.ref.task_id) is attempt:
            del self.in_flight[attempt.ref.task_id]
        self.meters.in_flight.dec()
        self.tools.gate.release()
        if attempt.newer is not None:
            self.accept(attempt.newer)
        attempt.over.set()
        self.wake()

    def accept(self, ref: TaskRef) -> None:
        """Into the ready queue, or behind the task's attempt that is on its way."""
        attempt = self.in_flight.get(ref.task_id)
        if attempt is not None:
            if ref.version > attempt.ref.version:
                attempt.newer = ref
            return
        if not self.ready.push(ref):
            self._refill.wanted = True

    async def _contained(self, work: Callable[[], Awaitable[None]]) -> None:
        """Work beside the attempts: a bug in it ends that work, not the process. The store's sweep starts it again."""
        try:
            await work()
        except Exception as error:
            self.tools.log.error("actor's work failed", business=self.business.code, exc_info=error)
            self.tools.alert("actor_work_failed", f"business {self.business.code}: {type(error).__name__}")

    # --- breakers, meters -----------------------------------------------------------------------------

    def _on_transition(self, host: str, transition: Transition) -> None:
        self.meters.breaker_moved(transition)
        self.tools.log.warning(
            "breaker moved", business=self.business.code, host=host, to=transition.to.value, cause=transition.cause
        )
        if transition.to is BreakerState.OPEN and not transition.again:
            self.tools.alert("breaker_open", f"business {self.business.code}, host {host}: {transition.cause}")

    def _measure(self) -> None:
        for host, hold in self._host_holds.items():
            self._last_reasons[host] = hold.reason
        if self.hold is not None and self.hold.reason != "time":
            self._last_reasons.update((head.host, self.hold.reason) for head in self.ready.heads())
        if not self.ready:
            self._last_reasons.clear()
        now = self.tools.clock.now_ms()
        self.meters.depth.set(len(self.mailbox) + len(self.ready))
        self.meters.tokens.set(max(0, self.limiter.limit - self.limiter.used(now)))
        self.meters.breaker_state(self.breakers)
        self.idle_since = (self.idle_since or now) if self.idle else None

    def __repr__(self) -> str:
        return (
            f"<BusinessActor {self.business.code} ready={len(self.ready)} in_flight={len(self.in_flight)}"
            f" hold={self.hold.reason if self.hold else None}>"
        )
