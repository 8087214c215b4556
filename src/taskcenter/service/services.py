"""The use cases put together: what the HTTP app is built over, and the background tasks they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import trio

from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.clock import Clock
from taskcenter.config import Settings
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.service.api_keys import RandomBytes
from taskcenter.service.authenticator import Authenticator
from taskcenter.service.business_services import BusinessServices, build_business_services
from taskcenter.service.businesses import Businesses
from taskcenter.service.creator import Creator
from taskcenter.service.engine_port import Engine
from taskcenter.service.health import HealthService
from taskcenter.service.key_rotation import KeyRotation
from taskcenter.service.shielded import Writes
from taskcenter.service.system_stats import SystemStats
from taskcenter.service.task_bulk import TaskBulk
from taskcenter.service.task_creation import TaskCreation
from taskcenter.service.task_tools import TaskTools
from taskcenter.service.tasks import TaskService
from taskcenter.store.interface import Store

FLUSH_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class TaskServices:
    """Everything that is done with tasks, and the two background tasks that writes run in."""

    tasks: TaskService
    creation: TaskCreation
    bulk: TaskBulk
    creator: Creator
    writes: Writes
    _ended: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `finish`, and then until every write under way has ended."""
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: self.writes.run(task_status=task_status))
            await nursery.start(lambda *, task_status: self.creator.run(task_status=task_status))
            task_status.started()
        self._ended.set()

    async def finish(self) -> None:
        """Take no further write and wait for those under way."""
        self.creator.close()
        self.writes.close()
        await self._ended.wait()


@dataclass(frozen=True, slots=True)
class Services:
    """One per process. `run` it in a nursery outside the server's, so that it outlives every request."""

    tasks: TaskServices
    access: BusinessServices
    health: HealthService
    stats: SystemStats
    rotation: KeyRotation

    @classmethod
    def build(
        cls,
        *,
        store: Store,
        settings: Settings,
        keys: Sequence[tuple[str, bytes]],
        clock: Clock,
        ids: IdSource,
        metrics: Metrics,
        engine: Engine,
        egress: EgressPolicy,
        random_bytes: RandomBytes,
        store_trouble: Callable[[], str | None] = lambda: None,
    ) -> Self:
        """`keys`: the encryption keys, (id, 32 bytes), newest first. `store_trouble`: what fails of the store now.

        Raises `ConfigError`.
        """
        writes = Writes()
        tools = TaskTools(store.tasks, engine, writes, clock, egress.check_url, metrics)
        creator = Creator(tools)
        creation = TaskCreation(tools, creator, ids)
        tasks = TaskServices(TaskService(tools), creation, TaskBulk(tools), creator, writes)
        access = build_business_services(
            store, engine, clock, settings=settings, metrics=metrics, writes=writes,
            encryption_keys=keys, random_bytes=random_bytes, check_url=egress.check_url,
        )  # fmt: skip
        health = HealthService(engine, store.maintenance, creation.overloaded, store_trouble)
        stats = SystemStats(store.maintenance, store.leases, engine)
        return cls(tasks, access, health, stats, KeyRotation(store.resealing, access.trail, clock))

    @property
    def businesses(self) -> Businesses:
        return self.access.businesses

    @property
    def authenticator(self) -> Authenticator:
        return self.access.authenticator

    async def start_admin_token(self) -> str | None:
        """Learn the admin token, or make it; returned, to be printed, only when it was made now."""
        return await self.access.start_admin_token()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever. Call `flush` before cancelling it."""
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: self.access.run(task_status=task_status))
            await nursery.start(lambda *, task_status: self.tasks.run(task_status=task_status))
            await nursery.start(lambda *, task_status: self.rotation.run(task_status=task_status))
            task_status.started()

    async def flush(self) -> None:
        """The end: no write is taken any more, those under way end, within `FLUSH_S`."""
        with trio.move_on_after(FLUSH_S):
            await self.tasks.finish()
