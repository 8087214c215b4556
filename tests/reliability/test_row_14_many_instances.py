"""Row 14 with several instances: an outage that outlasts every lease makes no instance take another for dead.

Callbacks are on their way when the server is killed, and end while it is down: their outcomes wait in memory. When it
is back every lease has run out by the store's clock; still nobody may be buried, or what was on its way would be sent
again.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio
from tests.flow.kit import Answer, Call
from tests.reliability.cluster import cluster
from tests.reliability.conftest import Figure
from tests.reliability.traffic import Traffic
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
BUSINESSES = 12
CALLBACKS = 40.0  # a second
OUTAGE_S = 13.0  # longer than a lease


def slow(call: Call) -> Answer:
    """So that many are on their way at any moment."""
    return Answer(delay_s=2.0)


async def test_nobody_is_buried_after_an_outage_that_outlasts_the_leases(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    async with cluster(database_server, tmp_path, mood=slow) as trial:
        callers = [await trial.caller(f"shop{number}") for number in range(BUSINESSES)]
        traffic = Traffic(callers, Random(14))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: traffic.run(callbacks=CALLBACKS, requests=10))
            await trio.sleep(5)
            await trio.to_thread.run_sync(database_server.kill)
            await trio.sleep(OUTAGE_S)
            await trio.to_thread.run_sync(database_server.start)
            await trio.sleep(8)
            traffic.stop()
        found = await trial.judged()
        logs = "".join(instance.log_text() for instance in trial.instances)
        figure("callbacks", found.sends)
        figure("repeats", found.repeats)
        figure("instances declared dead", logs.count('"instance declared dead"'))
        assert not found.violations, str(found)
        assert found.repeats == 0
        assert '"instance declared dead"' not in logs
