"""What an answer means: the table of CONTRACT.md §4 as a pure function from an exchange to a decision.

Precedence, first match wins:

1. no answer (timeout, connection, TLS or DNS fault, blocked, not HTTP, too large) is a failed attempt;
2. *stop*, said in any way and with any status: 410, 489, `X-TaskCenter-Action: stop`, `webhook-delivery:
   abort-message`, or `{"action": "stop"}` in a JSON body;
3. *later*: `{"action": "retry", "retry_after": seconds}` with any status, else 429 or 503 with `Retry-After` (seconds
   or an HTTP date). The body goes before the header: it was written by the receiver, not by a proxy before it. Clamped
   to 1 s … 1 h from now;
4. `{"action": "retry"}` with a 2xx is a failed attempt;
5. 2xx is a success, everything else a failed attempt (redirects are not followed).

A body counts as JSON when `Content-Type` says so or it starts with `{`, and when all of it was kept (64 KiB). One that
does not parse, is nested too deeply or is no object says nothing: the status decides. `retry_after` counts only as a
finite number that is not negative; a string, a boolean, NaN or -1 leaves a plain "retry".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, assert_never

from taskcenter.actors.egress.exchange import Answered, Exchange, Faulted
from taskcenter.store.records import ExecutionStatus
from taskcenter.values import value_class

MIN_DEFERRAL_MS: Final = 1_000
MAX_DEFERRAL_MS: Final = 3_600_000
MAX_REASON_CHARS: Final = 500

STOP_STATUSES: Final = frozenset({410, 489})
DEFER_STATUSES: Final = frozenset({429, 503})

_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]*)?")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_FAULT_STATUS: Final = {
    "timeout": ExecutionStatus.TIMEOUT,
    "connection_error": ExecutionStatus.CONNECTION_ERROR,
    "blocked": ExecutionStatus.BLOCKED,
    "invalid_response": ExecutionStatus.INVALID_RESPONSE,
}


@value_class(frozen=True, slots=True)
class Success:
    """The receiver took it."""

    status: ExecutionStatus = ExecutionStatus.SUCCESS
    reason: str | None = None


@value_class(frozen=True, slots=True)
class Retry:
    """A failed attempt. `reason` is the execution's `error_message`."""

    status: ExecutionStatus  # RETRY | HTTP_ERROR | TIMEOUT | CONNECTION_ERROR | BLOCKED | INVALID_RESPONSE
    reason: str


@value_class(frozen=True, slots=True)
class Deferred:
    """Send it again, not before `until_ms` (ms since 1970)."""

    until_ms: int
    status_code_503: bool  # the receiver is out of service, not merely busy: a breaker may count it
    reason: str
    status: ExecutionStatus = ExecutionStatus.DEFERRED


@value_class(frozen=True, slots=True)
class Stop:
    """No further attempt."""

    reason: str
    status: ExecutionStatus = ExecutionStatus.STOP


Decision = Success | Retry | Deferred | Stop


def decide(exchange: Exchange, *, now_ms: int) -> Decision:
    """What `exchange`, ended at `now_ms` (ms since 1970), means for the task. Never raises for what a receiver says."""
    match exchange:
        case Faulted(kind=kind, message=message):
            return Retry(_FAULT_STATUS[kind], message)
        case Answered():
            return _decide_answer(exchange, now_ms)
        case _:
            assert_never(exchange)


def _decide_answer(answer: Answered, now_ms: int) -> Decision:
    status = answer.status
    said = _said(answer)
    action = said.get("action")
    if status in STOP_STATUSES or action == "stop" or _stop_header(answer):
        return Stop(_stop_reason(status, said))
    if action == "retry" and (delay_ms := _delay_ms(said.get("retry_after"))) is not None:
        return _deferred(now_ms + delay_ms, now_ms, status, "the receiver asked for another attempt later")
    if status in DEFER_STATUSES:
        until_ms = parse_retry_after(answer.header("retry-after"), now_ms=now_ms)
        if until_ms is not None:
            return _deferred(until_ms, now_ms, status, f"the receiver answered {status} with Retry-After")
    if 200 <= status < 300:
        if action == "retry":
            return Retry(ExecutionStatus.RETRY, _with_reason("the receiver asked for another attempt", said))
        return Success()
    if 300 <= status < 400:
        return Retry(ExecutionStatus.HTTP_ERROR, f"the receiver answered {status}; redirects are not followed")
    return Retry(ExecutionStatus.HTTP_ERROR, f"the receiver answered {status}")


def parse_retry_after(value: str | None, *, now_ms: int) -> int | None:
    """The moment (ms since 1970) that a `Retry-After` header names (RFC 9110 §10.2.3); None if it names none."""
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return now_ms + MAX_DEFERRAL_MS if len(text) > 15 else now_ms + round(float(text) * 1000)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError):
        return None


def _deferred(until_ms: int, now_ms: int, status: int, reason: str) -> Deferred:
    clamped = min(max(until_ms, now_ms + MIN_DEFERRAL_MS), now_ms + MAX_DEFERRAL_MS)
    return Deferred(clamped, status == 503, f"{reason} (in {(clamped - now_ms) / 1000:g} s)")


def _delay_ms(seconds: Any) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    if isinstance(seconds, float) and not math.isfinite(seconds):
        return None
    if seconds < 0:
        return None
    return round(min(seconds, MAX_DEFERRAL_MS / 1000) * 1000)


def _stop_header(answer: Answered) -> bool:
    for name, value in answer.headers:
        if name == "x-taskcenter-action" and value.strip().lower() == "stop":
            return True
        if name == "webhook-delivery" and value.strip().lower() == "abort-message":
            return True
    return False


def _stop_reason(status: int, said: Mapping[str, Any]) -> str:
    text = f"the receiver answered {status}" if status in STOP_STATUSES else "the receiver said stop"
    return _with_reason(text, said)


def _with_reason(text: str, said: Mapping[str, Any]) -> str:
    reason = said.get("reason")
    return f"{text}: {printable(reason)}" if isinstance(reason, str) and reason else text


def printable(text: str) -> str:
    """A stranger's text, fit for one line of a log and for any database: no control character, no lone surrogate."""
    return _UNPRINTABLE.sub(" ", text[:MAX_REASON_CHARS]).strip()


def _said(answer: Answered) -> Mapping[str, Any]:
    """The JSON object in the body, or an empty one."""
    body = answer.body
    if not body or answer.body_size != len(body):
        return {}
    if not body.lstrip().startswith(b"{") and not _is_json(answer.header("content-type")):
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError and the limit on digits are ValueErrors
        return {}
    return value if isinstance(value, dict) else {}


def _is_json(content_type: str | None) -> bool:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")
