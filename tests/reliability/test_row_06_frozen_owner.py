"""Row 6: an owner that is frozen for 25 s under load and woken is fenced: what it holds it cannot record, and it sends
nothing more under its old terms.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio
from tests.reliability.cluster import cluster, leisurely
from tests.reliability.conftest import Figure
from tests.reliability.recorder import now_ms
from tests.reliability.traffic import Traffic
from tests.servers import PrivateServer

from taskcenter.task import shard_of

pytestmark = pytest.mark.real_time
BUSINESSES = 24
RATE = 200.0
FROZEN_S = 25.0


async def test_a_frozen_owner_that_wakes_is_fenced(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    async with cluster(database_server, tmp_path, mood=leisurely) as trial:
        callers = [await trial.caller(f"shop{number}") for number in range(BUSINESSES)]
        traffic = Traffic(callers, Random(6))
        victim = trial.instances[1]
        async with trio.open_nursery() as nursery:
            # The longest time-out: what waited in a connection when it was frozen may still be sent after the wake-up.
            nursery.start_soon(lambda: traffic.run(callbacks=RATE, requests=0, timeout=30))
            await trio.sleep(5)
            owner = victim.instance_id
            terms = {shard: term for shard, (by, term) in (await trial.history.owners()).items() if by == owner}
            async with trial.frozen(victim):
                running = await trial.history.running(owner)
                await trio.sleep(FROZEN_S)
                woken_at = now_ms()
            await trio.sleep(8)
            traffic.stop()
        found = await trial.judged()
        fenced = await trial.counted("fenced_writes_total")
        late = [
            send for send in trial.ledger.sends
            if send.arrived_at >= woken_at and send.term == terms.get(shard_of(send.business))
        ]  # fmt: skip
        figure("callbacks", found.sends)
        figure("running when it was frozen", len(running))
        figure("repeats", found.repeats)
        figure("fenced writes", fenced)
        figure("sent after the wake-up under an old term", len(late))
        figure("worst lateness", found.lateness(1), "ms")
        assert not found.violations, str(found)
        assert late == []
        assert found.repeats <= len(running)
        assert fenced >= 1
