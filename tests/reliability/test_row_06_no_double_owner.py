"""Row 6: instances frozen again and again, buried alive, frozen inside a claim: never two owners of one shard.

One trial for the service as it is and for mutants of it that lack a guard: the trial must convict them. The random one
is for the service alone; TASKCENTER_RELIABILITY_FREEZE_S=60 freezes for up to a minute.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import aclosing, closing
from pathlib import Path
from random import Random

import pytest
import trio
from tests.flow.kit import ADMIN_TOKEN, Answer, Api, Call
from tests.reliability.cluster import Cluster, Instance, cluster
from tests.reliability.conftest import Figure
from tests.reliability.judge import Verdict
from tests.reliability.mutants import MUTANTS
from tests.reliability.recorder import Caller, now_ms, spread
from tests.reliability.traffic import Traffic
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
MUTILATED = (sys.executable, "-m", "tests.reliability.mutants")
LONGEST_FREEZE_S = float(os.environ.get("TASKCENTER_RELIABILITY_FREEZE_S", "20"))
FREEZES = int(os.environ.get("TASKCENTER_RELIABILITY_FREEZES", "6"))
BURIALS = 6
FROZEN_S = 16.0  # past the lease, its burial and the takeover
RETRY = {"retry_intervals": [1, 1]}


class Mood:
    """Tasks of business `slow`: the first call is answered 500 while its sender is frozen, the next hangs."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()

    def __call__(self, call: Call) -> Answer:
        if call.json["business_code"] != "slow":
            return Answer(delay_s=0.02)
        task_id = call.headers["x-taskcenter-task-id"]
        self._calls[task_id] += 1
        return {1: Answer(500, delay_s=2), 2: Answer(200, delay_s=15)}.get(self._calls[task_id], Answer(200))


async def identity(instance: Instance) -> str:
    """The one it has now: who was buried alive has taken a new one."""
    async with aclosing(Api(instance, ADMIN_TOKEN)) as api:
        return str((await api.ok("GET", "/stats"))["answered_by"])


async def owner_of(trial: Cluster, caller: Caller) -> tuple[Instance, Instance]:
    """The owner of the business's shard, and another instance."""
    query = f"SELECT shard FROM business_systems WHERE business_code = '{caller.code}'"
    shard = (await trial.history.fetch(query))[0][0]
    owner, _ = (await trial.history.owners())[shard]
    [mine] = [each for each in trial.instances if await identity(each) == owner]
    return mine, next(each for each in trial.instances if each is not mine)


async def balanced(trial: Cluster) -> None:
    """Return when all the shards are shared out evenly again."""
    with trio.fail_after(90):
        while True:
            counts = Counter([owner for owner, _ in (await trial.history.owners()).values()])
            if None not in counts and len(counts) == len(trial.instances) and max(counts.values()) <= 86:
                return
            await trio.sleep(0.1)


async def buried_alive(trial: Cluster, caller: Caller, number: int) -> None:
    """An owner that has lost its shards without knowing it is asked to send at that very moment."""
    victim, other = await owner_of(trial, caller)
    name, began = await identity(victim), now_ms()
    victim.freeze()
    try:
        trial.server.execute(f"UPDATE {trial.history.database}.instances SET dead = 1 WHERE id = %s", (name,))
        with trio.fail_after(30):
            while name in {owner for owner, _ in (await trial.history.owners()).values()}:
                await trio.sleep(0.02)
        await trio.sleep(0.3)
        await caller.through(other).create(f"new-{number}")  # the new term has been seen
        await trio.sleep(0.5)
    finally:
        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(caller.through(victim).create, f"old-{number}-{index}")
            await trio.sleep(0.1)  # they wait in its sockets
            victim.wake()
    trial.disrupt("buried alive", began)
    await balanced(trial)


async def frozen(trial: Cluster, fast: Caller, slow: Caller) -> None:
    """Frozen with callbacks on their way, with others claimed that wait for their time, until all is another's."""
    victim, _ = await owner_of(trial, fast)
    mine, _ = await owner_of(trial, slow)
    now = now_ms()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fast.create_many, list(spread("f", 300, now + 1500, 2000)))
        await slow.create_many([(f"s{number}", now + 1500) for number in range(5)], **RETRY)
        await trio.sleep((now + 2500 - now_ms()) / 1000)
        for each in {victim, mine}:
            nursery.start_soon(trial.freeze, each, FROZEN_S)
    await trio.sleep(2)


async def trial_of(trial: Cluster) -> Verdict:
    fast, slow = await trial.caller("fast"), await trial.caller("slow")
    for number in range(BURIALS):
        await buried_alive(trial, fast, number)
    await frozen(trial, fast, slow)
    return await trial.judged()


async def test_no_shard_has_two_owners(database_server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    async with cluster(database_server, tmp_path, mood=Mood(), program=MUTILATED) as trial:
        found = await trial_of(trial)
        figure("callbacks, of them repeats", f"{found.sends}, {found.repeats}")
        figure("writes fenced off", await trial.counted("fenced_writes_total"))
        assert not found.violations, str(found)


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_every_mutant_is_caught(
    mariadb_server: PrivateServer, tmp_path: Path, figure: Figure, mutant: str
) -> None:
    async with cluster(mariadb_server, tmp_path, mood=Mood(), program=MUTILATED, MUTANT=mutant) as trial:
        found = await trial_of(trial)
        figure("convicted of", ", ".join(f"{kind} {count}" for kind, count in sorted(found.counts.items())))
        assert {"out_of_term", "overlapping"} & found.counts.keys(), str(found)


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
