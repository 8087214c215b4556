"""Callback URLs and the policy over them: every spelling of an address ends as that address, or is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.egress.policy import CallbackUrlError, EgressPolicy
from taskcenter.actors.egress.targets import check_url

PUBLIC_ONLY = EgressPolicy()

LOOPBACK_SPELLINGS = [
    "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "2130706433", "0x7f000001", "0X7F.1", "0x7f.0.0.1", "0177.0.0.1",
    "017700000001", "0x7f.0x0.0x0.0x1", "00000177.1", "127.000.000.001", "１２７.０.０.１", "①②⑦.⓪.⓪.①",
    "127。0。0。1", "127．0．0．1", "0ⅹ7f.1", "[::1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0", "0.0.0.0", "0x0", "[::]",
]  # fmt: skip

MALFORMED = {
    "": "must start with", "example.com": "must start with", "ftp://example.com/": "must start with",
    "file:///etc/passwd": "must start with", "http:example.com": "must start with", "//example.com": "must start with",
    "javascript://x/": "must start with", "http://": "no host", "http:///path": "no host", "http://./": "no host",
    "http://:80/": "no host", "http://user@example.com/": "user name", "http://user:pw@example.com/": "user name",
    "http://@example.com/": "user name",
    "http://example.com@127.0.0.1/": "user name", "http://example.com/#x": "fragment",
    "http://example.com#": "fragment", "http://exa mple.com/": "white space", " http://example.com/": "white space",
    "http://example.com/\r\nX: y": "white space",
    "http://example.com/\t": "white space", "http://example.com/a b": "white space",
    "http://example.com\\@127.0.0.1/": "backslash", "http://example.com/\x00": "white space",
    "http://example.com/\u2028": "white space",
    "http://exam\u200bple.com/": "white space", "http://example.com/\ud800": "white space",
    "http://%31%32%37.0.0.1/": "percent-encoded", "http://127.0.0.1%2f@example.com/": "user name",
    "http://1.2.3.4.5/": "not an IPv4", "http://1.2.3.256/": "out of range", "http://256.1/": "out of range",
    "http://4294967296/": "out of range", "http://1.2.65536/": "out of range",
    "http://08.1/": "not an IPv4", "http://a.1/": "not an IPv4",
    "http://0x" + "1" * 40 + "/": "out of range", "http://1..2/": "not an IPv4", "http://a..b/": "not a name",
    "http://-a.example/": "not a name", "http://a-.example/": "not a name", "http://a!b/": "not a name",
    "http://" + "a" * 64 + ".example/": "not a name", "http://" + "a." * 127 + "example/": "not a name",
    "http://[::1/": "'['", "http://[::g]/": "'['", "http://[::1]x/": "'['", "http://[127.0.0.1]/": "'['",
    "http://[fe80::1%eth0]/": "zone", "http://[fe80::1%25eth0]/": "zone", "http://example.com:0/": "port",
    "http://example.com:65536/": "port", "http://example.com:/": "port", "http://example.com:80:80/": "port",
    "http://example.com:+80/": "port", "http://example.com:８０/": "port", "http://example.com:0x50/": "port",
    "http://example.com/%": "'%'", "http://example.com/%zz": "'%'", "http://example.com/?q=100%": "'%'",
    "http://a℀b.example/": "not a name", "http://😀.example/": "xn--", "http://" + "ü" * 80 + ".example/": "xn--",
    "http://example.com/" + "a" * 2030: "longer than 2048",
}  # fmt: skip

CANONICAL = {
    "HTTP://EXAMPLE.com": "http://example.com/",
    "https://example.com:443/a?b": "https://example.com/a?b",
    "http://example.com:443/": "http://example.com:443/",
    "https://example.com.:8443/": "https://example.com:8443/",
    "http://example.com?a=b/c": "http://example.com/?a=b/c",
    "http://example.com/a/../b//c;d=e": "http://example.com/a/../b//c;d=e",
    "http://example.com/ä?q=ü|^": "http://example.com/%C3%A4?q=%C3%BC%7C%5E",
    "http://example.com/%C3%a4%2F": "http://example.com/%C3%a4%2F",
    "http://example.com/😀": "http://example.com/%F0%9F%98%80",
    "http://bücher.example/": "http://xn--bcher-kva.example/",
    "http://BÜCHER.example/": "http://xn--bcher-kva.example/",
    "http://例子.测试/": "http://xn--fsqu00a.xn--0zwm56d/",
    "http://my_service:8080/": "http://my_service:8080/",
    "http://8.8.2056/": "http://8.8.8.8/",
    "http://134744072/": "http://8.8.8.8/",
    "http://[2606:4700:4700:0:0:0:0:1111]:80/": "http://[2606:4700:4700::1111]/",
    "https://[2606:4700::1]:8443/x": "https://[2606:4700::1]:8443/x",
}


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
@pytest.mark.parametrize("rest", ["/", ":8080/x?y=z"])
def test_no_spelling_of_a_local_address_passes(host: str, rest: str) -> None:
    with pytest.raises(CallbackUrlError, match="is not an address that callbacks may go to"):
        PUBLIC_ONLY.check_url(f"http://{host}{rest}")


@pytest.mark.parametrize(("url", "why"), MALFORMED.items())
def test_malformed_urls_are_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        check_url(url)


@pytest.mark.parametrize(("url", "canonical"), CANONICAL.items())
def test_one_spelling_comes_out(url: str, canonical: str) -> None:
    target = check_url(url)
    assert target.url == canonical
    assert check_url(canonical).url == canonical
    assert PUBLIC_ONLY.check_target(target) is None


def test_parts_of_a_target() -> None:
    target = check_url("https://[2606:4700::1]:8443/a/b?c=d")
    assert (target.scheme, target.host, target.port) == ("https", "2606:4700::1", 8443)
    assert (target.authority, target.request_target) == ("[2606:4700::1]:8443", "/a/b?c=d")
    assert target.address == ip_address("2606:4700::1")
    assert check_url("http://example.com/").address is None


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_a_callback_url_error(text: str) -> None:
    for url in (text, f"http://{text}", f"https://example.com/{text}", f"http://{text}.example:80/"):
        try:
            target = check_url(url)
        except CallbackUrlError:
            continue
        assert target.host.isascii()
        assert target.request_target.isascii()
        assert target.request_target.startswith("/")
        assert not set(target.authority + target.request_target) & set(" \r\n\t\\\x00")
        assert check_url(target.url).origin == target.origin


@given(st.ip_addresses(v=4), st.sampled_from(["{:d}", "{:#x}", "0{:o}"]), st.integers(1, 4))
def test_every_numeric_spelling_is_the_same_address(address: IPv4Address, number: str, parts: int) -> None:
    value = int(address)
    heads = [value >> 24 & 255, value >> 16 & 255, value >> 8 & 255][: parts - 1]
    tail = value & (1 << 8 * (5 - parts)) - 1
    host = ".".join(number.format(part) for part in (*heads, tail))
    assert check_url(f"http://{host}/").address == address


def test_allowed_networks_are_exempt_but_not_what_hides_in_them() -> None:
    policy = EgressPolicy(allowed_networks=(ip_network("127.0.0.0/8"), ip_network("64:ff9b::/96")))
    assert policy.check_address("127.0.0.1") is None
    assert policy.check_address("10.0.0.1") == "private address"
    assert policy.check_address("::ffff:127.0.0.1") == "IPv4-mapped address"
    assert policy.check_address("64:ff9b::8.8.8.8") is None
    assert policy.check_address("64:ff9b::169.254.169.254") == "link-local address"
    assert policy.check_address("64:ff9b::127.0.0.1") is None
    assert policy.check_address("fe80::1%eth0") == "link-local address"


def test_tunnelled_private_addresses_behind_a_public_prefix_are_refused() -> None:
    assert PUBLIC_ONLY.check_address("2606:4700::5efe:a9fe:a9fe") == "embeds a link-local address"
    assert PUBLIC_ONLY.check_address("2606:4700::5efe:808:808") is None


def test_denied_networks_win_over_allowed_ones() -> None:
    policy = EgressPolicy(
        allowed_networks=(ip_network("10.0.0.0/8"), ip_network("64:ff9b::/96")),
        denied_networks=(ip_network("10.9.0.0/16"), ip_network("8.8.8.0/24")),
    )
    assert policy.check_address("10.8.0.1") is None
    assert policy.check_address("10.9.0.1") == "denied by the operator"
    assert policy.check_address("8.8.8.8") == "denied by the operator"
    assert policy.check_address("64:ff9b::8.8.8.8") == "denied by the operator"
    assert policy.check_address("8.8.4.4") is None


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("http://metadata.google.internal/", True),
        ("http://METADATA.google.internal./", True),
        ("http://a.b.corp.example/", True),
        ("http://corp.example/", False),
        ("http://notcorp.example/", False),
        ("http://metadata.google.internal.example/", False),
    ],
)
def test_denied_hosts_are_patterns_on_the_canonical_name(url: str, refused: bool) -> None:
    policy = EgressPolicy(denied_hosts=("metadata.google.internal", "*.CORP.example"))
    assert (policy.check_target(check_url(url)) is not None) is refused


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("bücher.example", "http://xn--bcher-kva.example/"), ("*.BÜCHER.example", "http://a.bücher.example/"),
        ("0x7f.1", "http://127.0.0.1/"), ("[::1]", "http://[0::1]/"), ("::1", "http://[0::1]/"),
        ("127.0.0.*", "http://2130706433/"), ("a?.example", "http://a1.example/"), ("example.com.", "http://EXAMPLE.com/"),
        ("*", "http://anything.example/"), ("*-internal*.example", "http://my-internal-api.example/"),
    ],
)  # fmt: skip
def test_a_pattern_and_a_host_meet_in_one_spelling(pattern: str, url: str) -> None:
    target = check_url(url)
    assert EgressPolicy(denied_hosts=(pattern,)).check_target(target) == (
        f"host {target.host} is not one that callbacks may go to"
    )


@pytest.mark.parametrize(
    "pattern",
    ["", " ", "http://a.example", "a.example/x", "a.example:8080", "user@a.example", "a b.example", "*.a b", "*/x",
     "a..b", "*..b", "*:80", "[0-9]*", "-a.example", "1.2.3.4.5"],
)  # fmt: skip
def test_a_pattern_that_no_host_can_match_is_refused(pattern: str) -> None:
    for field in ("denied_hosts", "allowed_hosts"):
        with pytest.raises(ValueError):
            replace(EgressPolicy(), **dict[str, Any]({field: (pattern,)}))


def test_where_hosts_are_named_no_other_is_called() -> None:
    policy = EgressPolicy(
        allowed_hosts=("hooks.example.com", "*.partner.example", "10.0.0.7"), denied_hosts=("bad.partner.example",),
        allowed_networks=(ip_network("10.0.0.0/8"),),
    )  # fmt: skip
    for url in ("https://hooks.example.com/", "https://a.partner.example/", "http://10.7/"):
        policy.check_url(url)
    for url in ("https://example.com/", "https://partner.example/", "https://hooks.example.com.evil.example/",
                "https://bad.partner.example/", "http://10.0.0.8/", "http://8.8.8.8/"):  # fmt: skip
        with pytest.raises(CallbackUrlError, match="not one that callbacks may go to"):
            policy.check_url(url)
    closed = EgressPolicy(allowed_hosts=("127.0.0.1",))
    with pytest.raises(CallbackUrlError, match="loopback"):
        closed.check_url("http://127.0.0.1/")


def test_many_stars_take_no_time() -> None:
    """A pattern's cost is linear in the host: this one would take years if it were not."""
    policy = EgressPolicy(denied_hosts=("*a*a*a*a*a*a*a*a*a*a*a*a*b.example",))
    host = ".".join(["a" * 60] * 3)
    assert policy.check_target(check_url(f"http://{host}.example/")) is None


def test_allowed_ports() -> None:
    policy = EgressPolicy(allowed_ports=(443, 8443))
    assert policy.check_url("https://example.com/").port == 443
    with pytest.raises(CallbackUrlError, match="port 80"):
        policy.check_url("http://example.com/")
