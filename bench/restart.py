"""How long a start takes with much waiting in the store: time to ready, and memory, beside an empty store.

    python -m bench.restart [--stores sqlite,mariadb] [--tasks 100000] [--starts 5]

The tasks are made through the API, most of them due beyond ten minutes, a tenth within. The service is then killed and
started `--starts` times. Ready: from the start of the process to the first 200 of `/health/ready`. CPU is the process's
own until then. Memory is read when it is ready, and again when all timers of the next ten minutes are on the wheel.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from bench.kit import cpu_s, memory_mib
from bench.stores import database
from tests.flow.kit import ADMIN_TOKEN, Api, Service, business

CALLBACK_URL = "http://127.0.0.1:9/"  # never called while this runs
FIRST_DUE_S, NEAR_S, FAR_S = 240, 540, 86_400
NEAR_EVERY = 10  # one in ten is due in 240 … 540 s, the others within a day, 1080 s from now or later
BATCH = 1000
LOAD_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Start:
    ready_s: float
    cpu_s: float
    rss_mib: float
    loaded_s: float
    loaded_rss_mib: float


async def timers(service: Service) -> int:
    """On the wheel."""
    api = Api(service, ADMIN_TOKEN)
    found = await api.ok("GET", "/stats")
    await api.aclose()
    return int(found["engine"]["wheel"]["timers"])


async def create(api: Api, tasks: int) -> float:
    """Tasks a second."""
    began = time.perf_counter()
    for first in range(0, tasks, BATCH):
        items: list[dict[str, Any]] = []
        for number in range(first, min(first + BATCH, tasks)):
            share = number / tasks
            soon = number % NEAR_EVERY == 0
            delay = FIRST_DUE_S + share * (NEAR_S - FIRST_DUE_S) if soon else 2 * NEAR_S + share * FAR_S
            items.append({"business_id": str(number), "callback_url": CALLBACK_URL, "delay": delay, "payload": number})
        await api.ok("POST", "/tasks/batch", {"tasks": items})
    return tasks / (time.perf_counter() - began)


async def one_start(service: Service, near: int) -> Start:
    began = time.perf_counter()
    await service.start()
    ready_s = time.perf_counter() - began
    cpu, rss_mib = cpu_s(service.pid), memory_mib(service.pid)
    on_wheel = -1
    with trio.fail_after(LOAD_TIMEOUT_S):
        while on_wheel < near:
            await trio.sleep(0.05)
            on_wheel = await timers(service)
    loaded_s = time.perf_counter() - began
    loaded = Start(ready_s, cpu, rss_mib, loaded_s, memory_mib(service.pid))
    service.kill()
    return loaded


async def main(store: str, tasks: int, starts: int) -> None:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        service = Service(url, Path(directory))
        report(store, 0, [await one_start(service, 0) for _ in range(starts + 1)][1:])  # the first one migrates
        await service.start()
        async with business(service, max_active_tasks=tasks + 1) as api:
            rate = await create(api, tasks)
        service.kill()
        report(store, tasks, [await one_start(service, near(tasks)) for _ in range(starts)])
        print(f"{store:8} created through the batch endpoint at {rate:,.0f} tasks/s")


def report(store: str, tasks: int, starts: list[Start]) -> None:
    def middle(name: str) -> float:
        return statistics.median(getattr(start, name) for start in starts)

    print(
        f"{store:8} {tasks:7,} waiting: ready in {middle('ready_s'):.2f} s"
        f" ({min(start.ready_s for start in starts):.2f} … {max(start.ready_s for start in starts):.2f}),"
        f" CPU {middle('cpu_s'):.2f} s, {middle('rss_mib'):.0f} MiB;"
        f" {near(tasks):,} timers in {middle('loaded_s'):.2f} s, {middle('loaded_rss_mib'):.0f} MiB",
        flush=True,
    )


def near(tasks: int) -> int:
    """How many of them are due within the wheel's window."""
    return len(range(0, tasks, NEAR_EVERY))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="sqlite,mariadb")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    for each in arguments.stores.split(","):
        trio.run(main, each, arguments.tasks, arguments.starts)
