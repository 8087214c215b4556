"""Instances of the service over one real server, with every book kept; with `proxied` each reaches the server by way
of a fault proxy of its own, which costs the trial's process the CPU of every statement.

What is done to an instance or to the server is written into the ledger, because it is the only excuse for a repeat.
`apart` gives each instance a process namespace of its own, as on machines of their own: nobody can see that another has
ended, and its lease has to run out.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from tests.flow.kit import PROGRAM, Answer, Call, Service, business, metric
from tests.reliability.books import Rules
from tests.reliability.history import History, Running
from tests.reliability.judge import Verdict, verdict
from tests.reliability.ledger import Disruption, Ledger
from tests.reliability.recorder import Caller, Mood, Recorder, now_ms
from tests.servers import PrivateServer
from tests.store.fault_proxy import FaultProxy, open_proxy

RATE_LIMIT = 100_000
ARRIVAL_S = 0.05  # until the receiver has read what was sent to it
APART = ("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--")


def prompt(call: Call) -> Answer:
    """A receiver that takes 50 ms."""
    return Answer(delay_s=0.05)


def leisurely(call: Call) -> Answer:
    """A receiver that takes half a second: much is on its way when something happens."""
    return Answer(delay_s=0.5)


class Instance(Service):
    """A service that can also be frozen, and run where others cannot see its process."""

    def __init__(
        self,
        database_url: str,
        directory: Path,
        *,
        apart: bool = False,
        program: Sequence[str] = PROGRAM,
        **settings: str | None,
    ) -> None:
        super().__init__(database_url, directory, program=program, **settings)
        self.apart = apart
        if apart:
            self._command = [*APART, *self._command]

    @property
    def pid(self) -> int:
        outer = super().pid
        if not self.apart:
            return outer
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text("ascii").split()
        return int(children[0])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.ended()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def set(self, **settings: str | None) -> None:
        """Variables of its environment from its next launch on; None takes one out."""
        changed: dict[str, str | None] = {**self._environment, **settings}
        self._environment = {name: value for name, value in changed.items() if value is not None}

    def ask_to_stop(self) -> None:
        """SIGTERM; `ended` or `terminate` waits."""
        os.kill(self.pid, signal.SIGTERM)

    def ended(self) -> int:
        """Wait for the end of its process; the status."""
        assert self._process is not None
        self.port = 0
        return self._process.wait()

    async def terminate(self, timeout_s: float = 40.0) -> int:
        """SIGTERM; the exit status. Callers turn to others at once, as a balancer that was told first lets them."""
        self.ask_to_stop()
        self.port = 0
        with trio.fail_after(timeout_s):
            return await trio.to_thread.run_sync(self.ended, abandon_on_cancel=True)

    @property
    def instance_id(self) -> str:
        """Of its latest start."""
        lines = [line for line in self.log_text().splitlines() if '"serving"' in line]
        return str(json.loads(lines[-1])["instance"])


@dataclass(slots=True)
class Cluster:
    """What a trial acts on."""

    server: PrivateServer
    url: str  # of its database, without a proxy
    instances: list[Instance]
    proxies: list[FaultProxy]  # one for each instance; none unless asked for
    receiver: Recorder
    ledger: Ledger
    history: History
    stack: AsyncExitStack

    async def caller(self, code: str, **fields: Any) -> Caller:
        """A new business and its client."""
        service = next(each for each in self.instances if each.port)
        async with business(service, code, **{"rate_limit": RATE_LIMIT, "max_active_tasks": 100_000, **fields}) as api:
            made = Caller(self.instances, api.token, code, self.receiver.url, self.ledger)
        self.stack.push_async_callback(made.aclose)
        return made

    async def start_again(self, victim: Instance, timeout_s: float = 120) -> None:
        """Start it as a supervisor does: again when it ended because the store could not be reached."""
        with trio.fail_after(timeout_s):
            while True:
                try:
                    await victim.start()
                except AssertionError:
                    if victim.running:
                        raise
                    await trio.sleep(0.5)
                else:
                    return

    def disrupt(self, kind: str, from_ms: float, lost: Iterable[Running] | None = None) -> None:
        """Note what began then and is over now. `lost`: what was on its way, where that is known."""
        keys = None if lost is None else frozenset((one.task_id, one.run, one.attempt) for one in lost)
        self.ledger.add(Disruption(kind, from_ms, now_ms(), keys))

    async def kill(self, victim: Instance) -> list[Running]:
        """SIGKILL; the attempts it had on its way.

        It is frozen first, so that its rows can be read before others take them over, and what it has sent arrives.
        """
        at, owner = now_ms(), victim.instance_id
        victim.freeze()
        running = await self.history.running(owner)
        await trio.sleep(ARRIVAL_S)
        victim.kill()
        self.disrupt("SIGKILL", at, running)
        return running

    @asynccontextmanager
    async def frozen(self, victim: Instance) -> AsyncIterator[None]:
        """SIGSTOP before the block, SIGCONT after it. Callers turn to others meanwhile."""
        at, port = now_ms(), victim.port
        victim.port = 0
        victim.freeze()
        try:
            yield
        finally:
            victim.wake()
            victim.port = port
            self.disrupt("SIGSTOP", at)

    async def freeze(self, victim: Instance, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        async with self.frozen(victim):
            await trio.sleep(seconds)

    @asynccontextmanager
    async def partitioned(self, victim: Instance, proxy: FaultProxy) -> AsyncIterator[None]:
        """It cannot reach the store during the block: nothing passes, nothing closes. Callers turn to others."""
        at, port = now_ms(), victim.port
        victim.port = 0
        proxy.black_hole()
        try:
            yield
        finally:
            proxy.clear()
            victim.port = port
            self.disrupt("partition", at)

    async def kill_server(self, down_s: float) -> None:
        """SIGKILL of the database, and back again after so many seconds."""
        at = now_ms()
        await trio.to_thread.run_sync(self.server.kill)
        await trio.sleep(down_s)
        await trio.to_thread.run_sync(self.server.start)
        self.disrupt("server SIGKILL", at)

    async def freeze_server(self, seconds: float) -> None:
        at = now_ms()
        await trio.to_thread.run_sync(self.server.stop_signal)
        try:
            await trio.sleep(seconds)
        finally:
            self.server.cont()
            self.disrupt("server SIGSTOP", at)

    async def until_shared(self, timeout_s: float = 60) -> None:
        """Return when every running instance holds shards, all 256 together, and no more than its share."""
        with trio.fail_after(timeout_s):
            while True:
                ids = [each.instance_id for each in self.instances if each.running]
                owners = [owner for owner, _ in (await self.history.owners()).values()]
                share = -(-len(owners) // len(ids))
                if all(0 < owners.count(each) <= share for each in ids) and set(owners) == set(ids):
                    return
                await trio.sleep(0.1)

    async def counted(self, name: str, **labels: str) -> float:
        """A metric's sum over the instances that run."""
        return sum([await metric(each, name, **labels) for each in self.instances if each.port])

    async def judged(self, rules: Rules | None = None, timeout_s: float = 120) -> Verdict:
        """The verdict, once every task has ended."""
        await self.history.until_settled(timeout_s)
        await trio.sleep(0.2)  # the receiver's last answers
        self.ledger.close(await self.history.rows())
        return await trio.to_thread.run_sync(verdict, self.ledger, rules)


