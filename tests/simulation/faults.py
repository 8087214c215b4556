"""What goes wrong, by seed; and the record of it, which must explain every attempt that was lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from tests.simulation.instances import Process
from tests.simulation.shape import Fault

if TYPE_CHECKING:
    from tests.simulation.world import World

EVERYBODY: Final = ""
UPON_S: Final = 3.0  # it is waited for so long


@dataclass
class Incident:
    """Something that befell one instance, or everybody. Times in ms, true."""

    kind: str
    whom: str
    since: int
    until: int | None = None  # None: not over


class Faults:
    """Owner of the record; each fault undoes itself."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"faults {world.seed}")
        self.incidents: list[Incident] = []

    async def run(self, fault: Fault) -> None:
        await trio.sleep(fault.at_s)
        name = await self._world.journal.wait_for(fault.upon, UPON_S) if fault.upon else None
        serving = [one for one in self._world.processes if one.alive and not one.draining and not one.frozen]
        if fault.kind == "slow store":
            await self._slow(fault)
        elif fault.kind == "store step":
            self._step_store()
        elif fault.kind == "rolling restart":
            await self._rolling(serving)
        elif serving:
            chosen = [one for one in serving if one.name == name]
            await self._befall(self._rng.choice(chosen or serving), fault)

    async def _befall(self, process: Process, fault: Fault) -> None:
        match fault.kind:
            case "crash":
                await self.crash(process, after_s=self._rng.choice((0.0, 0.1, 3.0)))
            case "drain":
                await self._replace(process)
            case "freeze":
                await self._freeze(process, fault.lasts_s)
            case "cut":
                await self._cut(process, fault.lasts_s)
            case "stop under way":
                await self._stop_under_way(process, fault.upon)
            case "lossy store":
                await self._lossy(process, fault.lasts_s)
            case "wall step":
                process.clock.wrong_by_ms += self._rng.choice((-1, 1)) * self._rng.choice((300, 30_000, 3_600_000))
                self._say(f"wall step of {process.name} to {process.clock.wrong_by_ms:.0f} ms")

    def heal(self) -> None:
        """The end of all faults that are under way, and of the clocks' errors."""
        for process in self._world.processes:
            process.wire.cut, process.wire.loss, process.wire.slow_s = "", 0.0, 0.0
            process.wire.let_go()
            process.thaw()
        self._world.server.slow_s = 0.0
        for incident in self.incidents:
            incident.until = incident.until or self._world.clock.now_ms()

    # --- the record ---------------------------------------------------------------------------------------------

    def explain(self, whom: str, since: int, until: int) -> bool:
        """Whether something befell that instance, or everybody, that may have cost it a lease or an answer then."""
        return any(
            one.whom in {whom, EVERYBODY} and one.since <= until and since <= self._end(one) for one in self.incidents
        )

    def _end(self, incident: Incident) -> int:
        over = self._world.clock.now_ms() if incident.until is None else incident.until
        return over + 2 * int(self._world.shape.ttl_s * 1000)  # it may lose its lease a while later

    @contextmanager
    def _noted(self, kind: str, whom: str) -> Iterator[None]:
        incident = Incident(kind, whom, self._world.clock.now_ms())
        self.incidents.append(incident)
        self._say(f"{kind} of {whom or 'everybody'}")
        try:
            yield
        finally:
            incident.until = incident.until or self._world.clock.now_ms()
            self._say(f"{kind} of {whom or 'everybody'} is over")

    def _say(self, what: str) -> None:
        self._world.say("fault", what)

    # --- each of them -------------------------------------------------------------------------------------------

    async def crash(self, process: Process, after_s: float) -> None:
        with self._noted("crash", process.name):
            process.crash()
        await trio.sleep(after_s)
        self._world.join()

    async def _replace(self, process: Process) -> None:
        """A new one joins, then the old one is drained; what does not end within its grace is lost with it."""
        joined = self._world.join()
        with trio.move_on_after(10):
            while not joined.serving:
                await trio.sleep(0.2)
        if not process.alive or process.draining:
            return
        self._say(f"drain of {process.name}")
        process.drain()
        await process.over.wait()

    async def _rolling(self, processes: list[Process]) -> None:
        for process in processes:
            await self._replace(process)

    async def _freeze(self, process: Process, lasts_s: float) -> None:
        with self._noted("freeze", process.name):
            process.freeze()
            await trio.sleep(lasts_s)
            process.thaw()

    async def _cut(self, process: Process, lasts_s: float) -> None:
        with self._noted("cut", process.name):
            process.wire.cut = self._rng.choice(("refused", "silent"))
            await trio.sleep(lasts_s)
            process.wire.cut = ""

    async def _lossy(self, process: Process, lasts_s: float) -> None:
        with self._noted("lossy store", process.name):
            process.wire.loss = self._rng.choice((0.1, 0.5, 0.9))
            await trio.sleep(lasts_s)
            process.wire.loss = 0.0

    async def _stop_under_way(self, process: Process, lane: str) -> None:
        """It stops with a statement on its way to the store, which comes in at the worst moment, or at once; it goes
        on, if it does, right after that.
        """
        hold = process.wire.hold(lane)
        with trio.move_on_after(UPON_S):
            await hold.reached.wait()
        late, dies = self._rng.random() < 0.6, self._rng.random() < 0.2
        if not hold.reached.is_set() or not process.alive or process.frozen:
            process.wire.let_go()
        elif dies:
            self._world.nursery.start_soon(self.crash, process, 0.1)
            await self._worst_moment(process, lane)
            process.wire.let_go()
        else:
            with self._noted("freeze", process.name):
                process.freeze()
                if not late:
                    process.wire.let_go()
                await self._worst_moment(process, lane)
                process.wire.let_go()
                await trio.sleep(self._rng.choice((0.0, 0.0, 0.5)))
                process.thaw()

    async def _worst_moment(self, process: Process, lane: str) -> None:
        """For a claim: another was just given the shard and has claimed nothing yet, so that only the fence refuses it.
        For the end of an attempt: another, who took it for lost, is just sending it again.
        """
        with trio.move_on_after(3 * self._world.shape.ttl_s):
            await self._succession(process)
            if lane == "outcomes":
                await self._world.journal.wait_for(" again", UPON_S)

    async def _succession(self, process: Process) -> None:
        """Wait until another instance is the owner of a shard of its that has tasks."""
        former, journal = process.engine.instance_id, self._world.journal
        while True:
            shards = {moves[0].row.shard for moves in journal.moves.values()}
            newest = (of_shard[-1] for shard, of_shard in journal.leases.items() if shard in shards)
            if any(lease.former_owner == former and lease.owner is not None for lease in newest):
                return
            await journal.wait_for("change hands", self._world.shape.ttl_s)

    async def _slow(self, fault: Fault) -> None:
        with self._noted("slow store", EVERYBODY):
            self._world.server.slow_s = self._rng.choice((0.05, 0.3, 1.5, 4.0))
            await trio.sleep(fault.lasts_s)
            self._world.server.slow_s = 0.0

    def _step_store(self) -> None:
        with self._noted("store step", EVERYBODY):
            self._world.server.step_ms += self._rng.choice((-1, 1)) * self._rng.choice((500, 8_000, 60_000))
