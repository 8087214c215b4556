"""Row 5: repeats are bounded: when an instance is killed under load, only what it had on its way comes again, once each
and flagged; everything is delivered.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
import trio
from tests.reliability.cluster import Cluster, Instance, cluster, leisurely
from tests.reliability.conftest import Figure
from tests.reliability.traffic import Traffic
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
KILLS = int(os.environ.get("TASKCENTER_RELIABILITY_KILLS", "4"))
BUSINESSES = 24
RATE = 200.0
MOST_LATE_MS = 15_000.0
Attempt = tuple[str, int, int]


async def kill(trial: Cluster, victim: Instance) -> set[Attempt]:
    """The attempts that it had on its way."""
    return {(one.task_id, one.run, one.attempt) for one in await trial.kill(victim)}


async def test_only_what_was_running_at_a_kill_is_repeated(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    rng = Random(5)
    async with cluster(database_server, tmp_path, mood=leisurely) as trial:
        callers = [await trial.caller(f"shop{number}") for number in range(BUSINESSES)]
        traffic = Traffic(callers, rng)
        running: list[set[Attempt]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: traffic.run(callbacks=RATE, requests=10))
            await trio.sleep(5)
            for _ in range(KILLS):
                victim = rng.choice(trial.instances)
                running.append(await kill(trial, victim))
                await trio.sleep(rng.uniform(2, 4))
                await victim.start()
                await trio.sleep(rng.uniform(3, 5))
            traffic.stop()
        found = await trial.judged()
        arrivals: dict[Attempt, int] = {}
        for send in trial.ledger.sends:
            key = (send.task_id, send.run, send.attempt)
            arrivals[key] = arrivals.get(key, 0) + 1
        repeated = {key for key, count in arrivals.items() if count > 1}
        figure("kills", KILLS)
        figure("callbacks", found.sends)
        figure("running at the kills", sum(map(len, running)))
        figure("repeats", found.repeats)
        figure("worst lateness", found.lateness(1), "ms")
        assert not found.violations, str(found)
        assert repeated <= set().union(*running)
        assert all(count <= 1 + sum(key in at_once for at_once in running) for key, count in arrivals.items())
        assert found.lateness(1) < MOST_LATE_MS, str(found)


async def test_a_killed_machine_is_replaced_within_fifteen_seconds(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    """Nobody sees that its process has ended: the lease runs out."""
    async with cluster(database_server, tmp_path, mood=leisurely, apart=True) as trial:
        callers = [await trial.caller(f"shop{number}") for number in range(BUSINESSES)]
        traffic = Traffic(callers, Random(15))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: traffic.run(callbacks=RATE, requests=10))
            await trio.sleep(5)
            running = await kill(trial, trial.instances[1])
            await trio.sleep(18)
            traffic.stop()
        found = await trial.judged()
        figure("callbacks", found.sends)
        figure("running at the kill", len(running))
        figure("repeats", found.repeats)
        figure("worst lateness", found.lateness(1), "ms")
        assert not found.violations, str(found)
        assert found.repeats <= len(running)
        assert found.lateness(1) < MOST_LATE_MS, str(found)
