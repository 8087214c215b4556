"""The caller's own headers of a callback: which names and values may be sent, and which are ours alone. Pure.

A name or value that h11 would refuse at the time of the send must be refused at the time of the create. A name that
we set ourselves must not be set by the caller: the receiver's trust in `webhook-signature` and `X-TaskCenter-*` hangs
on it.
A name with `_` is judged as if it had `-`: CGI, WSGI and their kin do not tell the two apart.
Sources: RFC 9110 §5.1, §5.5 (names and values), §7.6.1 (hop-by-hop).
"""

from __future__ import annotations

import re
from typing import Any, Final

from taskcenter.service.fields import InsideFault

MAX_HEADERS: Final = 32
MAX_NAME_CHARS: Final = 128
MAX_VALUE_CHARS: Final = 4096
MAX_TOTAL_CHARS: Final = 16 * 1024

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE: Final = re.compile(r"(?:[\x21-\x7e\xa1-\xff](?:[\t\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?)?")
_OURS: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "host",
        "content-length",
        "content-encoding",
        "expect",
        "accept-encoding",
        "user-agent",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "baggage",
        "date",
    }
)
_OUR_PREFIXES: Final = ("webhook-", "x-taskcenter-", "proxy-")
_JSON_TYPE: Final = re.compile(r"application/json(?:;\s*charset=\"?utf-8\"?)?", re.IGNORECASE)

HEADERS_SCHEMA: Final = {
    "type": "object",
    "maxProperties": MAX_HEADERS,
    "propertyNames": {"pattern": r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}$"},
    "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARS},
}


def read_headers(value: Any) -> dict[str, str]:
    """The headers to send. Raises ValueError with half a sentence."""
    if type(value) is not dict or len(value) > MAX_HEADERS:
        raise ValueError(f"must be an object of at most {MAX_HEADERS} names with texts")
    headers: dict[str, str] = {}
    seen: set[str] = set()
    total = 0
    for name, content in value.items():
        low = name.lower().replace("_", "-")
        if not _NAME.fullmatch(name):
            raise InsideFault(name[:MAX_NAME_CHARS], "is not a header name (a token of RFC 9110)")
        if type(content) is not str or len(content) > MAX_VALUE_CHARS or not _VALUE.fullmatch(content):
            raise InsideFault(
                name,
                f"must be a text of at most {MAX_VALUE_CHARS} Latin-1 characters without control characters or "
                "white space at its ends",
            )
        if low in _OURS or low.startswith(_OUR_PREFIXES):
            raise InsideFault(name, "is set by the service")
        if low in seen:
            raise InsideFault(name, "is there twice; names of headers differ in more than case")
        seen.add(low)
        total += len(name) + len(content)
        if low == "content-type":
            if not _JSON_TYPE.fullmatch(content):
                raise InsideFault(name, "must be application/json, which the payload is always sent as")
            continue  # it is what is sent anyway
        headers[name] = content
    if total > MAX_TOTAL_CHARS:
        raise ValueError(f"are longer than {MAX_TOTAL_CHARS} characters in all")
    return headers
