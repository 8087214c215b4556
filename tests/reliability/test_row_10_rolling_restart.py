"""Row 10: all instances restarted in turn by SIGTERM, under callbacks and API traffic: nothing lost, repeated, failed.

Each is told to stop, is away for a while, and is started anew; the next one follows when it is ready. A caller turns to
another instance from the signal on, as one behind a balancer does.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import trio
from tests.reliability.books import grouped
from tests.reliability.cluster import Cluster, cluster
from tests.reliability.conftest import Figure
from tests.reliability.ledger import Ledger
from tests.reliability.traffic import Traffic
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
ROUNDS = int(os.environ.get("TASKCENTER_RELIABILITY_RESTARTS", "1"))  # of all three
BUSINESSES = 12
CALLBACKS, REQUESTS = 200.0, 100.0  # a second
AWAY_S = 3.0
SETTLING_S = 2.0  # between two restarts
MOST_EXIT_S = 35.0
MOST_LATE_MS = 2000.0


async def restart_each(trial: Cluster) -> float:
    """One after the other; the longest that one took to end, s."""
    longest = 0.0
    for instance in trial.instances:
        began = trio.current_time()
        assert await instance.terminate(MOST_EXIT_S) == 0, instance.tail()
        longest = max(longest, trio.current_time() - began)
        await trio.sleep(AWAY_S)
        await instance.start()
        await trio.sleep(SETTLING_S)
    return longest


def longest_silence_ms(ledger: Ledger) -> float:
    """Between two callbacks of one business that has some due all the time."""
    sends = grouped(ledger.sends, lambda send: send.business)
    arrivals = [sorted(send.arrived_at for send in of_one) for of_one in sends.values()]
    return max(after - before for times in arrivals for before, after in pairwise(times))


async def test_a_rolling_restart_is_noticed_by_nobody(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    async with cluster(database_server, tmp_path) as trial:
        callers = [await trial.caller(f"shop{number}") for number in range(BUSINESSES)]
        traffic = Traffic(callers, Random(10))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: traffic.run(callbacks=CALLBACKS, requests=REQUESTS))
            await trio.sleep(5)
            exits = [await restart_each(trial) for _ in range(ROUNDS)]
            traffic.stop()
        found = await trial.judged()
        manners = [caller.manners for caller in callers]
        figure("callbacks", found.sends)
        figure("requests answered", sum(caller.answered for caller in callers))
        figure("requests failed", sum(each.failed for each in manners))
        figure("creates refused while the machine was busy", sum(each.shed for each in manners))
        figure("repeats", found.repeats)
        figure("lateness p99", found.lateness(0.99), "ms")
        figure("worst lateness", found.lateness(1), "ms")
        figure("longest silence of a business", longest_silence_ms(trial.ledger), "ms")
        figure("longest exit", max(exits), "s")
        figure("slowest request", traffic.longest_s * 1000, "ms")
        assert not found.violations, str(found)
        assert found.repeats == 0
        assert sum(each.failed for each in manners) == 0, manners
        assert found.lateness(1) < MOST_LATE_MS, str(found)
