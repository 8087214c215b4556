"""How fast the store is: creates in batches of 1,000, then claims and outcomes in batches of 1, 10, 50 and 200.

Every commit is durable. Prints items a second, and the median time of a batch.

    python bench/store.py [sqlite] [mariadb] [mysql]
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script

from tests.servers import Fleet
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    add_business,
    audit_entry,
    execution,
    move,
    new_task,
    opened_store,
    outcome,
    own_shards,
    request,
)

from taskcenter.store import migrate
from taskcenter.store.engine_records import Applied
from taskcenter.store.records import Created, Task
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import Status

BATCHES = (1, 10, 50, 200)
SECONDS = 3.0
CREATE = 1_000
ROUNDS = 12


@contextmanager
def server_url(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="taskcenter-bench-") as directory:
            yield f"sqlite:///{directory}/bench.db"
        return
    with Fleet() as fleet:
        server = fleet.get("mariadb" if kind == "mariadb" else "mysql")
        yield server.create_database()


def report(server: str, what: str, items: int, took: list[float]) -> None:
    rate = items / (sum(took) or 1)
    print(f"| {server} | {what} | {rate:,.0f} | {statistics.median(took or [0]) * 1000:.2f} |", flush=True)


async def creates(store: SqlStore) -> list[Task]:
    """`ROUNDS` batches, audited, as the API's batch call makes them."""
    made: list[Task] = []
    took = []
    for _ in range(ROUNDS):
        tasks = [new_task(payload=b'{"order": 1, "state": "paid"}', headers={}) for _ in range(CREATE)]
        entries = [audit_entry(target=task.id) for task in tasks]
        began = perf_counter()
        results = await store.tasks.create(tasks, {BUSINESS: 1_000_000}, entries, NOW)
        took.append(perf_counter() - began)
        made += [result.task for result in results if isinstance(result, Created)]
    report(store.server, f"create, {CREATE}", len(made), took)
    return made


async def repeat(server: str, what: str, size: int, step: Callable[[], Awaitable[bool]]) -> None:
    took: list[float] = []
    while sum(took) < SECONDS:
        began = perf_counter()
        if not await step():
            break
        took.append(perf_counter() - began)
    report(server, f"{what}, {size}", size * len(took), took)


async def engine(store: SqlStore, waiting: list[Task]) -> None:
    for size in BATCHES:
        claimed: list[Task] = []

        async def claim(size: int = size, claimed: list[Task] = claimed) -> bool:
            if len(waiting) < size:
                return False
            batch = [waiting.pop() for _ in range(size)]
            claimed += await store.engine.claim([request(task) for task in batch], NOW)
            return True

        async def record(size: int = size, claimed: list[Task] = claimed) -> bool:
            """A failed attempt each, so that the tasks can be claimed again."""
            if len(claimed) < size:
                return False
            batch = [claimed.pop() for _ in range(size)]
            again = [
                outcome(task, move(task, Status.RETRYING, next_execute_at=NOW), execution=execution(task))
                for task in batch
            ]
            for task, recorded in zip(batch, await store.engine.record(again, NOW), strict=True):
                assert isinstance(recorded, Applied)
                waiting.append(replace(task, status=Status.RETRYING, version=recorded.version))
            return True

        await repeat(store.server, "claim", size, claim)
        await repeat(store.server, "outcome", size, record)


async def bench(url: str) -> None:
    async with opened_store(url) as store:
        await add_business(store)
        await own_shards(store, [SHARD])
        waiting = await creates(store)
        random.Random(1).shuffle(waiting)
        await engine(store, waiting)


def main() -> None:
    print("| server | work, items in a batch | items/s | a batch, ms |\n| --- | --- | --- | --- |", flush=True)
    for kind in sys.argv[1:] or ["sqlite", "mariadb", "mysql"]:
        with server_url(kind) as url:
            migrate.up(url)
            trio.run(bench, url)


if __name__ == "__main__":
    main()
