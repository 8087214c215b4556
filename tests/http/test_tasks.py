"""One task through the API: what is there to be looked at, and how it is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.http.api_kit import NOW, URL, Api

from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.service.task_input import read_task
from taskcenter.store.records import Business, NewTask, TaskKind
from taskcenter.task import Status

MISSING = "01JA8Z3N4V7Q2M6K9T5R1X8C0B"


def new_task(name: str, business: Business, kind: TaskKind) -> NewTask:
    body = {"business_id": name, "callback_url": URL}
    task = read_task(body, business, MISSING, NOW, EgressPolicy().check_url)
    assert isinstance(task, NewTask)
    return replace(task, kind=kind)


# --- look -------------------------------------------------------------------------------------------------------------


async def test_what_is_created_can_be_looked_at(stored_api: Api) -> None:
    schedule = {"cron": "0 9 * * *", "timezone": "Asia/Shanghai"}
    created = await stored_api.create(
        "order/1 é", payload={"b": [1.5, None], "a": "业务"}, retry_intervals=[1, "5m", 0.5 * 5], timeout="2s",
        headers={"X-A": "b"}, callback_method="PUT", tags=["b", "a"], finish_url=f"{URL}/end", schedule=schedule,
        deadline="2099-01-01T00:00:00Z",
    )  # fmt: skip
    looked = (await stored_api.call("GET", f"/tasks/{created['id']}")).json
    by_name = (await stored_api.call("GET", "/tasks/business/order%2F1%20%C3%A9")).json
    assert looked == by_name == {**created, "executions": []}
    assert list(looked["payload"]) == ["b", "a"]
    assert looked | {"payload": {"b": [1.5, None], "a": "业务"}} == looked
    expected = {
        "business_code": "orders", "business_id": "order/1 é", "status": "pending", "finish_reason": None,
        "callback_url": URL, "callback_method": "PUT", "headers": {"X-A": "b"}, "retry_intervals": [1, 300, 2.5],
        "timeout": 2, "schedule": {**schedule, "misfire": "once"}, "deadline": "2099-01-01T00:00:00.000Z",
        "finish_url": f"{URL}/end", "tags": ["b", "a"], "current_retry": 0, "max_retries": 3, "run": 1, "runs": 0,
        "deferrals": 0,
        "attempts": 0, "last_error": None, "version": 1, "finished_at": None,
    }  # fmt: skip
    assert {name: looked[name] for name in expected} == expected
    assert looked["next_execute_at"] == looked["execute_at"]
    assert looked["next_execute_at"].endswith("T01:00:00.000Z")


async def test_names_that_look_alike_are_different_tasks(stored_api: Api) -> None:
    names = ["a", "A", "a ", " a", "á", "a\u0301", "a/", "/a", "a//b", "a%2Fb", "a?b#c", ".", "a+b", "业务"]
    created = {name: (await stored_api.create(name))["id"] for name in names}
    assert len(set(created.values())) == len(names)
    for name, task_id in created.items():
        path = "".join(f"%{byte:02X}" for byte in name.encode())
        assert (await stored_api.call("GET", f"/tasks/business/{path}")).json["id"] == task_id, name


@pytest.mark.parametrize("path", [f"/tasks/{MISSING}", "/tasks/x", "/tasks/business/none", "/tasks/business/%00x"])
async def test_what_is_not_there(api: Api, path: str) -> None:
    assert (await api.call("GET", path)).code == "not_found"
    assert (await api.call("DELETE", path)).code == "not_found"
    if "business" not in path:
        assert (await api.call("PUT", path, {"timeout": 5})).code == "not_found"
        for action in ("executions", "explain"):
            assert (await api.call("GET", f"{path}/{action}")).code == "not_found"
        for action in ("run", "redeliver"):
            assert (await api.call("POST", f"{path}/{action}")).code == "not_found"


async def test_the_hidden_task_of_a_finish_url_is_not_there(api: Api) -> None:
    task = await api.create(finish_url=f"{URL}/end", delay=60)
    await api.call("DELETE", f"/tasks/{task['id']}")
    business = await api.store.businesses.get("orders")
    assert business is not None
    hidden = new_task(task["business_id"], business, TaskKind.FINISH)
    await api.store.tasks.create([hidden], {business.id: 10}, [None], NOW)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/explain"), ("POST", "/run")):
        assert (await api.call(method, f"/tasks/{hidden.id}{path}")).code == "not_found"
    assert [item["id"] for item in (await api.call("GET", "/tasks")).json["items"]] == [task["id"]]


@pytest.mark.parametrize("name", ["%00finish:x", "%0A", "x" * 129])
async def test_what_cannot_be_a_name_is_not_looked_up(api: Api, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def look_up(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(api.store.tasks, "get_by_unique_id", look_up)
    assert (await api.call("GET", f"/tasks/business/{name}")).code == "not_found"


async def test_another_businesss_task_is_not_there(api: Api) -> None:
    await api.register("others")
    task = await api.create("shared-name")
    path = f"/tasks/{task['id']}"
    answers = [
        await api.call("GET", path, by="others"), await api.call("DELETE", path, by="others"),
        await api.call("PUT", path, {"timeout": 5}, by="others"), await api.call("POST", f"{path}/run", by="others"),
        await api.call("POST", f"{path}/redeliver", by="others"), await api.call("GET", f"{path}/explain", by="others"),
        await api.call("GET", f"{path}/executions", by="others"),
        await api.call("GET", "/tasks/business/shared-name", by="others"),
        await api.call("DELETE", "/tasks/business/shared-name", by="others"),
    ]  # fmt: skip
    absent = await api.call("GET", f"/tasks/{MISSING}", by="others")
    for answer in answers:
        assert (answer.status, answer.code) == (404, "not_found")
        assert {**answer.json, "instance": ""} == {**absent.json, "instance": ""}  # existence is not told
    assert (await api.call("GET", path)).json["version"] == 1
    assert (await api.create("shared-name", by="others"))["id"] != task["id"]


async def test_an_admin_acts_on_a_business_he_names(api: Api) -> None:
    task = await api.create()
    path = f"/tasks/{task['id']}"
    named = {"X-TaskCenter-Business": "orders"}
    assert (await api.call("GET", path, by="admin")).code == "forbidden"
    assert (await api.call("GET", path, by="admin", headers=named)).json["id"] == task["id"]
    assert (await api.call("DELETE", path, by="admin", headers=named)).json["status"] == "cancelled"
    audit = (await api.call("GET", "/businesses/orders/audit", by="admin")).json["items"]
    cancels = [entry for entry in audit if entry["action"] == "task.cancel"]
    assert [(entry["actor"]["kind"], entry["target"]) for entry in cancels] == [("admin", task["id"])]


async def test_history(api: Api) -> None:
    task = await api.create(retry_intervals=[60] * 3)
    await api.attempt(task["id"], status=Status.RETRYING, at=NOW + 60_000, response_status=500,
                      response_headers={"content-type": "text/plain"}, response_body=b"no \xff way",
                      error_message="HTTP 500", wait_reason="rate_limit")  # fmt: skip
    await api.attempt(task["id"], status=Status.SUCCEEDED)
    looked = (await api.call("GET", f"/tasks/{task['id']}")).json
    assert (looked["status"], looked["attempts"], looked["current_retry"]) == ("succeeded", 2, 1)
    assert looked["finished_at"] is not None
    last, first = looked["executions"]
    assert (last["attempt"], last["status"]) == (2, "success")
    assert (first["attempt"], first["status"], first["response_status"]) == (1, "http_error", 500)
    assert first["response_body"] == "no \ufffd way"
    assert (first["duration_ms"], first["lateness_ms"], first["wait_reason"]) == (40.25, 3.5, "rate_limit")
    assert first["id"] == f"{task['id']}-1"


async def test_history_in_pages(stored_api: Api) -> None:
    task = await stored_api.create(retry_intervals=[60] * 10)
    for _ in range(5):
        await stored_api.attempt(task["id"], status=Status.RETRYING, at=stored_api.clock.now_ms())
    path = f"/tasks/{task['id']}/executions"
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await stored_api.call("GET", path, query={"limit": "2", **cursor})).json
        seen += [execution["attempt"] for execution in page["items"]]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 2
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [5, 4, 3, 2, 1]
    other = await stored_api.create("b")
    wrong = await stored_api.call("GET", f"/tasks/{other['id']}/executions", query=cursor)
    assert (wrong.status, wrong.fields) == (422, {"cursor"})


# --- change -----------------------------------------------------------------------------------------------------------


async def test_update_changes_what_it_names(stored_api: Api) -> None:
    task = await stored_api.create(
        payload={"a": 1}, delay=3600, schedule={"every": 60}, tags=["old"], deadline="2099-01-01T00:00:00Z"
    )
    change = {
        "callback_url": "http://other.example/x", "callback_method": "PATCH", "headers": {"X-New": "1"}, "payload": [2],
        "retry_intervals": [5], "timeout": 3, "schedule": None, "tags": ["new"], "deadline": None, "delay": 7200,
    }  # fmt: skip
    changed = (await stored_api.call("PUT", f"/tasks/{task['id']}", change)).json
    looked = (await stored_api.call("GET", f"/tasks/{task['id']}")).json
    assert looked == {**changed, "executions": []}
    for name, value in change.items():
        if name != "delay":
            assert changed[name] == value, name
    assert changed["next_execute_at"] > task["next_execute_at"]
    assert (changed["version"], changed["business_id"], changed["created_at"]) == (2, "a", task["created_at"])
    assert (await stored_api.call("GET", "/tasks", query={"tag": "new", "callback_host": "other.example"})).json[
        "items"
    ]
    assert not (await stored_api.call("GET", "/tasks", query={"tag": "old"})).json["items"]
    assert stored_api.engine.offered[-1].version == 2


async def test_update_leaves_the_rest_alone(api: Api) -> None:
    task = await api.create(payload={"a": 1}, delay=60, headers={"X-A": "b"}, tags=["t"], retry_intervals=[5])
    changed = (await api.call("PUT", f"/tasks/{task['id']}", {"timeout": 9})).json
    assert changed == {**task, "timeout": 9, "version": 2, "updated_at": changed["updated_at"]}


async def test_update_at_a_version(api: Api) -> None:
    task = await api.create(delay=60)
    path = f"/tasks/{task['id']}"
    assert (await api.call("GET", path)).headers["ETag"] == '"1"'
    first = await api.call("PUT", path, {"timeout": 5}, headers={"If-Match": '"1"'})
    assert (first.status, first.headers["ETag"]) == (200, '"2"')
    late = await api.call("PUT", path, {"timeout": 6}, headers={"If-Match": "1"})
    assert (late.status, late.code, late.json["version"]) == (409, "version_conflict", 2)
    assert (await api.call("PUT", path, {"timeout": 7}, headers={"If-Match": "2"})).status == 200
    assert (await api.call("PUT", path, {"timeout": 8}, headers={"If-Match": "*"})).status == 200
    for wrong in ('"x"', "-1", '"1", "2"', "9" * 30):
        answer = await api.call("PUT", path, {"timeout": 8}, headers={"If-Match": wrong})
        assert (answer.status, answer.fields) == (422, {"If-Match"})


async def test_update_to_what_fits_no_header(stored_api: Api) -> None:
    """With GET and DELETE it goes in a header; what neither field alone shows is seen under the row's lock."""
    large, small = "x" * 5000, "x" * 50
    task = await stored_api.create("large", payload=large)
    path = f"/tasks/{task['id']}"
    answer = await stored_api.call("PUT", path, {"callback_method": "GET"})
    assert (answer.status, answer.fields) == (422, {"callback_method"})
    assert "X-TaskCenter-Payload" in answer.json["errors"][0]["message"]
    assert (await stored_api.call("GET", path)).json["version"] == 1, "nothing was written"
    both = await stored_api.call("PUT", path, {"callback_method": "GET", "payload": small})
    assert (both.status, both.json["payload"]) == (200, small)
    answer = await stored_api.call("PUT", path, {"payload": large})
    assert (answer.status, answer.fields) == (422, {"payload"})
    back = await stored_api.call("PUT", path, {"callback_method": "PUT", "payload": large})
    assert (back.status, back.json["version"]) == (200, 3)


async def test_update_while_an_attempt_is_on_its_way(api: Api) -> None:
    """For the next attempt; the time is not touched."""
    task = await api.create(retry_intervals=[60])
    await api.claim(task["id"])
    changed = await api.call("PUT", f"/tasks/{task['id']}", {"callback_url": "https://new.example/", "delay": 5})
    assert changed.json["status"] == "running"
    assert (changed.json["callback_url"], changed.json["next_execute_at"]) == ("https://new.example/", None)


async def test_update_of_what_has_ended(api: Api) -> None:
    task = await api.create()
    await api.attempt(task["id"], status=Status.SUCCEEDED)
    answer = await api.call("PUT", f"/tasks/{task['id']}", {"timeout": 5})
    assert (answer.status, answer.code, answer.json["task_status"]) == (409, "task_finished", "succeeded")
