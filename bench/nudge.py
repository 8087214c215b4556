"""Lateness of a task by where it was created: at its shard's owner, or elsewhere, with and without hints between them.

Two instances over one server. A business is taken whose shard the one owns; its tasks are created one after the other,
due 0.3 s ahead or at once, at the owner and at the other instance. Without hints a task created elsewhere waits for
its owner's next sweep. Lateness is that of the arrival at the receiver, after the due time that the request names.

python -m bench.nudge [--store mariadb|mysql|URL ...] [--tasks 200]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pymysql
import trio
from bench.kit import Nginx, nginx, percentile
from bench.stores import database
from tests.flow.kit import ADMIN_TOKEN, PROGRAM, Api, Service, business, several

SHARDS = 256
PAUSE_S = 0.025
CODE = "nudged"
# a peer link that has nothing to say: no task is due soon enough for it
MUTED = """
import taskcenter.runtime.peer_link as link
link.WITHIN_MS = -10**12
from taskcenter.__main__ import main
main()
"""
MUTE = (sys.executable, "-c", MUTED)
HEAD = (
    "| store | hints | due in, s | created at | tasks | p50 | p99 | worst | early |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def owners(url: str) -> dict[int, str]:
    """Shard → instance, by the store."""
    parts = urlsplit(url)
    with (
        closing(
            pymysql.connect(
                host=parts.hostname or "",
                port=parts.port or 3306,
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                database=parts.path.removeprefix("/"),
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT shard, owner FROM shards")
        return dict(cursor.fetchall())


async def shared_out(url: str) -> dict[int, str]:
    """The owners, once each instance has its half."""
    with trio.fail_after(60):
        while True:
            found = await trio.to_thread.run_sync(owners, url)
            counts = [list(found.values()).count(owner) for owner in set(found.values())]
            if counts == [SHARDS // 2] * 2:
                return found
            await trio.sleep(0.5)


async def by_place(url: str, services: list[Service]) -> dict[str, Service]:
    """The instance that owns the business's shard, and the other."""
    owner = (await shared_out(url))[zlib.crc32(CODE.encode()) % SHARDS]
    places = {}
    for service in services:
        api = Api(service, ADMIN_TOKEN)
        answered_by = (await api.ok("GET", "/stats"))["answered_by"]
        await api.aclose()
        places["owner" if answered_by == owner else "another"] = service
    return places


async def lateness(receiver: Nginx, api: Api, delay_s: float, count: int) -> list[float]:
    """ms, of so many tasks created one after the other."""
    before = len(receiver.arrivals())
    for number in range(count):
        body = {"business_id": f"{before}-{number}", "callback_url": receiver.url, "delay": delay_s}
        await api.ok("POST", "/tasks", body)
        await trio.sleep(PAUSE_S)
    with trio.fail_after(30):
        while len(arrived := receiver.arrivals()) < before + count:  # a log, which tells nobody
            await trio.sleep(0.2)
    return [at - due_at for at, due_at in arrived[before:]]


async def measure(store: str, url: str, tasks: int, *, hints: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        program = PROGRAM if hints else MUTE
        async with nginx() as receiver, several(url, Path(directory), 2, program=program) as (services, _):
            async with business(services[0], CODE, max_active_tasks=100_000) as api:
                places = await by_place(url, services)
                for delay_s in (0.3, 0.0):
                    for place in ("owner", "another"):
                        at = Api(places[place], api.token)
                        late = await lateness(receiver, at, delay_s, tasks)
                        await at.aclose()
                        marks = " | ".join(f"{percentile(late, share):.0f}" for share in (0.5, 0.99, 1.0))
                        early = sum(value < 0 for value in late)
                        said = "yes" if hints else "no"
                        print(f"| {store} | {said} | {delay_s:g} | {place} | {tasks} | {marks} | {early} |", flush=True)


async def main(stores: list[str], tasks: int) -> None:
    print(HEAD)
    for store in stores:
        for hints in (True, False):
            with database(store) as url:
                await measure(store, url, tasks, hints=hints)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", nargs="+", default=["mariadb", "mysql"])
    parser.add_argument("--tasks", type=int, default=200)
    arguments = parser.parse_args()
    trio.run(main, arguments.store, arguments.tasks)
