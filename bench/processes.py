"""What further processes are worth: a burst over many businesses with `serve --processes N`, for each N in turns.

python -m bench.processes [--stores mariadb,mysql] [--processes 1 2] [--tasks 4000] [--businesses 64] [--share 0.2]
                          [--rounds 3]

`--share` gives each process that part of a core and no more (a cgroup's CPU quota, which takes root), so that a machine
of few cores has cores to spare for the database and the receiver, and N processes have N times what one has. Without it
processes, database, receiver and this script share what there is. CPU is the processes' own, by their metrics.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import httpx
import trio
from bench.burst import create, sample
from bench.kit import Nginx, cpu_s, nginx, percentile
from bench.stores import database
from tests.flow.kit import ADMIN_TOKEN, Api, Service

PERIOD_US: Final = 20_000
SHARDS: Final = 256
HEAD: Final = (
    "| store | of a core each | processes | callbacks/s | beside one | CPU, µs a callback | CPU used, cores |"
    " database's CPU, cores | lateness p50, p99, ms |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True, slots=True)
class Round:
    rate: float
    cpu_us: float
    cores: float
    database_cores: float
    late: list[float]


@contextlib.contextmanager
def limited(pids: list[int], share: float | None) -> Iterator[None]:
    """Each of the processes has `share` of a core while this lasts."""
    if share is None:
        yield
        return
    old = Path("/sys/fs/cgroup/cpu")
    root = old if old.exists() else Path("/sys/fs/cgroup")
    groups = []
    try:
        for pid in pids:
            group = root / f"taskcenter-bench-{pid}"
            group.mkdir()
            groups.append(group)
            quota = int(PERIOD_US * share)
            if old.exists():
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group in groups:
            for member in (group / "cgroup.procs").read_text().split():
                (root / "cgroup.procs").write_text(member)
            group.rmdir()


def workers_of(service: Service, processes: int) -> list[int]:
    if processes == 1:
        return [service.pid]
    children = Path(f"/proc/{service.pid}/task").glob("*/children")
    return sorted(int(pid) for each in children for pid in each.read_text().split())


async def businesses(service: Service, count: int) -> list[Api]:
    admin, apis = Api(service, ADMIN_TOKEN), []
    for number in range(count):
        body = {"business_code": f"b{number:03}", "business_name": "b", "rate_limit": 100_000}
        made = await admin.ok("POST", "/businesses", body)
        apis.append(Api(service, made["api_key"]))
    await admin.aclose()
    return apis


async def balanced(service: Service, processes: int) -> None:
    """All run, and each has its part of the shards."""
    admin, shards = Api(service, ADMIN_TOKEN), [0]
    with trio.fail_after(60):
        while len(shards) != processes or sum(shards) != SHARDS or max(shards) - min(shards) > 1:
            await trio.sleep(0.2)
            shards = [one["shards"] for one in (await admin.ok("GET", "/stats"))["instances"] if one["alive"]]
    await admin.aclose()


def of_prefix(found: Mapping[str, float], prefix: str) -> float:
    return sum(value for name, value in found.items() if name.startswith(prefix))


async def created(receiver: Nginx, apis: list[Api], each: int) -> float:
    """When they are due."""
    due = time.time() + 5 + len(apis) / 4
    for api in apis:
        await create(api, receiver.url, each, due)
    assert time.time() < due - 1, "the creates took too long"
    await trio.sleep(due - time.time() - 1)
    return due


async def burst(service: Service, receiver: Nginx, total: int, due: float, server: int) -> Round:
    await trio.sleep(due - time.time() - 0.3)
    before, database_before = await sample(service), cpu_s(server)
    with trio.fail_after(60 + total / 50):
        while len(late := [at - due_at for at, due_at in receiver.arrivals()]) < total:
            await trio.sleep(0.2)  # a scrape would cost the service more than the look into the receiver's log
        while of_prefix(after := await sample(service), "taskcenter_callbacks_total") < len(late):
            await trio.sleep(0.2)
    cpu = of_prefix(after, "process_cpu_seconds_total") - of_prefix(before, "process_cpu_seconds_total")
    took = max(late) / 1000
    return Round(len(late) / took, cpu / len(late) * 1e6, cpu / took, (cpu_s(server) - database_before) / took, late)


async def measure(store: str, processes: int, tasks: int, count: int, share: float | None) -> Round:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        server = server_of(url)
        async with nginx() as receiver:
            arguments = ("--processes", str(processes)) if processes > 1 else ()
            service = Service(url, Path(directory), *arguments)
            await service.start()
            try:
                apis = await businesses(service, count)
                await balanced(service, processes)
                each = tasks // count
                due = await created(receiver, apis, each)
                with limited(workers_of(service, processes), share):
                    return await burst(service, receiver, each * count, due, server)
            finally:
                for api in apis:
                    await api.aclose()
                await service.terminate()


def server_of(url: str) -> int:
    """The process that listens on the database's port on this machine."""
    port = f":{httpx.URL(url).port:04X}"
    sockets = {
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[1].endswith(port) and fields[3] == "0A"
    }
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            if target.startswith("socket:[") and target[8:-1] in sockets:
                return int(link.parts[2])
    raise SystemExit("the database server is not on this machine")


def line(store: str, share: float | None, processes: int, rounds: list[Round], alone: float) -> str:
    rate = median(one.rate for one in rounds)
    late = [value for one in rounds for value in one.late]
    return (
        f"| {store} | {'all there is' if share is None else share} | {processes} | {rate:,.0f} | {rate / alone:.2f} |"
        f" {median(one.cpu_us for one in rounds):.0f} | {median(one.cores for one in rounds):.2f} |"
        f" {median(one.database_cores for one in rounds):.2f} |"
        f" {percentile(late, 0.5):,.0f}, {percentile(late, 0.99):,.0f} |"
    )


async def main(store: str, asked: argparse.Namespace) -> None:
    counts, share = asked.processes, asked.share
    found: dict[int, list[Round]] = {count: [] for count in counts}
    for number in range(asked.rounds):
        for count in counts if number % 2 == 0 else reversed(counts):
            found[count].append(await measure(store, count, asked.tasks, asked.businesses, share))
    alone = median(one.rate for one in found[counts[0]])
    for count in counts:
        print(line(store, share, count, found[count], alone), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="mariadb,mysql")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--businesses", type=int, default=64)
    parser.add_argument("--share", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(HEAD, flush=True)
    for each in arguments.stores.split(","):
        trio.run(main, each, arguments)
