"""What may be said about a business: the bodies of its calls, read and bounded. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import Field

from taskcenter.errors import FieldFault, InvalidInput
from taskcenter.service.callback_credential_input import read_auth, read_tls
from taskcenter.service.callback_credential_schema import AUTH_RULE, AUTH_SCHEMA, TLS_RULE, TLS_SCHEMA
from taskcenter.service.fields import (
    InputModel,
    InsideFault,
    Reader,
    Reads,
    Schema,
    Value,
    duration,
    duration_schema,
    one_of,
    optional,
    or_null,
    text,
    text_schema,
    truth,
    whole_number,
)
from taskcenter.service.host_limit_input import HOST_LIMITS_RULE, HOST_LIMITS_SCHEMA, read_host_limits
from taskcenter.store.callback_credentials import CallbackAuth, CallbackTls
from taskcenter.store.records import Business, BusinessStatus, JsonObject
from taskcenter.times import DAY_MS, format_duration

MAX_NAME_CHARS: Final = 128
MAX_RATE: Final = 100_000  # callbacks a minute
MAX_CONCURRENT: Final = 10_000
MAX_ACTIVE: Final = 1_000_000
DEFAULT_RATE: Final = 1_000
DEFAULT_CONCURRENT: Final = 100
DEFAULT_ACTIVE: Final = 10_000
DEFAULT_TIMEOUT_MS: Final = 10_000

DEFAULT_BREAKER: Final[JsonObject] = {
    "enabled": True, "failure_threshold": 5, "failure_rate": None, "window_seconds": 60, "min_calls": 10,
    "open_seconds": 30, "max_open_seconds": 300, "half_open_probes": 1,
}  # fmt: skip

_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CODE_SCHEMA: Final[Schema] = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}


def _code(value: Any) -> str:
    if type(value) is not str or _CODE.fullmatch(value) is None:
        raise ValueError("must be 1 to 64 of A-Z, a-z, 0-9, '.', '-' and '_', and begin with a letter or a digit")
    return value


def _rate(value: Any) -> float:
    if type(value) not in {int, float} or not 0 < value <= 1:
        raise ValueError("must be a number above 0 and at most 1, or null")
    return float(value)


def _seconds(least_ms: int, most_ms: int) -> Reader[int | float]:
    read = duration(least_ms, most_ms)
    return lambda value: format_duration(read(value))


def _number_schema(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


_BREAKER: Final[dict[str, tuple[Reader[Any], Schema, str]]] = {
    "enabled": (truth, {"type": "boolean"}, "false: callbacks are sent however many fail."),
    "failure_threshold": (whole_number(1, 1_000), _number_schema(1, 1_000), "Failures in a row that open it."),
    "failure_rate": (
        optional(_rate),
        or_null({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
        "Share of failures within the window that opens it too; null: only the failures in a row count.",
    ),
    "window_seconds": (
        _seconds(1_000, 3_600_000), duration_schema(1_000, 3_600_000), "The window of `failure_rate`.",
    ),
    "min_calls": (whole_number(1, 10_000), _number_schema(1, 10_000), "Calls in the window before the rate counts."),
    "open_seconds": (
        _seconds(1_000, 3_600_000), duration_schema(1_000, 3_600_000), "How long it stays open at first; doubles.",
    ),
    "max_open_seconds": (
        _seconds(1_000, DAY_MS), duration_schema(1_000, DAY_MS), "The most it stays open before a probe.",
    ),
    "half_open_probes": (whole_number(1, 100), _number_schema(1, 100), "Probes that must succeed to close it."),
}  # fmt: skip
BREAKER_SCHEMA: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        name: {**schema, "default": DEFAULT_BREAKER[name], "description": words}
        for name, (_, schema, words) in _BREAKER.items()
    },
}


def _breaker(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("must be an object")
    given = {}
    for name, member in value.items():
        if name not in _BREAKER:
            raise InsideFault(name[:64], f"is not a field here; known are {', '.join(_BREAKER)}")
        try:
            given[name] = _BREAKER[name][0](member)
        except ValueError as error:
            raise InsideFault(name, str(error)) from None
    return given


_CODE_FIELD: Final = Reads(_code, CODE_SCHEMA)
_NAME: Final = Reads(text(1, MAX_NAME_CHARS), text_schema(1, MAX_NAME_CHARS))
_RATE: Final = Reads(whole_number(1, MAX_RATE), _number_schema(1, MAX_RATE))
_CONCURRENT: Final = Reads(whole_number(1, MAX_CONCURRENT), _number_schema(1, MAX_CONCURRENT))
_ACTIVE: Final = Reads(whole_number(1, MAX_ACTIVE), _number_schema(1, MAX_ACTIVE))
_TIMEOUT: Final = Reads(duration(100, 30_000), duration_schema(100, 30_000))
_BREAKER_FIELD: Final = Reads(_breaker, BREAKER_SCHEMA)
_HOST_LIMITS: Final = Reads(read_host_limits, HOST_LIMITS_SCHEMA)
_AUTH: Final = Reads(read_auth, AUTH_SCHEMA)
_TLS: Final = Reads(read_tls, TLS_SCHEMA)
AUTH_EXAMPLE: Final = {"type": "bearer", "token": "of-the-receiver", "hosts": ["api.example.com"]}
TLS_EXAMPLE: Final = {
    "certificate": "-----BEGIN CERTIFICATE-----…", "private_key": "-----BEGIN PRIVATE KEY-----…",
    "hosts": ["api.example.com"],
}  # fmt: skip
_STATUSES: Final = tuple(status.value for status in BusinessStatus)
_STATUS: Final = Reads(
    lambda value: BusinessStatus(one_of(*_STATUSES)(value)), {"type": "string", "enum": list(_STATUSES)}
)
RATE_RULE: Final = "Callbacks that may start in any 60 seconds."
CONCURRENT_RULE: Final = "Callbacks that may be on their way at once."
ACTIVE_RULE: Final = "Tasks that may be active (not ended) at once; one more is refused with 429 `quota_exceeded`."
TIMEOUT_RULE: Final = "Seconds a callback may take when its task does not say, 0.1 to 30."
BREAKER_RULE: Final = "When callbacks to a host that keeps failing pause. What is left out has its default."
HOST_LIMITS_EXAMPLE: Final[JsonObject] = {"*": {"rate": 100, "period": 60}, "api.example.com": {"parallelism": 5}}
NAME_RULE: Final = "For people; 1 to 128 printable characters."


class BusinessInput(InputModel):
    """A business to register."""

    business_code: Annotated[str, _CODE_FIELD] = Field(
        description="The business's name in the API, for ever.", examples=["orders"]
    )
    business_name: Annotated[str, _NAME] = Field(description=NAME_RULE, examples=["Order service"])
    rate_limit: Annotated[int, _RATE] = Field(DEFAULT_RATE, description=RATE_RULE, examples=[1000])
    max_concurrent_tasks: Annotated[int, _CONCURRENT] = Field(
        DEFAULT_CONCURRENT, description=CONCURRENT_RULE, examples=[100]
    )
    max_active_tasks: Annotated[int, _ACTIVE] = Field(DEFAULT_ACTIVE, description=ACTIVE_RULE, examples=[10000])
    default_timeout: Annotated[int | None, _TIMEOUT] = Field(
        None, description=f"{TIMEOUT_RULE} Default: 10.", examples=[10]
    )
    breaker: Annotated[dict[str, Any] | None, _BREAKER_FIELD] = Field(
        None, description=BREAKER_RULE, examples=[{"failure_threshold": 5, "open_seconds": 30}]
    )
    host_limits: Annotated[dict[str, Any], _HOST_LIMITS] = Field(
        {}, description=HOST_LIMITS_RULE, examples=[HOST_LIMITS_EXAMPLE]
    )
    callback_auth: Annotated[CallbackAuth | None, _AUTH] = Field(None, description=AUTH_RULE, examples=[AUTH_EXAMPLE])
    callback_tls: Annotated[CallbackTls | None, _TLS] = Field(None, description=TLS_RULE, examples=[TLS_EXAMPLE])


class BusinessUpdate(InputModel):
    """What to change; what is left out stays, in `breaker` too. `null` takes a credential for callbacks away."""

    business_name: Annotated[str | None, _NAME] = Field(None, description=NAME_RULE, examples=["Order service"])
    status: Annotated[BusinessStatus | None, _STATUS] = Field(
        None,
        description="`paused`: tasks are taken, no callback starts. `disabled`: besides, its credentials are refused.",
        examples=["paused"],
    )
    rate_limit: Annotated[int | None, _RATE] = Field(None, description=RATE_RULE, examples=[1000])
    max_concurrent_tasks: Annotated[int | None, _CONCURRENT] = Field(None, description=CONCURRENT_RULE, examples=[100])
    max_active_tasks: Annotated[int | None, _ACTIVE] = Field(None, description=ACTIVE_RULE, examples=[10000])
    default_timeout: Annotated[int | None, _TIMEOUT] = Field(None, description=TIMEOUT_RULE, examples=[10])
    breaker: Annotated[dict[str, Any] | None, _BREAKER_FIELD] = Field(
        None, description="When callbacks to a host that keeps failing pause.", examples=[{"enabled": False}]
    )
    host_limits: Annotated[dict[str, Any] | None, _HOST_LIMITS] = Field(
        None, description=f"Replaces them all. {HOST_LIMITS_RULE}", examples=[HOST_LIMITS_EXAMPLE]
    )
    callback_auth: Annotated[CallbackAuth | None, _AUTH] = Field(None, description=AUTH_RULE, examples=[AUTH_EXAMPLE])
    callback_tls: Annotated[CallbackTls | None, _TLS] = Field(None, description=TLS_RULE, examples=[TLS_EXAMPLE])


def complete_breaker(base: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """`base` with what is given. Raises `InvalidInput` when the two times contradict each other."""
    breaker = {**DEFAULT_BREAKER, **base, **(given or {})}
    if breaker["max_open_seconds"] < breaker["open_seconds"]:
        fault = FieldFault(
            "breaker.max_open_seconds", "must not be less than open_seconds, e.g. 300 with open_seconds 30"
        )
        raise InvalidInput([fault])
    return breaker


def is_code(text: str) -> bool:
    """Whether this could be a business's code (a wrong one is 404, without a look-up)."""
    return _CODE.fullmatch(text) is not None


