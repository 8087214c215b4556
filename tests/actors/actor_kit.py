"""Actors over a real store in memory, with real committers and a real wheel, in virtual time; no real network."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio
from tests.actors.scripted import Receivers, ScriptedClient
from tests.store import store_kit
from tests.store.store_kit import NOW, audit_entry, business, credential, signing_secret, vault

from taskcenter import log
from taskcenter.actors.admission import LEAD_MS
from taskcenter.actors.business import BusinessActor
from taskcenter.actors.committer import Committer
from taskcenter.actors.gate import FairGate
from taskcenter.actors.registry import ActorRegistry
from taskcenter.actors.signing import SigningSecret
from taskcenter.actors.tools import ActorTools
from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.store.engine_records import ClaimRequest, Outcome, Recorded
from taskcenter.store.records import Business, Execution, Task
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.sqlite_file import MEMORY
from taskcenter.store.url import SqliteUrl
from taskcenter.task import SHARDS, TaskRef, shard_of
from taskcenter.tracing import AttemptTracer
from taskcenter.wheel.driver import WheelDriver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class World:
    """`tell` gives a task to the registry at its due time; `settled` waits until a task has ended."""

    store: SqlStore
    clock: Clock
    receivers: Receivers
    metrics: Metrics
    terms: dict[int, int]
    gate: FairGate
    pace: float = 0.0
    alerts: list[tuple[str, str]] = field(default_factory=list)
    clients: list[ScriptedClient] = field(default_factory=list)
    claims_out: bool = False  # the store does not answer claims
    outcomes_out: bool = False
    businesses: dict[int, Business] = field(default_factory=dict)
    tries: list[Outcome] = field(default_factory=list)  # every outcome that went to the store, repeats included
    claims: int = 0
    registry: ActorRegistry = field(init=False)
    wheel: WheelDriver = field(init=False)

    async def add(self, business_id: int = 7, code: str = "shop", **settings: Any) -> Business:
        made = business(business_id, code, **settings)
        await self.store.businesses.create(
            made,
            credential(f"key-{business_id}", business_id),
            signing_secret(f"sec-{business_id}", business_id),
            audit_entry("business.create", business_id),
        )
        self.businesses[business_id] = made
        return made

    async def create(self, count: int = 1, business_id: int = 7, **given: Any) -> list[Task]:
        """Tasks of the business, due now unless told otherwise."""
        of = self.businesses[business_id]
        now = self.clock.now_ms()
        fields = {"business_id": of.id, "business_code": of.code, "shard": of.shard, "due_at": now, **given}
        return await store_kit.create(self.store, *(store_kit.new_task(at=now, **fields) for _ in range(count)))

    def tell(self, *tasks: Task) -> None:
        for task in tasks:
            assert task.ref is not None
            self.arm(task.ref)

    async def run(self, count: int = 1, business_id: int = 7, **given: Any) -> list[Task]:
        """Create and tell."""
        tasks = await self.create(count, business_id, **given)
        self.tell(*tasks)
        return tasks

    def arm(self, ref: TaskRef) -> None:
        self.wheel.schedule(ref)

    async def row(self, task: Task) -> Task:
        found = await self.store.tasks.get(task.business_id, task.id)
        assert found is not None
        return found

    async def settled(self, *tasks: Task, within_s: float = 7200) -> list[Task]:
        """The rows, once all have ended."""
        rows = []
        with trio.fail_after(within_s):
            for task in tasks:
                while (row := await self.row(task)).finished_at is None:
                    await trio.sleep(0.25)
                rows.append(row)
        return rows

    async def history(self, task: Task) -> list[Execution]:
        """Oldest first."""
        return list(reversed(await self.store.tasks.executions(task.business_id, task.id, None, 200)))

    def actor(self, business_id: int = 7) -> BusinessActor:
        actor = self.registry.get(business_id)
        assert actor is not None
        return actor

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"taskcenter_{name}", labels or None) or 0.0

    # --- what runtime would hand in -------------------------------------------------------------------------------

    async def _claim(self, requests: Sequence[ClaimRequest]) -> list[Task | None]:
        await trio.sleep(0.002)
        if self.claims_out:
            raise StoreUnavailable("the store is out")
        self.claims += len(requests)
        rows = {task.id: task for task in await self.store.engine.claim(requests, self.clock.now_ms())}
        return [rows.get(request.task_id) for request in requests]

    async def _record(self, outcomes: Sequence[Outcome]) -> list[Recorded]:
        await trio.sleep(0.002)
        self.tries += outcomes
        if self.outcomes_out:
            raise StoreUnavailable("the store is out")
        return await self.store.engine.record(outcomes, self.clock.now_ms())

    async def _secrets(self, business_id: int) -> Sequence[SigningSecret]:
        await trio.lowlevel.checkpoint()
        return [SigningSecret.parse(SECRET)]

    def _client(self, of: Business) -> ScriptedClient:
        client = ScriptedClient(self.receivers, of)
        self.clients.append(client)
        return client

    async def start(self, nursery: trio.Nursery) -> None:
        rng = random.Random(5)
        claims: Committer[ClaimRequest, Task | None] = Committer(
            "claim", self._claim, metrics=self.metrics, rng=rng, gather_s=0.002, keep_until_stored=False
        )
        outcomes: Committer[Outcome, Recorded] = Committer(
            "outcome", self._record, metrics=self.metrics, rng=rng, gather_s=0.005, keep_until_stored=True
        )
        tools = ActorTools(
            clock=self.clock, rng=rng, ids=IdSource(rng), metrics=self.metrics, log=log.get("actors"),
            tracer=AttemptTracer(rng), gate=self.gate, claims=claims, outcomes=outcomes,
            engine_store=self.store.engine, task_store=self.store.tasks, arm=self.arm, term_of=self.terms.get,
            secrets_of=self._secrets, alert=lambda rule, text: self.alerts.append((rule, text)),
            new_client=self._client, backlog_pace=self.pace, business_memory=64 << 20,
        )  # fmt: skip
        self.registry = ActorRegistry(tools, self.store.businesses.get_by_id)
        self.wheel = WheelDriver(self.clock, lambda ref: void(self.registry.offer(ref)), lead_ms=LEAD_MS)
        nursery.start_soon(claims.run)
        nursery.start_soon(outcomes.run)
        await nursery.start(self.registry.run)
        await nursery.start(self.wheel.run)


def void(_: object) -> None:
    """What an offer says is the actor's concern."""


@asynccontextmanager
async def memory_store(clock: Clock, lease_clock: Callable[[], int] | None = None) -> AsyncIterator[SqlStore]:
    """A store with its schema, in this loop; the clock judges its leases, or another one."""
    judge = clock.now_ms if lease_clock is None else lease_clock
    store = open_store(SqliteUrl(MEMORY), vault(), in_loop=True, durable=False, lease_clock=judge)
    await store.open()
    try:
        await store.create_schema()
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def world(*, in_flight: int = 1000, pace: float = 0.0, **settings: Any) -> AsyncIterator[World]:
    """A running world with the business `shop` (7), its settings as told. Ask for `autojump_clock` first."""
    clock = Clock(NOW)
    async with memory_store(clock) as store:
        terms = await store_kit.own_shards(store, range(SHARDS))
        made = World(store, clock, Receivers(clock), Metrics(), terms, FairGate(in_flight), pace)
        await made.add(**settings)
        async with trio.open_nursery() as nursery:
            await made.start(nursery)
            yield made
            nursery.cancel_scope.cancel()


def changed(of: Business, **settings: Any) -> Business:
    return replace(of, version=of.version + 1, **settings)


__all__ = ["LEAD_MS", "NOW", "World", "changed", "shard_of", "world"]
