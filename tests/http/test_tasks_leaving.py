"""Clients who leave: a handler that is cancelled at any point cancels no write, and the engine is told all the same."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.http.api_kit import URL, Api
from tests.http.gate import Gate
from trio.testing import MockClock, wait_all_tasks_blocked

from taskcenter.errors import CommitUnknown
from taskcenter.service.creator import MAX_GROUP
from taskcenter.service.shielded import WAIT_S
from taskcenter.store.records import NewTask
from taskcenter.task import Status

BODY = {"business_id": "a", "callback_url": URL}


async def leave(api: Api, gate: Gate, method: str, path: str, body: object = None) -> None:
    """Ask, and go away while the store is at the gate; then open it and let everything end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.call, method, path, body)
        await gate.reached.wait()
        nursery.cancel_scope.cancel()
    gate.open.set()
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("hold", ["before", "after"])
@pytest.mark.parametrize("path", ["/tasks", "/tasks/batch"])
async def test_create(api: Api, monkeypatch: pytest.MonkeyPatch, hold: str, path: str, autojump_clock: object) -> None:
    gate = Gate(api.store.tasks.create, hold=hold)
    monkeypatch.setattr(api.store.tasks, "create", gate)
    await leave(api, gate, "POST", path, BODY if path == "/tasks" else {"tasks": [BODY]})
    task = (await api.call("GET", "/tasks/business/a")).json
    assert [ref.task_id for ref in api.engine.offered] == [task["id"]]
    again = await api.call("POST", "/tasks", BODY)
    assert (again.status, again.json["id"]) == (200, task["id"])


@pytest.mark.parametrize("hold", ["before", "after"])
async def test_cancel(api: Api, monkeypatch: pytest.MonkeyPatch, hold: str, autojump_clock: object) -> None:
    task = await api.create()
    gate = Gate(api.store.tasks.cancel, hold=hold)
    monkeypatch.setattr(api.store.tasks, "cancel", gate)
    await leave(api, gate, "DELETE", f"/tasks/{task['id']}")
    assert api.engine.withdrawn == [task["id"]]
    assert (await api.call("GET", f"/tasks/{task['id']}")).json["status"] == "cancelled"


@pytest.mark.parametrize("hold", ["before", "after"])
@pytest.mark.parametrize(
    ("verb", "method", "path", "body"),
    [("update", "PUT", "", {"delay": 5}), ("run_now", "POST", "/run", None), ("redeliver", "POST", "/redeliver", None)],
)
async def test_other_changes(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    *,
    hold: str,
    verb: str,
    method: str,
    path: str,
    body: object,
    autojump_clock: object,
) -> None:
    task = await api.create(delay=60)
    if verb == "redeliver":
        await api.attempt(task["id"], status=Status.FAILED)
    gate = Gate(getattr(api.store.tasks, verb), hold=hold)
    monkeypatch.setattr(api.store.tasks, verb, gate)
    before = (await api.call("GET", f"/tasks/{task['id']}")).json["version"]
    await leave(api, gate, method, f"/tasks/{task['id']}{path}", body)
    after = (await api.call("GET", f"/tasks/{task['id']}")).json["version"]
    assert after == before + 1
    assert api.engine.offered[-1].version == after


async def test_cancel_matching(api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    task = await api.create(tags=["t"])
    gate = Gate(api.store.tasks.cancel_matching, hold="after")
    monkeypatch.setattr(api.store.tasks, "cancel_matching", gate)
    await leave(api, gate, "DELETE", "/tasks?tag=t")
    assert api.engine.withdrawn == [task["id"]]


async def test_a_store_that_does_not_answer(
    api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The handler says 503 after a while, and that repeating is safe; the write goes on."""
    gate = Gate(api.store.tasks.create, hold="before")
    monkeypatch.setattr(api.store.tasks, "create", gate)
    began = trio.current_time()
    answer = await api.call("POST", "/tasks", BODY)
    assert (answer.status, answer.code) == (503, "commit_unknown")
    assert trio.current_time() - began == pytest.approx(WAIT_S, abs=0.1)
    gate.open.set()
    await wait_all_tasks_blocked()
    assert (await api.call("POST", "/tasks", BODY)).status == 200


async def test_a_commit_that_was_not_confirmed_is_sent_once_more(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are there: the client hears 201, with the id of the first try."""
    real, calls = api.store.tasks.create, 0

    async def create(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        results = await real(*args)
        if calls == 1:
            raise CommitUnknown("the reply was lost")
        return results

    monkeypatch.setattr(api.store.tasks, "create", create)
    answer = await api.call("POST", "/tasks", BODY)
    assert (answer.status, calls) == (201, 2)
    assert [ref.task_id for ref in api.engine.offered] == [answer.json["id"]]
    assert len((await api.call("GET", "/tasks")).json["items"]) == 1


async def test_a_commit_that_is_never_confirmed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def create(*_: Any) -> Any:
        raise CommitUnknown("the reply was lost")

    monkeypatch.setattr(api.store.tasks, "create", create)
    answer = await api.call("POST", "/tasks", BODY)
    assert (answer.status, answer.code) == (503, "commit_unknown")


async def test_only_the_culprit_of_a_group_fails(
    api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    real = api.store.tasks.create

    async def create(tasks: list[NewTask], *rest: Any) -> Any:
        if any(task.business_unique_id == "poison" for task in tasks):
            raise RuntimeError("a row the store chokes on")
        return await real(tasks, *rest)

    monkeypatch.setattr(api.store.tasks, "create", create)
    statuses: dict[str, int] = {}

    async def ask(name: str) -> None:
        statuses[name] = (await api.call("POST", "/tasks", BODY | {"business_id": name})).status

    async with trio.open_nursery() as nursery:
        for name in ("one", "poison", "two"):
            nursery.start_soon(ask, name)
    assert statuses == {"one": 201, "poison": 500, "two": 201}


async def test_creates_beyond_the_queue_are_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr("taskcenter.service.creator.MAX_WAITING", 3)
    gate = Gate(api.store.tasks.create, hold="before")
    monkeypatch.setattr(api.store.tasks, "create", gate)
    statuses: list[int] = []

    async def ask(name: str) -> None:
        statuses.append((await api.call("POST", "/tasks", BODY | {"business_id": name})).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        await gate.reached.wait()
        for number in range(5):
            nursery.start_soon(ask, f"n{number}")
        await wait_all_tasks_blocked()
        assert statuses == [503, 503]
        gate.open.set()
    assert sorted(statuses) == [201, 201, 201, 201, 503, 503]


async def test_groups_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    sizes: list[int] = []
    real = api.store.tasks.create

    async def create(tasks: list[NewTask], *rest: Any) -> Any:
        sizes.append(len(tasks))
        return await real(tasks, *rest)

    monkeypatch.setattr(api.store.tasks, "create", create)
    async with trio.open_nursery() as nursery:
        for number in range(MAX_GROUP + 40):
            nursery.start_soon(api.create, f"n{number}")
    assert sum(sizes) == MAX_GROUP + 40
    assert max(sizes) <= MAX_GROUP
