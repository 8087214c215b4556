"""The deny table, one line an address: what is refused, what just outside a block is not, and what hides inside."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.egress.addresses import SPECIAL_IPV4, SPECIAL_IPV6, embedded_ipv4, special_purpose

REFUSED = {
    "0.0.0.0": "this network", "0.255.255.255": "this network", "10.0.0.1": "private", "10.255.255.255": "private",
    "100.64.0.0": "carrier-grade NAT", "100.100.100.200": "carrier-grade NAT", "100.127.255.255": "carrier-grade NAT",
    "127.0.0.1": "loopback", "127.255.255.254": "loopback", "168.63.129.16": "cloud platform",
    "169.254.169.254": "link-local", "172.16.0.1": "private", "172.31.255.255": "private",
    "192.0.0.192": "protocol assignments", "192.0.2.1": "documentation", "192.88.99.1": "6to4 relay",
    "192.168.1.1": "private", "198.18.0.1": "benchmarking", "198.19.255.255": "benchmarking",
    "198.51.100.7": "documentation", "203.0.113.9": "documentation", "224.0.0.1": "multicast",
    "239.255.255.255": "multicast", "240.0.0.1": "reserved", "255.255.255.254": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified", "::1": "loopback", "::2": "IPv4-compatible", "::127.0.0.1": "IPv4-compatible",
    "::8.8.8.8": "IPv4-compatible", "::ffff:127.0.0.1": "IPv4-mapped", "::ffff:8.8.8.8": "IPv4-mapped",
    "::ffff:0:127.0.0.1": "IPv4-translated", "64:ff9b::7f00:1": "NAT64", "64:ff9b::8.8.8.8": "NAT64",
    "64:ff9b:1::7f00:1": "local NAT64", "64:ff9b:1:ffff::1": "local NAT64", "100::1": "discard-only",
    "2001::1": "Teredo", "2001:0:4136:e378:8000:63bf:3fff:fdd2": "Teredo", "2001:2::1": "benchmarking",
    "2001:10::1": "ORCHID", "2001:20::1": "ORCHID", "2001:1::1": "protocol assignments", "2001:db8::1": "documentation",
    "2002:7f00:1::": "6to4", "2002:808:808::1": "6to4", "3ffe::1": "returned test network", "3fff::1": "documentation",
    "3fff:fff:ffff::": "documentation", "5f00::1": "segment routing", "fc00::1": "unique local",
    "fd00:ec2::254": "unique local", "fe80::1": "link-local", "febf::1": "link-local", "fec0::1": "site-local",
    "ff02::1": "multicast", "ffff::1": "multicast", "4000::1": "reserved", "100:0:0:1::1": "reserved",
    "1::1": "reserved", "64:ff9c::1": "reserved", "8000::1": "reserved",
}  # fmt: skip

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1",
    "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
    "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
    "2000::1", "2001:200::1", "2001:4860:4860::8888", "2001:db7:ffff::1", "2001:db9::1", "2003::1", "2400:cb00::1",
    "2606:4700:4700::1111", "2a00:1450:4001::1", "3ffd::1", "3fff:1000::1",
]  # fmt: skip


@pytest.mark.parametrize(("address", "purpose"), REFUSED.items())
def test_special_addresses_are_told_by_name(address: str, purpose: str) -> None:
    assert special_purpose(ip_address(address)) == purpose


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_just_outside_the_blocks_pass(address: str) -> None:
    assert special_purpose(ip_address(address)) is None


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("::ffff:10.1.2.3", ["10.1.2.3"]),
        ("::10.1.2.3", ["10.1.2.3"]),
        ("::ffff:0:10.1.2.3", ["10.1.2.3"]),
        ("64:ff9b::10.1.2.3", ["10.1.2.3"]),
        ("64:ff9b:1:a01:2:300::", ["0.0.0.0", "10.1.2.3"]),  # RFC 6052 §2.2, the /48 layout
        ("2002:a01:203::1", ["10.1.2.3"]),
        ("2001:0:a01:203:0:0:f5fe:fdfc", ["10.1.2.3", "10.1.2.3"]),
        ("2606:4700::5efe:a01:203", ["10.1.2.3"]),
        ("2606:4700::200:5efe:a01:203", ["10.1.2.3"]),
        ("2606:4700::1111", []),
        ("::", []),
        ("::1", []),
    ],
)
def test_embedded_ipv4_is_found(address: str, inside: list[str]) -> None:
    assert [str(found) for found in embedded_ipv4(IPv6Address(address))] == inside


@given(st.ip_addresses(v=4))
def test_nothing_that_python_calls_private_passes(address: IPv4Address) -> None:
    if not address.is_global:
        assert special_purpose(address) is not None


@given(st.ip_addresses(v=6))
def test_ipv6_outside_2000_slash_3_never_passes(address: IPv6Address) -> None:
    if address not in ip_network("2000::/3"):
        assert special_purpose(address) is not None


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "::"]))
def test_every_last_32_bit_form_unwraps(address: IPv4Address, prefix: str) -> None:
    wrapped = IPv6Address(int(IPv6Address(prefix)) + int(address))
    if int(wrapped) > 1:
        assert embedded_ipv4(wrapped)[0] == address


def test_first_and_last_address_of_every_block_are_refused() -> None:
    first = [block[0] for block, _ in SPECIAL_IPV4] + [block[0] for block, _ in SPECIAL_IPV6]
    last = [block[-1] for block, _ in SPECIAL_IPV4] + [block[-1] for block, _ in SPECIAL_IPV6]
    assert all(map(special_purpose, first + last))