def apply(asked: BusinessUpdate, before: Business) -> Business:
    """The business as it shall be. Raises `InvalidInput`."""
    return replace(
        before,
        name=_or(asked.business_name, before.name),
        status=_or(asked.status, before.status),
        rate_limit=_or(asked.rate_limit, before.rate_limit),
        max_concurrent_tasks=_or(asked.max_concurrent_tasks, before.max_concurrent_tasks),
        max_active_tasks=_or(asked.max_active_tasks, before.max_active_tasks),
        default_timeout_ms=_or(asked.default_timeout, before.default_timeout_ms),
        host_limits=_or(asked.host_limits, before.host_limits),
        breaker=before.breaker if asked.breaker is None else complete_breaker(before.breaker, asked.breaker),
        callback_auth=asked.callback_auth if "callback_auth" in asked.model_fields_set else before.callback_auth,
        callback_tls=asked.callback_tls if "callback_tls" in asked.model_fields_set else before.callback_tls,
    )


def _or(value: Value | None, former: Value) -> Value:
    return former if value is None else value


def changed_fields(before: Business, after: Business) -> list[str]:
    """The names of the API's fields that differ, for the audit."""
    pairs = {
        "business_name": "name", "status": "status", "rate_limit": "rate_limit",
        "max_concurrent_tasks": "max_concurrent_tasks", "max_active_tasks": "max_active_tasks",
        "default_timeout": "default_timeout_ms", "breaker": "breaker", "host_limits": "host_limits",
        "callback_auth": "callback_auth", "callback_tls": "callback_tls",
    }  # fmt: skip
    return [name for name, column in pairs.items() if getattr(before, column) != getattr(after, column)]
