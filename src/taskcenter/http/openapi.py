"""The API's document, OpenAPI 3.1, made from the routes themselves: what is not described here is not served.

A handler is described where it stands, with `@describe(...)`; `build_document` walks the app's routes and takes the
schemas from the same pydantic models that read the input. `tests/http/test_openapi.py` holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from quart import Quart

from taskcenter import __version__
from taskcenter.http.openapi_parts import (
    DESCRIPTION,
    ERRORS,
    HEADERS,
    PATH_PARAMETERS,
    PROBLEM,
    RATE_HEADERS,
    SECURITY,
    TAGS,
)
from taskcenter.http.openapi_webhooks import MODELS, webhooks
from taskcenter.service.task_filter import PageQuery

Handler = TypeVar("Handler", bound=Callable[..., Any])
_REF: Final = "#/components/schemas/{model}"
_ARGUMENT: Final = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_ATTRIBUTE: Final = "__operation__"


@dataclass(frozen=True, slots=True)
class Reply:
    """A success. `model` None: no JSON of ours, then `media_type` says what."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str = "application/json"
    other_media_type: str | None = None  # what else it may be, if `Accept` asks for it
    headers: tuple[str, ...] = ()  # names out of `HEADERS`


@dataclass(frozen=True, slots=True)
class Operation:
    """What the document says of one handler."""

    summary: str
    tag: str
    replies: Mapping[int, Reply]
    description: str = ""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()  # besides those that every call of its kind has
    headers: tuple[str, ...] = ()  # request headers, out of `HEADERS`
    public: bool = False  # needs no credential
    admin: bool = False  # needs the admin token
    body_optional: bool = False  # none is as good as `{}`

    def all_errors(self, method: str) -> list[int]:
        """Every error status the call can answer with. (404 and 422 also for what X-TaskCenter-Business says.)"""
        found = set(self.errors)
        if not self.public:
            found |= {401, 403, 404, 422, 429, 500, 503}
        if method != "GET":
            found |= {408, 413}
        if self.body is not None:
            found |= {400, 415}
        return sorted(found)


def describe(
    summary: str,
    *,
    tag: str,
    replies: Mapping[int, Reply],
    description: str = "",
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    errors: tuple[int, ...] = (),
    headers: tuple[str, ...] = (),
    public: bool = False,
    admin: bool = False,
    body_optional: bool = False,
) -> Callable[[Handler], Handler]:
    """Put the document's words beside the handler. Without them a route is neither public nor documented."""
    operation = Operation(
        summary, tag, replies, description, body, query, errors, headers, public, admin, body_optional
    )

    def mark(handler: Handler) -> Handler:
        setattr(handler, _ATTRIBUTE, operation)
        return handler

    return mark


def operation_of(handler: Callable[..., Any] | None) -> Operation | None:
    return getattr(handler, _ATTRIBUTE, None)


@dataclass(frozen=True, slots=True)
class Route:
    """A path and method of the app with its handler's description (None: it has none)."""

    path: str  # as OpenAPI writes it: /tasks/{task_id}
    method: str
    arguments: tuple[str, ...]
    endpoint: str
    operation: Operation | None


def routes_of(app: Quart) -> list[Route]:
    """Every route but HEAD, which goes with GET."""
    routes = [
        Route(
            _ARGUMENT.sub(r"{\1}", rule.rule),
            method,
            tuple(_ARGUMENT.findall(rule.rule)),
            rule.endpoint,
            operation_of(app.view_functions.get(rule.endpoint)),
        )
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    return sorted(routes, key=lambda route: (route.path, route.method))


def build_document(app: Quart) -> dict[str, Any]:
    """The whole document, ready to be written as JSON."""
    routes = [route for route in routes_of(app) if route.operation is not None]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    statuses = sorted({status for route in routes for status in _errors(route)})
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Task Center",
            "version": __version__,
            "summary": "Scheduled HTTP callbacks: persistent, isolated, retried, recovered.",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in SECURITY],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "webhooks": webhooks(),
        "components": {
            "schemas": {"Problem": PROBLEM, **_schemas(routes)},
            "securitySchemes": SECURITY,
            "responses": {f"Error{status}": _error(status) for status in statuses},
        },
    }


def _errors(route: Route) -> list[int]:
    assert route.operation is not None
    return route.operation.all_errors(route.method)


def _operation(route: Route) -> dict[str, Any]:
    operation = route.operation
    assert operation is not None
    responses: dict[str, Any] = {str(status): _reply(reply, operation) for status, reply in operation.replies.items()}
    responses |= {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in _errors(route)}
    described: dict[str, Any] = {
        "operationId": route.endpoint.replace(".", "_"),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description or operation.summary,
        "responses": responses,
    }
    parameters = [PATH_PARAMETERS[name] for name in route.arguments]
    parameters += [HEADERS[name].as_parameter() for name in operation.headers]
    if operation.query is not None:
        parameters += _query_parameters(operation.query)
    if not (operation.public or operation.admin):
        parameters.append(HEADERS["X-TaskCenter-Business"].as_parameter())
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        schema = {"$ref": _REF.format(model=operation.body.__name__)}
        described["requestBody"] = {
            "required": not operation.body_optional,
            "content": {"application/json": {"schema": schema}},
        }
    if operation.public:
        described["security"] = []
    elif operation.admin:
        described["security"] = [{"adminToken": []}]
    return described


def _reply(reply: Reply, operation: Operation) -> dict[str, Any]:
    schema: dict[str, Any] = {} if reply.model is None else {"$ref": _REF.format(model=reply.model.__name__)}
    names = ("X-Request-Id", *reply.headers, *(() if operation.public or operation.admin else RATE_HEADERS))
    described: dict[str, Any] = {
        "description": reply.description,
        "headers": {name: HEADERS[name].as_header() for name in names},
    }
    media_types = filter(None, (reply.media_type, reply.other_media_type))
    described["content"] = {media_type: {"schema": schema or {"type": "string"}} for media_type in media_types}
    return described


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema(mode="validation")
    parameters = []
    for name, described in schema["properties"].items():
        inner = {key: value for key, value in described.items() if key not in {"description", "examples", "title"}}
        parameter = {"name": name, "in": "query", "required": False, "description": described["description"]}
        if inner.get("default", ...) is None:
            del inner["default"]
        if inner.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
            parameter["example"] = str(described["examples"][0]).split(",")
        else:
            parameter["example"] = described["examples"][0]
        if issubclass(model, PageQuery):
            parameter["allowEmptyValue"] = True  # as if it were left out
        parameters.append({**parameter, "schema": inner})
    return parameters


def _schemas(routes: Iterable[Route]) -> dict[str, Any]:
    models: dict[type[BaseModel], str] = dict.fromkeys(MODELS, "serialization")
    for route in routes:
        operation = route.operation
        assert operation is not None
        if operation.body is not None:
            models[operation.body] = "validation"
        for reply in operation.replies.values():
            if reply.model is not None:
                models[reply.model] = "serialization"
    pairs: Any = list(models.items())
    _, schemas = models_json_schema(pairs, ref_template=_REF)
    found: dict[str, Any] = schemas.get("$defs", {})
    return dict(sorted(found.items()))


def _error(status: int) -> dict[str, Any]:
    headers = ("X-Request-Id", *ERRORS[status].headers)
    return {
        "description": ERRORS[status].description,
        "headers": {name: HEADERS[name].as_header() for name in headers},
        "content": {
            "application/problem+json": {
                "schema": {"$ref": _REF.format(model="Problem")},
                "example": ERRORS[status].example,
            }
        },
    }
