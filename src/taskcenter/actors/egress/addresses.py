"""Which addresses are not the public internet, and which IPv4 addresses hide inside IPv6 ones. Pure.

Theory: a callback URL is a stranger's wish that *we* open a connection. Whatever we can reach and the stranger cannot
(loopback, the private network, a cloud's metadata service) must be out of reach. `ipaddress.is_global` is not that
test: in Python 3.11 it lets through `::127.0.0.1`, `64:ff9b::7f00:1`, `2002:7f00:1::`, `224.0.0.1`, `fec0::1` and more.

So the table is ours. IPv4: everything is public but what stands in the table. IPv6 the other way round: only 2000::/3
has ever been allocated for global unicast, so all else is refused, and the table carves the special blocks out of it.
The forms that carry an IPv4 address for a translator or a tunnel (mapped, compatible, translated, NAT64, 6to4,
Teredo) are refused as such: nobody needs them to name a public receiver, and what they reach is decided elsewhere.

Sources: IANA IPv4/IPv6 Special-Purpose Address Registries (RFC 6890 and its updates); RFC 4291 (mapped, compatible),
RFC 2765 (translated), RFC 6052 and 8215 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP), RFC 9602
(5f00::/16), RFC 9637 (3fff::/20).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

SPECIAL_IPV4: Final[tuple[tuple[IPv4Network, str], ...]] = tuple(
    (IPv4Network(block), what)
    for block, what in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud platform"),  # Azure's host agent, on a public-looking address
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)

# First match wins: narrow blocks stand before the wide ones that hold them.
SPECIAL_IPV6: Final[tuple[tuple[IPv6Network, str], ...]] = tuple(
    (IPv6Network(block), what)
    for block, what in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard-only"),
        ("2001::/32", "Teredo"),
        ("2001:2::/48", "benchmarking"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHID"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3ffe::/16", "returned test network"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")

_LOW_32_BITS: Final = 0xFFFFFFFF
_LAST_32_BIT_FORMS: Final = tuple(
    IPv6Network(block) for block in ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48")
)
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP_MARKS: Final = frozenset({0x00005EFE, 0x02005EFE})  # the upper half of an ISATAP interface identifier


def special_purpose(address: IPAddress) -> str | None:
    """What `address` is set aside for (`"loopback"`, `"NAT64"` …), or None when it is plain public unicast."""
    if isinstance(address, IPv4Address):
        return next((what for block, what in SPECIAL_IPV4 if address in block), None)
    if what := next((what for block, what in SPECIAL_IPV6 if address in block), None):
        return what
    return None if address in GLOBAL_UNICAST else "reserved"


def embedded_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Every IPv4 address that a translator, relay or tunnel could take `address` to mean. Empty when there is none."""
    bits = int(address)
    found: list[int] = []
    if any(address in form for form in _LAST_32_BIT_FORMS) and bits > 1:  # `::` and `::1` carry nothing
        found.append(bits & _LOW_32_BITS)
    if address in _LOCAL_NAT64:  # RFC 6052 §2.2, a /48: 16 bits, 8 bits of zero, 16 bits
        found.append((bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF)
    if address in _SIX_TO_FOUR:
        found.append((bits >> 80) & _LOW_32_BITS)
    if address in _TEREDO:  # the relay's server, and the client with its bits flipped
        found.append((bits >> 64) & _LOW_32_BITS)
        found.append(~bits & _LOW_32_BITS)
    if (bits >> 32) & _LOW_32_BITS in _ISATAP_MARKS:
        found.append(bits & _LOW_32_BITS)
    return tuple(IPv4Address(value) for value in found)
