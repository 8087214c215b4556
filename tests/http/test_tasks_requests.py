"""What holds for every request: credentials, bodies, ids, headers, problems, log lines, metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import capture_logs
from tests.http.api_kit import ADMIN, URL, Answer, Api

from taskcenter import log
from taskcenter.http.openapi import routes_of
from taskcenter.http.requests import MAX_BATCH_BODY, MAX_BODY
from taskcenter.service.principal import Scope

BODY = {"business_id": "a", "callback_url": URL}
SANE = {"X-Request-Id": "Abc-1.2_3"}


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff", b'{"business_id":"a","business_id":"b"}', b'{"payload":NaN}', b'{"payload":1e999}',
        b'{"payload":"\\ud800"}', b"[" * 200, b'{"payload":' + b"[" * 70 + b"]" * 70 + b"}",
        b"9" * 5000, b"\xef\xbb\xbf{}", b"{}{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("POST", "/tasks/batch"), ("PUT", "/tasks/x")])
async def test_malformed_json(api: Api, method: str, path: str, content: bytes) -> None:
    answer = await api.call(method, path, content=content)
    assert (answer.status, answer.code) == (400, "malformed_json")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": ""},
        {"Content-Type": "application/json; charset=utf-16"}, {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)  # fmt: skip
async def test_bodies_of_another_kind(api: Api, headers: dict[str, str]) -> None:
    answer = await api.call("POST", "/tasks", content=json.dumps(BODY).encode(), headers=headers)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", 'application/json;charset="UTF-8"']
)
async def test_ways_to_say_json(api: Api, kind: str) -> None:
    answer = await api.call("POST", "/tasks", content=json.dumps(BODY).encode(), headers={"Content-Type": kind})
    assert answer.status == 201


@pytest.mark.parametrize(
    ("method", "path", "size"),
    [("POST", "/tasks", MAX_BODY), ("POST", "/tasks/batch", MAX_BATCH_BODY), ("PUT", "/tasks/x", MAX_BODY)],
)
async def test_bodies_too_large(api: Api, method: str, path: str, size: int) -> None:
    answer = await api.call(method, path, content=b" " * (size + 1))
    assert (answer.status, answer.code) == (413, "payload_too_large")
    assert (await api.call(method, path, content=b" " * size)).code == "malformed_json"


async def test_the_largest_payload(api: Api) -> None:
    """256 KiB however it was written: escapes make the body larger, not the payload."""

    async def send(name: bytes, payload: bytes) -> Answer:
        body = b'{"business_id":"%b","callback_url":"%b","delay":60,"payload":"%b"}' % (name, URL.encode(), payload)
        return await api.call("POST", "/tasks", content=body)

    most = 256 * 1024 - 2  # without the quotes
    assert (await send(b"plain", b"A" * most)).status == 201
    escaped = await send(b"escaped", b"\\u0041" * 100_000)
    assert (escaped.status, escaped.json["payload"]) == (201, "A" * 100_000)
    over = await send(b"over", b"A" * (most + 1))
    assert (over.status, over.fields) == (422, {"payload"})


# --- credentials ------------------------------------------------------------------------------------------------------


async def test_every_route_wants_a_credential_but_the_public_ones(api: Api) -> None:
    for route in routes_of(api.app):
        path = route.path.format(task_id="x", business_id="x", business_code="orders", key_id="x")
        answer = await api.call(route.method, f"/{path}" if not path.startswith("/api/v1") else path[7:], by=None)
        assert route.operation is not None, f"{route.path} is not documented"
        if route.operation.public:
            assert answer.status == 200, route
        else:
            assert (answer.status, answer.code) == (401, "unauthenticated"), route
            assert answer.headers["WWW-Authenticate"]


async def test_the_public_routes_are_these(api: Api) -> None:
    public = {route.path for route in routes_of(api.app) if route.operation is not None and route.operation.public}
    health = {"/health", "/health/live", "/health/ready", "/metrics"}
    assert public == {"/docs", "/openapi.json", *health, *(f"/api/v1{path}" for path in health)}


@pytest.mark.parametrize("scopes", [[Scope.TASKS_READ], [Scope.TASKS_WRITE], [Scope.BUSINESS_READ]])
async def test_a_token_may_what_its_scopes_say(api: Api, scopes: list[Scope]) -> None:
    task = await api.create(delay=60)
    issued = await api.call("POST", "/businesses/orders/tokens", {"scopes": [scope.value for scope in scopes]})
    bearer = {"Authorization": f"Bearer {issued.json['token']}"}
    path = f"/tasks/{task['id']}"
    reads = [("GET", "/tasks"), ("GET", path), ("GET", f"{path}/executions"), ("GET", f"{path}/explain"),
             ("GET", "/tasks/business/a")]  # fmt: skip
    writes: list[tuple[str, str, Any]] = [
        ("POST", "/tasks", {**BODY, "business_id": "b"}), ("PUT", path, {"timeout": 5}), ("POST", f"{path}/run", None),
        ("POST", "/tasks/batch", {"tasks": [BODY]}), ("DELETE", "/tasks?tag=none", None), ("DELETE", path, None),
        ("POST", f"{path}/redeliver", None), ("POST", "/tasks/redeliver", {"dry_run": True}),
        ("DELETE", "/tasks/business/a", None),
    ]  # fmt: skip
    for method, where in reads:
        answer = await api.call(method, where, by=None, headers=bearer)
        assert answer.status == (200 if Scope.TASKS_READ in scopes else 403), where
    for method, where, body in writes:
        answer = await api.call(method, where, body, by=None, headers=bearer)
        assert (answer.status in {200, 201, 409}) == (Scope.TASKS_WRITE in scopes), where
        assert (answer.status == 403) == (Scope.TASKS_WRITE not in scopes), where


async def test_an_unknown_credential_is_told_before_the_body_is_read(api: Api) -> None:
    answer = await api.call("POST", "/tasks", content=b"{", by=None, headers={"Authorization": "Bearer nonsense"})
    assert (answer.status, answer.code) == (401, "unauthenticated")


# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["//", "//nope", "/", "/nope", "/tasks/", "/tasks/x/nope", "//api", "//health/", "//docs/"]
)
async def test_nothing_there(api: Api, path: str) -> None:
    answer = await api.call("GET", path, by=None)
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/tasks", {"GET", "HEAD", "POST", "DELETE"}), ("POST", "//health", {"GET", "HEAD"}),
        ("OPTIONS", "/tasks", {"GET", "HEAD", "POST", "DELETE"}),
        ("TRACE", "/tasks", {"GET", "HEAD", "POST", "DELETE"}),
        ("GET", "/tasks/x/run", {"POST"}), ("BREW", "//docs", {"GET", "HEAD"}),
    ],
)  # fmt: skip
async def test_not_a_method(api: Api, method: str, path: str, allowed: set[str]) -> None:
    answer = await api.call(method, path, by=None)
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


async def test_a_problem_has_all_its_members(api: Api) -> None:
    answer = await api.call("GET", "/tasks/x y", headers=SANE)
    assert answer.json == {
        "type": "/docs#problem-not_found", "title": "Nothing here", "status": 404, "detail": "No such task.",
        "instance": "/api/v1/tasks/x%20y", "code": "not_found",
    }  # fmt: skip


async def test_a_fault_of_ours_tells_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("SELECT secret FROM 10.1.2.3")

    monkeypatch.setattr(api.store.tasks, "get", fail)
    answer = await api.call("GET", "/tasks/01JA8Z3N4V7Q2M6K9T5R1X8C0B", headers=SANE)
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"SELECT" not in answer.content
    assert answer.headers["X-Request-Id"] == "Abc-1.2_3"


# --- ids, headers, logs, metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", ["Abc-1.2_3", "x" * 128])
async def test_a_sane_request_id_is_kept(api: Api, claimed: str) -> None:
    for by, path in (("orders", "/tasks"), (None, "/tasks"), (None, "/nope"), (None, "//health")):
        answer = await api.call("GET", path, by=by, headers={"X-Request-Id": claimed})
        assert answer.headers["X-Request-Id"] == claimed


@pytest.mark.parametrize("claimed", ["", "x" * 129, "a b", "a/b", "é", "a;b", '"x"', "<script>"])
async def test_any_other_request_id_is_replaced(api: Api, claimed: str) -> None:
    answer = await api.call("GET", "/tasks", headers={"X-Request-Id": claimed})
    assert answer.headers["X-Request-Id"] != claimed
    assert len(answer.headers["X-Request-Id"]) == 32


async def test_security_headers(api: Api) -> None:
    answers: list[Answer] = [
        await api.call("GET", "/tasks"), await api.call("GET", "/nope"), await api.call("GET", "/tasks", by=None),
        await api.call("GET", "//docs"), await api.call("GET", "//openapi.json"), await api.call("GET", "//metrics"),
        await api.call("POST", "/tasks", content=b"{"),
    ]  # fmt: skip
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Server" not in answer.headers


@pytest.fixture
def _json_lines() -> Iterator[None]:
    """Logs as a server writes them, for one test."""
    log.configure("info", "json")
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("_json_lines")
async def test_one_line_a_request_and_no_secret_in_it(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    canary = "canary-5ecret"
    with capture_logs() as events:
        secret: dict[str, Any] = {
            "payload": canary,
            "headers": {"Authorization": canary},
            "callback_url": f"{URL}?t={canary}",
        }
        task = await api.create("a", **secret)
        await api.call("GET", "/tasks", by=None, headers={"X-API-Key": canary, "Authorization": f"Bearer {canary}"})
        await api.call("GET", "/a%0d%0a%1b[31mb?key=" + canary, by=None, headers=SANE)
        await api.call("POST", "/tasks", content=b'{"' + canary.encode() + b'": }')
    requests = [event for event in events if event["event"] == "request"]
    assert [event["status"] for event in requests] == [201, 401, 404, 400]
    first = requests[0]
    assert (first["route"], first["method"], first["business"]) == ("/api/v1/tasks", "POST", "orders")
    assert (first["actor"], first["task_id"], first["code"]) == ("api_key", task["id"], None)
    assert (requests[2]["request_id"], requests[2]["route"]) == ("Abc-1.2_3", "unmatched")
    text = json.dumps(events, default=str) + capsys.readouterr().out
    assert canary not in text
    assert ADMIN not in text
    assert api.keys["orders"].rpartition("_")[2] not in text


async def test_a_client_that_leaves_is_logged_too(
    api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    reached = trio.Event()

    async def hang(*_: object) -> None:
        reached.set()
        await trio.sleep_forever()

    monkeypatch.setattr(api.store.tasks, "page", hang)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.call, "GET", "/tasks")
        await reached.wait()
        nursery.cancel_scope.cancel()
    labels = {"route": "/api/v1/tasks", "method": "GET", "status": "499"}
    assert api.metrics.registry.get_sample_value("taskcenter_http_request_seconds_count", labels) == 1


async def test_metrics_by_route_template(api: Api) -> None:
    for path in ("/tasks/x", "/tasks/y", "/tasks/business/z", "/no/such/path"):
        await api.call("GET", path)
    value = api.metrics.registry.get_sample_value
    name = "taskcenter_http_request_seconds_count"
    assert value(name, {"route": "/api/v1/tasks/<task_id>", "method": "GET", "status": "404"}) == 2
    assert value(name, {"route": "unmatched", "method": "GET", "status": "404"}) == 1
    await api.call("BREW", "/tasks/x")
    assert value(name, {"route": "unmatched", "method": "other", "status": "405"}) == 1
