"""One run: instances, store, network, clients and faults together, from the start until everything rests."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio
from tests.simulation.datagrams import Air
from tests.simulation.faults import Faults
from tests.simulation.freezing import FreezingQueue
from tests.simulation.instances import Process
from tests.simulation.journal import Journal
from tests.simulation.ledger import Ledger
from tests.simulation.receivers import HEALED, FarEnd
from tests.simulation.shape import Shape
from tests.simulation.traffic import Clients
from tests.simulation.wire import Server
from tests.store.store_kit import NOW, audit_entry, business, check_books, credential, signing_secret

from taskcenter.clock import Clock
from taskcenter.store.connection import STATEMENT_TIMEOUT_S, Connection
from taskcenter.store.records import Execution
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import SHARDS

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
REST_S: Final = 90.0  # once all faults are over, everything ends within this, and within what the rate limits ask for
# what has not ended: tasks, and attempts of cancelled ones
ACTIVE: Final = (
    "SELECT (SELECT COUNT(*) FROM tasks WHERE finished_at IS NULL) + (SELECT COUNT(*) FROM cancelled_attempts)"
)


@dataclass
class Rested:
    """How a run ended."""

    within_s: float | None  # after the last fault until nothing was active any more; None: it never rested
    left: dict[str, dict[str, object]]  # what instances still held, where they should hold nothing
    unowned: int  # shards
    books: list[str]  # what is wrong with the store's own books


class World:
    """Made inside `trio.run`."""

    def __init__(self, seed: int, shape: Shape, nursery: trio.Nursery, journal: Journal) -> None:
        self.seed = seed
        self.shape = shape
        self.clock = Clock(NOW)  # the truth
        self.journal = journal
        journal.now_ms = self.clock.now_ms
        self.ledger = Ledger(self.clock.now_ms)
        self.queue = FreezingQueue.install()
        self.nursery = nursery
        self.server = Server(seed, nursery, self.journal, self.clock.now_ms)
        self.air = Air(
            nursery, random.Random(f"air {seed}"), shape.datagrams_lost, shape.datagrams_doubled,
            shape.datagrams_delay_s,
        )  # fmt: skip
        self.receivers = FarEnd(self.clock, seed, nursery, shape.temper)
        self.faults = Faults(self)
        self.processes: list[Process] = []
        self.history: list[Execution] = []
        self.identities: dict[str, str] = {}  # instance id → the process
        self.business_ids: dict[int, str] = {}
        self.store: SqlStore

    def say(self, who: str, what: str) -> None:
        self.journal.say(who, what)

    @staticmethod
    def iso(at_ms: int) -> str:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")

    def join(self) -> Process:
        """A new instance."""
        number = len(self.processes) + 1
        process = Process(self, f"i{number}", number)
        self.processes.append(process)
        self.nursery.start_soon(process.run)
        return process

    async def run(self) -> Rested:
        self.store = await self.server.open()
        for number, shape in enumerate(self.shape.businesses, 1):
            await self.store.businesses.create(
                business(number, shape.code, **shape.settings),
                credential(f"key-{number}", number),
                signing_secret(f"sec-{number}", number, secret=SECRET),
                audit_entry("business.create", number),
            )
            self.business_ids[number] = shape.code
        for _ in range(self.shape.instances):
            self.join()
        while not all(process.serving for process in self.processes):
            await trio.sleep(0.05)
        await self._days()
        rested = await self._rest()
        await self._read()
        return rested

    async def _days(self) -> None:
        """Traffic and faults. What both leave under way goes on in the heal."""
        self.say("world", f"{self.shape}")
        self.nursery.start_soon(self._disturb)
        for shape in self.shape.businesses:
            self.nursery.start_soon(Clients(self, shape, self.nursery).run, self.shape.lasts_s)
        await trio.sleep(self.shape.lasts_s)

    async def _disturb(self) -> None:
        with trio.move_on_after(self.shape.lasts_s):
            async with trio.open_nursery() as faults:
                for fault in self.shape.faults:
                    faults.start_soon(self.faults.run, fault)

    async def _rest(self) -> Rested:
        self.say("world", "everything heals")
        began = trio.current_time()
        self.receivers.temper = HEALED
        self.faults.heal()
        if not any(process.alive and not process.draining for process in self.processes):
            self.join()
        most_s = REST_S + max(60 * (shape.creates // shape.rate_limit + 1) for shape in self.shape.businesses)
        rested_s: float | None = None
        with trio.move_on_after(most_s):
            await trio.sleep(2)  # clients that repeat their creates, and what was frozen
            while await self._active() or self._unowned():
                await trio.sleep(0.5)
            rested_s = trio.current_time() - began
            await trio.sleep(1)
            with trio.move_on_after(STATEMENT_TIMEOUT_S):  # so long a call to the store waits that began during a cut
                while self._left():
                    await trio.sleep(0.5)
        unowned = self._unowned() if rested_s is None else 0  # they may be on the move again
        return Rested(rested_s, self._left(), unowned, await self._books())

    async def _active(self) -> int:
        async def work(connection: Connection) -> int:
            row = await connection.fetch_one(ACTIVE)
            assert row is not None
            return int(row[0])

        return await self.server.database.read(work)

    def _left(self) -> dict[str, dict[str, object]]:
        """What the instances that live still hold, though nothing is to be done."""
        left: dict[str, dict[str, object]] = {}
        for process in self.processes:
            if not process.serving:
                continue
            told = process.engine.statistics()
            held = {
                "in flight": told["actors"]["in_flight"], "ready": told["actors"]["ready"],
                "claims": told["claims"]["waiting"],
                "outcomes": told["outcomes"]["waiting"], "degraded": told["actors"]["degraded"],
            }  # fmt: skip
            if any(held.values()):
                left[process.name] = held
        return left

    def _unowned(self) -> int:
        """Shards that not exactly one instance takes for its own."""
        serving = [one.engine for one in self.processes if one.serving]
        owners = Counter(shard for engine in serving for shard in range(SHARDS) if engine.owns(shard))
        return SHARDS - sum(count == 1 for count in owners.values())

    async def _books(self) -> list[str]:
        wrong = []
        for number, code in self.business_ids.items():
            try:
                await check_books(self.store, number)
            except AssertionError as error:
                wrong.append(f"the books of {code}: {' '.join(str(error).split())}")
        return wrong

    async def _read(self) -> None:
        """What the checks need and only the store knows."""
        self.identities = {one.id: one.host_identity.rpartition("|")[2] for one in await self.store.leases.instances()}
        for task_id, moves in self.journal.moves.items():
            if moves[-1].row.sends:
                self.history += await self.store.tasks.executions(moves[-1].row.business_id, task_id, None, 1000)
