"""Callback URLs: what is accepted, and the one spelling that is then used for checks, look-ups and the request. Pure.

A URL that two programs read differently is how address filters are passed by, so this parser is strict where browsers
guess (no white space, backslash, control character, userinfo, fragment, percent-encoded host), and where the platform's
resolver would guess (`0x7f.1`, `017700000001`, `2130706433`, full-width digits) it computes the address as the resolver
would and from there on knows only that address. Everything after this module uses `ParsedTarget`, never the text.

Sources: RFC 3986; the WHATWG URL standard's host and IPv4 parsers; UTS 46 and IDNA 2008 for names.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import idna

from taskcenter.actors.egress.addresses import IPAddress

MAX_URL_CHARS: Final = 2048
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_SHAPE: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)"
    r"(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)
_FORBIDDEN: Final = re.compile(
    r"[\x00-\x20\x7f-\xa0\\\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ud800-\udfff]"
)
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TO_ENCODE: Final = re.compile(r"[^A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class CallbackUrlError(ValueError):
    """The caller's: the URL cannot be a callback URL. The message says why, and is fit for the API's `errors`."""


@dataclass(frozen=True, slots=True)
class ParsedTarget:
    """A callback URL in its one canonical spelling."""

    scheme: str  # "http" | "https"
    host: str  # lower case ASCII: a name (A-labels), a dotted quad, or an IPv6 address without brackets
    port: int
    request_target: str  # path and query as they stand in the request line, ASCII, starts with "/"
    address: IPAddress | None  # when the host is an address and not a name
    authority: str  # the Host header: brackets around IPv6, no default port
    origin: tuple[str, str, int] = field(repr=False)  # what a connection can be shared by

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.request_target}"


@functools.lru_cache(maxsize=4096)
def check_url(url: str) -> ParsedTarget:
    """Parse and canonicalise. Says nothing of whether the host may be called (`egress.EgressPolicy`).

    Raises `CallbackUrlError`.
    """
    if len(url) > MAX_URL_CHARS:
        raise CallbackUrlError(f"is longer than {MAX_URL_CHARS} characters")
    if _FORBIDDEN.search(url):
        raise CallbackUrlError("holds white space, a control or invisible character, or a backslash; percent-encode it")
    parts = _SHAPE.fullmatch(url)
    if parts is None or (scheme := parts["scheme"].lower()) not in DEFAULT_PORTS:
        raise CallbackUrlError("must start with http:// or https://, e.g. https://example.com/hook")
    if parts["fragment"] is not None:
        raise CallbackUrlError("has a fragment ('#…'), which is never sent; leave it out")
    host, address, port = _authority(parts["authority"])
    if port is None:
        port = DEFAULT_PORTS[scheme]
    shown = f"[{host}]" if isinstance(address, IPv6Address) else host
    authority = shown if port == DEFAULT_PORTS[scheme] else f"{shown}:{port}"
    target = _request_target(parts["path"] or "/", parts["query"] or "")
    if len(target) > 3 * MAX_URL_CHARS:  # what a URL of non-ASCII letters can grow to
        raise CallbackUrlError(f"is longer than {3 * MAX_URL_CHARS} characters once it is percent-encoded")
    return ParsedTarget(scheme, host, port, target, address, authority, (scheme, host, port))


def _request_target(path: str, query: str) -> str:
    """Percent-encode what may not stand in a request line; what is encoded already stays."""
    target = path + query
    if _BAD_PERCENT.search(target):
        raise CallbackUrlError("has a '%' that is not followed by two hex digits; write '%25' for a percent sign")
    return _TO_ENCODE.sub(lambda run: "".join(f"%{byte:02X}" for byte in run[0].encode()), target)


def _authority(text: str) -> tuple[str, IPAddress | None, int | None]:
    if "@" in text:
        raise CallbackUrlError("has a user name or password before the host; send credentials in `headers`")
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise CallbackUrlError("has a '[' that does not enclose an IPv6 address")
        v6 = _ipv6(literal)
        return str(v6), v6, _port(rest[1:]) if rest else None
    host, colon, digits = text.partition(":")
    port = _port(digits) if colon else None
    name, v4 = _host(host)
    return name, v4, port


def _port(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 1 <= int(digits) <= 65535):
        raise CallbackUrlError("has a port that is not a number from 1 to 65535")
    return int(digits)


def _ipv6(literal: str) -> IPv6Address:
    if "%" in literal:
        raise CallbackUrlError("has an IPv6 zone ('%…'), which only means something on one machine")
    try:
        return IPv6Address(literal)
    except AddressValueError:
        raise CallbackUrlError("has a '[' that does not enclose an IPv6 address") from None


def _host(text: str) -> tuple[str, IPv4Address | None]:
    if "%" in text:
        raise CallbackUrlError("has a percent-encoded host; write it plainly")
    if not text.isascii():
        text = _mapped(text)
    name = text.lower().removesuffix(".")
    if not name:
        raise CallbackUrlError("has no host")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # such a host is an address or nothing (WHATWG, "ends in a number")
        address = IPv4Address(_ipv4_number(labels))
        return str(address), address
    if not name.isascii():
        name = _alabels(name)
        labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise CallbackUrlError("has a host that is not a name of letters, digits, '-' and '.', at most 63 a part")
    return name, None


def _mapped(text: str) -> str:
    """UTS 46 mapping: full-width digits, circled digits and ideographic dots become what they look like."""
    try:
        return idna.uts46_remap(text, std3_rules=False, transitional=False)
    except idna.IDNAError:
        raise CallbackUrlError("has a host with a character that no domain name may hold") from None


def _alabels(name: str) -> str:
    try:
        return idna.encode(name, uts46=False, std3_rules=True).decode("ascii")
    except idna.IDNAError:
        raise CallbackUrlError("has a host that is no valid international domain name; try its 'xn--' form") from None


def _ipv4_number(labels: list[str]) -> int:
    """One to four numbers, decimal, octal (0…) or hex (0x…), the last filling what is left: as inet_aton reads them."""
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        raise CallbackUrlError("has a host that ends in a number and is not an IPv4 address")
    numbers = [_number(label) for label in labels]
    if any(number > 255 for number in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(numbers)):
        raise CallbackUrlError("has an IPv4 address out of range")
    value = numbers[-1]
    for place, number in enumerate(numbers[:-1]):
        value += number << (24 - 8 * place)
    return value


def _number(label: str) -> int:
    if len(label) > 32:
        raise CallbackUrlError("has an IPv4 address out of range")
    try:
        if label.startswith(("0x", "0X")):
            return int(label[2:] or "0", 16)
        return int(label, 8 if label.startswith("0") else 10)
    except ValueError:
        raise CallbackUrlError("has a host that ends in a number and is not an IPv4 address") from None
