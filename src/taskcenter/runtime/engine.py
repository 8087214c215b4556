"""The engine: wheel, loader, actors, committers and leases, joined. It is what `service.engine_port.Engine` promises.

A waiting task is in exactly one of four places: only in the store (beyond the window), on the wheel, in its business's
actor, or in the hands of another instance. `arm` decides which, and is the only way in: the loader, the API, a
recovered row and an attempt that retries all end there.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import trio

from taskcenter import log
from taskcenter.actors.admission import LEAD_MS
from taskcenter.actors.committer import Committer
from taskcenter.actors.gate import FairGate
from taskcenter.actors.registry import ActorRegistry
from taskcenter.actors.tools import ActorTools, CallbackClient
from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.queueing import StandingQueue
from taskcenter.runtime.leases import LeaseKeeper
from taskcenter.runtime.load import LoadGauge
from taskcenter.runtime.peer_link import Ears, PeerLink
from taskcenter.runtime.signing_keys import SigningSecrets
from taskcenter.runtime.takeover import Takeover
from taskcenter.runtime.views import business_view, wait_view
from taskcenter.service.engine_port import BusinessView, WaitView
from taskcenter.store.engine_records import ClaimRequest, Instance, Outcome, Recorded, ShardLease
from taskcenter.store.interface import Store
from taskcenter.store.records import Business, Task
from taskcenter.task import SHARDS, TaskRef
from taskcenter.tracing import AttemptTracer
from taskcenter.wheel.driver import WheelDriver
from taskcenter.wheel.loader import Loader

CLAIM_GATHER_S: Final = 0.002
OUTCOME_GATHER_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What the engine is built from."""

    store: Store
    clock: Clock
    rng: random.Random
    ids: IdSource
    metrics: Metrics
    tracer: AttemptTracer
    load_business: Callable[[int], Awaitable[Business | None]]
    new_client: Callable[[Business], CallbackClient]
    alert: Callable[[str, str], None]
    identity: str
    link: PeerLink | None  # None: alone on its store
    lease_ttl_s: float
    max_in_flight: int
    store_waits: StandingQueue  # noted by the store: how long work waited for a connection
    backlog_pace: float  # times a business's rate limit
    business_memory: int  # bytes


