"""What goes to the receiver: body and headers of CONTRACT.md §4. Pure, so that a table can test every byte."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from taskcenter import __version__
from taskcenter.actors.signing import SigningSecret, sign
from taskcenter.store.records import Task, TaskKind
from taskcenter.times import format_time

USER_AGENT: Final = f"TaskCenter/{__version__}"
BODILESS: Final = frozenset({"GET", "DELETE"})
PAYLOAD_HEADER: Final = "X-TaskCenter-Payload"
MAX_HEADER_PAYLOAD: Final = 4096  # characters: receivers take lines of 8 KiB, some a head of 8 KiB in all
HIDDEN: Final = "***"
_SECRET_HEADER: Final = re.compile(r"(?i)(auth|cookie|token|secret|key|password|signature)")
_OUR_KEYS: Final = frozenset({"idempotency-key"})
_quoted: Final = json.JSONEncoder(ensure_ascii=False).encode


def webhook_id(task: Task) -> str:
    """The same for every attempt of a run; no dot in it (Standard Webhooks)."""
    return f"{task.id}-{task.run}"


def body_of(task: Task) -> bytes:
    """The request's body; empty for GET and DELETE. A finish call carries its payload bare."""
    if task.callback_method in BODILESS:
        return b""
    if task.kind is TaskKind.FINISH:
        return task.payload
    head = (
        f'{{"task_id":"{task.id}","business_code":{json.dumps(task.business_code)},'
        f'"business_id":{_quoted(task.business_unique_id)},"attempt":{task.current_retry + 1},'
        f'"max_attempts":{task.max_retries + 1},"run":{task.run},'
        f'"scheduled_at":"{format_time(task.scheduled_at)}","payload":'
    )
    return b"%b%b}" % (head.encode(), task.payload)


def headers_of(
    task: Task, body: bytes, secrets: Sequence[SigningSecret], now_ms: int, traceparent: str
) -> list[tuple[str, str]]:
    """The task's own headers, then ours; the caller's names were checked at creation not to clash with ours."""
    message_id = webhook_id(task)
    timestamp_s = now_ms // 1000
    headers = [*task.headers.items()]
    if body:
        headers.append(("Content-Type", "application/json"))
    headers += [
        ("User-Agent", USER_AGENT),
        ("webhook-id", message_id),
        ("webhook-timestamp", str(timestamp_s)),
        ("webhook-signature", sign(secrets, message_id, timestamp_s, body)),
        ("Idempotency-Key", message_id),
        ("X-TaskCenter-Task-Id", task.id),
        ("X-TaskCenter-Business-Id", _header_text(task.business_unique_id)),
        ("X-TaskCenter-Attempt", str(task.current_retry + 1)),
        ("X-TaskCenter-Due", str(task.scheduled_at)),
        ("X-TaskCenter-Term", str(task.term)),
        ("traceparent", traceparent),
    ]
    if task.doubtful:
        headers.append(("X-TaskCenter-Redelivery", "possible-duplicate"))
    if task.callback_method in BODILESS:
        headers += _body_fields(task)
    return headers


def _header_text(text: str) -> str:
    """Percent-encoded where it is not plain ASCII, or a space at an end, which HTTP would strip."""
    quoted = quote(text, safe=_PLAIN)
    inner = quoted.strip(" ")
    at = quoted.find(inner)
    return f"{'%20' * at}{inner}{'%20' * (len(quoted) - at - len(inner))}"


_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def _body_fields(task: Task) -> list[tuple[str, str]]:
    fields = [
        ("X-TaskCenter-Business-Code", task.business_code),
        ("X-TaskCenter-Max-Attempts", str(task.max_retries + 1)),
        ("X-TaskCenter-Run", str(task.run)),
        ("X-TaskCenter-Scheduled-At", format_time(task.scheduled_at)),
    ]
    return [*fields, (PAYLOAD_HEADER, header_payload(task.payload))]


def header_payload(payload: bytes) -> str:
    """The payload as a header's value: JSON in ASCII, anything else as `\\uXXXX`."""
    return json.dumps(json.loads(payload), separators=(",", ":"))


def masked(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """For the history: names that sound like a secret keep no value."""
    return {name: HIDDEN if _sounds_secret(name) else value for name, value in headers}


@lru_cache(maxsize=1024)
def _sounds_secret(name: str) -> bool:
    return _SECRET_HEADER.search(name) is not None and name.lower() not in _OUR_KEYS
