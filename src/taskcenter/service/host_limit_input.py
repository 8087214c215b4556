"""The limits of single destination hosts, as the API takes them. No I/O."""

from __future__ import annotations

from typing import Any, Final

from taskcenter.actors.egress.targets import CallbackUrlError, check_url
from taskcenter.actors.host_limits import EVERY
from taskcenter.service.fields import InsideFault, Schema
from taskcenter.service.task_fields import LIMIT_SCHEMA, read_limit

MAX_HOST_LIMITS: Final = 100
HOST_LIMITS_RULE: Final = (
    "Further limits by destination host: the host, or `*` for each one that is not named, to at most `rate` callbacks "
    "that start in any `period` and at most `parallelism` on their way at once. What waits uses no attempt. `{}`: none."
)
HOST_LIMITS_SCHEMA: Final[Schema] = {
    "type": "object",
    "maxProperties": MAX_HOST_LIMITS,
    "propertyNames": {"type": "string", "minLength": 1, "maxLength": 255},
    "additionalProperties": LIMIT_SCHEMA,
}


def read_host_limits(value: Any) -> dict[str, Any]:
    """Host, in its one spelling, → limit."""
    if type(value) is not dict or len(value) > MAX_HOST_LIMITS:
        raise ValueError(f"must be an object of at most {MAX_HOST_LIMITS} hosts")
    limits: dict[str, Any] = {}
    for name, limit in value.items():
        shown = name[:64] if name.isprintable() else "host"
        host = _host(name, shown)
        if host in limits:
            raise InsideFault(shown, "names a host that is there already")
        try:
            limits[host] = read_limit(limit)
        except InsideFault as error:
            raise InsideFault(f"{shown}.{error.inside}", str(error)) from None
        except ValueError as error:
            raise InsideFault(shown, str(error)) from None
    return limits


def _host(name: str, shown: str) -> str:
    if name == EVERY:
        return name
    try:
        target = check_url(f"http://{name}/")
    except CallbackUrlError as error:
        raise InsideFault(shown, f"is not a host: {error}; e.g. api.example.com") from None
    if target.port != 80 or target.request_target != "/":
        raise InsideFault(shown, "must be a host alone, without port or path, e.g. api.example.com")
    return target.host
