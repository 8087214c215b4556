"""`serve --processes N`: one service to the outside. Workers are replaced, answer for each other, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from tests.flow.kit import PLAIN, Answer, Api, Receiver, Service, business, metric, running

pytestmark = pytest.mark.real_time
PATIENCE_S = 120.0
FOLLOWER = """
import time
from taskcenter.runtime.worker import follow_parent
follow_parent(0)
while True:
    print("alive", flush=True)
    time.sleep(0.05)
"""


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for each in children for child in each.read_text().split())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def eventually(true: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not true():
            await trio.sleep(0.05)
        return
    raise AssertionError(what)


def database_of(server: object) -> str:
    create: Callable[[], str] = server.create_database  # type: ignore[attr-defined]  # tests.servers' fixture
    return create()


@asynccontextmanager
async def two_processes(server: object, directory: Path, **settings: str) -> AsyncIterator[tuple[Service, Receiver]]:
    """A service of two workers that both serve, and a receiver; both are gone afterwards, and so are the workers."""
    service = Service(database_of(server), directory, "--processes", "2", TASKCENTER_LEASE_TTL="3", **settings)
    receiver = Receiver()
    workers: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.serve)
        try:
            await service.start()
            await eventually(lambda: len(serving(service)) == 2, "two serve")
            workers = workers_of(service.pid)
            yield service, receiver
        finally:
            if service.running:
                workers += workers_of(service.pid)
                service.kill()
            for worker in set(workers):
                if lives(worker):
                    os.kill(worker, signal.SIGKILL)
            nursery.cancel_scope.cancel()


def lines_of(service: Service) -> list[dict[str, Any]]:
    """Every line it has logged: each is one whole JSON object."""
    return [json.loads(line) for line in service.log_text().splitlines()]


def serving(service: Service) -> list[dict[str, Any]]:
    return [line for line in lines_of(service) if line["event"] == "serving"]


async def fresh(service: Service, path: str) -> httpx.Response:
    """The answer on a connection of its own, so that either worker may be the one that gives it."""
    async with httpx.AsyncClient(trust_env=False, verify=PLAIN, timeout=20) as client:
        return await client.get(f"{service.url}{path}")


def totals(text: str) -> dict[str, float]:
    """Every sample that may never go backwards."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.type in ("counter", "histogram") and not sample.name.endswith(("_created", "_sum"))
    }


