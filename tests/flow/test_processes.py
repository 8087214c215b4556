"""`serve --processes N`: workers that outlive the thread that started them, are replaced, and end with their parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.flow.kit import Answer, Api, Receiver, Service, business

pytestmark = pytest.mark.real_time
PATIENCE_S = 30.0
FOLLOWER = """
import time
from taskcenter.runtime.processes import follow_parent
follow_parent()
while True:
    print("alive", flush=True)
    time.sleep(0.05)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def workers_of(service: Service) -> list[int]:
    children = Path(f"/proc/{service.pid}/task").glob("*/children")
    return sorted(int(pid) for each in children for pid in each.read_text().split())


async def eventually(true: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not true():
            await trio.sleep(0.05)
        return
    raise AssertionError(what)


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


async def test_two_processes_serve_one_port_and_a_killed_one_is_replaced(
    mariadb_server: object, tmp_path: Path
) -> None:
    create: Callable[[], str] = mariadb_server.create_database  # type: ignore[attr-defined]  # tests.servers' fixture
    settings = {"TASKCENTER_BIND": f"127.0.0.1:{free_port()}", "TASKCENTER_LEASE_TTL": "3"}
    service = Service(create(), tmp_path, "--processes", "2", **settings)
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.serve)
        await service.start()
        try:
            await eventually(lambda: service.log_path.read_text().count('"serving"') == 2, "two serve")
            first = workers_of(service)
            assert len(first) == 2
            receiver.decide = lambda call: Answer(delay_s=0.2)
            async with business(service, "shop") as api:
                tasks = [
                    await api.ok("POST", "/tasks", {"business_id": f"t{n}", "callback_url": receiver.url, "delay": 1})
                    for n in range(10)
                ]
                os.kill(first[0], signal.SIGKILL)
            await eventually(lambda: first[0] not in workers_of(service), "it is dead")
            caller = Api(service, api.token)  # on a connection to who is left
            for task in tasks:
                await caller.until_status(task["id"], "succeeded", timeout_s=60)
            await caller.aclose()
            await eventually(lambda: len(workers_of(service)) == 2, "the killed one is replaced")
            assert first[1] in workers_of(service), "the other was left alone"
            assert await service.terminate() == 0, service.tail()
        finally:
            if service.running:
                service.kill()
            nursery.cancel_scope.cancel()


async def test_a_port_in_use_is_one_line_and_the_end(mariadb_server: object, tmp_path: Path) -> None:
    create: Callable[[], str] = mariadb_server.create_database  # type: ignore[attr-defined]  # tests.servers' fixture
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        service = Service(create(), tmp_path, "--processes", "2", TASKCENTER_BIND=address)
        ended = await trio.to_thread.run_sync(service.run_to_its_end)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"taskcenter: TASKCENTER_BIND: {address}: Address already in use; ")
    assert ended.stderr.count("\n") == 1
