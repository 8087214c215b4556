"""Row 12: whatever task of the process meets an exception that nobody expected, the process ends or the part goes on.

Which tasks there are is asked of the running process, so that none can be forgotten: all that live in it while a
receiver keeps some callbacks waiting. In each of them in turn, in a process of its own, the exception is raised.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import pytest
import trio
from tests.flow.kit import PLAIN, Answer, Api, Call, Receiver, Service, business
from tests.reliability.conftest import Figure
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
SABOTEUR = (sys.executable, "-m", "tests.reliability.saboteur")
WITHIN_S = 5.0
ABREAST = 2  # processes
PER_CONNECTION = ("taskcenter.http.",)  # those of requests, which are contained: rows 11 and 22
STAYS = ("taskcenter.http.server.",)  # and those of the server itself


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a process one of whose tasks was broken."""

    ended_after_s: float | None  # None: it lives
    ready_for_s: float  # how long it went on saying that it was ready
    status: int | None
    restarted: bool = False
    serves: bool = False


class Patient:
    """A service to break."""

    def __init__(self, url: str, directory: Path, receiver: Receiver) -> None:
        directory.mkdir()
        self.directory = directory
        self.service = Service(url, directory, program=SABOTEUR, SABOTEUR_DIR=str(directory))
        self._receiver = receiver

    async def start(self, code: str) -> Api:
        """Ready, with a business whose callbacks hang and whose rate limit keeps others waiting."""
        await self.service.start()
        async with business(self.service, code, rate_limit=3) as api:
            for number in range(6):
                body = {"business_id": f"hangs-{number}", "callback_url": f"{self._receiver.url}/hang"}
                await api.ok("POST", "/tasks", body)
            with trio.fail_after(20):
                while sum(call.json["business_code"] == code for call in self._receiver.calls) < 3:
                    await trio.sleep(0.05)
            return Api(self.service, api.token)

    async def census(self) -> dict[str, int]:
        found = self.directory / "tasks.json"
        found.unlink(missing_ok=True)
        (self.directory / "census").touch()
        await until(found.exists)
        made: dict[str, int] = json.loads(found.read_text())
        return {
            name: number
            for name, number in made.items()
            if name.startswith(STAYS) or not name.startswith(PER_CONNECTION)
        }

    async def broken(self, name: str, api: Api) -> Fate:
        """Raise the exception in this task, and see."""
        (self.directory / "order").write_text(name)
        (self.directory / "order").rename(self.directory / "break")
        await until((self.directory / "broken").exists)
        began = last_ready = time.monotonic()
        while self.service.running and time.monotonic() - began < WITHIN_S:
            if await ready(self.service):
                last_ready = time.monotonic()
            await trio.sleep(0.05)
        took = time.monotonic() - began
        if not self.service.running:
            return Fate(took, last_ready - began, self.service.status)
        restarted = name.partition("#")[0] in {each.partition("#")[0] for each in await self.census()}
        return Fate(None, last_ready - began, None, restarted, await self._serves(api))

    async def _serves(self, api: Api) -> bool:
        before = len(self._receiver.calls)
        body = {"business_id": "afterwards", "callback_url": self._receiver.url, "delay": 0.2}
        async with business(self.service, "other") as other:
            await other.ok("POST", "/tasks", body)
            await api.ok("GET", "/tasks")
            with trio.move_on_after(10):
                while len(self._receiver.calls) == before:
                    await trio.sleep(0.05)
                return True
        return False


async def until(true: Callable[[], bool], timeout_s: float = 20) -> None:
    with trio.fail_after(timeout_s):
        while not true():
            await trio.sleep(0.02)


async def ready(service: Service) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False, verify=PLAIN, timeout=1) as client:
            return (await client.get(f"{service.url}/health/ready")).status_code == 200
    except httpx.HTTPError:
        return False


def hang(call: Call) -> Answer:
    return Answer(delay_s=30 if call.path == "/hang" else 0)


async def test_every_task_that_breaks_ends_the_process_or_goes_on(
    mariadb_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    receiver = Receiver()
    receiver.decide = hang
    slots, number = trio.CapacityLimiter(ABREAST), count()
    fates: dict[str, Fate] = {}

    async def trial(url: str, name: str | None) -> list[str]:
        """Break it in a process of its own; the tasks there were."""
        async with slots:
            mark = next(number)
            patient = Patient(url, tmp_path / str(mark), receiver)
            try:
                api = await patient.start(f"b{mark}")
                try:
                    if name is not None:
                        fates[name] = await patient.broken(name, api)
                        return [name]
                    return list(await patient.census())
                finally:
                    await api.aclose()
            finally:
                if patient.service.running:
                    patient.service.kill()

    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.serve)
        embedded = await trial(f"sqlite:///{tmp_path}/census.db", None)
        more = set(await trial(mariadb_server.create_database(), None)) - set(embedded)
        assert len(more) >= 3, "the link between instances, and its two sides"
        async with trio.open_nursery() as trials:
            for index, name in enumerate(embedded):
                trials.start_soon(trial, f"sqlite:///{tmp_path}/{index}.db", name)
            for name in more:
                trials.start_soon(trial, mariadb_server.create_database(), name)
        nursery.cancel_scope.cancel()
    assert fates.keys() == {*embedded, *more}
    ended = [fate for fate in fates.values() if fate.ended_after_s is not None]
    figure("tasks broken", len(fates))
    figure("processes ended", len(ended))
    figure("parts that went on", len(fates) - len(ended))
    figure("slowest end", max(fate.ended_after_s or 0 for fate in ended), "s")
    figure("said ready at most", max(fate.ready_for_s for fate in ended), "s after it")
    assert {name: fate for name, fate in fates.items() if not good(fate)} == {}


def good(fate: Fate) -> bool:
    if fate.ended_after_s is not None:
        return fate.status == 1 and fate.ready_for_s < WITHIN_S
    return fate.restarted and fate.serves
