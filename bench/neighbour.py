"""What a business is worth as a neighbour: B's lateness and the API's latency, without and with A's hanging receivers.

A has `--hanging` tasks whose receiver accepts, reads and never answers; they are all on their way at once in the one
process, which the receiver's own count of open requests proves. B has a steady load meanwhile, and a third caller
reads and creates through the API. A pair is two rounds right after each other, one without A and one with, in turns the
one or the other first, so that whatever else the machine does falls on both. Of each round the percentiles and the
service's CPU; of all pairs the medians, and of the ratio with/without a bootstrap interval (95 %) over the pairs. The
±20 % is shown when that interval lies within it, refuted when it lies outside, and else said to be below the noise.

python -m bench.neighbour [--store sqlite|mariadb|mysql|URL] [--hanging 1000] [--rate 100] [--seconds 8] [--pairs 8]
                          [--svg bench/neighbour.svg]
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import trio
from bench.kit import Nginx, nginx, percentile
from bench.plot import Panel, svg
from bench.stores import database
from tests.flow.kit import Api, Service, business

HANG_S = 30
SETTLE_S = 3
READERS = 8
GROUP = 250
ALLOWED = (0.8, 1.2)
RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Load:
    hanging: int
    rate: int  # of B, callbacks/s
    seconds: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Round:
    lateness: list[float]  # ms
    api: list[float]  # ms
    cpu: float  # of a core
    hanging: int


QUANTITIES: dict[str, Callable[[Round], float]] = {
    "B's lateness p50, ms": lambda one: percentile(one.lateness, 0.5),
    "B's lateness p95, ms": lambda one: percentile(one.lateness, 0.95),
    "B's lateness p99, ms": lambda one: percentile(one.lateness, 0.99),
    "API p95, ms": lambda one: percentile(one.api, 0.95),
    "CPU, of a core": lambda one: one.cpu,
}


class Hanging:
    """Accepts, reads, never answers; closes when the caller does. `open` is how many requests hang now."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.url = ""
        self._streams: set[trio.SocketStream] = set()
        self._changed = trio.Event()

    async def until(self, count: int) -> None:
        """Return when so many hang."""
        while self.open != count:
            self._changed = trio.Event()
            await self._changed.wait()

    def let_go(self) -> None:
        """Close them all: they end as failed attempts."""
        for stream in self._streams:
            stream.socket.close()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
            self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
            nursery.start_soon(trio.serve_listeners, self._hang, listeners)
            task_status.started()

    async def _hang(self, stream: trio.SocketStream) -> None:
        async with stream:
            if not await stream.receive_some(65536):
                return
            self.open += 1
            self._streams.add(stream)
            self.most = max(self.most, self.open)
            self._changed.set()
            try:
                while await stream.receive_some(65536):
                    continue
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            finally:
                self.open -= 1
                self._streams.discard(stream)
                self._changed.set()


async def create(api: Api, items: list[dict[str, Any]]) -> None:
    for first in range(0, len(items), GROUP):
        answers = await api.ok("POST", "/tasks/batch", {"tasks": items[first : first + GROUP]})
        assert all(result["status"] == 201 for result in answers["results"]), answers["results"][0]


async def probe(api: Api, url: str, mark: str, seconds: float, found: list[float]) -> None:
    """Creates and reads, 20 a second."""
    until, number = trio.current_time() + seconds, 0
    while trio.current_time() < until:
        began = trio.current_time()
        if number % 2:
            await api.ok("GET", "/tasks?limit=20")
        else:
            await api.ok("POST", "/tasks", {"business_id": f"{mark}-{number}", "callback_url": url, "delay": 86400})
        found.append((trio.current_time() - began) * 1000)
        number += 1
        await trio.sleep(max(0.0, began + 0.05 - trio.current_time()))


