"""Row 1: an acknowledged create survives: four writers ask without a pause while the server and the services are killed
under them. Each asks again, with the same id, until it is told; what it is told is compared with the store.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from random import Random

import pytest
import trio
from tests.reliability.books import Rules
from tests.reliability.cluster import Cluster, cluster
from tests.reliability.conftest import Figure
from tests.reliability.judge import verdict
from tests.reliability.recorder import Caller, now_ms
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
CREATES = int(os.environ.get("TASKCENTER_RELIABILITY_CREATES", "3000"))
SERVER_KILLS = int(os.environ.get("TASKCENTER_RELIABILITY_SERVER_KILLS", "2"))
SERVICE_KILLS = int(os.environ.get("TASKCENTER_RELIABILITY_SERVICE_KILLS", "4"))
WRITERS = 4
FAR_MS = 3_600_000.0


async def write(caller: Caller, name: str, stop: trio.Event, numbers: count[int]) -> None:
    """Singles, and now and then a batch, due in an hour."""
    while not stop.is_set():
        number = next(numbers)
        due_ms = now_ms() + FAR_MS
        if number % 20:
            assert await caller.create(f"{name}-{number}", due_ms, payload={"n": number}) is not None
        else:
            await caller.create_many([(f"{name}-{number}-{item}", due_ms) for item in range(20)])


async def kill_by_turns(trial: Cluster, rng: Random) -> None:
    """The kills in a shuffled order, some seconds apart."""
    kills = ["server"] * SERVER_KILLS + ["service"] * SERVICE_KILLS
    rng.shuffle(kills)
    for kind in kills:
        await trio.sleep(rng.uniform(1, 3))
        if kind == "server":
            await trial.kill_server(rng.uniform(0, 1))
        else:
            victim = rng.choice(trial.instances)
            await trial.kill(victim)
            await trio.sleep(rng.uniform(0, 1))
            await trial.start_again(victim)


async def test_an_acknowledged_create_survives(database_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    async with cluster(database_server, tmp_path, 2) as trial:
        callers = [await trial.caller(f"writer{number}") for number in range(WRITERS)]
        stop, numbers = trio.Event(), count()
        async with trio.open_nursery() as nursery:
            for number, caller in enumerate(callers):
                nursery.start_soon(write, caller, f"w{number}", stop, numbers)
            await kill_by_turns(trial, Random(1))
            with trio.fail_after(600):
                while len(trial.ledger.creates) < CREATES:
                    await trio.sleep(0.2)
            stop.set()
        trial.ledger.close(await trial.history.rows())
        found = verdict(trial.ledger, Rules(settled=False))
        told = {create.result for create in trial.ledger.creates}
        figure("creates acknowledged", found.acknowledged)
        figure("asks without an answer", sum(create.result == "unknown" for create in trial.ledger.creates))
        figure("found made when asked again", sum(create.result == "replayed" for create in trial.ledger.creates))
        figure("lost", found.counts.get("lost", 0))
        figure("phantom", found.counts.get("phantom", 0))
        assert not found.violations, str(found)
        assert len(trial.ledger.rows) == found.acknowledged, "every ask was repeated until it was told"
        assert "unknown" in told, "the kills met creates on their way"
