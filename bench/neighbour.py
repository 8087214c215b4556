"""What a business is worth as a neighbour: B's lateness and the API's latency, without and with A's hanging receivers.

A has `--hanging` tasks whose receiver accepts, reads and never answers; they are all on their way at once in the one
process, which the receiver's own count of open requests proves. B has a steady load meanwhile, and a third caller
reads and creates through the API. The two runs take turns, `--rounds` times, in one service.

python -m bench.neighbour [--store sqlite|mariadb|mysql|URL] [--hanging 1000] [--rate 100] [--seconds 10] [--rounds 2]
"""

from __future__ import annotations

import argparse
import re
import resource
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import trio
from bench.kit import Nginx, nginx, percentile
from bench.stores import database
from tests.flow.kit import Api, Service, business

HANG_S = 30
GROUP = 250


@dataclass(frozen=True, slots=True)
class Load:
    hanging: int
    rate: int  # of B, callbacks/s
    seconds: int
    rounds: int


class Hanging:
    """Accepts, reads, never answers; closes when the caller does. `open` is how many requests hang now."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.url = ""
        self._changed = trio.Event()

    async def until(self, count: int) -> None:
        """Return when so many hang."""
        while self.open != count:
            self._changed = trio.Event()
            await self._changed.wait()

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
            self.most = max(self.most, self.open)
            self._changed.set()
            try:
                while await stream.receive_some(65536):
                    continue
            except trio.BrokenResourceError:
                return
            finally:
                self.open -= 1
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


def row(name: str, lateness: list[float], api: list[float], hanging: int, cpu: str = "") -> None:
    late = " ".join(f"{percentile(lateness, share):9.1f}" for share in (0.5, 0.95, 0.99))
    print(
        f"{name:<15} {hanging:>8} {len(lateness):>7} {late} {max(lateness):9.1f} {percentile(api, 0.95):12.1f} {cpu:>6}"
    )


class Bench:
    """The callers, the receivers, and one run after the other."""

    def __init__(self, service: Service, receiver: Nginx, bad: Hanging, load: Load) -> None:
        self._service = service
        self._receiver = receiver
        self._bad = bad
        self._load = load
        self._taken: dict[str, tuple[list[float], list[float]]] = {}

    async def run(self, name: str, mark: str, a: Api, b: Api, c: Api) -> None:
        """One run, "with A" or "without A"."""
        hanging = self._load.hanging if name == "with A" else 0
        if hanging:
            item = {"callback_url": self._bad.url, "timeout": HANG_S}
            await create(a, [{"business_id": f"{mark}-{n}", **item} for n in range(hanging)])
            with trio.fail_after(HANG_S / 2):
                await self._bad.until(hanging)
        before, total = len(self._receiver.arrivals()), self._load.rate * self._load.seconds
        start = await self._schedule(b, mark, total)
        await trio.sleep(max(0.0, start - time.time()))
        answers: list[float] = []
        _, used_before = await counts(self._service)
        await probe(c, self._receiver.url, mark, self._load.seconds, answers)
        flying, used = await counts(self._service)
        assert (self._bad.open, flying) == (hanging, hanging), "not all hung to the end"
        await trio.sleep(1)
        late = [at - due_at for at, due_at in self._receiver.arrivals()[before:]]
        assert len(late) == total, f"{len(late)} of {total} arrived"
        row(name, late, answers, hanging, f"{(used - used_before) / self._load.seconds:.0%}")
        lateness, api = self._taken.setdefault(name, ([], []))
        lateness += late
        api += answers
        await self._bad.until(0)

    async def _schedule(self, b: Api, mark: str, total: int) -> float:
        start = time.time() + 1.5 + total / 2000
        items = []
        for n in range(total):
            due = datetime.fromtimestamp(start + n / self._load.rate, UTC).isoformat(timespec="milliseconds")
            items.append({"business_id": f"{mark}-{n}", "callback_url": self._receiver.url, "execute_at": due})
        await create(b, items)
        return start

    def sum_up(self) -> None:
        for name, (lateness, api) in self._taken.items():
            row(f"all {name}", lateness, api, self._load.hanging if name == "with A" else 0)
        print(f"most requests that hung at once, by the receiver's count: {self._bad.most}")


async def main(store: str, load: Load) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the service inherits it
    more = {"max_active_tasks": 100_000, "breaker": {"enabled": False}}
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
                    print(f"store {store}, B {load.rate}/s for {load.seconds} s a run; ms")
                    print(
                        "run              hanging  B sent       p50       p95       p99     worst      API p95    CPU"
                    )
                    bench = Bench(service, receiver, bad, load)
                    for number in range(load.rounds):
                        for name in ("without A", "with A"):
                            await bench.run(name, f"{number}-{name}", a, b, c)
                    bench.sum_up()
            finally:
                await service.terminate()
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="mariadb")
    parser.add_argument("--hanging", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    trio.run(main, arguments.store, Load(arguments.hanging, arguments.rate, arguments.seconds, arguments.rounds))
