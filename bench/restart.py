"""How long a start takes with much waiting in the store: time to ready, and memory, beside an empty store.

    python -m bench.restart [--stores sqlite,mariadb] [--tasks 100000] [--starts 5]

The tasks are made through the API, most of them due beyond ten minutes, a tenth within. The service is then killed and
started `--starts` times; the middle one is told. Ready: from the start of the process to the first 200 of
`/health/ready`. CPU is the process's own until then, and beside it what merely loading the program takes. Memory is
read when it is ready, and again when all timers of the next ten minutes are on the wheel.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
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
HEAD = (
    "| store | waiting | ready, s (least – most) | CPU until ready, s | of it to load the program, s |"
    " memory when ready, MiB | due within 10 min | all of those on the wheel, s | memory then, MiB |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


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


async def create(api: Api, tasks: int) -> None:
    for first in range(0, tasks, BATCH):
        items: list[dict[str, Any]] = []
        for number in range(first, min(first + BATCH, tasks)):
            share = number / tasks
            soon = number % NEAR_EVERY == 0
            delay = FIRST_DUE_S + share * (NEAR_S - FIRST_DUE_S) if soon else 2 * NEAR_S + share * FAR_S
            items.append({"business_id": str(number), "callback_url": CALLBACK_URL, "delay": delay, "payload": number})
        await api.ok("POST", "/tasks/batch", {"tasks": items})


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


async def main(store: str, tasks: int, starts: int) -> list[str]:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        service = Service(url, Path(directory))
        empty = [await one_start(service, 0) for _ in range(starts + 1)][1:]  # the first one migrates
        await service.start()
        async with business(service, max_active_tasks=tasks + 1) as api:
            await create(api, tasks)
        service.kill()
        return [row(store, 0, empty), row(store, tasks, [await one_start(service, near(tasks)) for _ in range(starts)])]


def row(store: str, tasks: int, starts: list[Start]) -> str:
    def middle(name: str) -> float:
        return float(statistics.median(getattr(start, name) for start in starts))

    ready = f"{middle('ready_s'):.2f} ({min(s.ready_s for s in starts):.2f} – {max(s.ready_s for s in starts):.2f})"
    loaded = f"{middle('loaded_s'):.2f} | {middle('loaded_rss_mib'):.0f}" if tasks else " | "
    return (
        f"| {store} | {tasks:,} | {ready} | {middle('cpu_s'):.2f} | {import_cpu_s():.2f} | {middle('rss_mib'):.0f} |"
        f" {near(tasks):,} | {loaded} |"
    )


def import_cpu_s() -> float:
    """CPU of a process that loads the program and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "taskcenter", "--version"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def near(tasks: int) -> int:
    """How many of them are due within the wheel's window."""
    return len(range(0, tasks, NEAR_EVERY))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="sqlite,mariadb")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    print(HEAD, flush=True)
    for each in arguments.stores.split(","):
        print("\n".join(trio.run(main, each, arguments.tasks, arguments.starts)), flush=True)
