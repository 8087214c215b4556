"""What a callback leaves behind, holds while it is on its way, and costs the collector.

    python -m bench.memory [--callbacks 5000]

The engine runs in this process, in virtual time, on a database in memory and against a scripted receiver: actors,
limiter, breaker, committers, claims, history and log are the real ones. Blocks are the interpreter's own count of
live allocations (`sys.getallocatedblocks`), taken when the limiter's minute is over; bytes are tracemalloc's, in a run
of their own because it slows things down.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import tracemalloc
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from tests.actors.actor_kit import World, world
from tests.actors.scripted import answered, answering
from trio.testing import MockClock

from taskcenter import log

ANSWER_AFTER_S: Final = 0.02
IN_FLIGHT: Final = 100
WARM_UP: Final = 500
QUIET_S: Final = 70.0  # virtual
HEAD: Final = (
    "| callbacks | CPU of the engine, µs a callback | collections of generation 0 / 1 / 2 |"
    " live blocks after, a callback | KiB a callback on its way |\n| --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True, slots=True)
class Cost:
    cpu_us: float
    collections: tuple[int, ...]
    blocks: float


async def deliver(the: World, count: int) -> None:
    await the.run(count)
    await the.receivers.wait_for(count)
    await trio.sleep(QUIET_S)
    the.receivers.calls.clear()  # what the test kit remembers
    the.tries.clear()


async def cost(callbacks: int) -> Cost:
    async with world(max_concurrent_tasks=IN_FLIGHT, rate_limit=100_000) as the:
        the.receivers.mood = answering(answered(), after_s=ANSWER_AFTER_S)
        await deliver(the, WARM_UP)
        gc.collect()
        blocks, runs, began = sys.getallocatedblocks(), _collections(), time.process_time()
        await deliver(the, callbacks)
        cpu_s = time.process_time() - began
        ran = tuple(after - before for before, after in zip(runs, _collections(), strict=True))
        gc.collect()
        return Cost(cpu_s / callbacks * 1e6, ran, (sys.getallocatedblocks() - blocks) / callbacks)


async def held_kib() -> float:
    """Of one callback that waits for its answer."""
    async with world(max_concurrent_tasks=IN_FLIGHT, rate_limit=100_000) as the:
        await deliver(the, WARM_UP)
        the.receivers.mood = answering(answered(), after_s=1000)
        gc.collect()
        tracemalloc.start()
        await the.run(IN_FLIGHT)
        await the.receivers.wait_for(IN_FLIGHT)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size / IN_FLIGHT / 1024


def _collections() -> tuple[int, ...]:
    return tuple(int(generation["collections"]) for generation in gc.get_stats())


def main(callbacks: int) -> str:
    log.configure("info", "json")
    gc.set_threshold(50_000, 20, 50)  # as the service does
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # the log's lines are made all the same
        found = trio.run(cost, callbacks, clock=MockClock(autojump_threshold=0))
        kib = trio.run(held_kib, clock=MockClock(autojump_threshold=0))
    ran = " / ".join(str(number) for number in found.collections)
    return f"| {callbacks:,} | {found.cpu_us:.0f} | {ran} | {found.blocks:.2f} | {kib:.1f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callbacks", type=int, default=5000)
    arguments = parser.parse_args()
    print(f"{HEAD}\n{main(arguments.callbacks)}")
