"""The head of a request, looked at before h11 reads it; and the refusals we answer ourselves.

h11 is lenient where a server behind a proxy must not be: it takes bare LF for a line's end, unfolds folded headers,
merges equal Content-Length headers, lets Transfer-Encoding win over Content-Length, and gives `HTTP/2.0` in a request
line a 200. Each of these lets two parsers disagree about where a request ends (request smuggling, RFC 9112 §11.2).
`check_head` therefore refuses them on the raw bytes. It decides nothing else: framing stays h11's alone. The two agree
on where a head ends, because a head with any LF that is not part of a CRLF is refused here, and without such an LF
h11's end (LF CRLF or LF LF) and ours (CRLF CRLF) are the same byte. `check_trailers` does the same for what ends a
chunked body, where h11 is as lenient.

Pure: neither trio nor time; the caller passes bytes and limits.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

from taskcenter.http.limits import ServerSettings

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Z-]{1,32}) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
_TARGET: Final = re.compile(rb"/[\x21-\x7e]*|https?://[A-Za-z0-9.:_~%\[\]-]+(?:[/?][\x21-\x7e]*)?", re.IGNORECASE)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FRAMING: Final = re.compile(rb"\n(host|content-length|transfer-encoding):[ \t]*([^\r]*)", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~%!$&'()*+,;=-]{1,255})(?::[0-9]{0,5})?")
_LENGTH: Final = re.compile(rb"[0-9]{1,20}")
_PATH: Final = re.compile(rb"[A-Z]{1,32} (/[A-Za-z0-9/_.~%-]{0,255})[ ?]")
_REQUEST_ID: Final = re.compile(rb"\nx-request-id:[ \t]*([A-Za-z0-9._-]{1,128})[ \t]*\r", re.IGNORECASE)

_CODES: Final = {
    400: "bad_request",
    408: "request_timeout",
    413: "payload_too_large",
    414: "uri_too_long",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    505: "http_version_not_supported",
}
_DETAILS: Final = {
    400: "The request is not well-formed HTTP/1.1.",
    408: "The request did not arrive in time.",
    413: "The request body is larger than this server takes.",
    431: "The request head is larger than this server takes.",
    500: "The request could not be answered because of a fault of this server.",
    501: "Only the transfer coding 'chunked' is supported.",
}


class Refused(Exception):
    """The caller's: a request that is answered here and never, or not whole, seen by the app. The connection ends."""

    def __init__(self, status: int, detail: str | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.code = _CODES.get(status, "bad_request")
        self.detail = detail or _DETAILS.get(status, _DETAILS[400])


@dataclass(frozen=True, slots=True)
class Caller:
    """What a refusal needs to know of the request: whether a body may follow; the caller's own id, and the path, if
    they are sane.
    """

    head_only: bool = False
    request_id: str | None = None
    path: str = "/"

    @classmethod
    def of(cls, data: bytes) -> Caller:
        """From the raw bytes of a head, or of a part of one."""
        match = _REQUEST_ID.search(data, 0, max(0, data.find(b"\r\n\r\n") + 2) or len(data))
        path = _PATH.match(data)
        return cls(
            data.startswith(b"HEAD "),
            match[1].decode("ascii") if match else None,
            path[1].decode("ascii") if path else "/",
        )


def problem_body(refused: Refused, caller: Caller) -> bytes:
    """`application/problem+json` (RFC 9457). Never a word of the request in it but a path of harmless characters."""
    members = {
        "type": "about:blank",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "detail": refused.detail,
        "instance": caller.path,
        "code": refused.code,
    }
    return json.dumps(members).encode("ascii")


def problem_headers(body: bytes, request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]


def refusal_bytes(refused: Refused, caller: Caller, request_id: str) -> bytes:
    """A whole response on the wire. `request_id` is used when the caller sent none."""
    body = problem_body(refused, caller)
    headers = problem_headers(body, caller.request_id or request_id)
    headers.append((b"date", formatdate(usegmt=True).encode("ascii")))
    lines = [b"HTTP/1.1 %d %s" % (refused.status, HTTPStatus(refused.status).phrase.encode("ascii"))]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if caller.head_only else body)


