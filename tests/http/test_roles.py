"""Who may do what: every call of the document against every kind of caller, as one table.

The callers. `nobody` has no credential; `other` is another business's API key, which names the things of `orders`;
`own` is the API key of `orders`; `read` is a token of it with the scope tasks:read alone; `admin` is the admin token
without a business to act on, `acting` the same with X-TaskCenter-Business: orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pytest
from tests.http.api_kit import ADMIN, URL, Api
from trio.testing import MockClock

from taskcenter.http.openapi import routes_of

CALLERS: Final = ("nobody", "other", "own", "read", "admin", "acting")
OK: Final = 2  # any success
PUBLIC: Final = (OK,) * 6
OPERATOR: Final = (401, 403, 403, 403, OK, OK)  # the admin token only
TASK_READ: Final = (401, 404, OK, OK, 403, OK)  # one task: another's is as if it were not there
TASK_WRITE: Final = (401, 404, OK, 403, 403, OK)
TASKS_READ: Final = (401, OK, OK, OK, 403, OK)  # all tasks, or a new one: of whoever asks
TASKS_WRITE: Final = (401, OK, OK, 403, 403, OK)
BUSINESS: Final = (401, 404, OK, 403, OK, OK)  # one business, by its code
KEYS_ONLY: Final = (401, 404, OK, 403, 403, 403)  # what an API key may ask for itself

TABLE: Final[dict[str, tuple[int, ...]]] = {
    "GET /docs": PUBLIC,
    "GET /openapi.json": PUBLIC,
    "GET /health": PUBLIC,
    "GET /health/live": PUBLIC,
    "GET /health/ready": PUBLIC,
    "GET /metrics": PUBLIC,
    "GET /api/v1/health": PUBLIC,
    "GET /api/v1/health/live": PUBLIC,
    "GET /api/v1/health/ready": PUBLIC,
    "GET /api/v1/metrics": PUBLIC,
    "GET /api/v1/stats": OPERATOR,
    "GET /api/v1/audit": OPERATOR,
    "GET /api/v1/keys/rotate": OPERATOR,
    "POST /api/v1/keys/rotate": OPERATOR,
    "GET /api/v1/businesses": (401, OK, OK, 403, OK, OK),  # a business sees itself: see the test below
    "POST /api/v1/businesses": OPERATOR,
    "GET /api/v1/businesses/{business_code}": BUSINESS,
    "PUT /api/v1/businesses/{business_code}": OPERATOR,
    "GET /api/v1/businesses/{business_code}/audit": BUSINESS,
    "GET /api/v1/businesses/{business_code}/stats": BUSINESS,
    "PUT /api/v1/businesses/{business_code}/credentials": BUSINESS,
    "DELETE /api/v1/businesses/{business_code}/credentials/{key_id}": BUSINESS,
    "POST /api/v1/businesses/{business_code}/tokens": KEYS_ONLY,
    "GET /api/v1/tasks": TASKS_READ,
    "POST /api/v1/tasks": TASKS_WRITE,
    "DELETE /api/v1/tasks": TASKS_WRITE,
    "POST /api/v1/tasks/batch": TASKS_WRITE,
    "POST /api/v1/tasks/redeliver": TASKS_WRITE,
    "GET /api/v1/tasks/{task_id}": TASK_READ,
    "PUT /api/v1/tasks/{task_id}": TASK_WRITE,
    "DELETE /api/v1/tasks/{task_id}": TASK_WRITE,
    "GET /api/v1/tasks/{task_id}/executions": TASK_READ,
    "GET /api/v1/tasks/{task_id}/explain": TASK_READ,
    "POST /api/v1/tasks/{task_id}/redeliver": TASK_WRITE,
    "POST /api/v1/tasks/{task_id}/run": TASK_WRITE,
    "GET /api/v1/tasks/business/{business_id}": TASK_READ,
    "DELETE /api/v1/tasks/business/{business_id}": TASK_WRITE,
}
BODIES: Final[dict[str, dict[str, Any]]] = {
    "POST /api/v1/businesses": {"business_code": "made", "business_name": "Made"},
    "PUT /api/v1/businesses/{business_code}": {"rate_limit": 77},
    "PUT /api/v1/businesses/{business_code}/credentials": {"grace_seconds": 600},
    "POST /api/v1/businesses/{business_code}/tokens": {},
    "POST /api/v1/tasks": {"business_id": "new", "callback_url": URL},
    "POST /api/v1/tasks/batch": {"tasks": [{"business_id": "new", "callback_url": URL}]},
    "POST /api/v1/tasks/redeliver": {"status": "cancelled"},
    "PUT /api/v1/tasks/{task_id}": {"payload": {"by": "whom"}},
}
QUERIES: Final = {"DELETE /api/v1/tasks": {"status": "pending"}}


@dataclass(frozen=True)
class World:
    api: Api
    token: str  # tasks:read
    task_id: str
    spare_key_id: str

    async def ask(self, row: str, caller: str) -> tuple[int, Any]:
        method, template = row.split(" ")
        path = template.replace("{task_id}", self.task_id).replace("{business_id}", "theirs")
        path = path.replace("{business_code}", "orders").replace("{key_id}", self.spare_key_id)
        path = path.removeprefix("/api/v1") if path.startswith("/api/v1") else f"/{path}"
        credential = {
            "nobody": None, "other": self.api.keys["other"], "own": self.api.keys["orders"], "read": self.token,
            "admin": ADMIN, "acting": ADMIN,
        }[caller]  # fmt: skip
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        if caller == "acting":
            headers["X-TaskCenter-Business"] = "orders"
        answer = await self.api.call(method, path, BODIES.get(row), by=None, headers=headers, query=QUERIES.get(row))
        body = answer.json if answer.headers["Content-Type"].endswith("json") else None
        return answer.status, body


async def world(api: Api, *, ended: bool = False) -> World:
    """`orders` has a task, cancelled if `ended`; `other` is a business with nothing."""
    if "other" not in api.keys:
        await api.register("other")
    answer = await api.call("POST", "/businesses/orders/tokens", {"scopes": ["tasks:read"]})
    assert answer.status == 201
    task = await api.create("theirs", delay=3600)
    if ended:
        assert (await api.call("DELETE", f"/tasks/{task['id']}")).status == 200
    rotated = await api.call("PUT", "/businesses/orders/credentials", {})
    assert rotated.status == 200
    return World(api, answer.json["token"], task["id"], rotated.json["api_key"][8:24])


async def test_the_table_has_a_row_for_every_call(api: Api) -> None:
    """A new route fails here until somebody has decided who may use it."""
    served = {f"{route.method} {route.path}" for route in routes_of(api.app)}
    assert served == set(TABLE)
    assert all(len(row) == len(CALLERS) for row in TABLE.values())


@pytest.mark.parametrize("row", TABLE)
async def test_each_caller_gets_the_answer_of_the_table(row: str, api: Api, autojump_clock: MockClock) -> None:
    there = await world(api, ended=row.endswith("/redeliver"))
    callers = sorted(zip(CALLERS, TABLE[row], strict=True), key=lambda pair: pair[1] == OK)  # refusals first
    done = 0
    for caller, expected in callers:
        status, body = await there.ask(row, caller)
        if expected != OK:
            assert status == expected, f"{caller}: {status} {body}"
            assert there.task_id not in body["detail"], "a refusal tells nothing of what is there"
        else:
            assert status // 100 == OK or (done and status == 409), f"{caller}: {status} {body}"  # done before
            done += 1


async def test_lists_show_nothing_of_another_business(api: Api) -> None:
    there = await world(api)
    assert (await there.ask("GET /api/v1/tasks", "other"))[1]["items"] == []
    assert [task["id"] for task in (await there.ask("GET /api/v1/tasks", "own"))[1]["items"]] == [there.task_id]
    for caller, codes in (("other", ["other"]), ("own", ["orders"]), ("admin", ["orders", "other"])):
        _, body = await there.ask("GET /api/v1/businesses", caller)
        assert [item["business_code"] for item in body["items"]] == codes, caller


async def test_bulk_calls_touch_nothing_of_another_business(api: Api) -> None:
    there = await world(api)
    assert (await there.ask("DELETE /api/v1/tasks", "other"))[0] == 200
    assert (await there.ask("GET /api/v1/tasks/{task_id}", "own"))[1]["status"] == "pending"
    await there.ask("DELETE /api/v1/tasks", "own")
    assert (await there.ask("POST /api/v1/tasks/redeliver", "other"))[0] == 200
    assert (await there.ask("GET /api/v1/tasks/{task_id}", "own"))[1]["status"] == "cancelled"


@pytest.mark.parametrize("caller", ["other", "own", "read"])
async def test_nobody_but_the_admin_acts_for_another_business(caller: str, api: Api) -> None:
    there = await world(api)
    credential = {"other": api.keys["other"], "own": api.keys["orders"], "read": there.token}[caller]
    headers = {"Authorization": f"Bearer {credential}", "X-TaskCenter-Business": "orders"}
    answer = await api.call("GET", f"/tasks/{there.task_id}", by=None, headers=headers)
    assert answer.status == (403 if caller == "other" else 200)


async def test_what_the_document_says_of_security_is_so(api: Api) -> None:
    for path, methods in api.document.value["paths"].items():
        for method, operation in methods.items():
            row = TABLE[f"{method.upper()} {path}"]
            assert (operation.get("security") == []) is (row == PUBLIC), path
            assert (operation.get("security") == [{"adminToken": []}]) is (row == OPERATOR), path
