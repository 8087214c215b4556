"""What handlers read from a request and how they answer: the principal, the body, the query, JSON responses."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import trio
from quart import Response, current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from taskcenter.errors import FieldFault, InvalidInput
from taskcenter.http.json_body import parse
from taskcenter.service.api_rate import Allowance
from taskcenter.service.fields import InputModel
from taskcenter.service.json_text import dump
from taskcenter.service.principal import Principal

JSON: Final = "application/json"
MAX_BODY: Final = 1024 * 1024  # one task: 256 KiB of payload, escaped at worst, and the rest
MAX_BATCH_BODY: Final = 8 * 1024 * 1024
PARSE_APART: Final = 64 * 1024  # larger bodies are parsed in a thread: it takes ms, and a callback may be due
PARSERS: Final = "taskcenter.parsers"  # the extension with the limiter of those threads

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ETAG: Final = re.compile(r'(?:W/)?"([0-9]{1,18})"|([0-9]{1,18})')
_RECORD: Final = "taskcenter.record"

Query = TypeVar("Query", bound=InputModel)


@dataclass(slots=True)
class RequestRecord:
    """What is known of a request, for its log line. Lives in the ASGI scope; changed by the request's own task."""

    request_id: str
    ip: str | None = None  # the caller's, as far as it is known
    principal: Principal | None = None
    code: str | None = None  # of the problem that was answered
    task_id: str | None = None
    allowance: Allowance | None = None  # of the caller's request rate, if it has one


def begin_record(scope: Any, claimed_id: str | None, ip: str | None) -> RequestRecord:
    """`claimed_id`: the caller's X-Request-Id, which is taken if it is sane."""
    sane = claimed_id is not None and _REQUEST_ID.fullmatch(claimed_id)
    record = RequestRecord(claimed_id if sane and claimed_id else secrets.token_hex(16), ip)
    scope[_RECORD] = record
    return record


def request_record() -> RequestRecord:
    record: RequestRecord = request.scope[_RECORD]  # type: ignore[typeddict-item]  # a key of our own in the ASGI scope
    return record


def principal() -> Principal:
    """Who asks; set by the app before the handler runs."""
    known: Principal = g.principal
    return known


async def json_body(limit: int = MAX_BODY, *, optional: bool = False) -> Any:
    """The parsed body; `{}` where it is `optional` and there is none. Raises 415, 413 and `MalformedJson`."""
    if not optional:
        _check_media_type()
    if request.content_length is not None and request.content_length > limit:
        raise RequestEntityTooLarge(f"The body is larger than {limit} bytes.")
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    if len(body) > limit:
        raise RequestEntityTooLarge(f"The body is larger than {limit} bytes.")
    if optional:
        if not body:
            return {}
        _check_media_type()
    if len(body) > PARSE_APART:
        return await trio.to_thread.run_sync(parse, body, limiter=current_app.extensions[PARSERS])
    return parse(body)


async def no_body() -> None:
    """For calls that take none. An empty one, or an empty object, is fine."""
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    if body.strip() not in {b"", b"{}"}:
        raise InvalidInput([FieldFault("", "this call takes no body; leave it empty")])


def _check_media_type() -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype != JSON or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType("Send the body as Content-Type: application/json, in UTF-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body without a Content-Encoding.")


def query(model: type[Query]) -> Query:
    """The query string, read by `model`. A name given twice counts once for each value, comma separated."""
    given: dict[str, str] = {}
    for name, values in request.args.lists():
        given[name] = ",".join(values) if name == "status" else values[0]
        if len(values) > 1 and name != "status":
            raise InvalidInput([FieldFault(name[:64], "is given more than once")])
    return model.read(given)


def if_match() -> int | None:
    """The version of `If-Match: "3"` (or a bare 3); None without, and for `*`. Raises `InvalidInput`."""
    header = request.headers.get("If-Match", "").strip()
    if header in {"", "*"}:
        return None
    match = _ETAG.fullmatch(header)
    if match is None:
        raise InvalidInput([FieldFault("If-Match", 'must be the version of the task, e.g. If-Match: "3"')])
    return int(match[1] or match[2])


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content`: JSON text in bytes, or a value to write as JSON."""
    return Response(
        content if isinstance(content, bytes) else dump(content), status, headers=dict(headers or {}), content_type=JSON
    )
