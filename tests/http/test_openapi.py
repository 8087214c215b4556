"""The document and the page made of it: complete, sound, and readable without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
from tests.http.api_kit import URL, Api

from taskcenter.http.openapi import routes_of
from taskcenter.http.openapi_parts import ERRORS, PATH_PARAMETERS
from taskcenter.http.problems import HTTP_CODES, STATUS, TITLES


async def document(api: Api) -> dict[str, Any]:
    answer = await api.call("GET", "//openapi.json", by=None)
    assert answer.headers["Content-Type"] == "application/json"
    value: dict[str, Any] = answer.json
    return value


def fields_of(schemas: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every object, nested ones included."""
    for name, schema in schemas.items():
        for part in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
            for field, described in part.get("properties", {}).items():
                yield f"{name}.{field}", described
                yield from fields_of({f"{name}.{field}": described})


async def test_every_route_is_documented(api: Api) -> None:
    value = await document(api)
    served = {(route.path, route.method.lower()) for route in routes_of(api.app)}
    documented = {(path, method) for path, methods in value["paths"].items() for method in methods}
    assert served == documented
    assert len({operation["operationId"] for methods in value["paths"].values() for operation in methods.values()}) == (
        len(documented)
    )


async def test_the_contracts_calls_are_there(api: Api) -> None:
    paths = (await document(api))["paths"]
    contract = {
        "/tasks": {"post", "get", "delete"}, "/tasks/batch": {"post"}, "/tasks/{task_id}": {"get", "put", "delete"},
        "/tasks/business/{business_id}": {"get", "delete"}, "/tasks/{task_id}/executions": {"get"},
        "/tasks/{task_id}/run": {"post"}, "/tasks/{task_id}/redeliver": {"post"}, "/tasks/redeliver": {"post"},
        "/tasks/{task_id}/explain": {"get"}, "/health": {"get"}, "/health/live": {"get"}, "/health/ready": {"get"},
        "/metrics": {"get"}, "/stats": {"get"}, "/businesses": {"post", "get"},
        "/businesses/{business_code}": {"get", "put"}, "/businesses/{business_code}/credentials": {"put"},
        "/businesses/{business_code}/tokens": {"post"}, "/businesses/{business_code}/stats": {"get"},
        "/businesses/{business_code}/audit": {"get"},
    }  # fmt: skip
    for path, methods in contract.items():
        assert set(paths[f"/api/v1{path}"]) == methods, path


async def test_every_field_is_described_with_an_example(api: Api) -> None:
    schemas = (await document(api))["components"]["schemas"]
    checked = 0
    for name, field in fields_of(schemas):
        if name.startswith("OpenApiView."):
            continue
        assert field.get("description"), f"{name} has no description"
        assert field.get("examples") or {"$ref", "allOf", "anyOf", "items", "default"} & set(field), name
        checked += 1
    assert checked > 150


async def test_examples_are_taken(api: Api) -> None:
    """What the document shows as an example of input does as input."""
    value = await document(api)
    schema = value["components"]["schemas"]["TaskInput"]
    for number, (name, field) in enumerate(schema["properties"].items()):
        for example in field["examples"]:
            body = {"business_id": f"n{number}-{example!s:.30}", "callback_url": URL, name: example}
            if name == "flow_limit":
                body["flow_key"] = "customer-7"  # the one field that needs another
            answer = await api.call("POST", "/tasks", body)
            assert answer.status == 201, (name, example, answer.json)
    task = await api.create(delay=60)
    for name, field in value["components"]["schemas"]["TaskUpdate"]["properties"].items():
        for example in field["examples"]:
            assert (await api.call("PUT", f"/tasks/{task['id']}", {name: example})).status == 200, (name, example)
    redeliver = value["components"]["schemas"]["RedeliverInput"]["properties"]
    for name, field in redeliver.items():
        assert (await api.call("POST", "/tasks/redeliver", {name: field["examples"][0]})).status == 200, name
    for path in ("/tasks", "/tasks/x/executions"):
        for parameter in value["paths"][f"/api/v1{path.replace('/x/', '/{task_id}/')}"]["get"]["parameters"]:
            if parameter["in"] == "query" and parameter["name"] != "cursor":
                example = parameter["example"]
                text = ",".join(example) if isinstance(example, list) else str(example)
                assert (await api.call("GET", path, query={parameter["name"]: text})).status in {200, 404}, parameter


