"""CONTRACT.md §3, errors: every fault of a request is a problem with a stable code, and says nothing it should not."""

from __future__ import annotations

import re
import socket

import pytest
from tests.flow.contract_kit import Live, refused

pytestmark = pytest.mark.real_time
NOBODY = "01JA8Z3N4V7Q2M6K9T5R1X8C0B"


def test_each_kind_of_fault_has_its_status_and_code(live: Live) -> None:
    business = live.business()
    api, http = business.api, business.api.http
    json_type = {"Content-Type": "application/json"}
    body = business.body(live)
    refused(http.post("/api/v1/tasks", content=b'{"a":', headers=json_type), 400, "malformed_json")
    refused(http.post("/api/v1/tasks", content=b"\xff\xfe", headers=json_type), 400, "malformed_json")
    refused(live.client(None).call("POST", "/tasks", body), 401, "unauthenticated")
    refused(live.client("tc_live_nonsense").call("POST", "/tasks", body), 401, "unauthenticated")
    refused(api.call("POST", "/businesses", {"business_code": "xx", "business_name": "X"}), 403, "forbidden")
    refused(api.call("GET", "/stats"), 403, "forbidden")
    refused(api.call("GET", f"/tasks/{NOBODY}"), 404, "not_found")
    refused(api.call("GET", "/nothing/here"), 404, "not_found")
    wrong = api.call("PATCH", f"/tasks/{NOBODY}", {})
    refused(wrong, 405, "method_not_allowed")
    assert "GET" in wrong.headers["allow"]
    refused(http.post("/api/v1/tasks", content=b"x=1", headers={"Content-Type": "text/plain"}), 415,
            "unsupported_media_type")  # fmt: skip
    refused(api.call("POST", "/tasks", {**body, "payload": "x" * 2_000_000}), 413, "payload_too_large")
    problem = refused(api.call("POST", "/tasks", {"callback_url": 7, "timeout": 31, "nonsense": 1}), 422,
                      "invalid_request")  # fmt: skip
    faults = {fault["field"]: fault["message"] for fault in problem["errors"]}
    assert {"business_id", "callback_url", "timeout", "nonsense"} == faults.keys()


def test_another_businesss_task_does_not_exist(live: Live) -> None:
    ours, theirs = live.business(), live.business()
    task = ours.task(live, delay=3600)
    for method, path, body in (
        ("GET", "", None), ("PUT", "", {"tags": []}), ("DELETE", "", None), ("POST", "/run", {}),
        ("POST", "/redeliver", {}), ("GET", "/explain", None), ("GET", "/executions", None),
    ):  # fmt: skip
        refused(theirs.api.call(method, f"/tasks/{task['id']}{path}", body), 404, "not_found")
    refused(theirs.api.call("GET", f"/tasks/business/{task['business_id']}"), 404, "not_found")
    assert ours.api.ok("GET", f"/tasks/{task['id']}")["version"] == task["version"]


def test_every_answer_has_a_request_id_the_callers_if_it_is_sane(live: Live) -> None:
    api = live.business().api
    sane = api.call("GET", "/tasks", **{"X-Request-Id": "abc-123_x.y"})
    assert sane.headers["x-request-id"] == "abc-123_x.y"
    for odd in ("a b", "x" * 200, "<script>"):
        assert api.call("GET", "/tasks", **{"X-Request-Id": odd}).headers["x-request-id"] != odd
    assert api.call("GET", "/nothing", **{"X-Request-Id": "abc"}).headers["x-request-id"] == "abc"
    assert live.admin.http.get("/health/live").headers["x-request-id"]


def test_what_never_reaches_the_app_is_refused_in_the_same_form(live: Live) -> None:
    with socket.create_connection(("127.0.0.1", live.service.port), timeout=5) as connection:
        connection.sendall(b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = connection.makefile("rb").read().decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert " 400 " in head.split("\r\n")[0]
    assert "application/problem+json" in head and "x-request-id" in head.lower() and '"code"' in body


def test_openapi_and_docs_need_no_network(live: Live) -> None:
    document = live.admin.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    paths = {re.sub(r"{\w+}", "{}", path) for path in document["paths"]}
    for path in ("/tasks", "/tasks/batch", "/tasks/{}/explain", "/businesses/{}/credentials", "/stats"):
        assert f"/api/v1{path}" in paths
    page = live.admin.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert 'src="http' not in page.text and 'href="https://cdn' not in page.text
