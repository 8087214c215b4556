"""Whole engines over one store in memory and one far end of the network, in virtual time.

An instance can be crashed (its tasks end, nothing is handed over), drained, cut off from the store, and frozen (its
lease keeper and its claims stand still while the others' time goes on).
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from tests.actors.actor_kit import memory_store
from tests.actors.scripted import Receivers, ScriptedClient
from tests.store import store_kit
from tests.store.store_kit import NOW, audit_entry, business, credential, signing_secret

from taskcenter.clock import Clock
from taskcenter.config import split_address
from taskcenter.errors import StoreUnavailable
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.queueing import StandingQueue
from taskcenter.runtime.datagrams import UdpSocket
from taskcenter.runtime.engine import Engine, EngineParts
from taskcenter.runtime.peer_link import PeerLink
from taskcenter.store.records import Business, Execution, Task
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import SHARDS, TaskRef
from taskcenter.tracing import AttemptTracer

TTL_S = 10.0
KEYS = (("k1", bytes(32)),)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CODES = tuple(f"business-{number}" for number in range(8))  # spread over the shards


class Line:
    """An instance's connection to the store: `cut` refuses, `frozen` keeps whoever asks waiting.

    `slow`: verbs that take so long, in s.
    """

    def __init__(self) -> None:
        self.cut = False
        self.frozen: trio.Event | None = None
        self.slow: dict[str, float] = {}

    async def pass_through(self, verb: str) -> None:
        await trio.sleep(self.slow.get(verb, 0))
        if self.frozen is not None:
            await self.frozen.wait()
        if self.cut:
            raise StoreUnavailable("the store cannot be reached")


class Lined:
    """A group of the store's verbs at the end of a line."""

    def __init__(self, verbs: object, line: Line) -> None:
        self._verbs = verbs
        self._line = line

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._verbs, name)

        async def call(*given: Any, **named: Any) -> Any:
            await self._line.pass_through(name)
            return await verb(*given, **named)

        return call


class LinedStore:
    """`store.interface.Store` at the end of a line."""

    def __init__(self, store: SqlStore, line: Line) -> None:
        for group in ("businesses", "tasks", "engine", "leases", "audit", "maintenance", "stats"):
            setattr(self, group, Lined(getattr(store, group), line))


def engine_parts(  # noqa: PLR0917  # in the order of `EngineParts`
    store: Any,
    clock: Clock,
    rng: random.Random,
    metrics: Metrics,
    identity: str,
    link: PeerLink | None,
    *,
    new_client: Callable[[Business], ScriptedClient],
    alert: Callable[[str, str], None],
    ttl_s: float = TTL_S,
) -> EngineParts:
    """What an engine of a test is built from."""
    return EngineParts(
        store=store, clock=clock, rng=rng, ids=IdSource(rng), metrics=metrics, tracer=AttemptTracer(rng),
        load_business=store.businesses.get_by_id, new_client=new_client, alert=alert, identity=identity, link=link,
        lease_ttl_s=ttl_s, max_in_flight=500, store_waits=StandingQueue(100), backlog_pace=1.0,
        business_memory=64 << 20,
    )  # fmt: skip


@dataclass
class Instance:
    name: str
    engine: Engine
    metrics: Metrics
    line: Line
    link: PeerLink | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def peer_address(self) -> tuple[str, int]:
        assert self.link is not None
        return split_address(self.link.address)

    @property
    def shards(self) -> frozenset[int]:
        return frozenset(shard for shard in range(SHARDS) if self.engine.owns(shard))

    def crash(self) -> None:
        """As a power failure: at once, with nothing handed over."""
        self.scope.cancel()

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"taskcenter_{name}", labels) or 0.0


