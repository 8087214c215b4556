"""Errors as the API answers them: `application/problem+json`, RFC 9457, for everything that is not a success.

The table `STATUS` is the whole mapping from our error classes to HTTP. What is not in it is a bug of ours: 500, without
a word of what went wrong in the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from werkzeug.exceptions import HTTPException

from taskcenter import errors
from taskcenter.http.json_body import MalformedJson

CONTENT_TYPE: Final = "application/problem+json"

STATUS: Final[dict[type[errors.TaskCenterError], int]] = {
    MalformedJson: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.InvalidInput: 422,
    errors.TooMany: 429,
    errors.Overloaded: 503,
    errors.StoreUnavailable: 503,
    errors.CommitUnknown: 503,
}
HTTP_CODES: Final = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    415: "unsupported_media_type",
    500: "internal_error",
}
TITLES: Final = {
    "bad_request": "The request is not well-formed",
    "malformed_json": "The body is not the JSON it should be",
    "unauthenticated": "No valid credential",
    "forbidden": "Not allowed with this credential",
    "not_found": "Nothing here",
    "method_not_allowed": "Not a method of this resource",
    "request_timeout": "The request did not arrive in time",
    "payload_too_large": "The body is too large",
    "unsupported_media_type": "The body is not application/json",
    "invalid_request": "The input breaks a rule",
    "business_id_conflict": "This business_id stands for another task",
    "business_code_conflict": "This business_code is taken",
    "version_conflict": "Changed by somebody else meanwhile",
    "task_finished": "The task has ended",
    "not_cancellable": "The task has ended",
    "not_runnable": "The task does not wait",
    "not_redeliverable": "The task has not ended",
    "quota_exceeded": "Too many active tasks",
    "rate_limited": "Too many requests",
    "overloaded": "The service is busy",
    "store_unavailable": "The store is out",
    "commit_unknown": "The store did not confirm",
    "internal_error": "A fault of the service",
}
_UNAVAILABLE_DETAIL: Final = {
    "store_unavailable": "The store cannot be reached or does not answer. Nothing was changed; repeat the request.",
    "commit_unknown": (
        "The store did not confirm the change; it may have been made. Creates, changes and cancels of tasks are safe to"
        " repeat; before anything else is repeated, look what became of it."
    ),
}
_HTTP_DETAIL: Final = {
    404: "There is nothing at this path.",
    405: "This resource does not have the method; `Allow` names those it has.",
    408: "The body did not arrive in time.",
}
_INTERNAL_DETAIL: Final = "The request could not be answered. Quote the X-Request-Id of this answer to the operator."


@dataclass(frozen=True, slots=True)
class Problem:
    """One error answer. `members` stand beside the standard ones, `headers` go with the response."""

    status: int
    code: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def fields(self, instance: str | None) -> dict[str, Any]:
        """The JSON object. `instance`: the path of the request."""
        standard: dict[str, Any] = {
            "type": f"/docs#problem-{self.code}",
            "title": TITLES.get(self.code, HTTPStatus(self.status).phrase),
            "status": self.status,
            "detail": self.detail,
        }
        if instance is not None:
            standard["instance"] = instance
        return {**standard, "code": self.code, **self.members}


def problem_of(error: BaseException) -> Problem:
    """What `error` is to the caller."""
    if isinstance(error, HTTPException):
        return _of_http(error)
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    if status == 500 or not isinstance(error, errors.TaskCenterError):
        return Problem(500, "internal_error", _INTERNAL_DETAIL)
    return Problem(status, error.code, _detail(error), _members(error), _headers(error))


def _detail(error: errors.TaskCenterError) -> str:
    if isinstance(error, errors.Unauthenticated):
        return "Send a valid credential: Authorization: Bearer <token, JWT or API key>, or X-API-Key: <API key>."
    if isinstance(error, errors.StoreUnavailable):
        return _UNAVAILABLE_DETAIL[error.code]
    if isinstance(error, errors.InvalidInput):
        return f"{len(error.faults)} fault{'s' if len(error.faults) > 1 else ''} in the input: {error}"[:1000]
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _members(error: errors.TaskCenterError) -> Mapping[str, Any]:
    if isinstance(error, errors.InvalidInput):
        return {"errors": [{"field": fault.field, "message": fault.message} for fault in error.faults]}
    return error.members if isinstance(error, errors.Conflict) else {}


def _headers(error: errors.TaskCenterError) -> Mapping[str, str]:
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="taskcenter"'}
    if isinstance(error, errors.TooMany | errors.Overloaded | errors.StoreUnavailable):
        return {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return {}


def _of_http(error: HTTPException) -> Problem:
    """What the framework raises: unknown routes, wrong methods, bodies too large or too slow."""
    status = error.code if error.code is not None and error.code >= 400 else 500
    if status >= 500:
        return Problem(500, "internal_error", _INTERNAL_DETAIL)
    code = HTTP_CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "_"))
    headers = {name: value for name, value in error.get_headers() if name.lower() == "allow"}
    if status == 413:
        headers["Connection"] = "close"  # the rest of the body is not read, so no request can follow it
    detail = _HTTP_DETAIL.get(status) or error.description or f"{HTTPStatus(status).phrase}."
    return Problem(status, code, detail, headers=headers)
