"""Lists: each filter alone and together, pages that hold still, and what is done to all that match."""

from __future__ import annotations

import pytest
import trio
from tests.http.api_kit import NOW, URL, Api
from trio.testing import MockClock

from taskcenter.service import tasks as service
from taskcenter.task import Status
from taskcenter.times import format_time, parse_time


async def ids(api: Api, **query: str) -> list[str]:
    """The business_ids of everything that matches."""
    answer = await api.call("GET", "/tasks", query=query)
    assert answer.status == 200, answer.json
    assert answer.json["next_cursor"] is None
    return [task["business_id"] for task in answer.json["items"]]


async def some(api: Api) -> None:
    """Four tasks: one waits, one has succeeded, one has failed, one is cancelled."""
    await api.create("waits", delay=3600, tags=["x", "y"], callback_url="https://Other.Example:8443/a")
    for name, status in (("done", Status.SUCCEEDED), ("broken", Status.FAILED)):
        task = await api.create(name, tags=["x"])
        await api.attempt(task["id"], status=status)
    await api.create("gone", delay=60)
    await api.call("DELETE", "/tasks/business/gone")


async def test_filters(stored_api: Api) -> None:
    api = stored_api
    await some(api)
    assert await ids(api) == ["gone", "broken", "done", "waits"]
    assert await ids(api, status="pending") == ["waits"]
    assert await ids(api, status="succeeded,failed") == ["broken", "done"]
    assert await ids(api, status="running") == []
    assert await ids(api, tag="x") == ["broken", "done", "waits"]
    assert await ids(api, tag="x", status="failed,pending") == ["broken", "waits"]
    assert await ids(api, tag="X") == []
    assert await ids(api, callback_host="OTHER.example") == ["waits"]
    assert await ids(api, callback_host="example.com", status="cancelled") == ["gone"]


async def test_filters_by_time(api: Api, autojump_clock: MockClock) -> None:
    names = []
    for number in range(5):
        created = await api.create(f"n{number}", delay=100 - 10 * number)
        names.append(created)
        await trio.sleep(10)
    third = names[2]["created_at"]
    assert await ids(api, created_after=third) == ["n4", "n3", "n2"]
    assert await ids(api, created_before=third) == ["n1", "n0"]
    assert await ids(api, created_after=names[1]["created_at"], created_before=names[3]["created_at"]) == ["n2", "n1"]
    due = sorted(task["next_execute_at"] for task in names)
    assert len(await ids(api, due_after=due[0])) == 5
    assert len(await ids(api, due_before=due[4])) == len([at for at in due if at < due[4]])
    local = format_time(parse_time(third)).replace("Z", "+00:00")
    assert await ids(api, created_before=local) == ["n1", "n0"]
    bare = local.replace("+00:00", " 00:00")  # what a + becomes on its way when nobody writes it %2B
    assert await ids(api, created_before=bare) == ["n1", "n0"]


