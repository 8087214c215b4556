"""Clients: each business's creates and calls of every kind, at any instance, at moments the seed decides.

A create that got no answer is repeated, elsewhere, until it is acknowledged: that is what its `business_id` is for.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio
from tests.simulation.instances import NoAnswer, Process
from tests.simulation.ledger import Asked, Ledger
from tests.simulation.shape import BusinessShape

from taskcenter.errors import TaskCenterError
from taskcenter.service.principal import ALL_SCOPES, Principal, PrincipalKind
from taskcenter.service.services import Services
from taskcenter.service.tasks import Cancelled
from taskcenter.store.records import Created, Replayed, Task, TaskFilter
from taskcenter.task import TERMINAL

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_S: Final = 6.0
URLS: Final = ("http://one.example/hook", "http://two.example/hook")
TAGS: Final = ("red", "blue")
REPEATS: Final = {"unknown", "store_unavailable", "commit_unknown", "overloaded"}
CALLS: Final = (
    "update", "update", "cancel", "cancel", "cancel", "cancel by name", "run now", "run now", "redeliver", "redeliver",
    "cancel in time", "cancel in time", "cancel matching", "redeliver matching", "pause", "limits", "replay",
    "other body", "leave",
)  # fmt: skip
ADMIN: Final = Principal(PrincipalKind.ADMIN, None, None, ALL_SCOPES, "192.0.2.1", None)


class Clients:
    """One business's."""

    def __init__(self, world: World, shape: BusinessShape, nursery: trio.Nursery) -> None:
        self._world = world
        self._ledger: Ledger = world.ledger
        self._shape = shape
        self._code = shape.code
        self._nursery = nursery
        self._rng = random.Random(f"clients {shape.code} {world.seed}")
        self._names = 0

    async def run(self, until_s: float) -> None:
        """Start every call at its moment."""
        rng, moments = self._rng, list[tuple[float, str]]()
        left = self._shape.creates
        while left > 0:
            count = min(left, rng.choice((1, 1, 1, 3, 6)))
            moments.append((rng.uniform(0, until_s * 0.8), f"create {count}"))
            left -= count
        moments += [(rng.uniform(until_s * 0.1, until_s), rng.choice(CALLS)) for _ in range(self._shape.calls)]
        began = trio.current_time()
        for at_s, what in sorted(moments):
            await trio.sleep_until(began + at_s)
            self._nursery.start_soon(self._do, what)

    async def _do(self, what: str) -> None:
        if what.startswith("create "):
            await self._create(int(what.split()[1]))
        elif what == "pause":
            await self._pause()
        elif what == "limits":
            limits = {"rate_limit": self._shape.rate_limit + 1, "max_concurrent_tasks": self._rng.choice((2, 5, 20))}
            await self._change_business(limits)
        elif what in {"cancel matching", "redeliver matching"}:
            await self._matching(what)
        elif ids := self._ledger.ids(self._code):
            await self._on_task(what, self._rng.choice(ids))

    # --- one call -----------------------------------------------------------------------------------------------

    async def _call(
        self, asked: Asked, work: Callable[[Services, Principal], Awaitable[Any]], patience_s: float = PATIENCE_S
    ) -> Any:
        """The answer, noted in `asked`; None if there was none, or a refusal."""

        async def as_business(services: Services) -> Any:
            business = await services.access.cache.by_code(self._code)
            principal = Principal(PrincipalKind.API_KEY, "key-1", business, ALL_SCOPES, "192.0.2.2", None)
            return await work(services, principal)

        process = self._any_process()
        self._world.say("client", f"{asked.what} {asked.name or asked.task_id[-6:]} at {process.name}")
        try:
            answer = await process.ask(as_business, patience_s)
        except NoAnswer:
            self._world.say("client", f"{asked.what} {asked.name or asked.task_id[-6:]}: no answer")
            return None
        except TaskCenterError as error:
            self._ledger.close(asked, error.code)
            self._world.say("client", f"{asked.what} {asked.name or asked.task_id[-6:]}: {error.code}")
            return None
        self._ledger.close(asked, "ok", _task_of(answer))
        self._world.say("client", f"{asked.what} {asked.name or asked.task_id[-6:]}: ok")
        return answer

    def _any_process(self) -> Process:
        return self._rng.choice([one for one in self._world.processes if one.alive] or self._world.processes)

    # --- creates ------------------------------------------------------------------------------------------------

    def _body(self) -> dict[str, Any]:
        rng = self._rng
        self._names += 1
        body: dict[str, Any] = {
            "business_id": f"{self._code}/{self._names}",
            "callback_url": rng.choice(URLS),
            "delay": rng.choice((0, 0, 0.3, 1, 2.5, 6, 12)),
            "timeout": rng.choice((0.4, 1, 3)),
            "retry_intervals": [rng.choice((1, 1.5, 3)) for _ in range(rng.choice((0, 1, 2, 4)))],
            "payload": self._names,
            "tags": [rng.choice(TAGS)],
        }
        if rng.random() < 0.12:
            body["schedule"] = {"every": rng.choice((1, 2, 3)), "max_runs": rng.randint(1, 3)}
        elif rng.random() < 0.08:
            body["deadline"] = self._world.iso(self._world.clock.now_ms() + rng.randint(500, 9000))
        if body["retry_intervals"] and rng.random() < 0.15:  # which are those of the finish call, too
            body["finish_url"] = rng.choice(URLS)
        self._ledger.bodies[self._code, body["business_id"]] = body
        return body

    async def _create(self, count: int) -> None:
        bodies = [self._body() for _ in range(count)]
        if count == 1:
            await self._create_one(bodies[0])
            return
        asked = [self._ledger.open("create", self._code, name=body["business_id"], body=body) for body in bodies]
        whole = self._ledger.open("batch", self._code, name=f"{count} tasks")
        results = await self._call(whole, lambda of, who: of.tasks.creation.create_batch(who, bodies))
        for one, result in zip(asked, results or (), strict=False):
            told = result.code if isinstance(result, TaskCenterError) else "ok"
            self._ledger.close(one, told, _task_of(result))
        for one in asked:
            if one.told in REPEATS:
                self._nursery.start_soon(self._create_one, one.body)

    async def _create_one(self, body: dict[str, Any]) -> None:
        while True:
            asked = self._ledger.open("create", self._code, name=body["business_id"], body=body)
            result = await self._call(asked, lambda of, who: of.tasks.creation.create(who, body))
            asked.replayed = isinstance(result, Replayed)
            if asked.told not in REPEATS:
                return
            await trio.sleep(self._rng.uniform(0.2, 2))

    # --- changes ------------------------------------------------------------------------------------------------

    async def _on_task(self, what: str, task_id: str) -> None:
        name = next(name for (code, name), of in self._ledger.known.items() if of == task_id and code == self._code)
        asked = self._ledger.open(what, self._code, name=name, task_id=task_id)
        rng = self._rng
        if what == "update":
            change = rng.choice(
                ({"timeout": 2}, {"retry_intervals": [1]}, {"delay": rng.choice((0, 0.5, 4))}, {"tags": ["green"]})
            )
            asked.body = change
            await self._call(asked, lambda of, who: of.tasks.tasks.update(who, task_id, change, None))
        elif what == "cancel":
            await self._cancelled(asked, lambda of, who: of.tasks.tasks.cancel(who, task_id))
        elif what == "cancel by name":
            await self._cancelled(asked, lambda of, who: of.tasks.tasks.cancel_by_business_id(who, name))
        elif what == "cancel in time":  # about when it is claimed and sent
            due_at = self._world.journal.moves[task_id][-1].row.next_execute_at or 0
            await trio.sleep(max(0.0, (due_at - self._world.clock.now_ms()) / 1000 + rng.uniform(-0.06, 0.03)))
            asked.at = self._world.clock.now_ms()
            await self._cancelled(asked, lambda of, who: of.tasks.tasks.cancel(who, task_id))
        elif what == "leave":  # the client goes away in the middle of a cancel
            await self._cancelled(
                asked, lambda of, who: of.tasks.tasks.cancel(who, task_id), patience_s=rng.uniform(0, 0.01)
            )
        elif what == "run now":
            await self._call(asked, lambda of, who: of.tasks.tasks.run_now(who, task_id))
        elif what == "redeliver":
            await self._call(asked, lambda of, who: of.tasks.tasks.redeliver(who, task_id))
        else:
            body = dict(self._ledger.bodies[self._code, name])
            if what == "other body":
                body["payload"] = "another"
            asked.body = body
            result = await self._call(asked, lambda of, who: of.tasks.creation.create(who, body))
            asked.replayed = isinstance(result, Replayed)

    async def _cancelled(
        self,
        asked: Asked,
        work: Callable[[Services, Principal], Awaitable[Cancelled]],
        patience_s: float = PATIENCE_S,
    ) -> None:
        answer = await self._call(asked, work, patience_s)
        if answer is not None:
            asked.in_flight = answer.in_flight
            self._world.say("client", f"cancelled {asked.task_id[-6:]}, in flight: {answer.in_flight}")

    async def _matching(self, what: str) -> None:
        tag = self._rng.choice(TAGS)
        asked = self._ledger.open(what, self._code, tag=tag)
        if what == "cancel matching":
            where = TaskFilter(tag=tag)
            answer = await self._call(asked, lambda of, who: of.tasks.bulk.cancel(who, where, 5, dry_run=False))
            asked.in_flight = None if answer is None else answer.in_flight > 0
        else:
            ended = TaskFilter(statuses=TERMINAL, tag=tag)
            await self._call(asked, lambda of, who: of.tasks.bulk.redeliver(who, ended, 3, dry_run=False))

    # --- the business -------------------------------------------------------------------------------------------

    async def _pause(self) -> None:
        await self._change_business({"status": "paused"})
        await trio.sleep(self._rng.uniform(0.2, 6))
        await self._change_business({"status": "active"})

    async def _change_business(self, change: dict[str, Any]) -> None:
        while True:
            asked = self._ledger.open("business", self._code, body=change)
            await self._call(asked, lambda of, _: of.businesses.update(ADMIN, self._code, change, None))
            if asked.told not in {*REPEATS, "version_conflict"}:
                return
            await trio.sleep(self._rng.uniform(0.2, 2))


def _task_of(answer: Any) -> Task | None:
    match answer:
        case Created(task=task) | Replayed(task=task) | Cancelled(task=task):
            return task
        case Task():
            return answer
    return None