@dataclass
class Cluster:
    store: SqlStore
    clock: Clock
    receivers: Receivers
    nursery: trio.Nursery
    instances: dict[str, Instance] = field(default_factory=dict)
    alerts: list[tuple[str, str]] = field(default_factory=list)
    businesses: dict[str, Business] = field(default_factory=dict)
    hints: bool = False  # whether instances tell each other, over real sockets
    hesitates_s: float = 0.0  # before a request goes out: a token is fetched, a name looked up
    store_ahead_ms: int = 0  # of the instances' clocks, the store's

    async def join(self, name: str) -> Instance:
        """A new instance, once its first round of leases is done."""
        rng = random.Random(name)
        metrics, line = Metrics(), Line()
        identity = f"boot|namespace|{name}|0"  # processes of one machine
        link = PeerLink(UdpSocket("127.0.0.1:0"), KEYS, identity, self.clock, metrics) if self.hints else None
        store: Any = LinedStore(self.store, line)
        parts = engine_parts(
            store, self.clock, rng, metrics, identity, link,
            new_client=lambda of: ScriptedClient(self.receivers, of, name, hesitates_s=self.hesitates_s),
            alert=lambda rule, text: self.alerts.append((rule, text)),
        )  # fmt: skip
        instance = self.instances[name] = Instance(name, Engine(parts), metrics, line, link)
        await self.nursery.start(self._run, instance)
        return instance

    async def _run(self, instance: Instance, task_status: trio.TaskStatus[None]) -> None:
        with instance.scope:
            await instance.engine.run(task_status=task_status)
        instance.over.set()

    async def add(self, code: str, **settings: Any) -> None:
        number = len(self.businesses) + 1
        self.businesses[code] = made = business(number, code, **settings)
        await self.store.businesses.create(
            made,
            credential(f"key-{number}", number),
            signing_secret(f"sec-{number}", number, secret=SECRET),
            audit_entry("business.create", number),
        )

    async def create(self, count: int = 1, code: str = CODES[0], **given: Any) -> list[Task]:
        """Tasks as the API makes them: the row, then a word to the instances, of which the owner listens."""
        of, now = self.businesses[code], self.clock.now_ms()
        fields = {
            "business_id": of.id,
            "business_code": code,
            "shard": of.shard,
            "due_at": now,
            "timeout_ms": 30_000,
            **given,
        }
        tasks = await store_kit.create(self.store, *(store_kit.new_task(at=now, **fields) for _ in range(count)))
        for task in tasks:
            self.offer(task.ref)
        return tasks

    def offer(self, ref: TaskRef | None) -> None:
        assert ref is not None
        for instance in self.instances.values():
            if not instance.over.is_set():
                instance.engine.offer(ref)

    def owners_of(self, code: str) -> list[Instance]:
        shard = self.businesses[code].shard
        return [one for one in self.instances.values() if not one.over.is_set() and one.engine.owns(shard)]

    def owner_of(self, code: str) -> Instance:
        [owner] = self.owners_of(code)
        return owner

    async def row(self, task: Task) -> Task:
        found = await self.store.tasks.get(task.business_id, task.id)
        assert found is not None
        return found

    async def settled(self, tasks: Sequence[Task], within_s: float = 7200) -> list[Task]:
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


@asynccontextmanager
async def cluster(
    *names: str, codes: Sequence[str] = CODES[:1], hints: bool = False, hesitates_s: float = 0.0, **settings: Any
) -> AsyncIterator[Cluster]:
    """A store with businesses and the instances named, which have shared the shards out. Virtual time only."""
    clock = Clock(NOW)
    made: Cluster | None = None

    def store_clock() -> int:
        return clock.now_ms() + (0 if made is None else made.store_ahead_ms)

    async with memory_store(clock, store_clock) as store, trio.open_nursery() as nursery:
        made = Cluster(store, clock, Receivers(clock), nursery, hints=hints, hesitates_s=hesitates_s)
        for code in codes:
            await made.add(code, **settings)
        for name in names:
            await made.join(name)
        yield made
        nursery.cancel_scope.cancel()


def sizes(the: Cluster) -> list[int]:
    """How many shards each living instance has, in rising order."""
    return sorted(len(one.shards) for one in the.instances.values() if not one.over.is_set())
