"""Which receivers a credential is for. Pure.

A pin is a host (`api.example.com`), all hosts below one (`*.example.com`), or an address, perhaps with a port; without
one any port of the host will do. A credential goes over https only, unless its pin says `http://` in front. It is held
against the one canonical spelling of the callback's host, so no other way to write a host gets a credential, and a task
whose callback goes elsewhere goes without.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from taskcenter.actors.egress.targets import CallbackUrlError, ParsedTarget, check_url

MAX_PIN_CHARS: Final = 270
EXAMPLE: Final = "api.example.com, *.example.com or http://10.0.0.7:8080"

_SHAPE: Final = re.compile(r"(?:(?P<scheme>https?)://)?(?P<below>\*\.)?(?P<host>[^/?#@\\*]+?)(?P<port>:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Pin:
    scheme: str
    below: bool  # the hosts below `host`, and not `host` itself
    host: str
    port: int | None

    def covers(self, target: ParsedTarget) -> bool:
        if target.scheme != self.scheme or self.port not in (None, target.port):
            return False
        return target.host.endswith(f".{self.host}") if self.below else target.host == self.host

    def __str__(self) -> str:
        """The canonical spelling."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "" if self.scheme == "https" else f"{self.scheme}://"
        return f"{scheme}{'*.' if self.below else ''}{shown}{'' if self.port is None else f':{self.port}'}"


@functools.lru_cache(maxsize=4096)
def parse_pin(text: str) -> Pin:
    """Raises ValueError, with half a sentence for the API's `errors`."""
    parts = _SHAPE.fullmatch(text) if len(text) <= MAX_PIN_CHARS else None
    if parts is None:
        raise ValueError(f"must be a host, e.g. {EXAMPLE}")
    scheme, below = parts["scheme"] or "https", parts["below"] is not None
    try:
        target = check_url(f"{scheme}://{parts['host']}{parts['port'] or ''}/")
    except CallbackUrlError as error:
        raise ValueError(f"{error}; it must be a host, e.g. {EXAMPLE}") from None
    if below and (target.address is not None or "." not in target.host):
        raise ValueError(f"has a '*.' before what is no domain of two parts or more; e.g. {EXAMPLE}")
    return Pin(scheme, below, target.host, target.port if parts["port"] else None)


def covered(pins: Iterable[str], target: ParsedTarget) -> bool:
    """Whether a credential with these pins is for `target`."""
    return any(parse_pin(pin).covers(target) for pin in pins)