@asynccontextmanager
async def cluster(
    server: PrivateServer,
    directory: Path,
    count: int = 3,
    *,
    mood: Mood = prompt,
    apart: bool = False,
    proxied: bool = False,
    seed: int = 0,
    program: Sequence[str] = PROGRAM,
    own: Callable[[Path], dict[str, str]] = lambda directory: {},
    **settings: str,
) -> AsyncIterator[Cluster]:
    """Ready instances over a new database of `server`; all are gone afterwards, however frozen or killed they are.

    `program`: what stands for `taskcenter`. `own`: an instance's own variables, by its directory.
    """
    server.ensure_running()
    url = server.create_database()
    ledger = Ledger()
    receiver = Recorder(ledger, mood)
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(open_proxy(server.host, server.port, seed=seed + number))
            for number in range(count if proxied else 0)
        ]
        urls = [proxy.url(url) for proxy in proxies] or [url] * count
        homes = [directory / f"i{number}" for number in range(count)]
        for home in homes:
            home.mkdir(parents=True)
        instances = [
            _instance(url, home, apart, program, {**settings, **own(home)})
            for url, home in zip(urls, homes, strict=True)
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(receiver.serve)
            try:
                await instances[0].start()  # it migrates
                async with trio.open_nursery() as starting:
                    for instance in instances[1:]:
                        starting.start_soon(instance.start)
                made = Cluster(server, url, instances, proxies, receiver, ledger, History(server, url), stack)
                await made.until_shared()
                yield made
            finally:
                for instance in instances:
                    if instance.running:
                        instance.kill()
                nursery.cancel_scope.cancel()
    server.ensure_running()
    await trio.to_thread.run_sync(server.drop_database, url)


def _instance(url: str, directory: Path, apart: bool, program: Sequence[str], settings: dict[str, str]) -> Instance:
    # In clear, so that the proxy knows a COMMIT when it sees one.
    return Instance(f"{url}?ssl-mode=disabled", directory, apart=apart, program=program, **settings)
