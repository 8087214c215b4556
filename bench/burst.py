"""N tasks due at one moment: how fast one process gets them out, durably, beside senders without a store.

    python -m bench.burst [--stores sqlite,mariadb,mysql] [--tasks 5000] [--concurrency 100]

CPU is the service process's own, from the due time until the last callback is recorded. Transactions are the service's
own count of what it asked of the store, statements the server's count of what it was asked, BEGIN and COMMIT included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import trio
from bench.kit import Nginx, cpu_s, httpx_rate, nginx, percentile, raw_rate
from bench.stores import database
from tests.flow.kit import Api, Service, business

from taskcenter.store.revision import connect_server
from taskcenter.store.url import SqliteUrl, parse_database_url

REFERENCE: Final = 3_000
BATCH: Final = 1000
HEAD: Final = (
    "| store | tasks | callbacks/s | CPU, µs a callback | transactions a callback | statements a callback |"
    " raw trio + h11, no store, /s | httpx's own pool, no store, /s | lateness p50, p99, ms | early |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True, slots=True)
class Counted:
    """One look at what the work has cost so far."""

    cpu_s: float
    transactions: float
    statements: int | None  # the server's count; SQLite has none


async def counted(service: Service, url: str) -> Counted:
    metrics = await sample(service)
    return Counted(cpu_s(service.pid), metrics["taskcenter_db_query_seconds_count"], statements(url))


async def sample(service: Service) -> Mapping[str, float]:
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{service.url}/metrics")).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def statements(url: str) -> int | None:
    parsed = parse_database_url(url)
    if isinstance(parsed, SqliteUrl):
        return None
    with closing(connect_server(parsed)) as server, server.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
        row: tuple[str, Any] | None = cursor.fetchone()
    return None if row is None else int(row[1])


async def create(api: Api, url: str, tasks: int, due: float) -> None:
    text = datetime.fromtimestamp(due, UTC).isoformat(timespec="milliseconds")
    for first in range(0, tasks, BATCH):
        items = [
            {"business_id": str(number), "callback_url": url, "execute_at": text, "payload": {"order": number}}
            for number in range(first, min(first + BATCH, tasks))
        ]
        await api.ok("POST", "/tasks/batch", {"tasks": items})


async def recorded(service: Service, receiver: Nginx, tasks: int) -> list[tuple[float, int]]:
    """The arrivals, once all have come and been recorded."""
    arrivals: list[tuple[float, int]] = []
    ended = 0.0
    with trio.move_on_after(60 + tasks / 200):
        while len(arrivals) < tasks or ended < tasks:
            await trio.sleep(0.2)
            arrivals = receiver.arrivals()
            ended = (await sample(service)).get('taskcenter_callbacks_total{business="shop",outcome="success"}', 0.0)
    assert len(arrivals) == ended == tasks, f"{len(arrivals)} of {tasks} arrived, {ended:.0f} recorded"
    return arrivals


async def main(store: str, tasks: int, concurrency: int) -> str:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        async with nginx() as receiver:
            raw = await raw_rate(receiver.port, REFERENCE, concurrency)
            own_pool = await httpx_rate(receiver.url, REFERENCE // 10, concurrency)
            service = Service(url, Path(directory))
            await service.start()
            try:
                async with business(
                    service, max_concurrent_tasks=concurrency, max_active_tasks=tasks + 1, rate_limit=100_000
                ) as api:
                    due = time.time() + 3 + tasks / 3000
                    await create(api, receiver.url, tasks, due)
                    await trio.sleep(max(0.0, due - time.time() - 0.5))
                    before = await counted(service, url)
                    arrivals = await recorded(service, receiver, tasks)
                    after = await counted(service, url)
            finally:
                await service.terminate()
    late = [at - due_at for at, due_at in arrivals]
    rate = tasks / max(late) * 1000
    asked = ""
    if before.statements is not None and after.statements is not None:
        asked = f"{(after.statements - before.statements) / tasks:.3f}"
    return (
        f"| {store} | {tasks:,} | {rate:,.0f} | {(after.cpu_s - before.cpu_s) / tasks * 1e6:.0f} |"
        f" {(after.transactions - before.transactions) / tasks:.3f} | {asked} |"
        f" {raw:,.0f} | {own_pool:,.0f} | {percentile(late, 0.5):,.0f}, {percentile(late, 0.99):,.0f} |"
        f" {sum(value < 0 for value in late)} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="sqlite,mariadb,mysql")
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=100)
    arguments = parser.parse_args()
    print(f"concurrency {arguments.concurrency}, one process\n\n{HEAD}", flush=True)
    for each in arguments.stores.split(","):
        print(trio.run(main, each, arguments.tasks, arguments.concurrency), flush=True)