@pytest.mark.parametrize("filters", [{}, {"status": "pending"}, {"status": "pending,retrying"}, {"tag": "t"}])
async def test_pages_hold_still_while_tasks_are_born_and_end(stored_api: Api, filters: dict[str, str]) -> None:
    api = stored_api
    batch = [{"business_id": f"n{number:02}", "callback_url": URL, "delay": 60, "tags": ["t"]} for number in range(25)]
    await api.call("POST", "/tasks/batch", {"tasks": batch})
    seen: list[str] = []
    query = {**filters, "limit": "10"}
    for turn in range(4):
        page = (await api.call("GET", "/tasks", query=query)).json
        seen += [task["business_id"] for task in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        await api.create(f"new{turn}", tags=["t"], delay=60)
    assert seen == [f"n{number:02}" for number in reversed(range(25))]


async def test_a_page_of_large_payloads_ends_early(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAGE_BYTES", 25_000)
    monkeypatch.setattr(service, "PAGE_STEP", 2)
    for number in range(7):
        await api.create(f"n{number}", payload="x" * 10_000, delay=60)
    sizes, seen, query = [], [], {"limit": "200"}
    while True:
        page = (await api.call("GET", "/tasks", query=query)).json
        sizes.append(len(page["items"]))
        seen += [task["business_id"] for task in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert sizes == [3, 3, 1]
    assert seen == [f"n{number}" for number in reversed(range(7))]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"), ({"limit": "201"}, "limit"), ({"limit": "x"}, "limit"),
        ({"limit": "-1"}, "limit"), ({"limit": "٥"}, "limit"), ({"status": "done"}, "status"),
        ({"status": "pending,pending"}, "status"), ({"tag": "x" * 65}, "tag"),
        ({"created_after": "yesterday"}, "created_after"),
        ({"due_before": "2027-01-01"}, "due_before"), ({"cursor": "x"}, "cursor"), ({"cursor": "!!!!"}, "cursor"),
        ({"cursor": "é"}, "cursor"), ({"order": "asc"}, "order"), ({"Status": "pending"}, "Status"),
        ({"order": ""}, "order"),
    ],
)  # fmt: skip
async def test_questions_refused(api: Api, query: dict[str, str], field: str) -> None:
    answer = await api.call("GET", "/tasks", query=query)
    assert (answer.status, answer.fields) == (422, {field})


async def test_an_empty_parameter_of_a_list_is_one_left_out(api: Api) -> None:
    await api.create("a", delay=60)
    names = "status callback_host created_after created_before due_after due_before tag limit cursor"
    assert await ids(api, **dict.fromkeys(names.split(), "")) == ["a"]
    page = await api.call("GET", "/businesses/orders/audit", query={"limit": "", "cursor": ""})
    assert (page.status, len(page.json["items"]) > 0) == (200, True)


async def test_a_cursor_is_good_for_its_own_question_only(api: Api) -> None:
    await api.register("others")
    for by in ("orders", "others"):
        for number in range(3):
            await api.create(f"n{number}", delay=60, by=by)
    cursor = (await api.call("GET", "/tasks", query={"limit": "1"})).json["next_cursor"]
    assert (await api.call("GET", "/tasks", query={"limit": "2", "cursor": cursor})).status == 200
    for query, by in (({"status": "pending"}, "orders"), ({"tag": "x"}, "orders"), ({}, "others")):
        answer = await api.call("GET", "/tasks", query={**query, "cursor": cursor}, by=by)
        assert (answer.status, answer.fields) == (422, {"cursor"})
    assert (await api.call("GET", "/tasks?limit=1&limit=2")).fields == {"limit"}


async def test_lists_show_ones_own_only(api: Api) -> None:
    await api.register("others")
    await api.create("mine", delay=60)
    await api.create("theirs", delay=60, by="others")
    assert await ids(api) == ["mine"]


# --- cancel all that match --------------------------------------------------------------------------------------------


async def test_cancel_matching(stored_api: Api) -> None:
    api = stored_api
    await some(api)
    for number in range(7):
        await api.create(f"n{number}", delay=60, tags=["bulk"])
    dry = await api.call("DELETE", "/tasks?tag=bulk&dry_run=True")
    assert dry.json == {"matched": 7, "cancelled": 0, "in_flight": 0, "more": False}
    part = await api.call("DELETE", "/tasks?tag=bulk&limit=5")
    assert part.json == {"matched": 5, "cancelled": 5, "in_flight": 0, "more": True}
    assert len(api.engine.withdrawn) == 6  # one of them by `some`
    rest = await api.call("DELETE", "/tasks", query={"tag": "bulk"})
    assert rest.json == {"matched": 2, "cancelled": 2, "in_flight": 0, "more": False}
    assert (await api.call("DELETE", "/tasks?tag=bulk")).json == {
        "matched": 0,
        "cancelled": 0,
        "in_flight": 0,
        "more": False,
    }
    assert (await api.call("DELETE", "/tasks?status=succeeded")).json["matched"] == 0  # what has ended stays as it is
    assert await ids(api, status="succeeded") == ["done"]
    assert await ids(api, status="pending") == ["waits"]
    everything = await api.call("DELETE", "/tasks?created_after=2020-01-01T00:00:00Z")
    assert everything.json == {"matched": 1, "cancelled": 1, "in_flight": 0, "more": False}
    audit = (await api.call("GET", "/businesses/orders/audit")).json["items"]
    targets = [entry["target"] for entry in audit if entry["action"] == "task.cancel_matching"]
    assert any("tag=bulk" in target for target in targets)


@pytest.mark.parametrize(
    "query",
    [
        {"status": "pending"}, {"status": "retrying,running"}, {"callback_host": "other.example"}, {"tag": "t"},
        {"created_after": 2}, {"created_before": 2}, {"due_after": 2}, {"due_before": 2},
        {"tag": "t", "status": "pending", "created_after": 1, "due_before": 5},
        {"callback_host": "example.com", "created_before": 4, "due_after": 1},
    ],
    ids=str,
)  # fmt: skip
async def test_a_cancel_takes_what_the_list_shows(
    api: Api, autojump_clock: MockClock, query: dict[str, str | int]
) -> None:
    """Every filter, alone and together; numbers stand for that many times ten seconds after the first task."""
    for number in range(6):
        other = {"callback_url": "https://other.example/x"} if number % 3 == 0 else {}
        tags = ["t"] if number % 2 else []
        task = await api.create(f"n{number}", execute_at=format_time(NOW + 10_000 * number), tags=tags, **other)
        if number == 2:
            await api.claim(task["id"])
        elif number in {3, 5}:
            status, at = (Status.RETRYING, NOW + 40_000) if number == 3 else (Status.SUCCEEDED, None)
            await api.attempt(task["id"], status=status, at=at)
        await trio.sleep(10)
    given = {name: format_time(NOW + 10_000 * at) if isinstance(at, int) else at for name, at in query.items()}
    shown = set(await ids(api, **given)) - {"n5"}
    assert 0 < len(shown) < 5
    answer = await api.call("DELETE", "/tasks", query=given)
    assert answer.json == {
        "matched": len(shown),
        "cancelled": len(shown),
        "in_flight": int("n2" in shown),
        "more": False,
    }
    assert set(await ids(api, status="cancelled")) == shown


@pytest.mark.parametrize("query", ["", "?limit=5", "?dry_run=true", "?dry_run=false&limit=1"])
async def test_cancel_without_a_filter(api: Api, query: str) -> None:
    await api.create("a", delay=60)
    answer = await api.call("DELETE", f"/tasks{query}")
    assert (answer.status, answer.fields) == (422, {""})
    assert await ids(api, status="pending") == ["a"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("tag=x&limit=0", "limit"), ("tag=x&limit=10001", "limit"), ("tag=x&dry_run=maybe", "dry_run"),
     ("tag=x&cursor=abc", "cursor"), ("tags=x", "tags"), ("tag=x&status=", "status"), ("tag=", "tag"),
     ("tag=x&dry_run=", "dry_run")],
)  # fmt: skip
async def test_cancel_refused(api: Api, query: str, field: str) -> None:
    answer = await api.call("DELETE", f"/tasks?{query}")
    assert (answer.status, field in answer.fields) == (422, True)


