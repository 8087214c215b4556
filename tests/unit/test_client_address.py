"""The caller behind proxies: only those that the operator trusts are believed, and only what they themselves wrote."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.http.client_address import caller_of

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
CASES: list[tuple[str | None, list[str], str | None]] = [
    (None, ["1.2.3.4"], None),
    ("203.0.113.9", [], "203.0.113.9"),
    ("203.0.113.9", ["1.2.3.4"], "203.0.113.9"),  # not trusted: what it says is nothing
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
    ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),  # the caller wrote 1.1.1.1 himself
    ("10.0.0.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
    ("10.0.0.1", ["198.51.100.7, 10.0.0.2, 10.0.0.3"], "198.51.100.7"),
    ("10.0.0.1", ["10.9.9.9"], "10.9.9.9"),  # from inside
    ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
    ("10.0.0.1", ["[2606:4700::1]:4711"], "2606:4700::1"),
    ("10.0.0.1", ["2606:4700::1"], "2606:4700::1"),
    ("10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
    ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
    ("2001:db8::1", ["198.51.100.7"], "198.51.100.7"),
    ("fe80::1%eth0", ["198.51.100.7"], "fe80::1"),
    ("10.0.0.1", ["unknown"], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.7, evil"], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.7, "], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.7, evil, 10.0.0.2"], "10.0.0.2"),
    ("10.0.0.1", ["0x7f.1"], "10.0.0.1"),
    ("10.0.0.1", ["127.1"], "10.0.0.1"),
    ("not an address", ["198.51.100.7"], "not an address"),
    ("10.0.0.1", ["1.1.1.1," * 5000 + "198.51.100.7"], "198.51.100.7"),
]


@pytest.mark.parametrize(("peer", "forwarded", "caller"), CASES)
def test_who_the_caller_is(peer: str | None, forwarded: list[str], caller: str | None) -> None:
    assert caller_of(peer, forwarded, TRUSTED) == caller
    assert caller_of(peer, forwarded, ()) == peer, "nobody is trusted unless the operator says so"


@given(st.sampled_from(["10.0.0.1", "203.0.113.9"]), st.lists(st.text(max_size=30), max_size=4))
def test_whatever_is_forwarded_the_caller_is_an_address(peer: str, forwarded: list[str]) -> None:
    caller = caller_of(peer, forwarded, TRUSTED)
    assert caller is not None and str(ip_address(caller)) == caller
