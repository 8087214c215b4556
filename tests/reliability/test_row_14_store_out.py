"""Row 14: the store is down, hung, flaky, read only, full or out of connections, under a whole service and its callers.

One service, never restarted, meets every fault in turn. TASKCENTER_OUTAGE_S: how long each lasts (2.5 s; the killed and
the frozen server once more for longer than a lease lives); TASKCENTER_FAULTS: only these, comma separated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from tests.flow.file_faults import full, locked, on_small_disk, small_disk
from tests.flow.kit import business, metric, running
from tests.flow.outage_faults import (
    FAULTS,
    Fault,
    Site,
    deadlocks,
    deadlocks_so_far,
    disk_full,
    frozen,
    killed,
    rows_locked,
)
from tests.flow.outage_kit import Outage, alerts, outage, settled, watched
from tests.reliability.conftest import Figure
from tests.servers import Fleet, PrivateServer
from tests.store.fault_proxy import open_proxy

pytestmark = pytest.mark.real_time
LAST_S: Final = float(os.environ.get("TASKCENTER_OUTAGE_S", "2.5"))
ONLY: Final = [name for name in os.environ.get("TASKCENTER_FAULTS", "").split(",") if name]
LONGER_THAN_A_LEASE_S: Final = 12.0
FILLING_BYTES: Final = 100_000  # a payload's, while the disk is full: what room is left in the tables is soon used up
SLOW_TO_SHOW: Final[dict[Fault, float]] = {rows_locked: 4.0, disk_full: 4.0}  # a lock is waited for; tables have room
SPEAKS: Final = {"late", "sliced", "rows_locked", "deadlocks", "read_only"}  # the server answers, late or with a no
MOST_503_S: Final = 2.0
MOST_S: Final = 5.0
NORMAL_S: Final = 10.0
ROOM_S: Final = 0.5  # for a machine that runs the server, the service, its callers and the proxy on two cores


@pytest.fixture(params=["mariadb", "mysql"])
def server(request: pytest.FixtureRequest, server_fleet: Fleet) -> Iterator[PrivateServer]:
    """One whose disk can be filled."""
    with on_small_disk(server_fleet.new(request.param)) as server:
        yield server


def chosen() -> list[tuple[str, Fault, float]]:
    """Name, fault, and how long it lasts in s."""
    longer = LONGER_THAN_A_LEASE_S
    plan = [(fault.__name__, fault, max(LAST_S, SLOW_TO_SHOW.get(fault, 0))) for fault in FAULTS]
    plan += [(f"{fault.__name__} {longer:.0f} s", fault, longer) for fault in (killed, frozen)]
    return [one for one in plan if not ONLY or one[1].__name__ in ONLY]


def faults_of(seen: Outage) -> list[str]:
    """What was not as promised."""
    speaks = seen.name in SPEAKS
    wrong = [f"answers: {seen.improper()}"] if seen.improper() else []
    if seen.unanswered:
        wrong.append(f"{seen.unanswered} calls had no answer")
    if seen.longest_s > MOST_S + ROOM_S:
        wrong.append(f"a call took {seen.longest_s:.2f} s")
    if not speaks and seen.longest_503_s > MOST_503_S + ROOM_S:
        wrong.append(f"a refusal took {seen.longest_503_s:.2f} s")
    if seen.normal_s > NORMAL_S:
        wrong.append(f"normal after {seen.normal_s:.2f} s")
    return [f"{seen.name}: {each}" for each in wrong]


async def test_every_fault_in_turn(server: PrivateServer, tmp_path: Path, figure: Figure) -> None:
    url = f"{server.create_database()}?ssl-mode=disabled"
    seen: list[Outage] = []
    async with (
        open_proxy(server.host, server.port) as proxy,
        running(proxy.url(url), tmp_path) as (service, receiver),
        business(service) as api,
    ):
        pid = service.pid
        async with watched(service, receiver, api) as on:
            for name, fault, last_s in chosen():
                before = deadlocks_so_far(server)
                on.traffic.payload_bytes = FILLING_BYTES if fault is disk_full else 0
                seen.append(
                    await outage(on, name, fault(Site(server, proxy, url)), partial(trio.sleep, last_s), look_s=1)
                )
                print(seen[-1])  # noqa: T201  # shown when the trial fails
                if fault is deadlocks:
                    figure("deadlocks met", deadlocks_so_far(server) - before)
        books = await settled(on, url)
        for one in seen:
            figure(one.name, told(one))
        figure("callbacks, each once", books.sends)
        figure("acknowledged tasks, all ended", books.acknowledged)
        assert await metric(service, "db_up", work="read") == await metric(service, "db_up", work="write") == 1
        assert service.running and service.pid == pid
        assert not books.violations, str(books)
        assert books.repeats == 0
        assert ONLY or (alerts(service, "store_out") and alerts(service, "store_full"))
        assert not (wrong := [each for one in seen for each in faults_of(one)]), "\n".join(wrong)


async def test_an_embedded_store(tmp_path: Path, figure: Figure) -> None:
    """SQLite: another process locks the file, and the disk it lies on is full."""
    directory = tmp_path / "disk"
    directory.mkdir()
    with small_disk(directory, 32 << 20):
        path = directory / "taskcenter.db"
        async with running(f"sqlite:///{path}", tmp_path) as (service, receiver), business(service) as api:
            async with watched(service, receiver, api) as on:
                seen = [
                    await outage(on, "file locked", locked(path), partial(trio.sleep, LAST_S), look_s=1),
                    await outage(on, "disk full", full(directory), partial(trio.sleep, LAST_S), look_s=1),
                    await outage(on, "disk full 12 s", full(directory), partial(trio.sleep, 12), look_s=1),
                ]
            books = await settled(on, f"sqlite:///{path}")
            for one in seen:
                figure(one.name, told(one))
            assert not books.violations, str(books)
            assert books.repeats == 0
            assert alerts(service, "store_out") and alerts(service, "store_full")
            assert not (wrong := [each for one in seen for each in faults_of(one)]), "\n".join(wrong)
            assert await service.terminate() == 0


def told(seen: Outage) -> str:
    def s(seconds: Any) -> str:
        return "never" if seconds is None else f"{seconds:.2f}"

    return (
        f"first 503 {s(seen.first_503_s)} s, longest refusal {s(seen.longest_503_s)} s, longest call"
        f" {s(seen.longest_s)} s, not ready {s(seen.unready_s)} s, normal {s(seen.normal_s)} s;"
        f" {len(seen.failed)} of {len(seen.calls)} refused"
    )
