"""The fields of a task as callers write them: how each is read, how the API's document shows it, and its rule in words.

Each constant here is the metadata of one field of `task_input.TaskInput` or `TaskUpdate`.
"""

from __future__ import annotations

from typing import Any, Final

from taskcenter.actors.message import MAX_HEADER_PAYLOAD, PAYLOAD_HEADER
from taskcenter.schedule import MAX_CRON_CHARS, MAX_EVERY_MS, MIN_EVERY_MS, ScheduleError, validate
from taskcenter.service.fields import (
    TEN_YEARS_MS,
    TIME_SCHEMA,
    InsideFault,
    Reader,
    Reads,
    duration,
    duration_schema,
    listing,
    moment,
    one_of,
    optional,
    or_null,
    text,
    text_schema,
    whole_number,
)
from taskcenter.service.header_input import HEADERS_SCHEMA, read_headers
from taskcenter.service.json_text import dump
from taskcenter.times import DAY_MS, format_duration

METHODS: Final = ("POST", "PUT", "PATCH", "GET", "DELETE")
MAX_URL_CHARS: Final = 2048
MAX_PAYLOAD_BYTES: Final = 256 * 1024
MAX_RETRIES: Final = 10
MIN_INTERVAL_MS: Final = 1000
MAX_INTERVAL_MS: Final = 7 * DAY_MS
MIN_TIMEOUT_MS: Final = 100
MAX_TIMEOUT_MS: Final = 30_000
MAX_FLOW_RATE: Final = 100_000
MIN_FLOW_PERIOD_MS: Final = 1000
MAX_FLOW_PERIOD_MS: Final = DAY_MS
MAX_FLOW_PARALLELISM: Final = 10_000
MAX_TAGS: Final = 16
MAX_TAG_CHARS: Final = 64
SCHEDULE_EXAMPLE: Final = {"cron": "30 9 * * 1-5", "timezone": "Asia/Shanghai"}

URL_RULE: Final = (
    "Where the callback goes: http or https, at most 2048 characters. Private, loopback and link-local addresses are "
    "refused unless the operator allows them; redirects are not followed."
)
METHOD_RULE: Final = (
    "The HTTP method. GET and DELETE carry no body: the same fields are in headers, the payload in "
    f"{PAYLOAD_HEADER} as JSON in ASCII of at most {MAX_HEADER_PAYLOAD} characters (others are written \\uXXXX); "
    "with a larger one the task is refused."
)
HEADERS_RULE: Final = (
    "Sent with every callback; at most 32, 16 KiB in all. Not: hop-by-hop fields, Host, Content-Length, User-Agent, "
    "Idempotency-Key, traceparent, webhook-*, X-TaskCenter-*. A Content-Type may only be application/json, which is "
    "what is sent anyway."
)
PAYLOAD_RULE: Final = (
    "Any JSON of at most 256 KiB, handed to the receiver as it is: names keep their order, whole numbers their digits "
    "(at most 1000), others are doubles. With GET and DELETE it must fit a header: see `callback_method`."
)
SCHEDULE_RULE: Final = (
    "Makes the task recurring. `cron` is read in the wall time of `timezone`: a time that a change of the clocks "
    "leaves out runs at the first instant after the gap, one that comes twice runs the first time; where the hour is "
    "`*` the rhythm follows elapsed time. `every` counts from the first due time. A run never overlaps the next."
)
RETRY_RULE: Final = (
    "Attempt k+1 is due this many seconds after attempt k ended; at most 10, each 1 s to 7 days. `[]`: one attempt."
)
TIMEOUT_RULE: Final = "Seconds for one whole exchange, 0.1 to 30."
AT_RULE: Final = (
    "When the callback is due: RFC 3339 with an offset, before the year 3000. A time in the past means now."
)
DELAY_RULE: Final = 'Due so many seconds from now (or a text: "90s", "5m", "2h", "1d"), in place of `execute_at`.'
FINISH_RULE: Final = (
    "Called once, signed and retried like any callback, when the task ends, with `{task_id, business_id, status, "
    "finish_reason, attempts, last_execution}`. Retried by the task's list, or, if it is empty, after 1, 5 "
    "and 30 minutes."
)
DEADLINE_RULE: Final = (
    "No attempt starts after it: a task that is due and still held back then fails with `deadline_passed`, and so does "
    "at its due time one that is due later."
)
FLOW_KEY_RULE: Final = (
    "What belongs together: a customer, a device, an account. Tasks of the business with the same key share one "
    "`flow_limit`. 1 to 128 printable characters."
)
FLOW_LIMIT_RULE: Final = (
    "For all tasks with this `flow_key`: at most `rate` callbacks start in any `period`, at most `parallelism` are on "
    "their way at once. At least one of the two; `rate` and `period` go together. If tasks differ, the newest one's "
    "limit holds. What waits for it uses no attempt. The window is kept over restarts."
)
TAGS_RULE: Final = "At most 16 of 1 to 64 printable characters each, to find tasks by."


def _payload(value: Any) -> bytes:
    payload = dump(value)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"has {len(payload)} bytes of JSON, and at most {MAX_PAYLOAD_BYTES} (256 KiB) are taken")
    return payload


