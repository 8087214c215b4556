"""Row 6: instances frozen again and again, buried alive, frozen inside a claim: never two owners of one shard.

One trial for the service as it is and for mutants of it that lack a guard: the trial must convict them. The random one
is for the service alone; TASKCENTER_RELIABILITY_FREEZE_S=60 freezes for up to a minute. Mutants are tried on MariaDB,
with TASKCENTER_RELIABILITY_MUTANTS_ON="mariadb mysql" on MySQL too.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from random import Random

import pytest
import trio
from tests.reliability.cluster import Cluster, cluster
from tests.reliability.conftest import Figure
from tests.reliability.lost_owners import SCENES, SHOWN_BY, Mood, owner_of, played
from tests.reliability.mutants import BLIND, MUTANTS
from tests.reliability.recorder import now_ms
from tests.reliability.traffic import Traffic
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
MUTILATED = (sys.executable, "-m", "tests.reliability.mutants")
LONGEST_FREEZE_S = float(os.environ.get("TASKCENTER_RELIABILITY_FREEZE_S", "20"))
MUTANTS_ON = os.environ.get("TASKCENTER_RELIABILITY_MUTANTS_ON", "mariadb").split()
FREEZES = int(os.environ.get("TASKCENTER_RELIABILITY_FREEZES", "6"))


def played_on(server: PrivateServer, directory: Path, mutant: str = "") -> AbstractAsyncContextManager[Cluster]:
    """A cluster for the scenes; `mutant`: which guard it lacks, of `MUTANTS`."""
    authority = str(server.run.certificates.ca)
    return cluster(server, directory, mood=Mood(), program=MUTILATED, TASKCENTER_CALLBACK_CA=authority, MUTANT=mutant)


async def test_no_shard_has_two_owners(database_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    async with played_on(database_server, tmp_path) as trial:
        found = await played(trial, *SCENES)
        figure("callbacks, of them repeats", f"{found.sends}, {found.repeats}")
        figure("writes fenced off", await trial.counted("fenced_writes_total"))
        assert not found.violations, str(found)


@pytest.mark.parametrize("database_server", MUTANTS_ON, indirect=True)
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_every_mutant_is_caught(
    database_server: PrivateServer, tmp_path: Path, figure: Figure, mutant: str
) -> None:
    async with played_on(database_server, tmp_path, mutant) as trial:
        found = await played(trial, SHOWN_BY[mutant])
        figure("convicted of", ", ".join(f"{kind} {count}" for kind, count in sorted(found.counts.items())))
        assert found.violations, str(found)


async def test_the_fence_holds_alone(database_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    """What convicts the mutant without a fence is no fault of the other guard that it lacks."""
    async with played_on(database_server, tmp_path, BLIND) as trial:
        found = await played(trial, SHOWN_BY["claim unfenced"])
        refused = await trial.counted("claims_refused_total")  # it believes that the term is its own still
        figure("claims fenced off", refused)
        assert not found.violations, str(found)
        assert refused > 0


async def test_frozen_at_random(database_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    rng = Random(6)
    async with cluster(database_server, tmp_path) as trial:
        callers = [await trial.caller(f"shop{number}") for number in range(6)]
        traffic = Traffic(callers, rng)
        frozen_s = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: traffic.run(callbacks=40, requests=0))
            await trio.sleep(3)
            for _ in range(FREEZES):
                seconds = rng.uniform(1, LONGEST_FREEZE_S)
                await trial.freeze(rng.choice(trial.instances), seconds)
                frozen_s += seconds
                await trio.sleep(rng.uniform(0, 3))
            traffic.stop()
        found = await trial.judged()
        figure("frozen", f"{FREEZES} times, {frozen_s:.0f} s in all")
        figure("callbacks, of them repeats", f"{found.sends}, {found.repeats}")
        figure("worst lateness", found.lateness(1), "ms")
        assert not found.violations, str(found)


async def test_frozen_inside_a_claim(database_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    """Its statement waits for a lock, which it gets while it is frozen, and keeps until the server cuts its session."""
    async with cluster(database_server, tmp_path) as trial:
        caller = await trial.caller("shop")
        victim, other = await owner_of(trial, caller)
        through = caller.through(other)
        due = now_ms() + 2000
        task_id = await through.create("inside", due)
        with closing(trial.server.connect(trial.history.database)) as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT id FROM tasks WHERE id = %s FOR UPDATE", (task_id,))
            await trio.sleep((due - now_ms()) / 1000 + 0.5)
            frozen_at = now_ms()
            victim.freeze()
            cursor.execute("COMMIT")
        try:
            await trial.receiver.wait_until(1, timeout_s=60)
            figure("another has sent it", (now_ms() - frozen_at) / 1000, "s after")
            assert now_ms() - frozen_at < 30_000
            await trio.sleep(2)
        finally:
            victim.wake()
            trial.disrupt("SIGSTOP", frozen_at)
        await trio.sleep(5)
        found = await trial.judged()
        assert found.sends == 1, str(found)
        assert not found.violations, str(found)
