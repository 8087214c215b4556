"""One instance: what `runtime.node` puts together, over a virtual store, network and clock, until something ends it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio
from pydantic import SecretStr
from tests.runtime.engine_kit import KEYS, engine_parts
from tests.simulation.datagrams import Socket
from tests.simulation.receivers import Client
from tests.simulation.wire import Wire

from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.clock import Clock
from taskcenter.config import Settings
from taskcenter.errors import TaskCenterError
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.runtime.engine import Engine
from taskcenter.runtime.peer_link import PeerLink
from taskcenter.service.services import Services

if TYPE_CHECKING:
    from tests.simulation.world import World

GRACE_S: Final = 20.0
SETTINGS: Final = Settings(admin_token=SecretStr("admin-token-of-the-simulation"))


class NoAnswer(Exception):
    """The connection broke, or the client had no patience: whether it was done is not known."""


class MachineClock(Clock):
    """Led by its machine's wall clock, which may be wrong and may be set."""

    def __init__(self, true_ms: Callable[[], float], wrong_by_ms: float) -> None:
        self.wrong_by_ms = wrong_by_ms
        self._true_ms = true_ms
        super().__init__(true_ms() + wrong_by_ms)

    def observe_wall(self) -> bool:
        return self.observe(self._true_ms() + self.wrong_by_ms)


class Process:
    """`run` until it is crashed or drained. `alive`: something of it may still leave the machine."""

    def __init__(self, world: World, name: str, number: int) -> None:
        self.name = name
        self.alive = True
        self.hesitates_s = world.shape.hesitates_s
        self.serving = False
        self.draining = False
        self.over = trio.Event()
        self.ended_by = ""  # a crash of a part of it, and with it of the process
        self.rng = random.Random(f"{name} {world.seed}")
        self.clock = MachineClock(world.clock.now_ms_exact, self.rng.uniform(-40, 40))
        self.wire = Wire(world.server, name, self.rng)
        self.alerts: list[tuple[str, str]] = []
        self._world = world
        self._stop = trio.Event()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._root: trio.lowlevel.Task | None = None
        self._asked: dict[int, trio.MemorySendChannel[Any]] = {}
        self._numbers = 0
        store = world.server.store_for(self.wire)
        self.store = store
        metrics = Metrics()
        identity = f"sim|one|{name}"
        link = PeerLink(Socket(world.air, f"10.0.0.{number}"), KEYS, identity, self.clock, metrics)
        parts = engine_parts(
            store, self.clock, self.rng, metrics, identity, link,
            new_client=lambda of: Client(world.receivers, of, self), alert=self._alert, ttl_s=world.shape.ttl_s,
        )  # fmt: skip
        self.engine = Engine(parts)
        self.services = Services.build(
            store=store, settings=SETTINGS, keys=KEYS, clock=self.clock, ids=IdSource(self.rng), metrics=metrics,
            engine=self.engine, egress=EgressPolicy(), random_bytes=self.rng.randbytes,
        )  # fmt: skip

    def say(self, what: str) -> None:
        self._world.journal.say(self.name, what)

    def _alert(self, rule: str, text: str) -> None:
        self.alerts.append((rule, text))
        self.say(f"alert {rule}: {text}")

    # --- life, as in `runtime.node` -----------------------------------------------------------------------------

    async def run(self) -> None:
        self._root = trio.lowlevel.current_task()
        self.say("starts")
        try:
            with self._scope:
                await self._live()
        except BaseException as error:
            self.ended_by = _faults_of(error)
            if not self.ended_by:
                raise
            self.say(f"ended by {self.ended_by}")
        finally:
            self._gone()
            self.say("is over")
            self.over.set()

    async def _live(self) -> None:
        await self.store.open()
        async with trio.open_nursery() as whole:
            self._nursery = whole
            await whole.start(self.engine.run)
            await whole.start(lambda *, task_status: self.services.run(task_status=task_status))
            self.serving = True
            self.say("serves")
            await self._stop.wait()
            self.serving = False
            self.services.health.drain()
            drained = await self.engine.drain(GRACE_S)
            self.say(f"drained {drained}")
            await self.services.flush()
            whole.cancel_scope.cancel()

    # --- what befalls it ----------------------------------------------------------------------------------------

    def drain(self) -> None:
        """As at SIGTERM."""
        self.draining = True
        self._stop.set()

    def crash(self) -> None:
        """As at SIGKILL: nothing more leaves it, nothing is handed over."""
        self._gone()
        self.thaw()
        self._scope.cancel()

    def _gone(self) -> None:
        self.alive = self.serving = self.wire.plugged = False
        for answer in self._asked.values():
            answer.close()
        self._asked.clear()

    def freeze(self) -> None:
        assert self._root is not None
        self._world.queue.freeze(self._root)

    def thaw(self) -> None:
        if self.frozen:
            assert self._root is not None
            self._world.queue.thaw(self._root)

    @property
    def frozen(self) -> bool:
        return self._root is not None and self._world.queue.is_frozen(self._root)

    # --- the API's door -----------------------------------------------------------------------------------------

    async def ask(self, work: Callable[[Services], Awaitable[Any]], patience_s: float) -> Any:
        """What `work` returns or raises in this instance. Raises `NoAnswer`."""
        if not self.serving or self._nursery is None:
            await trio.sleep(0.001)
            raise NoAnswer
        self._numbers += 1
        number = self._numbers
        answer, inbox = trio.open_memory_channel[Any](1)
        self._asked[number] = answer
        request = trio.CancelScope()
        self._nursery.start_soon(self._handle, work, answer, request)
        try:
            with trio.move_on_after(patience_s):
                outcome = await inbox.receive()
                if isinstance(outcome, TaskCenterError):
                    raise outcome
                return outcome
        except trio.EndOfChannel:
            raise NoAnswer from None
        finally:
            self._asked.pop(number, None)
            request.cancel()  # the client has left: a handler that still works is cancelled
        raise NoAnswer

    async def _handle(
        self, work: Callable[[Services], Awaitable[Any]], answer: trio.MemorySendChannel[Any], request: trio.CancelScope
    ) -> None:
        with request, answer:
            try:
                outcome = await work(self.services)
            except TaskCenterError as error:
                outcome = error
            if self.alive:
                answer.send_nowait(outcome)


def _faults_of(error: BaseException) -> str:
    """All that is in it but cancellations, in words."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(filter(None, map(_faults_of, error.exceptions)))
    return "" if isinstance(error, trio.Cancelled) else repr(error)