async def test_schemas_hold_their_examples_and_their_bounds(api: Api) -> None:
    """The schema and the reader of a task's input agree."""
    value = await document(api)
    whole = {**value["components"]["schemas"]["TaskInput"], "components": value["components"]}
    check = jsonschema_rs.validator_for(whole)
    least = {"business_id": "a", "callback_url": URL}
    good: list[dict[str, Any]] = [
        {}, {"delay": "5m"}, {"retry_intervals": [1, "7d"]}, {"schedule": None}, {"payload": None},
        {"schedule": {"every": 5}}, {"timeout": 0.1}, {"tags": ["a"]}, {"headers": {"X-A": "b"}},
    ]  # fmt: skip
    bad: list[dict[str, Any]] = [
        {"business_id": ""}, {"business_id": "x" * 129}, {"delay": "soon"}, {"delay": -1}, {"retry_intervals": [0.5]},
        {"retry_intervals": [1] * 11}, {"timeout": 31}, {"timeout": True}, {"tags": ["a", "a"]}, {"extra": 1},
        {"schedule": {"jitter": 5}}, {"callback_method": "post"}, {"headers": {"a b": "c"}}, {"headers": {"a": 5}},
    ]  # fmt: skip
    for number, fields in enumerate(good):
        body = least | {"business_id": f"n{number}"} | fields
        assert check.is_valid(body), fields
        assert (await api.call("POST", "/tasks", body)).status == 201, fields
    for fields in bad:
        assert not check.is_valid(least | fields), fields
        assert (await api.call("POST", "/tasks", least | fields)).status == 422, fields


async def test_every_problem_has_a_title_and_a_place(api: Api) -> None:
    answer = await api.call("GET", "//docs", by=None)
    page = answer.content.decode()
    codes = {"task_finished", "not_cancellable", "not_runnable", "not_redeliverable", "quota_exceeded", "rate_limited"}
    codes |= {error.code for error in STATUS if error.code != "internal_error"} | set(HTTP_CODES.values())
    for code in codes | {"business_id_conflict", "version_conflict", "business_code_conflict"}:
        assert code in TITLES, code
        assert f'id="problem-{code}"' in page
    assert {error.example["code"] for error in ERRORS.values()} <= set(TITLES)


async def test_path_parameters_are_described(api: Api) -> None:
    for route in routes_of(api.app):
        assert set(route.arguments) <= set(PATH_PARAMETERS), route.path


class Page(HTMLParser):
    """The tags, links and ids of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in {"href", "src"}:
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_needs_no_network(api: Api) -> None:
    answer = await api.call("GET", "//docs", by=None)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    text = answer.content.decode()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert not page.attributes & {"style", "onclick", "onload", "src"}
    assert "@import" not in text
    assert "url(" not in text
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link == "/openapi.json" or (link.startswith("#") and link[1:] in page.ids), link


async def test_the_page_shows_every_call_and_every_field_of_input(api: Api) -> None:
    value = await document(api)
    text = (await api.call("GET", "//docs", by=None)).content.decode()
    for path, methods in value["paths"].items():
        assert f"<code>{path}</code>" in text
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in text
    for name in ("TaskInput", "CallbackBody", "FinishedBody", "ReceiverAnswer"):
        for field in value["components"]["schemas"][name]["properties"]:
            assert f"<code>{field}</code>" in text
    for webhook in value["webhooks"].values():
        assert f'id="{webhook["post"]["operationId"]}"' in text
        assert all(f"<code>{header['name']}</code>" in text for header in webhook["post"]["parameters"])
    assert "<li>2xx: success" in text, "a list is one"
    assert "<code>schedule.cron</code>" in text
    assert len(answer_size := text.encode()) < 400_000, len(answer_size)


async def test_the_policy_lets_the_page_have_its_own_style_only(api: Api) -> None:
    import base64
    import hashlib

    answer = await api.call("GET", "//docs", by=None)
    policy = answer.headers["Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", answer.content.decode(), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["//docs", "//openapi.json"])
async def test_both_are_public_and_the_same_each_time(api: Api, path: str) -> None:
    first, second = await api.call("GET", path, by=None), await api.call("GET", path, by=None)
    assert first.content == second.content
