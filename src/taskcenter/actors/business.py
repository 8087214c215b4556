"""The actor of one business: what is due for it, and the attempts that are on their way.

The loop is: empty the mailbox into the ready queue, start an attempt for each permit of a round of admission
(`admission`: pure), sleep until the next moment at which something may have changed, or until somebody wakes it.

A place is taken from admission until the answer is there (`end_exchange`), not until that is recorded: else, where one
commit takes in all of a business's attempts, they would be claimed together, sent together and recorded together, and
nothing be sent meanwhile. Of those that are answered and not yet recorded there may be as many again.

Attempts run in a nursery of the supervisor's, not in the loop's: a crash of the loop (a bug) ends no attempt and
loses no reference; the restarted loop goes on with the same queue. All state below is touched by plain functions on
one thread only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from taskcenter.actors.admission import READY_CAPACITY, Admission, Surroundings
from taskcenter.actors.attempt import Attempt
from taskcenter.actors.breaker import BreakerState, Transition
from taskcenter.actors.budget import RestartBudget
from taskcenter.actors.expiry import expire
from taskcenter.actors.hold import Hold
from taskcenter.actors.mailbox import Mailbox, Offer
from taskcenter.actors.past import FlowHistory, SendHistory, rebuild
from taskcenter.actors.permit import Permit
from taskcenter.actors.refill import Refill
from taskcenter.actors.tools import ActorTools, BusinessMeters
from taskcenter.errors import StoreUnavailable
from taskcenter.store.records import Business, BusinessStatus
from taskcenter.task import TaskRef
from taskcenter.times import format_time

MAILBOX_CAPACITY: Final = 10_000
STORE_PAUSE_MS: Final = 500  # no claims for this long after the store refused one
WORTH_A_ROUND: Final = 0.75  # with so few of the places taken a round is worth its cost; a recorded end always is
LEAST_SLEEP_S: Final = 0.001  # above the rounding of UTC milliseconds as floats, so that time does move


class BusinessActor:
    """One business's engine. `offer`, `withdraw`, `update` and the views are sync and may be called from anywhere."""

    def __init__(self, business: Business, tools: ActorTools) -> None:
        self.business = business
        self.tools = tools
        self.mailbox: Mailbox[TaskRef] = Mailbox(MAILBOX_CAPACITY)
        self.in_flight: dict[str, Attempt] = {}  # by task id, from admission until recorded
        self.on_their_way = 0  # of those, whose exchange is not over
        self.meters = BusinessMeters(tools.metrics, business.code)
        self.restarts = 0
        self.budget = RestartBudget()
        self.idle_since: int | None = None
        self.client = tools.new_client(business)
        self.admission = self.new_admission()
        self.ready = self.admission.ready
        self._store_pause_until = 0
        self._refill = Refill()
        self._send_history = SendHistory()
        self._flow_history = FlowHistory()
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
        self.admission.reconfigure(business)
        self.client.update(business)
        self.wake()

    def forget_waiting(self) -> None:
        """The shard is another's now: drop what waits, and what was known for its limits, which the next owner makes
        older by the minute. Attempts on their way go on to their end.
        """
        for _ in self.mailbox.drain():
            continue
        self.ready.clear()
        self.admit_by(self.new_admission())
        self._refill.forget()
        self._send_history.forget()
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

    # --- the loop -----------------------------------------------------------------------------------------------

    async def rebuild(self) -> None:
        """What the history tells of the time before. Raises `StoreUnavailable`."""
        await rebuild(self.admission, self.business, self.tools.engine_store, self.tools.clock.now_ms())

    def new_admission(self) -> Admission:
        """One that knows of no sends yet."""
        tools = self.tools
        surroundings = Surroundings(
            tools.gate, self._outside, self.wake, self.meters.rate_limited, self._on_transition, tools.rng.random
        )
        return Admission(
            self.business,
            surroundings,
            now_ms=tools.clock.now_ms(),
            pace=tools.backlog_pace,
            memory_bytes=tools.business_memory,
        )

    def admit_by(self, admission: Admission) -> None:
        """Go on with what another owner's sends have made of the limits. What is on its way ends by the former ones."""
        admission.reconfigure(self.business)  # it may have been changed since
        admission.memory = self.admission.memory
        for ref in self.ready:
            admission.ready.push(ref)
        self.admission, self.ready = admission, admission.ready

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
            attempts.start_soon(self._contained, partial(expire, self, ref, self.admission.held_by(ref)))
        if self._refill.wanted and not self._refill.running and len(self.ready) <= READY_CAPACITY // 2:
            self._refill.running = True
            attempts.start_soon(self._contained, partial(self._refill.run, self))
        if self._send_history.unread and self.ready and not self._send_history.running:
            self._send_history.running = True
            attempts.start_soon(self._contained, partial(self._send_history.run, self))
        for permit in self.admission.round(now):
            self._start(attempts, permit)
        if self.admission.flows.wanted_ms is not None and not self._flow_history.running:
            self._flow_history.running = True
            attempts.start_soon(self._contained, partial(self._flow_history.run, self))
        return self.admission.again_at

    def _outside(self, now: int, ref: TaskRef) -> Hold | None:
        """What stops the whole business whatever its limits say."""
        if self.business.status is not BusinessStatus.ACTIVE:
            return Hold("paused", None, f"the business is {self.business.status}")
        if self._send_history.unread:
            return Hold("store", None, "what the business's last owner sent is being read")
        if now < self._store_pause_until:
            return Hold("store", self._store_pause_until, "the store did not take the last claim")
        if self.tools.term_of(ref.shard) is None:
            return Hold("store", now + STORE_PAUSE_MS, "the lease could not be renewed")
        most = self.business.max_concurrent_tasks
        if self.on_their_way >= most:
            return Hold("concurrency", None, f"callbacks on their way: {self.on_their_way} of {most}")
        if self.on_their_way >= self.tools.gate.most_of_one:
            return Hold("capacity", None, f"the process has its most callbacks of one business: {self.on_their_way}")
        if len(self.in_flight) >= 2 * most:
            return Hold("concurrency", None, f"callbacks answered and not yet recorded: {len(self.in_flight) - most}")
        if self.admission.memory.full:
            return Hold("memory", None, f"callbacks on their way hold {self.admission.memory.used >> 10} KiB")
        return None

    def _start(self, attempts: trio.Nursery, permit: Permit) -> None:
        attempt = self.in_flight[permit.ref.task_id] = Attempt(permit)
        self.on_their_way += 1
        self.meters.in_flight.inc()
        attempts.start_soon(self._attend, attempt)

    def memory_settled(self) -> None:
        """A claimed attempt holds less than it had reserved: there may be room for the next."""
        if self.admission.hold is not None and self.admission.hold.reason == "memory":
            self.wake()

    async def _attend(self, attempt: Attempt) -> None:
        """An attempt from its claim to its record, whatever happens in it."""
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
            self._finish(attempt)
        if following is not None:
            self.tools.arm(following)

    def end_exchange(self, attempt: Attempt) -> None:
        """Nothing of it is on its way any more: what it took of the limits is free."""
        if not attempt.on_its_way:
            return
        attempt.on_its_way = False
        now = self.tools.clock.now_ms()
        attempt.permit.end(now, sent=attempt.sent, health=attempt.health, cause=attempt.cause)
        self.admission.ended(attempt.permit)
        self.on_their_way -= 1
        self.meters.in_flight.dec()
        if self.on_their_way <= WORTH_A_ROUND * self.business.max_concurrent_tasks:
            self.wake()

    def _finish(self, attempt: Attempt) -> None:
        self.end_exchange(attempt)
        attempt.permit.memory.release()
        if self.in_flight.get(attempt.ref.task_id) is attempt:
            del self.in_flight[attempt.ref.task_id]
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
            probe = (
                "" if transition.next_probe_at is None else f"; next probe at {format_time(transition.next_probe_at)}"
            )
            self.tools.alert("breaker_open", f"business {self.business.code}, host {host}: {transition.cause}{probe}")

    def _measure(self) -> None:
        now = self.tools.clock.now_ms()
        self.meters.depth.set(len(self.mailbox) + len(self.ready))
        self.measure_tokens()
        self.meters.breaker_state(self.admission.breakers)
        self.idle_since = (self.idle_since or now) if self.idle else None

    def measure_tokens(self) -> None:
        """The starts that the rate limit would allow now: changes with time alone."""
        limiter = self.admission.limiter
        self.meters.tokens.set(max(0, limiter.limit - limiter.used(self.tools.clock.now_ms())))

    def __repr__(self) -> str:
        return f"<BusinessActor {self.business.code} in_flight={len(self.in_flight)} {self.admission}>"
