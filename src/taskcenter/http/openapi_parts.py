"""The words and tables of the API's document that belong to no single route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from taskcenter.http.problems import TITLES

DESCRIPTION: Final = """\
Tell Task Center what to call and when; it calls, retries by your list, and keeps the history.

**Formats.** JSON in and out, UTF-8. Times are RFC 3339 in UTC with milliseconds (any offset on input). Durations are
seconds as numbers; on input also "90s", "5m", "2h", "1d". Objects may get new members: ignore what you do not know.
Input is read strictly: unknown fields, a name twice in an object, NaN and lone surrogates are refused.

**Credentials.** `Authorization: Bearer <admin token | API key | JWT>` or `X-API-Key: <API key>`. An admin acts on a
business's tasks with the header `X-TaskCenter-Business: <code>`.

**Errors** are `application/problem+json` (RFC 9457) with a stable `code`, and `errors: [{field, message}]` for invalid
input. On 429 and 503 `Retry-After` says after how many seconds to try again.

**Request rate.** A business may send 200 requests at once and 100 a second in the long run, unless the operator set
something else; `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` say how it stands. Beyond that 429
`rate_limited` with `Retry-After`. A batch counts as one request.

**Repeating is safe.** The same `business_id` with an identical body answers 200 with the existing task and
`Idempotent-Replayed: true`; with a different body 409. Whatever answered 503 can be sent again.