class Engine:
    """Made inside `trio.run`. `run` until cancelled; `drain` first for a clean end."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._log = log.get("engine")
        self._gate = FairGate(parts.max_in_flight)
        self._load = LoadGauge(parts.store_waits)
        self._secrets = SigningSecrets(parts.store.businesses.signing_secrets, parts.clock)
        self._draining = False
        self._once_loaded = False  # readiness is won once: a takeover later on does not turn traffic away
        self._claims: Committer[ClaimRequest, Task | None] = Committer(
            "claim", self._claim, metrics=parts.metrics, rng=parts.rng, gather_s=CLAIM_GATHER_S, keep_until_stored=False
        )
        self._outcomes: Committer[Outcome, Recorded] = Committer(
            "outcome",
            self._record,
            metrics=parts.metrics,
            rng=parts.rng,
            gather_s=OUTCOME_GATHER_S,
            keep_until_stored=True,
        )
        self._leases = self._new_leases(parts)
        self._registry = ActorRegistry(self._new_tools(parts), parts.load_business)
        self._wheel = WheelDriver(
            parts.clock,
            self._deliver,
            lead_ms=LEAD_MS,
            on_tick_lag=parts.metrics.wheel_tick_lag.set,
            on_timers=parts.metrics.wheel_timers.set,
        )
        self._loader = Loader(
            parts.store.engine,
            parts.clock,
            self._accept,
            rng=parts.rng,
            timers=lambda: len(self._wheel),
            on_error=lambda error: self._log.warning("sweep failed", error=str(error)),
        )

    def _new_leases(self, parts: EngineParts) -> LeaseKeeper:
        return LeaseKeeper(
            parts.store.leases,
            new_id=lambda: parts.ids.next(self._clock.now_ms()),
            identity=parts.identity,
            address=None if parts.link is None else parts.link.address,
            observed=self._observed,
            heard=self._heard,
            ttl_s=parts.lease_ttl_s,
            metrics=parts.metrics,
            gained=self._gained,
            lost=self._lost,
            busy=self._busy,
            settled=self._settled,
            released=self._released,
            recover=Takeover(parts.store.engine, self._clock.now_ms, parts.metrics, parts.alert).recover,
        )

    def _new_tools(self, parts: EngineParts) -> ActorTools:
        return ActorTools(
            clock=parts.clock,
            rng=parts.rng,
            ids=parts.ids,
            metrics=parts.metrics,
            log=log.get("actors"),
            tracer=parts.tracer,
            gate=self._gate,
            claims=self._claims,
            outcomes=self._outcomes,
            engine_store=parts.store.engine,
            task_store=parts.store.tasks,
            arm=self.arm,
            term_of=self._leases.term_of,
            secrets_of=self._secrets.of,
            alert=parts.alert,
            new_client=parts.new_client,
            backlog_pace=parts.backlog_pace,
            business_memory=parts.business_memory,
        )

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started when the first round of leases is done. A crash of any part ends this, and with it the process."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._claims.run)
            nursery.start_soon(self._outcomes.run)
            nursery.start_soon(self._load.run)
            nursery.start_soon(self._lead_clock)
            await nursery.start(self._registry.run)
            await nursery.start(self._wheel.run)
            nursery.start_soon(self._loader.run)
            await nursery.start(self._leases.run)
            if self._parts.link is not None:
                ears = Ears(
                    own_id=lambda: self.instance_id,
                    take=self._hinted,
                    tell=self._held_by,
                    look=self._leases.look_soon,
                )
                nursery.start_soon(self._parts.link.run, ears)
            task_status.started()

    async def drain(self, grace_s: float) -> bool:
        """Start nothing more; hand each shard over when its callbacks on their way have ended. False: grace ran out."""
        self._draining = True
        with trio.move_on_after(grace_s) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leases.hand_over)
                await self._registry.drain()
        with trio.move_on_after(2.0):
            try:
                await self._leases.retire()
            except StoreUnavailable as error:
                self._log.warning("shards not handed over", error=str(error))  # the next owner waits for the lease
        return not scope.cancelled_caught

    async def _lead_clock(self) -> None:
        while True:
            await trio.sleep(1)
            if self._clock.observe_wall():
                self._wheel.wake()
                self._registry.wake()
            if self._clock.fault is not None:
                self._parts.alert("clock_set", self._clock.fault)
            self._parts.metrics.wheel_timers.set(len(self._wheel))
            self._registry.measure()

    # --- the ways of a reference --------------------------------------------------------------------------------

    def arm(self, ref: TaskRef) -> None:
        """Put a waiting task where it will wake."""
        if self._draining or not self._leases.owns(ref.shard):
            return
        if ref.due_at <= self._clock.now_ms() + LEAD_MS:
            self._registry.offer(ref)
        elif self._loader.covers(ref.due_at):
            self._wheel.schedule(ref)
        else:
            self._wheel.forget(ref.task_id)  # an older version may wait there for an earlier time

    def _accept(self, ref: TaskRef) -> bool:
        """The loader's: False if it is here already."""
        if self._registry.holds(ref):
            return False
        self.arm(ref)  # the wheel keeps the newest version of a task it knows
        return True

    def _hinted(self, ref: TaskRef) -> None:
        """The API's of this instance, or a peer's; not passed on if the shard is not ours (any more)."""
        if not self._registry.holds(ref):
            self.arm(ref)

    def _deliver(self, ref: TaskRef) -> None:
        self._registry.offer(ref)

    def _gained(self, shards: frozenset[int]) -> None:
        self._loader.add_shards(shards)
        if self._parts.link is not None:
            self._parts.link.taken(shards)

    def _observed(self, instances: Sequence[Instance], leases: Sequence[ShardLease]) -> None:
        """What the store says of everybody, at each beat."""
        if len(leases) < SHARDS:
            self._parts.alert("missing_shard_row", f"{SHARDS - len(leases)} of {SHARDS} shards have no row")
        if self._parts.link is not None:
            self._parts.link.learn(instances, leases, self.instance_id)

    def _heard(self, store_ms: int, asked_at: float) -> None:
        """An embedded store's clock is this machine's own, and says nothing of it."""
        if self._parts.link is not None:
            self._clock.hear_store(store_ms, asked_at)

    def _busy(self, shards: frozenset[int]) -> frozenset[int]:
        return self._registry.busy(shards)

    async def _settled(self, shards: frozenset[int]) -> None:
        await self._registry.settle(shards)

    def _released(self) -> None:
        if self._parts.link is not None:
            self._parts.link.released()

    def _lost(self, shards: frozenset[int]) -> None:
        self._loader.remove_shards(shards)
        self._wheel.drop_shards(shards)
        self._registry.drop_shards(shards)

    async def _claim(self, requests: Sequence[ClaimRequest]) -> list[Task | None]:
        claimed = {task.id: task for task in await self._parts.store.engine.claim(requests, self._clock.now_ms())}
        return [claimed.get(request.task_id) for request in requests]

    async def _record(self, outcomes: Sequence[Outcome]) -> list[Recorded]:
        return await self._parts.store.engine.record(outcomes, self._clock.now_ms())

    # --- service.engine_port.Engine -----------------------------------------------------------------------------

    @property
    def instance_id(self) -> str:
        return self._leases.instance_id

    def offer(self, ref: TaskRef) -> None:
        if self.owns(ref.shard):
            self._hinted(ref)
        elif self._parts.link is not None:
            self._parts.link.send(ref)

    def withdraw(self, task_id: str, business_id: int) -> bool:
        self._wheel.forget(task_id)
        return self._registry.withdraw(task_id, business_id)

    def owns(self, shard: int) -> bool:
        return self._leases.owns(shard)

    def business_changed(self, business: Business) -> None:
        self._registry.business_changed(business)

    def secrets_changed(self, business_id: int) -> None:
        self._secrets.changed(business_id)

    def business_view(self, business_id: int) -> BusinessView | None:
        actor = self._registry.get(business_id)
        if actor is None or not self.owns(actor.business.shard):
            return None
        return business_view(actor, self._clock.now_ms())

    async def wait_view(self, shard: int, business_id: int, task_id: str) -> WaitView | None:
        if self.owns(shard) or self._parts.link is None:
            return self._held_by(business_id, task_id)
        return await self._parts.link.ask(shard, business_id, task_id)

    def _held_by(self, business_id: int, task_id: str) -> WaitView | None:
        actor = self._registry.get(business_id)
        return None if actor is None else wait_view(actor, task_id, self._clock.now_ms())

    def overloaded(self) -> str | None:
        return self._load.overloaded(self._outcomes.statistics().waiting)

    def statistics(self) -> dict[str, Any]:
        return {
            "leases": asdict(self._leases.statistics()),
            "wheel": asdict(self._wheel.statistics()),
            "loader": asdict(self._loader.statistics()),
            "actors": asdict(self._registry.statistics()),
            "in_flight": asdict(self._gate.statistics()),
            "claims": asdict(self._claims.statistics()),
            "outcomes": asdict(self._outcomes.statistics()),
            "clock": asdict(self._clock.statistics()),
            "loop_lag_ms": self._load.lag_ms,
        }

    def health(self) -> dict[str, str]:
        checks = {"leases": "ok" if self._leases.valid else "unavailable: the lease could not be renewed"}
        if self._draining:
            checks["engine"] = "unavailable: draining"
        else:
            self._once_loaded = self._once_loaded or self._loader.loaded
            checks["engine"] = "ok" if self._once_loaded else "unavailable: loading"
        degraded = self._registry.statistics().degraded
        checks["actors"] = f"degraded: {degraded} businesses" if degraded else "ok"
        checks["clock"] = f"degraded: {self._clock.fault}" if self._clock.fault else "ok"
        reason = self.overloaded()
        checks["load"] = f"degraded: {reason}" if reason else "ok"
        return checks