class Head(Enum):
    """What stands at the front of the input: the part of a head, or a whole and acceptable one."""

    INCOMPLETE = auto()
    PLAIN = auto()  # the body is told by Content-Length, or there is none
    CHUNKED = auto()


def check_head(data: bytes, settings: ServerSettings) -> Head:
    """The head at the front of `data`. Raises `Refused`."""
    end = data.find(b"\r\n\r\n") + 2
    if end < 2:
        if data.count(b"\n") != data.count(b"\r\n"):
            raise Refused(400, "A line of the head ends without CR LF.")
        if len(data) > settings.max_head_bytes:
            raise Refused(431)
        return Head.INCOMPLETE
    if end > settings.max_head_bytes:
        raise Refused(431)
    head = data[:end]
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise Refused(400, "A line of the head ends without CR LF.")
    if _CONTROL.search(head):
        raise Refused(400, "The head holds control characters.")
    if b"\n " in head or b"\n\t" in head:
        raise Refused(400, "The head holds a folded line.")
    if lines - 1 > settings.max_headers:
        raise Refused(431, f"The head has more than {settings.max_headers} fields.")
    version = _check_request_line(head, settings)
    return _check_framing(head, version, settings)


def check_trailers(ending: bytes) -> None:
    """`ending`: from the last chunk's size, or the CR LF before it, to the end of the trailers. Raises `Refused`."""
    if ending.count(b"\n") != ending.count(b"\r\n"):
        raise Refused(400, "A line of the trailers ends without CR LF.")


def _check_request_line(head: bytes, settings: ServerSettings) -> bytes:
    """The version. Method: a token without lower case, for hypercorn would fold `get` to `GET`."""
    match = _REQUEST_LINE.match(head)
    if match is None:
        raise Refused(400, "The request line is not 'METHOD target HTTP/1.1'.")
    method, target, version = match.groups()
    if version not in (b"1.1", b"1.0"):
        raise Refused(505, "This server speaks HTTP/1.1.")
    if len(target) > settings.max_target_bytes:
        raise Refused(414, f"The target is longer than {settings.max_target_bytes} bytes.")
    if method == b"CONNECT" or not (_TARGET.fullmatch(target) or (target == b"*" and method == b"OPTIONS")):
        raise Refused(400, "The target is neither a path nor an http(s) URL.")
    return version


def _check_framing(head: bytes, version: bytes, settings: ServerSettings) -> Head:
    """Host (RFC 9112 §3.2), and how the body's length is told (§6.3)."""
    fields: dict[bytes, list[bytes]] = {b"h": [], b"c": [], b"t": []}  # by the first letter of their name
    for name, value in _FRAMING.findall(head):
        fields[name[:1].lower()].append(value.rstrip(b" \t"))
    hosts, lengths, codings = fields.values()
    if len(hosts) > 1 or (not hosts and version == b"1.1"):
        raise Refused(400, "There must be one Host field.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Refused(400, "The Host field is not host or host:port.")
    if codings:
        if lengths:
            raise Refused(400, "Transfer-Encoding and Content-Length exclude each other.")
        if len(codings) > 1 or version == b"1.0":
            raise Refused(400, "Transfer-Encoding may stand once, and not in HTTP/1.0.")
        if codings[0].lower() != b"chunked":
            raise Refused(501)
    if lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise Refused(400, "Content-Length must be one decimal number.")
        if int(lengths[0]) > settings.max_body_bytes:
            raise Refused(413)
    return Head.CHUNKED if codings else Head.PLAIN


def origin_form(target: bytes) -> bytes:
    """The path and query of an absolute-form target; any other target as it is. The app sees no other form."""
    if target[:1] == b"/" or target == b"*":
        return target
    rest = target.split(b"://", 1)[1]
    slash = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    path = rest[slash:]
    return path if path[:1] == b"/" else b"/" + path