**The callback.** `POST <callback_url>` with `{task_id, business_code, business_id, attempt, max_attempts, run,
scheduled_at, payload}`, signed by Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`; two
signatures while the secret is being changed). `webhook-id` and `Idempotency-Key` are `<task_id>-<run>`, the same for
every attempt: delivery is at least once, so recognise a repeat by them. GET and DELETE have no body: the same fields
are in `X-TaskCenter-Task-Id`, `-Business-Code`, `-Business-Id`, `-Attempt`, `-Max-Attempts`, `-Run`, `-Scheduled-At`
and `-Payload`. Every callback has `X-TaskCenter-Due` (ms since 1970) and `X-TaskCenter-Term`, which grows when another
instance takes the task over; `X-TaskCenter-Redelivery: possible-duplicate` follows an attempt whose end is unknown.
To the hosts that a business's `callback_auth` or `callback_tls` names goes a bearer token or a client certificate, too.

**What the receiver answers.**

- 2xx: success, unless the body is JSON and says `{"action": "retry"}` (a failed attempt) or `{"action": "stop"}`.
- 410, 489, `X-TaskCenter-Action: stop`, `webhook-delivery: abort-message`, or `{"action": "stop", "reason": …}` with
  any status: no further attempt, the task is `stopped`.
- 429 or 503 with `Retry-After` (seconds or a date), or `{"action": "retry", "retry_after": seconds}`: sent again then,
  1 s to 1 h from now, as the same attempt; after 20 such deferrals in a run it is a failed attempt.
- Any other 3xx (not followed), 4xx, 5xx, no complete answer within the timeout, more than 1 MiB, a refused or broken
  connection: a failed attempt. The next is due its `retry_intervals` entry after this one ended.
"""

TAGS: Final = {
    "Tasks": "Create tasks, look at them, change and cancel them.",
    "Businesses": "Who may create tasks, with which limits and credentials. Managed by the admin.",
    "Health": "For probes, monitoring and operators.",
}

SECURITY: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, a JWT issued by `POST /businesses/{business_code}/tokens`, or the admin token.",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key of a business."},
    "adminToken": {"type": "http", "scheme": "bearer", "description": "The admin token."},
}

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "An error, RFC 9457.",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string", "description": "Where it is described.", "examples": ["/docs#problem-not_found"]},
        "title": {"type": "string", "description": "The kind of problem, in words.", "examples": ["Nothing here"]},
        "status": {"type": "integer", "description": "The HTTP status.", "examples": [404]},
        "detail": {"type": "string", "description": "What is wrong with this request.", "examples": ["No such task."]},
        "instance": {"type": "string", "description": "The path of the request.", "examples": ["/api/v1/tasks/x"]},
        "code": {"type": "string", "description": "Stable, to switch on.", "examples": ["not_found"]},
        "errors": {
            "type": "array",
            "description": "Of `invalid_request`: every fault of the input.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {
                        "type": "string",
                        "description": "Dotted path as in the body; empty for the whole.",
                        "examples": ["retry_intervals.0"],
                    },
                    "message": {
                        "type": "string",
                        "description": "The fault, and an example of what would do.",
                        "examples": ["must be from 1 s to 7 d, e.g. [60, 300]"],
                    },
                },
            },
        },
        "existing_task_id": {
            "type": "string",
            "description": "Of `business_id_conflict`: the task that has this `business_id`.",
            "examples": ["01JA8Z3N4V7Q2M6K9T5R1X8C0B"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Header:
    """A header, of requests or of responses."""

    name: str
    description: str
    example: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})

    def as_parameter(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "in": "header",
            "required": False,
            "description": self.description,
            "schema": self.schema,
            "example": self.example,
        }

    def as_header(self) -> dict[str, Any]:
        return {"description": self.description, "schema": self.schema, "example": self.example}


HEADERS: Final = {
    header.name: header
    for header in (
        Header(
            "X-Request-Id",
            "The request's id: the caller's own, if it is 1 to 128 of `A-Za-z0-9._-`, else a new one.",
            "5f0c1a7e9b3d4c28",
        ),
        Header(
            "X-TaskCenter-Business",
            "For the admin only: the code of the business to act on.",
            "orders",
        ),
        Header("If-Match", 'Change only this `version` of the task, e.g. `"3"`; else 409 `version_conflict`.', '"3"'),
        Header("ETag", "The task's `version`, for `If-Match`.", '"3"'),
        Header("Location", "Where the new task is.", "/api/v1/tasks/01JA8Z3N4V7Q2M6K9T5R1X8C0B"),
        Header("Idempotent-Replayed", "`true`: nothing was created, the task existed with an identical body.", "true"),
        Header("Retry-After", "Seconds after which to try again.", "2", {"type": "integer"}),
        Header(
            "RateLimit-Limit",
            "To a business's credential, not to the admin: requests it may send at once.",
            "200",
            {"type": "integer"},
        ),
        Header("RateLimit-Remaining", "Requests it may still send now.", "187", {"type": "integer"}),
        Header("RateLimit-Reset", "Seconds until all of them are there again.", "1", {"type": "integer"}),
        Header("Allow", "The methods this resource has.", "GET, PUT, DELETE"),
        Header("WWW-Authenticate", "How to authenticate.", 'Bearer realm="taskcenter"'),
    )
}

RATE_HEADERS: Final = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")

PATH_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    name: {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", **more},
        "example": example,
    }
    for name, description, example, more in (
        ("task_id", "The task's `id`.", "01JA8Z3N4V7Q2M6K9T5R1X8C0B", {"minLength": 1}),
        (
            "business_id",
            "The caller's own name for the task, percent-encoded; a slash in it may stand as `/` or `%2F`.",
            "order-42:reminder",
            {"minLength": 1, "maxLength": 128},
        ),
        ("business_code", "The business's code.", "orders", {"minLength": 1, "maxLength": 64}),
        ("key_id", "The API key's public id.", "k7q2m6z9t5r3x8c4", {"minLength": 1, "maxLength": 64}),
    )
}


@dataclass(frozen=True, slots=True)
class ErrorDoc:
    """An error status, for the document."""

    description: str
    example: dict[str, Any]
    headers: tuple[str, ...] = ()


def _error(status: int, code: str, description: str, detail: str, *headers: str, **members: Any) -> ErrorDoc:
    example = {"type": f"/docs#problem-{code}", "title": TITLES[code], "status": status, "detail": detail, "code": code}
    return ErrorDoc(description, {**example, **members}, headers)


ERRORS: Final = {
    400: _error(
        400,
        "malformed_json",
        "The body is not JSON, or not as strict as RFC 7493 wants it (`malformed_json`).",
        "The body is not JSON: Expecting value (line 1, column 1).",
    ),
    401: _error(
        401,
        "unauthenticated",
        "No credential, or one that is not valid (`unauthenticated`).",
        "Send a valid credential: Authorization: Bearer <token, JWT or API key>, or X-API-Key: <API key>.",
        "WWW-Authenticate",
    ),
    403: _error(
        403,
        "forbidden",
        "A valid credential that may not do this (`forbidden`).",
        "This credential lacks the scope tasks:write.",
    ),
    404: _error(
        404,
        "not_found",
        "No such thing, or it is another business's (`not_found`).",
        "No such task.",
    ),
    408: _error(
        408,
        "request_timeout",
        "The body did not arrive in time (`request_timeout`).",
        "The body did not arrive in time.",
    ),
    409: _error(
        409,
        "business_id_conflict",
        "The present state refuses: `business_id_conflict`, `version_conflict`, `task_finished`, `not_cancellable`, "
        "`not_runnable`, `not_redeliverable`, `business_code_conflict`.",
        "A task with this business_id exists, and its body was a different one.",
        existing_task_id="01JA8Z3N4V7Q2M6K9T5R1X8C0B",
    ),
    413: _error(413, "payload_too_large", "The body is too large (`payload_too_large`).", "The body is too large."),
    415: _error(
        415,
        "unsupported_media_type",
        "The body is not `application/json` (`unsupported_media_type`).",
        "Send the body as Content-Type: application/json, in UTF-8.",
    ),
    422: _error(
        422,
        "invalid_request",
        "The input breaks a rule; `errors` names each fault (`invalid_request`).",
        "1 fault in the input.",
        errors=[{"field": "retry_intervals.0", "message": "must be from 1 s to 7 d, e.g. [60, 300]"}],
    ),
    429: _error(
        429,
        "quota_exceeded",
        "A quota or a rate is used up (`quota_exceeded`, `rate_limited`).",
        "10000 of 10000 tasks are active.",
        "Retry-After",
        *RATE_HEADERS,
    ),
    500: _error(
        500,
        "internal_error",
        "A fault of the service (`internal_error`).",
        "The request could not be answered. Quote the X-Request-Id of this answer to the operator.",
    ),
    503: _error(
        503,
        "store_unavailable",
        "The store is out or the service is busy. After `store_unavailable` and `overloaded` nothing was changed: "
        "repeat the request. After `commit_unknown` the change may have been made: creates, changes and cancels of "
        "tasks are safe to repeat; before anything else is repeated, look what became of it.",
        "The store cannot be reached or does not answer. Nothing was changed; repeat the request.",
        "Retry-After",
    ),
}
