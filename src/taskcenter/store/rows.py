"""Values to rows and back: what is sealed is sealed and opened here, and nowhere else.

A sealed value is bound to its place, `<table>.<column>:<key>`, so a ciphertext that was moved to another row does not
open. JSON text is compact UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from taskcenter.store.callback_credentials import AUTH_COLUMN, TLS_COLUMN, open_auth, open_tls, seal
from taskcenter.store.connection import Param, Row
from taskcenter.store.records import (
    Business,
    BusinessStatus,
    Credential,
    Execution,
    ExecutionStatus,
    NewTask,
    SigningSecret,
    Task,
    TaskKind,
)
from taskcenter.store.vault import Unsealable, Vault
from taskcenter.task import FinishReason, FlowLimit, Status, TaskRef

STATUSES: Final = {status.value: status for status in Status}
KINDS: Final = {kind.value: kind for kind in TaskKind}
REASONS: Final[dict[str | None, FinishReason | None]] = {None: None, **{word.value: word for word in FinishReason}}
EXECUTION_STATUSES: Final = {status.value: status for status in ExecutionStatus}
ERROR_CHARACTERS: Final = 1024
HIDDEN: Final = b"\0"  # before the unique id of a finish task: no user's id can have it


def to_json(value: Any) -> str:
    return _encode(value)


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def optional_json(value: Any) -> str | None:
    """None for None and for what is empty."""
    return to_json(value) if value else None


def clipped(text: str | None, characters: int = ERROR_CHARACTERS) -> str | None:
    return text if text is None or len(text) <= characters else text[: characters - 1] + "…"


# --- tasks ---------------------------------------------------------------------------------------------------------


def unique_key(unique_id: str, kind: TaskKind) -> bytes:
    key = unique_id.encode()
    return HIDDEN + key if kind is TaskKind.FINISH else key


def seal_headers(headers: Mapping[str, str], task_id: str, vault: Vault) -> bytes | None:
    return vault.seal(to_json(dict(headers)).encode(), f"tasks.headers:{task_id}") if headers else None


def seal_payload(payload: bytes, task_id: str, vault: Vault) -> bytes:
    return vault.seal(payload, f"tasks.payload:{task_id}")


def seal_request_hash(request_hash: bytes, task_id: str, vault: Vault) -> bytes:
    """Sealed too: whoever has the rest of a row could try payloads against a bare hash."""
    return vault.seal(request_hash, f"tasks.request_hash:{task_id}")


def open_request_hash(sealed: bytes, task_id: str, vault: Vault) -> bytes:
    """Empty, so equal to none, when no key opens it."""
    try:
        return vault.open(sealed, f"tasks.request_hash:{task_id}")
    except Unsealable:
        return b""


def new_task_row(task: NewTask, vault: Vault) -> tuple[Param, ...]:
    """A born task in the order of `statements.tasks.INSERT_COLUMNS`."""
    return (
        task.id, task.business_id, task.business_code.encode(), task.shard,
        unique_key(task.business_unique_id, task.kind), task.callback_url, task.callback_host, task.callback_method,
        seal_headers(task.headers, task.id, vault), seal_payload(task.payload, task.id, vault),
        to_json(task.retry_intervals_ms), task.timeout_ms, optional_json(task.schedule), task.deadline_at,
        task.finish_url, optional_json(task.tags), task.flow_key, optional_json(task.flow_limit), task.kind.value,
        task.due_at, task.due_at, task.due_at, task.created_at, task.created_at,
        seal_request_hash(task.request_hash, task.id, vault), len(task.retry_intervals_ms),
    )  # fmt: skip


def born(task: NewTask) -> Task:
    """What `new_task_row` reads back as."""
    return Task(
        task.id, task.business_id, task.business_code, task.shard, task.business_unique_id, task.callback_url,
        task.callback_host, task.callback_method, task.headers, task.payload, task.retry_intervals_ms, task.timeout_ms,
        task.schedule, task.deadline_at, task.finish_url, task.tags, task.flow_key, task.flow_limit, task.kind,
        Status.PENDING, None, 0, 0, 0, False, False, 1, 0, 0, 0, task.due_at, task.due_at, task.due_at, 1, None,
        task.created_at, task.created_at, None,
    )  # fmt: skip


def open_task(row: Row, vault: Vault | None) -> Task:
    """A row of `statements.tasks.COLUMNS`. Raises `Unsealable`; without a vault headers and payload stay empty."""
    (
        task_id, business_id, code, shard, unique, url, host, method, headers, payload, retries, timeout_ms, schedule,
        deadline_at, finish_url, tags, flow_key, flow_limit, kind_word, status, reason, retry,
        deferrals, interruptions, doubtful, manual, *rest,
    ) = row  # fmt: skip
    kind = KINDS[kind_word]
    opened: Mapping[str, str] = {}
    if vault is not None and headers is not None:
        opened = json.loads(vault.open(headers, f"tasks.headers:{task_id}"))
    return Task(
        task_id, business_id, code.decode(), shard,
        unique.removeprefix(HIDDEN).decode() if kind is TaskKind.FINISH else unique.decode(),
        url, host, method, opened, b"" if vault is None else vault.open(payload, f"tasks.payload:{task_id}"),
        tuple(json.loads(retries)), timeout_ms, json.loads(schedule) if schedule else None, deadline_at, finish_url,
        tuple(json.loads(tags)) if tags else (), flow_key, json.loads(flow_limit) if flow_limit else None, kind,
        STATUSES[status], REASONS[reason], retry, deferrals, interruptions, bool(doubtful), bool(manual), *rest,
    )  # fmt: skip


def ref_of(row: Row) -> TaskRef:
    """A row of `statements.engine.REF_COLUMNS`."""
    *most, flow_limit = row
    ref = TaskRef(*most)
    return ref if flow_limit is None else replace(ref, flow_limit=_flow_limit(flow_limit))


@lru_cache(maxsize=4096)
def _flow_limit(text: str) -> FlowLimit | None:
    """One object for all references with the same limit."""
    return FlowLimit.of(json.loads(text))


# --- executions ----------------------------------------------------------------------------------------------------


def execution_row(execution: Execution, now: int, vault: Vault) -> tuple[Param, ...]:
    """In the order of `statements.tasks.EXECUTION_COLUMNS`."""
    e = execution
    request = response = None
    if e.request_headers:
        request = vault.seal(to_json(dict(e.request_headers)).encode(), f"task_executions.request_data:{e.id}")
    if e.response_headers or e.response_body is not None:
        head = to_json([dict(e.response_headers), e.response_body is not None]).encode()
        response = vault.seal(head + b"\n" + (e.response_body or b""), f"task_executions.response_data:{e.id}")
    return (
        e.task_id, e.number, e.business_id, e.run, e.attempt, e.term, e.status.value, e.scheduled_at, e.started_at,
        float(e.duration_ms), float(e.lateness_ms), float(e.policy_wait_ms), e.wait_reason, request,
        e.response_status, response, clipped(e.error_message), now,
    )  # fmt: skip


def open_execution(row: Row, vault: Vault | None) -> Execution:
    """A row of `statements.tasks.EXECUTION_COLUMNS`. Raises `Unsealable`; without a vault its data stay empty."""
    (
        task_id, number, business_id, run, attempt, term, status, scheduled_at, started_at, duration_ms, lateness_ms,
        policy_wait_ms, wait_reason, request, response_status, response, error, _created_at,
    ) = row  # fmt: skip
    name = f"{task_id}-{number}"
    request_headers: Mapping[str, str] = {}
    response_headers: Mapping[str, str] = {}
    body: bytes | None = None
    if vault is not None and request is not None:
        request_headers = json.loads(vault.open(request, f"task_executions.request_data:{name}"))
    if vault is not None and response is not None:
        head, _, rest = vault.open(response, f"task_executions.response_data:{name}").partition(b"\n")
        response_headers, has_body = json.loads(head)
        body = rest if has_body else None
    return Execution(
        task_id, business_id, number, run, attempt, term, scheduled_at, started_at, duration_ms, lateness_ms,
        EXECUTION_STATUSES[status], response_status, response_headers, body, error, request_headers, wait_reason,
        policy_wait_ms,
    )  # fmt: skip


# --- businesses ----------------------------------------------------------------------------------------------------


def business_row(business: Business, vault: Vault) -> tuple[Param, ...]:
    """In the order of `statements.businesses.COLUMNS`."""
    b = business
    return (
        b.id, b.code.encode(), b.name, b.shard, b.status.value, b.rate_limit, b.max_concurrent_tasks,
        b.max_active_tasks, b.default_timeout_ms, to_json(dict(b.breaker)), to_json(dict(b.host_limits)), b.version,
        b.created_at, b.updated_at, b.last_access_at, *sealed_credentials(b, vault),
    )  # fmt: skip


def sealed_credentials(business: Business, vault: Vault) -> tuple[bytes | None, bytes | None]:
    """`callback_auth`, `callback_tls`."""
    return (
        seal(business.callback_auth, AUTH_COLUMN, business.id, vault),
        seal(business.callback_tls, TLS_COLUMN, business.id, vault),
    )


def open_business(row: Row, vault: Vault) -> Business:
    """A row of `statements.businesses.COLUMNS`. A credential for callbacks that no key opens is `Unreadable`."""
    (
        business_id, code, name, shard, status, rate_limit, max_concurrent_tasks, max_active_tasks, timeout_ms, breaker,
        host_limits, version, created_at, updated_at, last_access_at, auth, tls,
    ) = row  # fmt: skip
    return Business(
        business_id, code.decode(), name, shard, BusinessStatus(status), rate_limit, max_concurrent_tasks,
        max_active_tasks, timeout_ms, json.loads(breaker), json.loads(host_limits), version, created_at, updated_at,
        last_access_at, open_auth(auth, business_id, vault), open_tls(tls, business_id, vault),
    )  # fmt: skip


def credential_row(credential: Credential) -> tuple[Param, ...]:
    c = credential
    return (c.key_id, c.business_id, c.secret_hash, c.created_at, c.expires_at, c.revoked_at, c.last_used_at)


def secret_row(secret: SigningSecret, vault: Vault) -> tuple[Param, ...]:
    s = secret
    sealed = vault.seal(s.secret.encode(), f"signing_secrets.secret:{s.id}")
    return (s.id, s.business_id, sealed, s.created_at, s.expires_at)


def open_secret(row: Sequence[Any], vault: Vault) -> SigningSecret:
    secret_id, business_id, sealed, created_at, expires_at = row
    opened = vault.open(sealed, f"signing_secrets.secret:{secret_id}").decode()
    return SigningSecret(secret_id, business_id, opened, created_at, expires_at)
