"""Row 25: traffic of every kind on every store, and no memory that grows, no descriptor kept, nothing lost.

The stores are soaked side by side, each by a service of its own that keeps what has ended for a minute and a half only.
TASKCENTER_RELIABILITY_SOAK_S: for how long, 1800 is the full size; TASKCENTER_RELIABILITY_SOAK_ON: which stores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import pytest
import trio
from tests.flow.kit import PLAIN, Answer, Receiver, Service, business
from tests.reliability.conftest import Figure
from tests.reliability.history import History
from tests.reliability.judge import Verdict, verdict
from tests.reliability.ledger import Ledger, TaskRow
from tests.reliability.moods import Answers, gallery
from tests.reliability.recorder import Caller, Recorder
from tests.reliability.soak import Soak, Targets
from tests.reliability.vitals import MIB, Vitals, Weight, growth, sample, until_back, vitals, weigh
from tests.servers import PrivateServer
from tests.store.connection_kit import by_hand

pytestmark = pytest.mark.real_time
SOAK_S: Final = float(os.environ.get("TASKCENTER_RELIABILITY_SOAK_S", "120"))
STORES: Final = os.environ.get("TASKCENTER_RELIABILITY_SOAK_ON", "sqlite mariadb mysql").split()
WARM_UP_S: Final = 45.0 if SOAK_S < 600 else 120.0
MOST_MB_A_MINUTE: Final = 1.0 if SOAK_S >= 600 else 6.0  # in two minutes what is taken once and kept shows
PROGRAM: Final = (sys.executable, "-m", "tests.reliability.saboteur")
RETENTION_S: Final = 90.0
READ_EVERY_S: Final = 20.0
MORE_DESCRIPTORS: Final = 16  # than before it all: the store's pool has grown to its size
NAMES: Final = ("north", "east", "south")
BREAKER: Final = {"failure_threshold": 6, "open_seconds": 1, "max_open_seconds": 2}


class KeptHistory(History):
    """Read as whoever has the URL, and kept although the service purges what is old."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._rows: dict[str, TaskRow] = {}

    def _fetch(self, sql: str) -> list[tuple[Any, ...]]:
        return by_hand(self._url, sql)

    async def read(self) -> None:
        for row in await self.rows():
            before = self._rows.get(row.id)
            known = {} if before is None else {one.number: one for one in before.executions}
            known |= {one.number: one for one in row.executions}
            self._rows[row.id] = replace(row, executions=tuple(known[number] for number in sorted(known)))

    async def read_for_ever(self) -> None:
        while True:
            await trio.sleep(READ_EVERY_S)
            await self.read()

    def of(self, *codes: str) -> list[TaskRow]:
        return [row for row in self._rows.values() if row.business in codes]


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of one store's."""

    samples: list[Vitals]  # after the warm-up
    before: Vitals  # ready, and nobody has asked for anything
    after: Vitals  # everybody has gone
    weights: tuple[Weight, Weight]  # after the warm-up, and at the end of the traffic
    series: tuple[int, int]  # of /metrics, then
    found: Verdict
    bad_ends: list[str]  # of tasks for receivers that do not answer: status
    bad_acknowledged: int
    soak: Soak
    finish_calls: int


async def series(service: Service) -> int:
    """How many samples a scrape has."""
    async with httpx.AsyncClient(trust_env=False, verify=PLAIN, timeout=60) as client:
        text = (await client.get(f"{service.url}/metrics")).text
    return sum(not line.startswith("#") for line in text.splitlines())


