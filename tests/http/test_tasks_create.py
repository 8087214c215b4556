"""Creating tasks: idempotency, quota, batches, overload; durable before it is answered, told to the engine after."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
from tests.http.api_kit import NOW, URL, Answer, Api
from trio.testing import MockClock

from taskcenter.task import Status

BODY = {"business_id": "a", "callback_url": URL, "payload": {"x": 1, "y": [1, 2]}, "delay": 60}


# --- one --------------------------------------------------------------------------------------------------------------


async def test_a_create_is_durable_told_to_the_engine_counted_and_audited(api: Api) -> None:
    answer = await api.call("POST", "/tasks", BODY, headers={"X-Request-Id": "the-request"})
    task = answer.json
    assert (answer.status, answer.headers["Location"]) == (201, f"/api/v1/tasks/{task['id']}")
    (ref,) = api.engine.offered
    assert (ref.task_id, ref.due_at - NOW >= 60_000, ref.version, ref.host) == (task["id"], True, 1, "example.com")
    metrics = (await api.call("GET", "//metrics")).content.decode()
    assert 'taskcenter_tasks_created_total{business="orders"} 1.0' in metrics
    audit = (await api.call("GET", "/businesses/orders/audit")).json["items"]
    (entry,) = [entry for entry in audit if entry["action"] == "task.create"]
    assert (entry["target"], entry["request_id"], entry["actor"]["kind"]) == (task["id"], "the-request", "api_key")


async def test_the_same_again_is_replayed(stored_api: Api) -> None:
    first = await stored_api.call("POST", "/tasks", BODY)
    reordered = {"delay": 60, "payload": {"y": [1, 2], "x": 1}, "callback_url": URL, "business_id": "a"}
    for body in (BODY, reordered):
        again = await stored_api.call("POST", "/tasks", body)
        assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")
        assert again.json == first.json
    assert len(stored_api.engine.offered) == 1
    assert "Idempotent-Replayed" not in first.headers


async def test_a_replay_shows_the_task_as_it_is_now(api: Api, autojump_clock: MockClock) -> None:
    """Also long after: when its times have passed, its schedule has ended, it has ended itself."""
    body = BODY | {
        "deadline": "2027-01-15T08:10:00Z", "schedule": {"every": 60, "end_at": "2027-01-15T08:10:00Z"},
    }  # fmt: skip
    created = await api.call("POST", "/tasks", body)
    await api.call("DELETE", f"/tasks/{created.json['id']}")
    await trio.sleep(700)
    again = await api.call("POST", "/tasks", body)
    assert (again.status, again.json["id"], again.json["status"]) == (200, created.json["id"], "cancelled")
    other = await api.call("POST", "/tasks", body | {"timeout": 5})
    assert (other.status, other.code) == (409, "business_id_conflict")
    fresh = await api.call("POST", "/tasks", body | {"business_id": "b"})
    assert (fresh.status, fresh.fields) == (422, {"schedule.end_at"})


@pytest.mark.parametrize("change", [{"delay": 61}, {"payload": {"x": 1, "y": [2, 1]}}, {"callback_url": URL + "/"},
                                    {"tags": []}, {"payload": {"x": 1.0, "y": [1, 2]}}])  # fmt: skip
async def test_a_different_body_is_a_conflict(api: Api, change: dict[str, Any]) -> None:
    first = await api.call("POST", "/tasks", BODY)
    answer = await api.call("POST", "/tasks", BODY | change)
    assert (answer.status, answer.code) == (409, "business_id_conflict")
    assert answer.json["existing_task_id"] == first.json["id"]


async def test_quota(api: Api) -> None:
    await api.register("small", max_active_tasks=2)
    await api.create("a", by="small")
    task = await api.create("b", by="small")
    full = await api.call("POST", "/tasks", BODY | {"business_id": "c"}, by="small")
    assert (full.status, full.code) == (429, "quota_exceeded")
    assert int(full.headers["Retry-After"]) >= 1
    assert (await api.call("POST", "/tasks", {"business_id": "a", "callback_url": URL}, by="small")).status == 200
    await api.attempt(task["id"], status=Status.SUCCEEDED, by="small")
    await api.create("c", by="small")


async def insist(api: Api, body: object, by: str = "orders") -> Answer:
    """Create, as callers do: whoever is refused for now (503) asks again."""
    with trio.fail_after(60):
        while (answer := await api.call("POST", "/tasks", body, by=by)).status == 503:
            await trio.sleep(0.1)
    return answer


async def test_parallel_creates_at_the_quota(stored_api: Api) -> None:
    """RELIABILITY.md, row 18: exactly as many as there is room for."""
    await stored_api.register("small", max_active_tasks=10)
    statuses: list[int] = []

    async def create(number: int) -> None:
        answer = await insist(stored_api, BODY | {"business_id": f"n{number}"}, by="small")
        statuses.append(answer.status)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(create, number)
    assert sorted(statuses) == [201] * 10 + [429] * 30


async def test_parallel_creates_of_the_same_task(stored_api: Api) -> None:
    answers: list[tuple[int, str]] = []

    async def create() -> None:
        answer = await insist(stored_api, BODY)
        answers.append((answer.status, answer.json["id"]))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(create)
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    assert len({task_id for _, task_id in answers}) == 1
    assert len(stored_api.engine.offered) == 1


async def test_parallel_creates_share_commits(api: Api, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(api.create, f"n{number}")
    count = api.metrics.registry.get_sample_value("taskcenter_commit_batch_size_count", {"kind": "create"})
    size = api.metrics.registry.get_sample_value("taskcenter_commit_batch_size_sum", {"kind": "create"})
    assert size == 100
    assert count is not None
    assert count < 50


async def test_an_overloaded_service_takes_no_creates(api: Api) -> None:
    api.engine.overload = "the event loop is 80 ms behind"
    for path, body in (("/tasks", BODY), ("/tasks/batch", {"tasks": [BODY]})):
        answer = await api.call("POST", path, body)
        assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "overloaded", "1")
    api.engine.overload = None
    assert (await api.call("POST", "/tasks", BODY)).status == 201


async def test_a_paused_business_may_create(api: Api) -> None:
    assert (await api.call("PUT", "/businesses/orders", {"status": "paused"}, by="admin")).status == 200
    await api.create()


async def test_the_default_timeout_is_the_businesss(api: Api) -> None:
    await api.register("patient", default_timeout=25)
    assert (await api.create(by="patient"))["timeout"] == 25


# --- many -------------------------------------------------------------------------------------------------------------


async def test_a_batch_has_a_result_for_each_item(stored_api: Api) -> None:
    await stored_api.register("small", max_active_tasks=4)
    old = await stored_api.create("old", by="small")
    item = {"callback_url": URL}
    items: list[Any] = [
        {"business_id": "one", **item}, {"business_id": "", **item}, "no object", {"business_id": "old", **item},
        {"business_id": "old", **item, "delay": 5}, {"business_id": "one", **item},
        {"business_id": "one", **item, "delay": 1}, {"business_id": "two", **item},
        {"business_id": "three", **item}, {"business_id": "four", **item},
        {"business_id": "five", "callback_url": "http://10.0.0.1/"},
    ]  # fmt: skip
    answer = await stored_api.call("POST", "/tasks/batch", {"tasks": items}, by="small")
    assert answer.status == 200
    results = answer.json["results"]
    assert [result["status"] for result in results] == [201, 422, 422, 200, 409, 200, 409, 201, 201, 429, 422]
    codes = [result["error"]["code"] if "error" in result else None for result in results]
    assert codes == [
        None, "invalid_request", "invalid_request", None, "business_id_conflict", None, "business_id_conflict", None,
        None, "quota_exceeded", "invalid_request",
    ]  # fmt: skip
    assert results[3]["task"]["id"] == old["id"] == results[4]["error"]["existing_task_id"]
    assert results[5]["task"]["id"] == results[0]["task"]["id"] == results[6]["error"]["existing_task_id"]
    assert results[1]["error"]["errors"][0]["field"] == "business_id"
    assert results[10]["error"]["errors"][0]["field"] == "callback_url"
    offered = [ref.task_id for ref in stored_api.engine.offered]
    assert offered == [old["id"], *(results[at]["task"]["id"] for at in (0, 7, 8))]
    again = await stored_api.call("POST", "/tasks/batch", {"tasks": [items[0], items[7]]}, by="small")
    assert [result["status"] for result in again.json["results"]] == [200, 200]


async def test_a_thousand_at_once(stored_api: Api) -> None:
    items = [{"business_id": f"n{number}", "callback_url": URL, "payload": {"n": number}} for number in range(1000)]
    results = (await stored_api.call("POST", "/tasks/batch", {"tasks": items})).json["results"]
    assert [result["status"] for result in results] == [201] * 1000
    assert [result["task"]["payload"]["n"] for result in results] == list(range(1000))
    ids = [result["task"]["id"] for result in results]
    assert ids == sorted(set(ids))
    assert len(stored_api.engine.offered) == 1000


@pytest.mark.parametrize("tasks", [[], [BODY] * 1001, {}, None, "x"])
async def test_a_batch_of_the_wrong_size(api: Api, tasks: Any) -> None:
    answer = await api.call("POST", "/tasks/batch", {"tasks": tasks})
    assert (answer.status, answer.fields) == (422, {"tasks"})
    assert (await api.call("POST", "/tasks/batch", {"items": [BODY]})).fields == {"tasks", "items"}


async def test_a_batch_lets_others_have_their_turn(api: Api, autojump_clock: object) -> None:
    """Validation and writing of a large batch are cut in slices, so that no callback is late because of them."""
    items = [{"business_id": f"n{number}", "callback_url": URL} for number in range(500)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await api.call("POST", "/tasks/batch", {"tasks": items})
        nursery.cancel_scope.cancel()
    assert turns > 40


async def test_what_the_store_refuses_is_503_and_can_be_repeated(api: Api) -> None:
    await api.create("before")
    await api.store.aclose()
    for path, body in (("/tasks", BODY), ("/tasks/batch", {"tasks": [BODY, BODY]})):
        answer = await api.call("POST", path, body)
        assert (answer.status, answer.code) == (503, "store_unavailable")
        assert answer.headers["Retry-After"] == "2"
        assert "sqlite" not in answer.content.decode().lower()


async def test_ids_ascend_with_time(api: Api) -> None:
    ids = [(await api.create(f"n{number}"))["id"] for number in range(5)]
    assert all(one < other for one, other in itertools.pairwise(ids))
