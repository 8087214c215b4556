"""The reader of JSON bodies: everything two programs might read differently is refused, everything else is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.http.json_body import MAX_DEPTH, MalformedJson, parse


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{} x", "Extra data"),
        (b"{'a': 1}", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),  # a surrogate in the bytes themselves
        ('"a"'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a":1,"a":2}', '"a" more than once'),
        (b'[{"b":{"\\u0061":1,"a":1}}]', '"a" more than once'),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e999]", "double"),
        (b"[-1E+400]", "double"),
        (b"[" + b"9" * 400 + b".5]", "double"),
        (b"[" + b"9" * 210 + b"e99]", "double"),
        (b"[-" + b"9" * 299 + b"E+50]", "double"),
        (b"[1" + b"0" * 1000 + b"]", "1000 digits"),
        (b"9" * 5000, "1000 digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        (b'"a\x00"', "control"),
        (b'"a\nb"', "control"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b"[" * 100_000, "deeper than 64"),
        (b'{"a":' * 100_000, "deeper than 64"),
    ],
)
def test_refused(body: bytes, words: str) -> None:
    with pytest.raises(MalformedJson, match=words.replace("+", r"\+")):
        parse(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" null ", None),
        (b"18446744073709551616", 2**64),
        (b"[-9223372036854775809, 0]", [-(2**63) - 1, 0]),
        (b"9" * 1000, 10**1000 - 1),
        (b'{"a\\u0000":"\\u0000"}', {"a\0": "\0"}),
        (b"[1e308, 1E-400, 0.5]", [1e308, 0.0, 0.5]),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"":{"a":1},"a":{"a":1}}', {"": {"a": 1}, "a": {"a": 1}}),
        ('"业务"'.encode(), "业务"),
        (b'"1234567890123456789012345"', "1234567890123456789012345"),
    ],
)
def test_read(body: bytes, value: Any) -> None:
    assert parse(body) == value


def test_the_deepest_that_is_read() -> None:
    value = parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


def test_many_shallow_containers_are_not_deep() -> None:
    assert parse(json.dumps([[{}]] * 1000).encode()) == [[{}]] * 1000


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
    max_leaves=20,
)


@given(_VALUES, st.booleans())
def test_every_sound_value_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=64) | st.text(max_size=64).map(lambda text: json.dumps(text)[:-1].encode()))
def test_no_bytes_bring_anything_but_a_value_or_a_refusal(body: bytes) -> None:
    try:
        value = parse(body)
    except MalformedJson:
        return
    assert value == json.loads(body)