async def counts(service: Service) -> tuple[int, float]:
    """By the service itself: callbacks of A on their way, and CPU seconds used so far."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{service.url}/metrics")).text
    flying = re.search(r'taskcenter_callbacks_in_flight\{business="aaa"\} ([0-9.]+)', text)
    used = re.search(r"process_cpu_seconds_total ([0-9.]+)", text)
    assert used is not None
    return 0 if flying is None else int(float(flying[1])), float(used[1])


class Bench:
    """The callers, the receivers, and one round after the other."""

    def __init__(self, service: Service, receiver: Nginx, bad: Hanging, load: Load) -> None:
        self._service = service
        self._receiver = receiver
        self._bad = bad
        self._load = load

    async def round(self, mark: str, hanging: int, a: Api, b: Api, c: Api) -> Round:
        if hanging:
            item = {"callback_url": self._bad.url, "timeout": HANG_S}
            await create(a, [{"business_id": f"{mark}-{n}", **item} for n in range(hanging)])
            with trio.fail_after(HANG_S / 2):
                await self._bad.until(hanging)
        await trio.sleep(SETTLE_S)  # what the creates and claims left to do for disk and database is done
        before, total = len(self._receiver.arrivals()), self._load.rate * self._load.seconds
        start = await self._schedule(b, mark, total)
        await trio.sleep(max(0.0, start - time.time()))
        answers: list[float] = []
        _, used_before = await counts(self._service)
        await probe(c, self._receiver.url, mark, self._load.seconds, answers)
        flying, used = await counts(self._service)
        assert (self._bad.open, flying) == (hanging, hanging), "not all hung to the end"
        await trio.sleep(1)
        arrived = len(self._receiver.arrivals()) - before
        assert arrived == total, f"{arrived} of {total} arrived"
        late = await lateness(b, [f"{mark}-{n}" for n in range(total)])
        self._bad.let_go()
        await self._bad.until(0)
        return Round(late, answers, (used - used_before) / self._load.seconds, hanging)

    async def _schedule(self, b: Api, mark: str, total: int) -> float:
        start = time.time() + 1.5 + total / 2000
        items = []
        for n in range(total):
            due = datetime.fromtimestamp(start + n / self._load.rate, UTC).isoformat(timespec="milliseconds")
            items.append({"business_id": f"{mark}-{n}", "callback_url": self._receiver.url, "execute_at": due})
        await create(b, items)
        return start


async def lateness(api: Api, names: list[str]) -> list[float]:
    """Start minus due of each task's attempt, in ms, from its history: the receiver's log has whole ms only."""
    found: list[float] = []
    left = list(names)

    async def work() -> None:
        while left:
            [execution] = (await api.ok("GET", f"/tasks/business/{left.pop()}"))["executions"]
            found.append(execution["lateness_ms"])

    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(work)
    return found


def interval(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Where the ratio of the medians, with/without, lies with 95 %."""
    rng = random.Random(1)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = [rng.choice(pairs) for _ in pairs]
        below = median(without for without, _ in drawn)
        ratios.append(median(hanging for _, hanging in drawn) / below if below else 1.0)
    return percentile(ratios, 0.025), percentile(ratios, 0.975)


def verdict(low: float, high: float) -> str:
    if ALLOWED[0] <= low and high <= ALLOWED[1]:
        return "within ±20 %: shown"
    if low > ALLOWED[1] or high < ALLOWED[0]:
        return "changed by more than 20 %"
    return "not shown: the noise is larger"


def tell(store: str, load: Load, rounds: list[tuple[Round, Round]], most: int, plot: Path) -> None:
    print(f"{store}, B {load.rate}/s, {load.pairs} pairs of rounds of {load.seconds} s, {load.hanging} of A hanging\n")
    print("| | without A | with A | ratio, 95 % interval | |\n| --- | --- | --- | --- | --- |")
    panels = []
    for name, of in QUANTITIES.items():
        pairs = [(of(without), of(hanging)) for without, hanging in rounds]
        low, high = interval(pairs)
        below, above = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        print(f"| {name} | {below:.3g} | {above:.3g} | {low:.2f} – {high:.2f} | {verdict(low, high)} |")
        panels.append(Panel(name, pairs))
    print(f"\nmost requests that hung at once, by the receiver's count: {most}")
    plot.write_text(svg(f"B beside {load.hanging} hanging callbacks of A, {load.pairs} pairs, {store}", panels[1:]))


async def main(store: str, load: Load, plot: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the service inherits it
    more = {"max_active_tasks": 100_000, "breaker": {"enabled": False}}
    rounds: list[tuple[Round, Round]] = []
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        async with nginx() as receiver, trio.open_nursery() as nursery:
            bad = Hanging()
            await nursery.start(bad.serve)
            service = Service(url, Path(directory))
            await service.start()
            try:
                async with (
                    business(service, "aaa", max_concurrent_tasks=load.hanging, **more) as a,
                    business(service, "bbb", **more) as b,
                    business(service, "ccc", **more) as c,
                ):
                    bench = Bench(service, receiver, bad, load)
                    await bench.round("warm", 0, a, b, c)
                    for number in range(load.pairs):
                        order = (0, load.hanging) if number % 2 else (load.hanging, 0)
                        pair = {}
                        for hanging in order:
                            pair[hanging] = await bench.round(f"{number}-{hanging}", hanging, a, b, c)
                        rounds.append((pair[0], pair[load.hanging]))
                tell(store, load, rounds, bad.most, plot)
            finally:
                await service.terminate()
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="mariadb")
    parser.add_argument("--hanging", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--svg", type=Path, default=Path("bench/neighbour.svg"))
    arguments = parser.parse_args()
    asked = Load(arguments.hanging, arguments.rate, arguments.seconds, arguments.pairs)
    trio.run(main, arguments.store, asked, arguments.svg)
