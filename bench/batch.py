"""How fast tasks are created through `POST /tasks/batch`, and what one costs the process.

    python -m bench.batch [--stores sqlite,mariadb,mysql] [--batches 60] [--clients 1,2,4]

Several clients post batches of 1,000, each task with a unique id, a payload, a due time of its own beyond the wheel's
window and a retry list; every task is audited, sealed and durable as always. CPU is the service process's own, by
/proc. Beside it two references in the same run, which are also what the machine is worth at that moment: the rows that
came of it, put into the emptied table again by one connection, 500 to a transaction; and the plain JSON round trip of
the bodies.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pymysql
import trio
from bench.kit import cpu_s
from bench.stores import database
from tests.flow.kit import Api, Service, business

from taskcenter.store.revision import connect_file, connect_server
from taskcenter.store.url import SqliteUrl, parse_database_url

BATCH: Final = 1000
ROWS_AT_ONCE: Final = 500
REFERENCE_ROWS: Final = 20_000
WARM_UP: Final = 2
HEAD: Final = (
    "| store | clients | tasks/s | CPU of the service, µs a task | batches shed | bare INSERT of the rows, rows/s |"
    " json.loads + dumps, µs a task |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def body(number: int) -> bytes:
    """One request's, of tasks that no other request has."""
    due = datetime.now(UTC) + timedelta(days=1)
    tasks = [
        {
            "business_id": f"order-{number}-{index}",
            "callback_url": "https://hooks.example.com/orders/paid",
            "execute_at": (due + timedelta(milliseconds=37 * index)).isoformat(timespec="milliseconds"),
            "retry_intervals": [60, 300, "30m"],
            "payload": {"order": number * BATCH + index, "state": "paid", "amount": "129.90", "lines": [1, 2, 3]},
        }
        for index in range(BATCH)
    ]
    return json.dumps({"tasks": tasks}).encode()


async def post(url: str, token: str, bodies: list[bytes], refused: list[float]) -> None:
    """Until none is left. What the service sheds is sent again when it says."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(trust_env=False, timeout=60, headers=headers) as client:
        while bodies:
            sent = bodies.pop()
            answer = await client.post(f"{url}/api/v1/tasks/batch", content=sent)
            if answer.status_code == 503:
                bodies.append(sent)
                refused.append(float(answer.headers["Retry-After"]))
                await trio.sleep(refused[-1])
                continue
            assert answer.status_code == 200, answer.text
            assert answer.content.count(b'{"status":201') == BATCH, answer.text[:1000]


@dataclass(frozen=True, slots=True)
class Posted:
    rate: float  # tasks/s
    cpu_us: float  # of the service, a task
    refused: int


async def posted(service: Service, token: str, bodies: list[bytes], clients: int) -> Posted:
    tasks = len(bodies) * BATCH
    refused: list[float] = []
    began, cpu_before = time.perf_counter(), cpu_s(service.pid)
    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(post, service.url, token, bodies, refused)
    took_s, cpu = time.perf_counter() - began, cpu_s(service.pid) - cpu_before
    return Posted(tasks / took_s, cpu / tasks * 1e6, len(refused))


def round_trip_us(text: bytes) -> float:
    """CPU of the least that anybody must do: the body parsed, and written again."""
    began = time.process_time()
    for _ in range(10):
        json.dumps(json.loads(text))
    return (time.process_time() - began) / 10 / BATCH * 1e6


def bare_rate(url: str) -> float:
    """Rows/s of the same rows into the same, emptied table, with nothing around the INSERTs."""
    parsed = parse_database_url(url)
    if isinstance(parsed, SqliteUrl):
        with closing(connect_file(parsed)) as file:
            file.execute("PRAGMA synchronous = FULL")
            rows = file.execute(f"SELECT * FROM tasks LIMIT {REFERENCE_ROWS}").fetchall()
            file.execute("DELETE FROM tasks")
            return _timed(file, "?", rows)
    with closing(connect_server(parsed)) as server, server.cursor() as cursor:
        cursor.execute("SELECT * FROM tasks LIMIT %s", (REFERENCE_ROWS,))
        rows = list(cursor.fetchall())
        cursor.execute("TRUNCATE tasks")
        return _timed(cursor, "%s", rows)


def _timed(cursor: sqlite3.Connection | pymysql.cursors.Cursor, mark: str, rows: Sequence[Sequence[Any]]) -> float:
    insert = f"INSERT INTO tasks VALUES ({', '.join([mark] * len(rows[0]))})"
    began = time.perf_counter()
    for first in range(0, len(rows), ROWS_AT_ONCE):
        cursor.execute("BEGIN")
        cursor.executemany(insert, rows[first : first + ROWS_AT_ONCE])
        cursor.execute("COMMIT")
    return len(rows) / (time.perf_counter() - began)


async def main(store: str, batches: int, clients: Sequence[int]) -> list[str]:
    with database(store) as url, tempfile.TemporaryDirectory() as directory:
        service = Service(url, Path(directory))
        await service.start()
        try:
            async with business(service, max_active_tasks=1_000_000) as api:
                found = await _by_clients(service, api, batches, clients)
        finally:
            await service.terminate()
        reference, json_us = bare_rate(url), round_trip_us(body(0))
    return [
        f"| {store} | {count} | {each.rate:,.0f} | {each.cpu_us:.0f} | {each.refused} | {reference:,.0f} |"
        f" {json_us:.1f} |"
        for count, each in found.items()
    ]


async def _by_clients(service: Service, api: Api, batches: int, clients: Sequence[int]) -> dict[int, Posted]:
    made = 0
    found: dict[int, Posted] = {}
    for count in (1, *clients):  # the first round only warms up
        share = WARM_UP if not made else batches
        bodies = [body(made + number) for number in range(share)]
        made += share
        found[count] = await posted(service, api.token, bodies, count)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="sqlite,mariadb,mysql")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--clients", default="1,2,4")
    arguments = parser.parse_args()
    print(HEAD, flush=True)
    for each in arguments.stores.split(","):
        counts = [int(count) for count in arguments.clients.split(",")]
        print("\n".join(trio.run(main, each, arguments.batches, counts)), flush=True)
