"""Row 26: clocks that are set while the service runs, instances' and the server's, and a process that stands still."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from tests.flow.kit import Answer, Api, business, running
from tests.reliability.cluster import Cluster, cluster
from tests.reliability.conftest import Figure
from tests.reliability.false_time import environment, library, set_clock
from tests.reliability.judge import Verdict
from tests.reliability.recorder import now_ms
from tests.reliability.traffic import Traffic
from tests.servers import Fleet, PrivateServer

pytestmark = pytest.mark.real_time
HOUR_S, DAY_S, YEAR_S = 3600, 86_400, 365 * 86_400
STEPS_S = (HOUR_S, -HOUR_S, DAY_S, -DAY_S, -1)  # the last one is a leap second as most machines see it
SERVER_STEPS_S = (60, -60)
HELD_S = 8.0  # each step
BLOCKED_S = 8.0
LATE_MS = 1000.0  # beyond the pause, as promised; a busy machine adds its own
CALLBACKS, REQUESTS = 20.0, 5.0  # a second
RC = "clock"


@asynccontextmanager
async def loaded(trial: Cluster) -> AsyncIterator[None]:
    """Under traffic, meanwhile and for some seconds before and after."""
    callers = [await trial.caller(f"shop{number}") for number in range(6)]
    traffic = Traffic(callers, Random(26))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: traffic.run(callbacks=CALLBACKS, requests=REQUESTS))
        await trio.sleep(3)
        yield
        await trio.sleep(3)
        traffic.stop()


def told(figure: Figure, found: Verdict) -> None:
    figure("callbacks", found.sends)
    figure("early", found.counts.get("early", 0))
    figure("repeats", found.repeats)
    figure("lateness p99", found.lateness(0.99), "ms")
    figure("worst lateness", found.lateness(1), "ms")


def own_clock(home: Path) -> dict[str, str]:
    set_clock(home / RC, 0)
    return environment(home / RC)


async def test_an_instances_clock_that_is_set_makes_nothing_early_or_late(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    async with cluster(database_server, tmp_path, own=own_clock) as trial:
        ids = [each.instance_id for each in trial.instances]
        async with loaded(trial):
            for number, step_s in enumerate(STEPS_S):
                home = tmp_path / f"i{number % len(trial.instances)}"
                set_clock(home / RC, step_s)
                await trio.sleep(HELD_S)
                set_clock(home / RC, 0)
                await trio.sleep(2)
        found = await trial.judged()
        told(figure, found)
        figure("alerts of a clock that was set", await trial.counted("alerts_total", rule="clock_set"))
        assert [each.instance_id for each in trial.instances] == ids
        assert await trial.counted("alerts_total", rule="clock_set") >= len(trial.instances)
        assert not found.violations, str(found)
        assert found.repeats == 0
        assert found.lateness(1) <= LATE_MS, str(found)


async def test_an_instance_that_starts_with_a_false_clock_takes_the_servers(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    def false_clock(home: Path) -> dict[str, str]:
        mine = own_clock(home)
        set_clock(home / RC, {"i1": HOUR_S, "i2": -DAY_S}.get(home.name, 0))
        return mine

    async with cluster(database_server, tmp_path, own=false_clock) as trial:
        async with loaded(trial):
            await trio.sleep(HELD_S)
        found = await trial.judged()
        told(figure, found)
        assert not found.violations, str(found)
        assert found.lateness(1) <= LATE_MS, str(found)


@pytest.fixture
def false_server(server_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PrivateServer, Path]]:
    """A server whose clock can be set, and the file that sets it."""
    server = server_fleet.new("mariadb")
    copy, clock = server.run.path / "faketime.so", server.run.path / RC
    shutil.copy(library(), copy)
    set_clock(clock, 0)
    see = partial(server.program.seen, run=server.run.path)
    with monkeypatch.context() as patched:
        for name, value in environment(see(clock), preload=see(copy)).items():
            patched.setenv(name, value)
        server.start()
    try:
        yield server, clock
    finally:
        server.stop()


async def test_a_servers_clock_that_is_set_makes_nothing_early_or_late(
    false_server: tuple[PrivateServer, Path], tmp_path: Path, figure: Figure
) -> None:
    server, clock = false_server
    async with cluster(server, tmp_path) as trial:
        ids = [each.instance_id for each in trial.instances]
        async with loaded(trial):
            for step_s in SERVER_STEPS_S:
                before = server.execute("SELECT UNIX_TIMESTAMP()")[0][0]
                set_clock(clock, step_s)
                await trio.sleep(HELD_S * 2)
                now = server.execute("SELECT UNIX_TIMESTAMP()")[0][0]
                assert abs(now - before - HELD_S * 2 - step_s) < 10, "its clock was set"
                set_clock(clock, 0)
                await trio.sleep(HELD_S)
        found = await trial.judged()
        told(figure, found)
        owners = {owner for owner, _ in (await trial.history.owners()).values()}
        assert owners == set(ids), "nobody was declared dead over it"
        assert await trial.counted("alerts_total", rule="clock_set") >= len(trial.instances)
        assert not found.violations, str(found)
        assert found.repeats == 0
        assert found.lateness(1) <= LATE_MS, str(found)


async def test_a_process_that_stands_still_is_late_by_its_pause_alone(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    async with cluster(database_server, tmp_path) as trial:
        async with loaded(trial):
            await trial.freeze(trial.instances[1], BLOCKED_S)
            await trio.sleep(2)
        found = await trial.judged()
        told(figure, found)
        assert not found.violations, str(found)
        assert found.lateness(1) <= BLOCKED_S * 1000 + LATE_MS, str(found)


async def patiently(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    """The task made; a busy store answers 503 and means: again."""
    with trio.fail_after(30):
        while (answer := await api.call("POST", "/tasks", body)).status_code == 503:
            await trio.sleep(0.1)
    assert answer.is_success, answer.text
    return dict(answer.json())


async def test_after_2038_all_goes_on(tmp_path: Path, figure: Figure) -> None:
    """Over the second in which a 32-bit clock ends; the embedded store, whose clock is the process's."""
    last = 2**31
    set_clock(tmp_path / RC, last - now_ms() / 1000 - 12)
    false = environment(tmp_path / RC)
    async with running(f"sqlite:///{tmp_path}/a.db", tmp_path, **false) as (service, receiver):
        receiver.decide = lambda call: Answer(500 if call.headers["x-taskcenter-attempt"] == "1" else 200)
        async with business(service, breaker={"enabled": False}) as api:
            bodies = [
                {"business_id": f"t{n}", "callback_url": receiver.url, "delay": n, "retry_intervals": [2]}
                for n in range(1, 20)
            ]
            made = [await patiently(api, body) for body in bodies]
            rows = [await api.until_status(task["id"], "succeeded", timeout_s=40) for task in made]
    assert {len([c for c in receiver.calls if c.headers["x-taskcenter-task-id"] == row["id"]]) for row in rows} == {2}
    due = [call.due_at / 1000 for call in receiver.calls]
    assert min(due) < last < max(due)
    figure("callbacks over the end of 32 bits", len(due))


async def test_due_times_after_2038_are_kept_as_they_are(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as (service, receiver), business(service) as api:
        body = {"business_id": "far", "callback_url": receiver.url, "execute_at": "2049-12-31T23:59:59.999Z"}
        made = await api.ok("POST", "/tasks", body)
        assert (await api.ok("GET", f"/tasks/{made['id']}"))["execute_at"] == body["execute_at"]
