"""N tasks due at one moment: how fast one process gets them out, durably, beside senders without a store.

python -m bench.burst [--store sqlite|mariadb|mysql|URL] [--tasks 5000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import trio
from bench.kit import httpx_rate, nginx, percentile, raw_rate
from bench.stores import database
from tests.flow.kit import Service, business

CONCURRENCY = 100
REFERENCE = 3_000


async def main(store: str, tasks: int) -> None:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        async with nginx() as receiver:
            raw = await raw_rate(receiver.port, REFERENCE, CONCURRENCY)
            own_pool = await httpx_rate(receiver.url, REFERENCE // 10, CONCURRENCY)
            service = Service(url, Path(directory))
            await service.start()
            try:
                async with business(
                    service, max_concurrent_tasks=CONCURRENCY, max_active_tasks=tasks + 1, rate_limit=100_000
                ) as api:
                    due = time.time() + 3 + tasks / 3000
                    text = datetime.fromtimestamp(due, UTC).isoformat(timespec="milliseconds")
                    began = time.perf_counter()
                    for first in range(0, tasks, 1000):
                        items = [
                            {
                                "business_id": str(number),
                                "callback_url": receiver.url,
                                "execute_at": text,
                                "payload": {"order": number},
                            }
                            for number in range(first, min(first + 1000, tasks))
                        ]
                        await api.ok("POST", "/tasks/batch", {"tasks": items})
                    created = tasks / (time.perf_counter() - began)
                    arrivals: list[tuple[float, int]] = []
                    with trio.move_on_after(60 + tasks / 200):
                        while len(arrivals) < tasks:
                            await trio.sleep(0.2)
                            arrivals = receiver.arrivals()
                    assert len(arrivals) == tasks, f"{len(arrivals)} of {tasks} arrived"
                    took = (max(at for at, _ in arrivals) - arrivals[0][1]) / 1000
                    early = sum(at < due_at for at, due_at in arrivals)
                    rate = tasks / took
                    print(f"store {store}, {tasks} tasks due at one moment, concurrency {CONCURRENCY}, one process")
                    print(f"  created through the batch endpoint  {created:8.0f} tasks/s")
                    print(
                        f"  delivered, durable                  {rate:8.0f} callbacks/s ({took:.2f} s), early: {early}"
                    )
                    print(f"  raw trio + h11 loop, no store       {raw:8.0f} requests/s (ratio {rate / raw:.2f})")
                    print(f"  httpx's own pool, no store  {own_pool:8.0f} requests/s (ratio {rate / own_pool:.2f})")
                    late = [at - due_at for at, due_at in arrivals]
                    print(f"  lateness p50 {percentile(late, 0.5):.0f} ms, p99 {percentile(late, 0.99):.0f} ms")
            finally:
                await service.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="mariadb")
    parser.add_argument("--tasks", type=int, default=5000)
    arguments = parser.parse_args()
    trio.run(main, arguments.store, arguments.tasks)
