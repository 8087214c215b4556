"""Row 3: an instance that ends on the spot at a named point, at its first to its fifth passage, over and over.

Two instances over a real server, under callbacks and requests of every kind. One of them runs with a point armed
(`crashing`): when it is passed the process is gone, without a word to anybody. It is started again, armed for the next
passage; in the end unarmed. Then all must be as the clients were told.

By default the points take turns between MariaDB and MySQL; TASKCENTER_RELIABILITY_FULL=1 runs each on both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, cycle
from pathlib import Path
from random import Random

import pytest
import trio
from tests.reliability.books import Rules
from tests.reliability.cluster import Cluster, Instance, cluster
from tests.reliability.conftest import Figure
from tests.reliability.crashing import POINTS, STATUS
from tests.reliability.recorder import Caller, now_ms, spread
from tests.reliability.traffic import Traffic
from tests.reliability.wire import NoAnswer, NoConnection, Wire
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
CRASHING = (sys.executable, "-m", "tests.reliability.crashing")
HITS = range(1, 6)
BATCH = 260  # more than the rows of one statement
BATCH_EVERY_S = 6.0
RULES = Rules(record_slack_ms=10_000)  # on a machine where much starts at once an outcome waits
STORES = ("mariadb", "mysql")
TRIALS = (
    [(store, point) for point in POINTS for store in STORES]
    if os.environ.get("TASKCENTER_RELIABILITY_FULL")
    else [(STORES[number % 2], point) for number, point in enumerate(POINTS)]
)


async def batches(callers: list[Caller], stopped: trio.Event) -> None:
    """Large ones, in turns; the last one is waited for."""
    for number, caller in enumerate(cycle(callers)):
        tasks = list(spread(f"b{number}-", BATCH, now_ms() + 500, BATCH_EVERY_S * 1000))
        await caller.create_many(tasks)
        with trio.move_on_after(BATCH_EVERY_S):
            await stopped.wait()
            return


async def intruders(victim: Instance) -> None:
    """Keys that are not right: each is an entry of the audit trail, written before the answer."""
    for number in count():
        wire = Wire(f"tc_live_{number:016}_wrong", 5.0)
        try:
            if victim.port:
                await wire.ask(victim.port, "GET", "/api/v1/tasks")
        except (NoConnection, NoAnswer):
            await trio.sleep(0.1)
        finally:
            await wire.aclose()
        await trio.sleep(0.1)


@asynccontextmanager
async def everything_goes_on(trial: Cluster, victim: Instance) -> AsyncIterator[None]:
    """Callbacks, requests, batches, intruders, until the block ends; what was asked is told before it does."""
    callers = [await trial.caller(f"shop{number}") for number in range(4)]
    traffic, stopped = Traffic(callers, Random(3)), trio.Event()
    async with trio.open_nursery() as hostile:
        hostile.start_soon(intruders, victim)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: traffic.run(callbacks=12, requests=10))
            nursery.start_soon(batches, callers, stopped)
            yield
            traffic.stop()
            stopped.set()
        hostile.cancel_scope.cancel()


async def crash(trial: Cluster, victim: Instance, other: Instance, point: str, hit: int) -> None:
    """Have the victim run to its point."""
    victim.set(CRASH_POINT=point, CRASH_HIT=str(hit))
    victim.port = 0
    victim.launch()
    nudged, alive_at = False, now_ms()
    with trio.fail_after(60):
        while victim.running:
            alive_at = now_ms()
            if not victim.port:
                await victim.is_ready()
            elif not nudged and point == "release" and await shards_of(trial, victim):
                victim.ask_to_stop()
                nudged = True
            elif not nudged and point == "recovery":
                nudged = bool(await trial.history.running(other.instance_id))
                if nudged:
                    await trial.kill(other)  # what it was sending is the victim's to recover
            await trio.sleep(0.02)
    trial.disrupt("crash", alive_at)
    assert victim.ended() == STATUS, victim.tail()
    if not other.running:
        await other.start()


async def shards_of(trial: Cluster, instance: Instance) -> int:
    owners = [owner for owner, _ in (await trial.history.owners()).values()]
    return owners.count(instance.instance_id)


@pytest.mark.parametrize(("store", "point"), TRIALS)
async def test_a_crash_at_any_point_breaks_no_promise(
    request: pytest.FixtureRequest, store: str, point: str, tmp_path: Path, figure: Figure
) -> None:
    server: PrivateServer = request.getfixturevalue(f"{store}_server")
    async with cluster(server, tmp_path, 2, program=CRASHING) as trial:
        other, victim = trial.instances
        async with everything_goes_on(trial, victim):
            await trio.sleep(1)
            assert await victim.terminate() == 0, victim.tail()
            for hit in HITS:
                await crash(trial, victim, other, point, hit)
            victim.set(CRASH_POINT=None, CRASH_HIT=None)
            await victim.start()
            await trio.sleep(1)
        found = await trial.judged(RULES)
        figure("crashes", len(HITS))
        figure("callbacks, and of them repeats", f"{found.sends:,}, {found.repeats}")
        assert not found.violations, found
        assert victim.running and other.running