async def test_cancel_of_another_businesss_tasks(api: Api) -> None:
    await api.register("others")
    await api.create("theirs", delay=60, tags=["t"], by="others")
    assert (await api.call("DELETE", "/tasks?tag=t")).json["cancelled"] == 0
    assert not api.engine.withdrawn


# --- deliver all that match again -------------------------------------------------------------------------------------


async def test_redeliver_matching(stored_api: Api) -> None:
    api = stored_api
    await some(api)
    for number in range(11):
        task = await api.create(f"n{number}")
        await api.attempt(task["id"], status=Status.FAILED)
    dry = (await api.call("POST", "/tasks/redeliver", {"dry_run": True})).json
    assert dry == {"matched": 12, "redelivered": 0, "more": False}
    before = len(api.engine.offered)
    part = (await api.call("POST", "/tasks/redeliver", {"status": "failed", "limit": 3})).json
    assert part == {"matched": 3, "redelivered": 3, "more": True}
    assert await ids(api, status="pending") == ["n10", "n9", "n8", "waits"]
    assert len(api.engine.offered) == before + 3
    done = (await api.call("POST", "/tasks/redeliver", {"status": ["failed", "cancelled"]})).json
    assert done == {"matched": 10, "redelivered": 10, "more": False}
    assert await ids(api, status="succeeded") == ["done"]


async def test_redeliver_by_host_and_tag(api: Api) -> None:
    for name, url, tags in (
        ("a", "https://down.example/x", ["t"]),
        ("b", "https://down.example/y", []),
        ("c", URL, ["t"]),
    ):
        task = await api.create(name, callback_url=url, tags=tags)
        await api.attempt(task["id"], status=Status.FAILED)
    dry = {"dry_run": True}
    assert (await api.call("POST", "/tasks/redeliver", {"callback_host": "Down.Example.", **dry})).json["matched"] == 2
    assert (await api.call("POST", "/tasks/redeliver", {"tag": "t", **dry})).json["matched"] == 2
    both = {"callback_host": "down.example", "tag": "t", "after": None}
    assert (await api.call("POST", "/tasks/redeliver", both)).json["redelivered"] == 1
    assert await ids(api, status="pending") == ["a"]


async def test_redeliver_by_time_of_the_end(api: Api, autojump_clock: MockClock) -> None:
    for number in range(4):
        task = await api.create(f"n{number}", deadline=format_time(NOW + 25_000) if number == 1 else None)
        await api.attempt(task["id"], status=Status.FAILED)
        await trio.sleep(10)
    window = {"after": format_time(NOW + 5_000), "before": format_time(NOW + 35_000)}
    assert (await api.call("POST", "/tasks/redeliver", {**window, "dry_run": True})).json["matched"] == 3
    done = (await api.call("POST", "/tasks/redeliver", window)).json
    assert done["redelivered"] == 2  # the deadline of one has passed
    assert set(await ids(api, status="pending")) == {"n2", "n3"}


async def test_redeliver_up_to_the_quota(api: Api) -> None:
    await api.register("small", max_active_tasks=2)
    for number in range(4):
        task = await api.create(f"n{number}", by="small")
        await api.attempt(task["id"], status=Status.FAILED, by="small")
    done = (await api.call("POST", "/tasks/redeliver", {}, by="small")).json
    assert done == {"matched": 4, "redelivered": 2, "more": True}
    full = await api.call("POST", "/tasks/redeliver", {}, by="small")
    assert (full.status, full.code) == (429, "quota_exceeded")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"status": "pending"}, "status"), ({"status": []}, "status"), ({"status": 5}, "status"),
        ({"status": ["failed", "running"]}, "status.1"), ({"status": ""}, "status"), ({"limit": 0}, "limit"),
        ({"limit": "5"}, "limit"), ({"limit": 1001}, "limit"), ({"after": 5}, "after"),
        ({"dry_run": "true"}, "dry_run"), ({"ids": []}, "ids"), ([], ""),
    ],
)  # fmt: skip
async def test_redeliver_refused(api: Api, body: object, field: str) -> None:
    answer = await api.call("POST", "/tasks/redeliver", body)
    assert (answer.status, answer.fields) == (422, {field})
