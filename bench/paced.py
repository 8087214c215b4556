"""Lateness at a steady rate, beside a loop that only sleeps until the due time and sends.

python -m bench.paced [--store sqlite|mariadb|mysql|URL] [--rate 200] [--seconds 20]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import trio
from bench.kit import BODY, nginx, percentile
from bench.stores import database
from tests.flow.kit import Service, business

HEAD = "| sender | p50 | p95 | p99 | worst | early |\n| --- | --- | --- | --- | --- | --- |"


async def reference(url: str, rate: int, seconds: int) -> list[float]:
    """Lateness in ms of a loop with nothing behind it."""
    late: list[float] = []
    async with httpx.AsyncClient(trust_env=False) as client, trio.open_nursery() as nursery:
        began = trio.current_time()

        async def send(at: float) -> None:
            late.append((trio.current_time() - at) * 1000)
            await client.post(url, content=BODY)

        for number in range(rate * seconds):
            at = began + number / rate
            await trio.sleep_until(at)
            nursery.start_soon(send, at)
    return late


async def main(store: str, rate: int, seconds: int) -> None:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        async with nginx() as receiver:
            bare = await reference(receiver.url, min(rate, 200), min(seconds, 5))
            service = Service(url, Path(directory))
            await service.start()
            try:
                async with business(service, max_active_tasks=100_000, rate_limit=100_000) as api:
                    total, start = rate * seconds, time.time() + 3 + rate * seconds / 3000
                    for first in range(0, total, 1000):
                        items = []
                        for number in range(first, min(first + 1000, total)):
                            due = datetime.fromtimestamp(start + number / rate, UTC)
                            items.append(
                                {
                                    "business_id": str(number),
                                    "callback_url": receiver.url,
                                    "execute_at": due.isoformat(timespec="milliseconds"),
                                }
                            )
                        await api.ok("POST", "/tasks/batch", {"tasks": items})
                    await trio.sleep(max(0.0, start + seconds - time.time()) + 2)
                    arrivals = receiver.arrivals()
                    assert len(arrivals) == total, f"{len(arrivals)} of {total} arrived"
                    late = [at - due_at for at, due_at in arrivals]
                    print(f"{store}, {rate} a second for {seconds} s, one process; lateness in ms at the receiver\n")
                    print(HEAD)
                    for name, values in (("Task Center", late), ("a bare loop, no store", bare)):
                        marks = " | ".join(f"{percentile(values, share):.1f}" for share in (0.5, 0.95, 0.99))
                        early = sum(value < 0 for value in values)
                        print(f"| {name} | {marks} | {max(values):.1f} | {early} |")
            finally:
                await service.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="mariadb")
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    trio.run(main, arguments.store, arguments.rate, arguments.seconds)