class Watcher:
    """Somebody who scrapes all the time: no total ever goes backwards, whoever answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen: dict[str, float] = {}
        self.scrapes = 0
        self.healths: set[str] = set()

    async def run(self) -> None:
        while True:
            try:
                scrape = await fresh(self._service, "/metrics")
                health = (await fresh(self._service, "/health/ready")).json()
            except httpx.TransportError:
                await trio.sleep(0.05)  # it reached the one that was killed
                continue
            if scrape.status_code == 503:
                continue  # the others' counts did not come in time, which is no count
            found = totals(scrape.text)
            back = {name: before for name, before in self._seen.items() if found.get(name, 0) < before}
            assert not back, back
            self._seen = found
            self.scrapes += 1
            self.healths.add(health["checks"]["processes"])
            await trio.sleep(0.05)


def test_a_worker_outlives_the_thread_that_started_it_and_ends_with_its_parent() -> None:
    started: list[subprocess.Popen[str]] = []

    def start() -> None:
        started.append(
            subprocess.Popen([sys.executable, "-c", FOLLOWER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        assert started[0].stdout is not None
        assert started[0].stdout.readline() == "alive\n"

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    worker = started[0]
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        assert [worker.stdout.readline() for _ in range(10)] == ["alive\n"] * 10
        worker.stdin.close()  # what the kernel does when the parent is gone
        assert worker.wait(PATIENCE_S) == -signal.SIGTERM
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


async def test_a_killed_worker_is_replaced_and_all_answer_for_all(mariadb_server: object, tmp_path: Path) -> None:
    async with two_processes(mariadb_server, tmp_path) as (service, receiver):
        first = workers_of(service.pid)
        receiver.decide = lambda call: Answer(delay_s=0.2)
        watcher = Watcher(service)
        async with business(service, "shop") as api, trio.open_nursery() as watching:
            watching.start_soon(watcher.run)
            tasks = await by_either(service, api, receiver.url, 10)
            await until_metric(service, 10, "tasks_created_total", business="shop")
            assert {await metric(service, "tasks_created_total", business="shop") for _ in range(12)} == {10}
            os.kill(first[0], signal.SIGKILL)
            await eventually(lambda: first[0] not in workers_of(service.pid), "it is dead")
            caller = Api(service, api.token)  # on a connection to who is left
            for task in tasks:
                await caller.until_status(task["id"], "succeeded", timeout_s=PATIENCE_S)
            await caller.aclose()
            await eventually(lambda: len(serving(service)) == 3, "the killed one is replaced")
            watching.cancel_scope.cancel()
        assert first[1] in workers_of(service.pid), "the other was left alone"
        assert watcher.scrapes > 3
        assert watcher.healths <= {"ok", "degraded: 1 of 2 processes serve"}
        assert await metric(service, "tasks_created_total", business="shop") == 10, "what the killed one had counted"
        assert await metric(service, "worker_restarts_total") == 1
        await until_metric(service, 2, "workers", state="serving")
        await until_metric(service, 256, "shards_owned")
        assert await service.terminate() == 0, service.tail()
        assert {line["worker"] for line in lines_of(service) if line["event"] == "stopped"} == {0, 1}


async def until_metric(service: Service, wanted: float, name: str, **labels: str) -> None:
    with trio.fail_after(PATIENCE_S):
        while await metric(service, name, **labels) != wanted:
            await trio.sleep(0.05)


async def by_either(service: Service, api: Api, url: str, count: int) -> list[Any]:
    """Tasks created on a connection each, so that both workers create some."""
    tasks = []
    for number in range(count):
        one = Api(service, api.token)
        body = {"business_id": f"t{number}", "callback_url": url, "delay": 1}
        tasks.append(await one.ok("POST", "/tasks", body))
        await one.aclose()
    return tasks


async def test_connections_are_spread_and_lines_bear_their_worker(mariadb_server: object, tmp_path: Path) -> None:
    async with two_processes(mariadb_server, tmp_path, TASKCENTER_LOG_LEVEL="debug") as (service, _):
        for _ in range(40):
            assert (await fresh(service, "/health/live")).status_code == 200
        await until_metric(service, 40, "http_request_seconds_count", route="/health/live")
        while (scrape := await fresh(service, "/metrics")).status_code == 503:  # the other's counts came too late
            await trio.sleep(0.05)
        text = scrape.text
        for worker in "01":  # each has answered, or one of them would have taken all forty
            assert f'process_resident_memory_bytes{{worker="{worker}"}}' in text
        assert text.count("# TYPE process_cpu_seconds_total counter") == 1
        assert await service.terminate() == 0, service.tail()
        lines = lines_of(service)
        assert {line.get("worker") for line in lines if line.get("room") != "processes"} == {0, 1}


async def test_an_interrupt_drains_and_a_second_one_ends_at_once(mariadb_server: object, tmp_path: Path) -> None:
    async with two_processes(mariadb_server, tmp_path) as (service, receiver):
        receiver.decide = lambda call: Answer(delay_s=60)
        groups = {os.getpgid(pid) for pid in (service.pid, *workers_of(service.pid))}
        assert len(groups) == 3, "an interrupt from the terminal reaches the workers once, through the parent"
        async with business(service, "shop") as api:
            await api.ok("POST", "/tasks", {"business_id": "slow", "callback_url": receiver.url, "timeout": 30})
        await receiver.wait_for(1)
        os.kill(service.pid, signal.SIGINT)
        await eventually(lambda: sum(line["event"] == "stopping" for line in lines_of(service)) == 2, "both drain")
        assert service.running, "the callback has its grace"
        os.kill(service.pid, signal.SIGINT)
        await eventually(lambda: not service.running, "it ends at once")
        assert service.status == 1
        assert any("second signal" in line["event"] for line in lines_of(service))


async def test_without_their_parent_workers_end_and_finish_what_is_on_its_way(
    mysql_server: object, tmp_path: Path
) -> None:
    async with two_processes(mysql_server, tmp_path) as (service, receiver):
        receiver.decide = lambda call: Answer(delay_s=1)
        workers = workers_of(service.pid)
        async with business(service, "shop") as api:
            await api.ok("POST", "/tasks", {"business_id": "slow", "callback_url": receiver.url})
            await receiver.wait_for(1)
            service.kill()
            await eventually(lambda: not any(map(lives, workers)), "no orphan is left")
            await service.start()
            task = await ended_task(service, api.token, "slow")
        assert len(receiver.calls) == 1 and len(task["executions"]) == 1, "it ended within the grace and was recorded"
        assert await service.terminate() == 0, service.tail()


async def ended_task(service: Service, token: str, name: str) -> Any:
    api = Api(service, token)
    try:
        task = await api.ok("GET", f"/tasks/business/{name}")
        return await api.until_status(task["id"], "succeeded", timeout_s=PATIENCE_S)
    finally:
        await api.aclose()


async def test_what_no_second_try_mends_ends_the_start(mariadb_server: object, tmp_path: Path) -> None:
    url = database_of(mariadb_server)
    async with running(url, tmp_path) as (first, _), business(first):
        pass  # leaves something that is sealed
    other = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    service = Service(url, tmp_path, "--processes", "2", TASKCENTER_ENCRYPTION_KEYS=other)
    ended = await trio.to_thread.run_sync(service.run_to_its_end)
    assert ended.returncode == 2
    [line, *_] = ended.stderr.splitlines()
    assert line[:8] in ("worker 0", "worker 1")
    assert line[8:].startswith(": taskcenter: TASKCENTER_ENCRYPTION_KEYS: does not open what this database holds")


async def test_a_port_in_use_is_one_line_and_the_end(mariadb_server: object, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the workers of another service would
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        service = Service(database_of(mariadb_server), tmp_path, "--processes", "2", TASKCENTER_BIND=address)
        ended = await trio.to_thread.run_sync(service.run_to_its_end)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"taskcenter: TASKCENTER_BIND: {address}: Address already in use; ")
    assert ended.stderr.count("\n") == 1
