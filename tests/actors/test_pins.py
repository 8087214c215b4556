"""Which receivers a credential is for: one spelling, https, and nothing that only looks like the host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.egress.pins import covered, parse_pin
from taskcenter.actors.egress.targets import check_url

COVERED: list[tuple[str, str]] = [
    ("api.example.com", "https://api.example.com/hook"),
    ("api.example.com", "https://API.example.com.:8443/hook"),
    ("API.Example.com.", "https://api.example.com/"),
    ("*.example.com", "https://a.b.example.com/"),
    ("*.example.com", "https://xn--bcher-kva.example.com/"),
    ("bücher.example", "https://xn--bcher-kva.example/"),
    ("api.example.com:8443", "https://api.example.com:8443/"),
    ("https://api.example.com", "https://api.example.com/"),
    ("api.example.com:443", "https://api.example.com/"),
    ("http://api.example.com", "http://api.example.com:8080/"),
    ("http://10.0.0.7:8080", "http://10.0.0.7:8080/"),
    ("10.0.0.7", "https://0xa.7/"),
    ("[::1]:8443", "https://[0:0::1]:8443/"),
]
NOT_COVERED: list[tuple[str, str]] = [
    ("api.example.com", "http://api.example.com/"),
    ("api.example.com", "https://api.example.com.evil.example/"),
    ("api.example.com", "https://evil.example/?api.example.com"),
    ("api.example.com", "https://evil.example/api.example.com"),
    ("api.example.com", "https://xapi.example.com/"),
    ("api.example.com", "https://sub.api.example.com/"),
    ("*.example.com", "https://example.com/"),
    ("*.example.com", "https://evilexample.com/"),
    ("*.example.com", "https://example.com.evil.example/"),
    ("api.example.com:8443", "https://api.example.com/"),
    ("http://api.example.com", "https://api.example.com/"),
    ("10.0.0.7", "https://10.0.0.70/"),
    ("[::1]", "https://[::2]/"),
]
REFUSED = [
    "", "*", "*.", "*.com", "*.*.example.com", "a.*.example.com", "api*.example.com", "http://", "ftp://a.example",
    "api.example.com/path", "api.example.com?x", "api.example.com#x", "user@api.example.com", "api.example.com\\x",
    "api.example.com:0", "api.example.com:99999", "api.example.com:", "api example.com", "api.example.com\r\nX: y",
    "*.10.0.0.1", "*.[::1]", "%61pi.example.com", "x" * 300, "fe80::1", "[fe80::1%25eth0]", "https://https://a.example",
]  # fmt: skip


@pytest.mark.parametrize(("pin", "url"), COVERED)
def test_covers(pin: str, url: str) -> None:
    assert covered([str(parse_pin(pin))], check_url(url))
    assert parse_pin(str(parse_pin(pin))) == parse_pin(pin), "the canonical spelling is read as itself"


@pytest.mark.parametrize(("pin", "url"), NOT_COVERED)
def test_does_not_cover(pin: str, url: str) -> None:
    assert not covered([pin], check_url(url))


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_host_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"e\.g\. api\.example\.com"):
        parse_pin(text)


@given(st.text(max_size=40))
def test_any_text_is_a_pin_or_a_value_error(text: str) -> None:
    for pin in (text, f"http://{text}", f"*.{text}", f"{text}:80"):
        try:
            parsed = parse_pin(pin)
        except ValueError:
            continue
        assert parse_pin(str(parsed)) == parsed