class Scene:
    """A service on one store, its receivers and its callers."""

    def __init__(self, url: str, directory: Path) -> None:
        self.history = KeptHistory(url)
        self.ledger, self.bad_ledger = Ledger(), Ledger()
        self.answers = Answers(Random(25))
        self.receiver = Recorder(self.ledger, self.answers)
        self.finish = Receiver()
        self.finish.decide = self._finished
        self.finish_calls = 0
        self.directory = directory
        settings = {"SABOTEUR_DIR": str(directory), "TASKCENTER_RETENTION_DAYS": f"{RETENTION_S / 86_400}"}
        self.service = Service(url, directory, program=PROGRAM, **settings)

    def _finished(self, _: object) -> Answer:
        self.finish.calls.clear()
        self.finish_calls += 1
        return Answer()

    async def caller(self, code: str, ledger: Ledger, **fields: Any) -> Caller:
        async with business(self.service, code, **fields) as api:
            return Caller([self.service], api.token, code, self.receiver.url, ledger)

    async def soaked(self) -> Soaked:
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            await nursery.start(self.receiver.serve)
            await nursery.start(self.finish.serve)
            bad = await stack.enter_async_context(gallery())
            await self.service.start()
            stack.callback(self._end, nursery)
            before = vitals(self.service.pid)
            callers = [await self.caller(code, self.ledger, breaker=BREAKER) for code in NAMES]
            moody = await self.caller("moody", self.bad_ledger, breaker={"enabled": False})
            for caller in (*callers, moody):
                stack.push_async_callback(caller.aclose)
            targets = Targets(self.answers, self.receiver.url, bad, self.finish.url)
            soak = Soak(self.service, callers, moody, targets)
            samples: list[Vitals] = []
            async with trio.open_nursery() as traffic:
                traffic.start_soon(soak.run)
                async with trio.open_nursery() as watching:
                    watching.start_soon(self.history.read_for_ever)
                    await trio.sleep(WARM_UP_S)
                    first = await weigh(self.directory), await series(self.service)
                    watching.start_soon(sample, self.service.pid, samples)
                    await trio.sleep(SOAK_S)
                    last = await weigh(self.directory), await series(self.service)
                    watching.cancel_scope.cancel()
                soak.stop()
            await self.history.until_settled(60)
            await self.history.read()
            for caller in (*callers, moody):
                await caller.aclose()
            after = await until_back(self.service, before.descriptors + MORE_DESCRIPTORS)
            self.ledger.close(self.history.of(*NAMES))
            ends = [row.status for row in self.history.of("moody")]
            acknowledged = {create.task_id for create in self.bad_ledger.creates if create.task_id is not None}
            return Soaked(
                samples, before, after, (first[0], last[0]), (first[1], last[1]),
                await trio.to_thread.run_sync(verdict, self.ledger), ends, len(acknowledged),
                soak, self.finish_calls,
            )  # fmt: skip
        raise AssertionError("not reached")

    def _end(self, nursery: trio.Nursery) -> None:
        if self.service.running:
            self.service.kill()
        nursery.cancel_scope.cancel()


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a new database on each store."""
    made, servers = {}, {}
    for store in STORES:
        if store == "sqlite":
            made[store] = f"sqlite:///{tmp_path / 'taskcenter.db'}"
        else:
            servers[store] = request.getfixturevalue(f"{store}_server")
            made[store] = servers[store].create_database()
    yield made
    server: PrivateServer
    for store, server in servers.items():
        server.drop_database(made[store])


async def test_nothing_grows_under_traffic_of_every_kind(urls: dict[str, str], tmp_path: Path, figure: Figure) -> None:
    soaked: dict[str, Soaked] = {}

    async def one(store: str) -> None:
        directory = tmp_path / store
        directory.mkdir()
        soaked[store] = await Scene(urls[store], directory).soaked()

    async with trio.open_nursery() as nursery:
        for store in urls:
            nursery.start_soon(one, store)
    for store, each in soaked.items():
        told(store, each, figure)
    for store, each in soaked.items():
        judged(store, each)


def told(store: str, each: Soaked, figure: Figure) -> None:
    tenths = [each.samples[len(each.samples) * tenth // 10] for tenth in range(10)] + [each.samples[-1]]
    figure(f"{store}: memory", growth(each.samples), f"MB a minute over {SOAK_S / 60:g} min")
    figure(f"{store}: resident, MiB", ", ".join(f"{one.resident_bytes / MIB:.1f}" for one in tenths))
    figure(f"{store}: objects", " to ".join(f"{weight.objects:,}" for weight in each.weights))
    figure(f"{store}: most more of", each.weights[1].grown(each.weights[0]))
    figure(f"{store}: tasks of the program", " to ".join(f"{weight.tasks:,}" for weight in each.weights))
    figure(f"{store}: series of /metrics", " to ".join(map(str, each.series)))
    descriptors = (each.before.descriptors, max(one.descriptors for one in each.samples), each.after.descriptors)
    figure(f"{store}: descriptors before, at most, after", ", ".join(map(str, descriptors)))
    threads = (each.before.threads, max(one.threads for one in each.samples), each.after.threads)
    figure(f"{store}: threads before, at most, after", ", ".join(map(str, threads)))
    late = each.found
    figure(f"{store}: calls, of them 503", f"{each.soak.asked.total():,}, {each.soak.unavailable}")
    figure(f"{store}: books", str(late.counts or "no violation"))
    sends = f"{late.sends:,}, {each.finish_calls:,}, {len(each.bad_ends):,}"
    figure(f"{store}: callbacks, finish calls, bad receivers", sends)
    lateness = f"{late.lateness(1):.0f}, {late.own_lateness_ms[-1]:.0f} ms"
    figure(f"{store}: worst lateness, of it not for a breaker", lateness)


def judged(store: str, each: Soaked) -> None:
    assert not each.found.violations, f"{store}: {each.found}"
    assert not each.soak.odd, f"{store}: {each.soak.odd}"
    assert each.soak.unavailable <= each.soak.asked.total() / 100, store
    assert each.bad_ends == ["failed"] * each.bad_acknowledged, store
    assert growth(each.samples) < MOST_MB_A_MINUTE, f"{store}: {each.weights[1].grown(each.weights[0])}"
    assert each.series[1] <= each.series[0] * 1.2, f"{store}: series {each.series}"
    assert each.after.threads <= each.before.threads + 8, f"{store}: {each.after}"
