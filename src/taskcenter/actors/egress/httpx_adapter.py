"""httpx's requests, responses and errors in terms of ours, and back.

A body is cut after KEPT_BODY_BYTES and never decompressed: `Content-Encoding` goes into the extensions, so that httpx
does not unpack a stranger's 64 KiB into 64 MiB. Extensions of a response: `body_size`, `reused`, `content_encoding`.
"""

from __future__ import annotations

from typing import Final, assert_never

import httpx

from taskcenter.actors.egress.exchange import Answered, CallbackRequest, Faulted
from taskcenter.actors.egress.targets import CallbackUrlError, check_url

DEFAULT_DEADLINE_S: Final = 30.0


class EgressBlocked(httpx.ConnectError):
    """The egress policy refuses this receiver; nothing was sent."""


async def callback_from_httpx(request: httpx.Request) -> CallbackRequest:
    """Raises httpx.UnsupportedProtocol for a URL that is no callback URL."""
    try:
        target = check_url(str(request.url))
    except CallbackUrlError as error:
        raise httpx.UnsupportedProtocol(f"the URL {error}", request=request) from None
    headers = [(name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in request.headers.raw]
    return CallbackRequest(request.method, target, headers, await request.aread())


def deadline_of(request: httpx.Request) -> float:
    """For the whole exchange, in s: `extensions["deadline_s"]`, else the longest of httpx's per-phase timeouts."""
    if (deadline_s := request.extensions.get("deadline_s")) is not None:
        return float(deadline_s)
    phases = [phase_s for phase_s in request.extensions.get("timeout", {}).values() if phase_s is not None]
    return float(max(phases, default=DEFAULT_DEADLINE_S))


def response_for_httpx(answer: Answered) -> httpx.Response:
    """The answer with the part of its body that was kept."""
    encodings = [value for name, value in answer.headers if name == "content-encoding"]
    return httpx.Response(
        answer.status,
        headers=[header for header in answer.headers if header[0] != "content-encoding"],
        content=answer.body,
        extensions={
            "http_version": b"HTTP/1.1",
            "body_size": answer.body_size,
            "reused": answer.reused,
            "content_encoding": ", ".join(encodings),
        },
    )


def error_for_httpx(fault: Faulted, request: httpx.Request) -> httpx.TransportError:
    """httpx's nearest error; its message is the fault's."""
    kind: type[httpx.TransportError]
    match fault.kind:
        case "timeout":
            kind = httpx.ReadTimeout if fault.sent else httpx.ConnectTimeout
        case "connection_error":
            kind = httpx.ReadError if fault.sent else httpx.ConnectError
        case "blocked":
            kind = EgressBlocked
        case "invalid_response":
            kind = httpx.RemoteProtocolError
        case _:
            assert_never(fault.kind)
    return kind(fault.message, request=request)
