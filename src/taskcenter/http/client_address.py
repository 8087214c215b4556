"""Who is at the other end: the peer of the connection or, behind a proxy that is trusted, whom the proxy names. Pure.

Each proxy appends to `X-Forwarded-For` the address it was connected from. So the list is read from its end, and the
first address that is no trusted proxy's is the caller's: what stands before it was written by whoever wants. An entry
that is no address ends the reading at the proxy that passed it on: a caller cannot make himself nobody, nor somebody
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from taskcenter.config import Network

MAX_HOPS: Final = 32  # read of the list, from its end


def caller_of(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """`peer`: the connection's. `forwarded`: the values of X-Forwarded-For in their order. None: a peer without one."""
    if peer is None or not trusted:
        return peer
    known = _address(peer)
    hops = [hop.strip() for value in forwarded for hop in value.split(",")][-MAX_HOPS:]
    while known is not None and any(known in network for network in trusted) and hops:
        before = _address(hops.pop())
        if before is None:
            break
        known = before
    return peer if known is None else str(known)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Bare, or with a port as some proxies write it; an IPv4 address mapped into IPv6 is that address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
