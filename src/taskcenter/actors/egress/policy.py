"""Who may be called: the operator's policy over the deny table. Pure.

A URL is judged twice. When a task is created `check_url` refuses what can be seen from the text: a literal address, a
host pattern, a port. When it is called the transport asks `check_address` about every address the name has *then*, and
connects to one of exactly those, so an answer that changes between the two (DNS rebinding) gains nothing.

Order: what the operator denies is denied; where the operator names hosts or ports, no other is called; networks that
the operator allows are exempt from the table; the table decides the rest. An IPv6 form that carries an IPv4 address is
allowed only when the form itself is exempt *and* the address inside passes alone: an operator on a NAT64 network allows
64:ff9b::/96 and still nobody reaches 169.254.169.254.

Messages never tell what is behind a name: a stranger must not be able to map our network by what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from typing import Final

from taskcenter.actors.egress.addresses import IPAddress, IPNetwork, embedded_ipv4, special_purpose
from taskcenter.actors.egress.targets import DEFAULT_PORTS, CallbackUrlError, ParsedTarget
from taskcenter.actors.egress.targets import check_url as parse_url

__all__ = ["CallbackUrlError", "EgressPolicy", "ParsedTarget", "parse_url"]


@dataclass(frozen=True)
class EgressPolicy:
    """Which receivers may be called. The default: any port of any public address."""

    allowed_networks: tuple[IPNetwork, ...] = ()  # exempt from the table of special addresses
    denied_networks: tuple[IPNetwork, ...] = ()  # never called, even if allowed above
    denied_hosts: tuple[str, ...] = ()  # names or patterns (`*.internal.example`), lower or upper case
    allowed_ports: tuple[int, ...] = ()  # all when empty
    allowed_hosts: tuple[str, ...] = ()  # patterns as above; all names and addresses when empty

    def __post_init__(self) -> None:
        """Raises ValueError for a pattern that could never match: a ban that bans nothing must not go unnoticed."""
        _ = self._denied_host, self._allowed_host

    def check_address(self, address: IPAddress | str) -> str | None:
        """None when `address` may be called, or why not (for logs of ours; do not show it for a resolved name)."""
        ip = ip_address(address.partition("%")[0]) if isinstance(address, str) else address
        if any(ip in network for network in self.denied_networks):
            return "denied by the operator"
        inside = embedded_ipv4(ip) if isinstance(ip, IPv6Address) else ()
        if any(ip in network for network in self.allowed_networks):
            return next((reason for hidden in inside if (reason := self.check_address(hidden))), None)
        if purpose := special_purpose(ip):
            return f"{purpose} address"
        return next((f"embeds a {reason}" for hidden in inside if (reason := self.check_address(hidden))), None)

    def check_target(self, target: ParsedTarget) -> str | None:
        """None, or why the text of the URL alone is enough to refuse it. A name's addresses are checked at the call."""
        if self.allowed_ports and target.port not in self.allowed_ports:
            return f"port {target.port} is not one that callbacks may go to"
        denied = self._denied_host is not None and self._denied_host.fullmatch(target.host)
        if denied or (self._allowed_host is not None and not self._allowed_host.fullmatch(target.host)):
            return f"host {target.host} is not one that callbacks may go to"
        if target.address is not None and (reason := self.check_address(target.address)):
            return f"{target.host} is not an address that callbacks may go to ({reason})"
        return None

    def check_url(self, url: str) -> ParsedTarget:
        """Parse `url` and judge what can be judged from its text. Raises `CallbackUrlError`, a ValueError."""
        target = parse_url(url)
        if reason := self.check_target(target):
            raise CallbackUrlError(reason)
        return target

    @cached_property
    def _denied_host(self) -> re.Pattern[str] | None:
        return _any_of(self.denied_hosts)

    @cached_property
    def _allowed_host(self) -> re.Pattern[str] | None:
        return _any_of(self.allowed_hosts)


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    known = [translate(canonical_pattern(pattern)) for pattern in patterns]  # linear in the host's length
    return re.compile("|".join(known)) if known else None


def canonical_pattern(pattern: str) -> str:
    """`pattern` in the spelling that hosts are held against: A-labels, one form for each address, no dot at the end.

    Raises ValueError when no host can match it.
    """
    if "*" not in pattern and "?" not in pattern:
        bare_ipv6 = pattern.count(":") > 1 and "[" not in pattern
        target = parse_url(f"http://{f'[{pattern}]' if bare_ipv6 else pattern}/")
        if target.request_target != "/" or target.port != DEFAULT_PORTS["http"]:
            raise ValueError("is more than a host")
        return target.host
    labels = pattern.lower().removesuffix(".").split(".")
    known = [label if label.isascii() else parse_url(f"http://{label}/").host for label in labels]
    if not all(_PATTERN_LABEL.fullmatch(label) for label in known):
        raise ValueError("is not a host pattern")
    return ".".join(known)


_PATTERN_LABEL: Final = re.compile(r"[a-z0-9_*?-]{1,63}")