def _schedule(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("must be an object")
    try:
        return validate(value)
    except ScheduleError as error:
        raise InsideFault(error.field, str(error)) from None


_FLOW_READERS: Final[dict[str, Reader[int]]] = {
    "rate": whole_number(1, MAX_FLOW_RATE),
    "period": duration(MIN_FLOW_PERIOD_MS, MAX_FLOW_PERIOD_MS),
    "parallelism": whole_number(1, MAX_FLOW_PARALLELISM),
}


def read_limit(value: Any) -> dict[str, Any]:
    """`{rate, period, parallelism}`: of a flow, or of a host."""
    if type(value) is not dict:
        raise ValueError("must be an object")
    limit: dict[str, Any] = {}
    for name, inner in value.items():
        read = _FLOW_READERS.get(name)
        if read is None:
            raise InsideFault(name[:64], "is not a field here; known are rate, period, parallelism")
        try:
            number = read(inner)
        except ValueError as error:
            raise InsideFault(name, str(error)) from None
        limit[name] = format_duration(number) if name == "period" else number
    if ("rate" in limit) != ("period" in limit):
        raise InsideFault("period" if "rate" in limit else "rate", "is required: rate and period go together")
    if not limit:
        raise ValueError("must have rate and period, or parallelism, or all three")
    return limit


_url = text(1, MAX_URL_CHARS)
_URL_SCHEMA: Final = {"type": "string", "format": "uri", "minLength": 1, "maxLength": MAX_URL_CHARS}
_intervals = listing(duration(MIN_INTERVAL_MS, MAX_INTERVAL_MS), MAX_RETRIES)
_INTERVALS_SCHEMA: Final = {
    "type": "array",
    "maxItems": MAX_RETRIES,
    "items": duration_schema(MIN_INTERVAL_MS, MAX_INTERVAL_MS),
}
_timeout = duration(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)
_TIMEOUT_SCHEMA: Final = duration_schema(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)
_tags = listing(text(1, MAX_TAG_CHARS), MAX_TAGS, unique=True)
_TAGS_SCHEMA: Final = {
    "type": "array",
    "maxItems": MAX_TAGS,
    "uniqueItems": True,
    "items": text_schema(1, MAX_TAG_CHARS),
}
FLOW_LIMIT_EXAMPLE: Final = {"rate": 10, "period": 60, "parallelism": 2}
_FLOW_KEY_SCHEMA: Final = text_schema(1, 128)
LIMIT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "dependentRequired": {"rate": ["period"], "period": ["rate"]},
    "properties": {
        "rate": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_FLOW_RATE,
            "description": "Callbacks that start in any `period`.",
            "examples": [10],
        },
        "period": {
            **duration_schema(MIN_FLOW_PERIOD_MS, MAX_FLOW_PERIOD_MS),
            "description": "Seconds, 1 s to 1 d.",
            "examples": [60, "1h"],
        },
        "parallelism": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_FLOW_PARALLELISM,
            "description": "Callbacks on their way at once.",
            "examples": [2],
        },
    },
}
SCHEDULE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "cron": {
            "type": "string",
            "maxLength": MAX_CRON_CHARS,
            "description": "Five fields: minute, hour, day of month, month, day of week. Either this or `every`.",
            "examples": ["30 9 * * 1-5"],
        },
        "timezone": {
            "type": "string",
            "default": "UTC",
            "description": "A name of the IANA time zone database; for `cron` only.",
            "examples": ["Asia/Shanghai"],
        },
        "every": {
            **duration_schema(MIN_EVERY_MS, MAX_EVERY_MS),
            "description": "Seconds from one due time to the next.",
            "examples": [300, "5m"],
        },
        "end_at": {**TIME_SCHEMA, "description": "No run is due after it.", "examples": ["2027-12-31T00:00:00Z"]},
        "max_runs": {"type": "integer", "minimum": 1, "description": "At most so many runs.", "examples": [10]},
        "misfire": {
            "type": "string",
            "enum": ["once", "skip"],
            "default": "once",
            "description": "Times missed: `once` makes up for all with one run, `skip` passes over them.",
            "examples": ["once"],
        },
    },
}

BUSINESS_ID: Final = Reads(text(1, 128), text_schema(1, 128))
URL: Final = Reads(_url, _URL_SCHEMA)
URL_OR_NONE: Final = Reads(optional(_url), or_null(_URL_SCHEMA))
METHOD: Final = Reads(one_of(*METHODS), {"type": "string", "enum": list(METHODS)})
HEADERS: Final = Reads(read_headers, HEADERS_SCHEMA)
HEADERS_OR_NONE: Final = Reads(optional(read_headers), or_null(HEADERS_SCHEMA))
PAYLOAD: Final = Reads(_payload, {})
MOMENT_OR_NONE: Final = Reads(optional(moment), or_null(TIME_SCHEMA))
DELAY_OR_NONE: Final = Reads(optional(duration(0, TEN_YEARS_MS)), or_null(duration_schema(0, TEN_YEARS_MS)))
INTERVALS: Final = Reads(_intervals, _INTERVALS_SCHEMA)
INTERVALS_OR_NONE: Final = Reads(optional(_intervals), or_null(_INTERVALS_SCHEMA))
TIMEOUT: Final = Reads(_timeout, _TIMEOUT_SCHEMA)
TIMEOUT_OR_NONE: Final = Reads(optional(_timeout), or_null(_TIMEOUT_SCHEMA))
SCHEDULE_OR_NONE: Final = Reads(optional(_schedule), or_null(SCHEDULE_SCHEMA))
FLOW_KEY_OR_NONE: Final = Reads(optional(text(1, 128)), or_null(_FLOW_KEY_SCHEMA))
FLOW_LIMIT_OR_NONE: Final = Reads(optional(read_limit), or_null(LIMIT_SCHEMA))
TAGS: Final = Reads(_tags, _TAGS_SCHEMA)
TAGS_OR_NONE: Final = Reads(optional(_tags), or_null(_TAGS_SCHEMA))
