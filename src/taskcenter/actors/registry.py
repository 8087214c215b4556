"""Business → running actor, on demand. Starts it, restarts it within a budget, passivates it when it has long been
idle.

Restart budgets are per tier (DESIGN.md §3.9). An attempt's fault ends in its record. An actor whose loop crashes is
restarted with growing pauses and keeps its queue and its attempts; when its budget is used up (`budget.py`) the
business is `degraded`: an alert fires, and a restart is tried again once a minute. No other business notices. A crash
of the registry itself is the engine's, and ends the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from taskcenter.actors.budget import CRASHES, DEGRADED_RETRY_S
from taskcenter.actors.business import MAILBOX_CAPACITY, BusinessActor
from taskcenter.actors.mailbox import Offer
from taskcenter.actors.tools import ActorTools
from taskcenter.errors import StoreUnavailable
from taskcenter.store.records import Business
from taskcenter.task import TaskRef

FIRST_BACKOFF_S: Final = 0.1
IDLE_MS: Final = 120_000
PASSIVATE_EVERY_S: Final = 10.0
MAX_EARLY: Final = MAILBOX_CAPACITY + 1  # while the business's row is read; the last one tells its actor of the others


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    actors: int
    in_flight: int
    ready: int
    restarts: int
    degraded: int


@dataclass(slots=True)
class _Loading:
    """A business that is being read, and what has come for it meanwhile."""

    refs: dict[str, TaskRef] = field(default_factory=dict)  # by task
    news: Business | None = None
    lost: frozenset[int] = frozenset()  # shards that went to another owner: what was read may be from before


class ActorRegistry:
    """`offer`, `withdraw`, `get` are sync. `run` owns the nursery all actors live in."""

    def __init__(self, tools: ActorTools, load: Callable[[int], Awaitable[Business | None]]) -> None:
        """`load`: a business by id."""
        self._tools = tools
        self._load = load
        self._actors: dict[int, BusinessActor] = {}
        self._loading: dict[int, _Loading] = {}
        self._scopes: dict[int, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._draining = False
        self._restarts = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(PASSIVATE_EVERY_S)
                self._passivate()

    def offer(self, ref: TaskRef) -> Offer:
        """Hand a reference that is due to its business's actor, starting it when needed."""
        if self._draining or self._nursery is None:
            return Offer.CLOSED
        actor = self._actors.get(ref.business_id)
        if actor is not None:
            return actor.offer(ref)
        loading = self._loading.get(ref.business_id)
        if loading is None:
            loading = self._loading[ref.business_id] = _Loading()
            self._nursery.start_soon(self._start, ref.business_id)
        if len(loading.refs) >= MAX_EARLY:
            return Offer.FULL
        known = loading.refs.get(ref.task_id)
        if known is None or known.version <= ref.version:
            loading.refs[ref.task_id] = ref
        return Offer.ACCEPTED

    def withdraw(self, task_id: str, business_id: int) -> bool:
        """See `BusinessActor.withdraw`; of a business that does not run here nothing is known."""
        actor = self._actors.get(business_id)
        return actor is not None and actor.withdraw(task_id)

    def wake(self) -> None:
        """The clock has jumped: every actor looks again at what it may start."""
        for actor in self._actors.values():
            actor.wake()

    def get(self, business_id: int) -> BusinessActor | None:
        return self._actors.get(business_id)

    def holds(self, ref: TaskRef) -> bool:
        actor = self._actors.get(ref.business_id)
        if actor is not None:
            return actor.holds(ref)
        loading = self._loading.get(ref.business_id)
        early = None if loading is None else loading.refs.get(ref.task_id)
        return early is not None and early.version >= ref.version

    def business_changed(self, business: Business) -> None:
        """It is in force at once, unless a younger version is."""
        actor = self._actors.get(business.id)
        if actor is not None:
            if business.version >= actor.business.version:
                actor.update(business)
        elif (loading := self._loading.get(business.id)) is not None and (
            loading.news is None or business.version >= loading.news.version
        ):
            loading.news = business

    def drop_shards(self, shards: frozenset[int]) -> None:
        """The shards are another's: forget what waits for them."""
        for actor in self._actors.values():
            if actor.business.shard in shards:
                actor.forget_waiting()
        for loading in self._loading.values():
            loading.refs = {key: ref for key, ref in loading.refs.items() if ref.shard not in shards}
            loading.lost |= shards

    def busy(self, shards: frozenset[int]) -> frozenset[int]:
        """Those of the shards for which something is on its way."""
        return shards & {actor.business.shard for actor in self._actors.values() if actor.in_flight}

    async def settle(self, shards: frozenset[int]) -> None:
        """Return when nothing of these shards is on its way; they must have been dropped before."""
        for actor in list(self._actors.values()):
            while actor.business.shard in shards and actor.in_flight:
                await next(iter(actor.in_flight.values())).over.wait()

    async def drain(self) -> None:
        """Admit nothing more; return when nothing is on its way."""
        self._draining = True
        for actor in self._actors.values():
            actor.mailbox.close()
            actor.forget_waiting()
        while any(actor.in_flight for actor in self._actors.values()):
            for actor in self._actors.values():
                while actor.in_flight:
                    await next(iter(actor.in_flight.values())).over.wait()

    # --- a business's life --------------------------------------------------------------------------------------

    async def _start(self, business_id: int) -> None:
        """Load the business, then supervise its actor until it is passivated."""
        actor = await self._load_actor(business_id)
        loading = self._loading.pop(business_id)
        if actor is None or self._draining:
            return
        self._actors[business_id] = actor
        if loading.news is not None and loading.news.version > actor.business.version:
            actor.update(loading.news)
        if actor.business.shard in loading.lost:
            actor.forget_waiting()
        for ref in loading.refs.values():
            actor.offer(ref)
        with trio.CancelScope() as scope:
            self._scopes[business_id] = scope
            await self._supervise(actor)
        with trio.CancelScope(shield=True):
            await actor.client.aclose()

    async def _load_actor(self, business_id: int) -> BusinessActor | None:
        """Read the business and what its limiter needs, for as long as the store takes. None: there is no such
        business.
        """
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                business = await self._load(business_id)
                if business is None:
                    return None
                actor = BusinessActor(business, self._tools)
                await actor.rebuild()
            except StoreUnavailable as error:
                self._tools.log.warning("business not loaded", business_id=business_id, error=str(error))
                await trio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 2.0)
            except Exception as error:
                self._tools.log.error("business cannot be started", business_id=business_id, exc_info=error)
                self._tools.alert("actor_degraded", f"business {business_id} cannot be started: {type(error).__name__}")
                await trio.sleep(DEGRADED_RETRY_S)
            else:
                return actor

    async def _supervise(self, actor: BusinessActor) -> None:
        """Run the loop, again and again; the attempts' nursery is outside of it."""
        async with trio.open_nursery() as attempts:
            while True:
                try:
                    actor.budget.started(trio.current_time())
                    await actor.run(attempts)
                except Exception as error:
                    self._restarts += 1
                    actor.restarts += 1
                    actor.meters.restarts.inc()
                    self._tools.gate.decline(actor.business.id)
                    self._tools.log.error("actor crashed", business=actor.business.code, exc_info=error)
                    await trio.sleep(self._pause_s(actor))

    def _pause_s(self, actor: BusinessActor) -> float:
        was_degraded = actor.degraded
        pause_s = actor.budget.crashed(trio.current_time(), self._tools.rng.random())
        if actor.degraded and not was_degraded:
            self._tools.alert(
                "actor_degraded", f"business {actor.business.code}: its actor crashed {CRASHES} times in a row"
            )
        return pause_s

    def measure(self) -> None:
        """Bring up to date what changes with time alone: the starts that the rate limits would allow now."""
        for actor in self._actors.values():
            actor.measure_tokens()

    def _passivate(self) -> None:
        now = self._tools.clock.now_ms()
        for business_id, actor in list(self._actors.items()):
            actor.client.close_idle()
            if actor.idle and actor.idle_since is not None and now - actor.idle_since > IDLE_MS:
                if not actor.admission.quiet(now):
                    continue
                del self._actors[business_id]
                actor.mailbox.close()
                self._scopes.pop(business_id).cancel()

    def statistics(self) -> RegistryStatistics:
        actors = self._actors.values()
        return RegistryStatistics(
            actors=len(self._actors),
            in_flight=sum(len(actor.in_flight) for actor in actors),
            ready=sum(len(actor.ready) + len(actor.mailbox) for actor in actors),
            restarts=self._restarts,
            degraded=sum(actor.degraded for actor in actors),
        )

    def __repr__(self) -> str:
        return f"<ActorRegistry {self.statistics()}>"
