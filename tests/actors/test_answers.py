"""The table of CONTRACT.md §4, and everything a receiver may say that fits no table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.answers import (
    MAX_DEFERRAL_MS,
    MIN_DEFERRAL_MS,
    Deferred,
    Retry,
    Stop,
    Success,
    decide,
    parse_retry_after,
    printable,
)
from taskcenter.actors.egress.exchange import Answered, Faulted, FaultKind
from taskcenter.store.records import ExecutionStatus

NOW = 1_445_412_420_000  # Wed, 21 Oct 2015 07:27:00 GMT


def answered(status: int, body: Any = b"", size: int | None = None, **headers: str) -> Answered:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answered(status, pairs, data, len(data) if size is None else size, reused=False)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_2xx_is_success(status: int) -> None:
    assert decide(answered(status), now_ms=NOW) == Success()
    assert decide(answered(status, b"ok"), now_ms=NOW) == Success()
    assert decide(answered(status, {"ok": True}), now_ms=NOW) == Success()


@pytest.mark.parametrize(
    "status", [300, 301, 302, 307, 308, 400, 401, 404, 408, 409, 422, 429, 500, 502, 503, 599, 999]
)
def test_everything_else_is_a_failed_attempt_that_names_the_status(status: int) -> None:
    decision = decide(answered(status, b"no"), now_ms=NOW)
    assert isinstance(decision, Retry)
    assert decision.status is ExecutionStatus.HTTP_ERROR
    assert str(status) in decision.reason
    assert ("redirects are not followed" in decision.reason) is (status < 400)


@pytest.mark.parametrize("kind", ["timeout", "connection_error", "blocked", "invalid_response"])
@pytest.mark.parametrize("sent", [True, False])
def test_faults_are_failed_attempts_with_their_own_word(kind: FaultKind, sent: bool) -> None:
    assert decide(Faulted(kind, "what happened", sent), now_ms=NOW) == Retry(ExecutionStatus(kind), "what happened")


@pytest.mark.parametrize(
    "answer",
    [
        answered(410),
        answered(489),
        answered(200, {"action": "stop"}),
        answered(500, {"action": "stop"}),
        answered(302, {"action": "stop"}),
        answered(204, x_taskcenter_action="stop"),
        answered(500, x_taskcenter_action=" STOP "),
        answered(200, webhook_delivery="abort-message"),
        answered(503, webhook_delivery="Abort-Message", retry_after="5"),
        answered(410, {"action": "retry", "retry_after": 5}),
        answered(429, {"action": "retry", "retry_after": 5}, x_taskcenter_action="stop", retry_after="5"),
        answered(503, {"action": "stop"}, retry_after="5"),
    ],
)
def test_stop_wins_over_everything(answer: Answered) -> None:
    decision = decide(answer, now_ms=NOW)
    assert isinstance(decision, Stop)
    assert decision.status is ExecutionStatus.STOP


@pytest.mark.parametrize(
    "answer",
    [
        answered(200, x_taskcenter_action="go"),
        answered(200, webhook_delivery="disable"),
        answered(200, {"action": "STOP"}),
        answered(200, {"action": ["stop"]}),
        answered(200, [{"action": "stop"}]),
        answered(200, {"result": {"action": "stop"}}),
        answered(200, b'"stop"'),
        answered(200, b"action=stop"),
        answered(200, b' {"action": "stop"', content_type="application/json"),
        answered(200, b'{"action": "stop"}', size=70_000),
    ],
)
def test_what_is_not_exactly_a_stop_is_none(answer: Answered) -> None:
    assert decide(answer, now_ms=NOW) == Success()


def test_a_stop_carries_the_reason_cleaned() -> None:
    decision = decide(answered(200, {"action": "stop", "reason": "order\r\n\x1b[31m cancelled\ud800\x00"}), now_ms=NOW)
    assert decision == Stop("the receiver said stop: order [31m cancelled")
    assert decide(answered(410), now_ms=NOW) == Stop("the receiver answered 410")
    assert decide(answered(200, {"action": "stop", "reason": 5}), now_ms=NOW) == Stop("the receiver said stop")
    long = decide(answered(200, {"action": "stop", "reason": "x" * 9000}), now_ms=NOW)
    assert isinstance(long, Stop)
    assert len(long.reason) < 600


@pytest.mark.parametrize("status", [200, 302, 400, 500, 503])
@pytest.mark.parametrize(
    ("seconds", "ms"), [(30, 30_000), (1.5, 1500), (0, 1000), (0.2, 1000), (7200, 3_600_000), (10**300, 3_600_000)]
)
def test_retry_after_in_the_body_defers_with_any_status(status: int, seconds: float, ms: int) -> None:
    decision = decide(answered(status, {"action": "retry", "retry_after": seconds}), now_ms=NOW)
    assert isinstance(decision, Deferred)
    assert (decision.until_ms, decision.status_code_503) == (NOW + ms, status == 503)


@pytest.mark.parametrize(
    "unclear", [b"true", b'"30"', b"-1", b"-0.5", b"NaN", b"Infinity", b"1e999", b"null", b"[30]", b"{}"]
)
def test_an_unclear_retry_after_is_a_plain_retry(unclear: bytes) -> None:
    body = b'{"action": "retry", "retry_after": %b}' % unclear
    assert decide(answered(200, body), now_ms=NOW) == Retry(
        ExecutionStatus.RETRY, "the receiver asked for another attempt"
    )
    assert decide(answered(500, body), now_ms=NOW) == Retry(ExecutionStatus.HTTP_ERROR, "the receiver answered 500")


def test_retry_on_2xx_is_a_failed_attempt_with_its_reason() -> None:
    decision = decide(answered(200, {"action": "retry", "reason": "not yet"}), now_ms=NOW)
    assert decision == Retry(ExecutionStatus.RETRY, "the receiver asked for another attempt: not yet")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("30", 30_000),
        (" 30 ", 30_000),
        ("1.5", 1500),
        ("0", MIN_DEFERRAL_MS),
        ("86400", MAX_DEFERRAL_MS),
        ("9" * 5000, MAX_DEFERRAL_MS),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60_000),
        ("Wednesday, 21-Oct-15 07:28:00 GMT", 60_000),
        ("Wed Oct 21 07:28:00 2015", 60_000),
        ("Wed, 21 Oct 2015 07:20:00 GMT", MIN_DEFERRAL_MS),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_DEFERRAL_MS),
    ],
)
def test_retry_after_header_defers(status: int, value: str, ms: int) -> None:
    decision = decide(answered(status, b"busy", retry_after=value), now_ms=NOW)
    assert isinstance(decision, Deferred)
    assert decision.status is ExecutionStatus.DEFERRED
    assert (decision.until_ms - NOW, decision.status_code_503) == (ms, status == 503)


@pytest.mark.parametrize(
    "value", ["", "-5", "soon", "1e3", "0x10", "٣٠", "+5", "Wed, 99 Oct 2015 07:28:00 GMT", "30, 60", "inf"]
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_that_is_none_leaves_the_status(status: int, value: str) -> None:
    decision = decide(answered(status, retry_after=value), now_ms=NOW)
    assert isinstance(decision, Retry)
    assert decision.status is ExecutionStatus.HTTP_ERROR


def test_retry_after_counts_only_with_429_and_503() -> None:
    for status in (200, 302, 400, 408, 500, 502):
        assert not isinstance(decide(answered(status, retry_after="30"), now_ms=NOW), Deferred)


def test_the_body_goes_before_the_header() -> None:
    decision = decide(answered(503, {"action": "retry", "retry_after": 7}, retry_after="60"), now_ms=NOW)
    assert isinstance(decision, Deferred)
    assert decision.until_ms == NOW + 7000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"action": "stop", "n": ' + b"1" * 5000 + b"}",
        b'{"action": "stop", "bad": "\xff\xfe"}',
        b"\xff\xfe\x00",
        b"{",
        b"",
        b" \r\n\t",
    ],
)
def test_json_bombs_and_garbage_say_nothing(body: bytes) -> None:
    assert decide(answered(200, body, content_type="application/json"), now_ms=NOW) == Success()
    assert isinstance(decide(answered(500, body, content_type="application/json"), now_ms=NOW), Retry)


def test_a_body_is_json_by_its_type_or_its_first_letter() -> None:
    for answer in (
        answered(200, b'  \n{"action":"stop"}'),
        answered(200, b'{"action":"stop"}', content_type="text/plain"),
        answered(200, b'{"action":"stop"}', content_type="Application/Problem+JSON; charset=utf-8"),
        answered(200, '{"action":"stop"}'.encode("utf-16"), content_type="application/json"),
    ):
        assert isinstance(decide(answer, now_ms=NOW), Stop)


@given(st.integers(200, 999), st.binary(max_size=60), st.text(max_size=40), st.text(max_size=30))
def test_no_answer_makes_it_raise(status: int, body: bytes, retry_after: str, content_type: str) -> None:
    for data in (body, b"{" + body, b'{"action": ' + body + b"}", b'{"action":"retry","retry_after":' + body + b"}"):
        decision = decide(answered(status, data, retry_after=retry_after, content_type=content_type), now_ms=NOW)
        if isinstance(decision, Deferred):
            assert NOW + MIN_DEFERRAL_MS <= decision.until_ms <= NOW + MAX_DEFERRAL_MS


DATE_WORDS = st.sampled_from(
    [
        "Wed,",
        "Wed",
        "21",
        "Oct",
        "2015",
        "07:28:00",
        "GMT",
        "-0000",
        "+9999",
        "99",
        "0",
        "00:00:60",
        "-",
        "31-Dec-99",
        "24:00",
    ]
)


@given(st.lists(DATE_WORDS, max_size=8).map(" ".join) | st.text(max_size=50))
def test_any_retry_after_parses_or_is_none(value: str) -> None:
    until_ms = parse_retry_after(value, now_ms=NOW)
    assert until_ms is None or isinstance(until_ms, int)


@given(st.text())
def test_printable_text_is_one_line_that_encodes(text: str) -> None:
    clean = printable(text)
    assert len(clean.splitlines()) <= 1
    assert "\x00" not in clean
    assert clean.encode().decode() == clean
