"""What the tests of the SQL store share: values to put in, and a store to put them into."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from taskcenter.ids import encode
from taskcenter.store.audit import verify
from taskcenter.store.connection import Connection, Database, Param, Row
from taskcenter.store.engine_records import ClaimRequest, Move, Outcome
from taskcenter.store.records import (
    Business,
    BusinessStatus,
    Created,
    Credential,
    Execution,
    ExecutionStatus,
    NewAuditEntry,
    NewTask,
    SigningSecret,
    Task,
)
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.vault import Vault
from taskcenter.task import ACTIVE, TERMINAL, Status, shard_of

NOW = 1_800_000_000_000
KEY = ("k1", bytes(range(32)))
BUSINESS = 7
CODE = "shop"
SHARD = shard_of(CODE)
TERM = 1
LIMIT = 10_000
_numbers = itertools.count(1)


def vault() -> Vault:
    return Vault([KEY])


def new_id(at: int = NOW) -> str:
    """Born at `at`; within a ms in the order of the calls."""
    return encode((at << 80) | next(_numbers))


def audit_entry(action: str = "task.create", business_id: int = BUSINESS, **given: Any) -> NewAuditEntry:
    fields: dict[str, Any] = {
        "at": NOW,
        "actor_kind": "api_key",
        "actor_key_id": "key-1",
        "target": "t",
        "result": "ok",
        "ip": "127.0.0.1",
        "request_id": "r-1",
    }
    return NewAuditEntry(business_id=business_id, action=action, **(fields | given))


def new_task(unique_id: str | None = None, *, at: int = NOW, **given: Any) -> NewTask:
    task_id = new_id(at)
    fields: dict[str, Any] = {
        "id": task_id,
        "business_id": BUSINESS,
        "business_code": CODE,
        "shard": SHARD,
        "business_unique_id": unique_id or f"order-{task_id}",
        "request_hash": bytes(32),
        "callback_url": "http://127.0.0.1:9/hook",
        "callback_host": "127.0.0.1:9",
        "callback_method": "POST",
        "headers": {"X-Own": "é'\"\\"},
        "payload": b'{"n": 1}',
        "retry_intervals_ms": (1_000, 60_000),
        "timeout_ms": 5_000,
        "due_at": at,
        "created_at": at,
    }
    return NewTask(**(fields | given))


def business(business_id: int = BUSINESS, code: str = CODE, **given: Any) -> Business:
    fields: dict[str, Any] = {
        "name": "Ein Geschäft",
        "shard": shard_of(code),
        "status": BusinessStatus.ACTIVE,
        "rate_limit": 1_000,
        "max_concurrent_tasks": 50,
        "max_active_tasks": LIMIT,
        "default_timeout_ms": 30_000,
        "breaker": {"enabled": True},
        "host_limits": {},
        "version": 1,
        "created_at": NOW,
        "updated_at": NOW,
        "last_access_at": None,
    }
    return Business(id=business_id, code=code, **(fields | given))


def credential(key_id: str = "key-1", business_id: int = BUSINESS, **given: Any) -> Credential:
    fields: dict[str, Any] = {"secret_hash": b"h" * 32, "created_at": NOW, "expires_at": NOW + 1_000_000}
    return Credential(key_id, business_id, **(fields | given))


def signing_secret(secret_id: str = "sec-1", business_id: int = BUSINESS, **given: Any) -> SigningSecret:
    fields: dict[str, Any] = {"secret": "whsec_" + secret_id, "created_at": NOW, "expires_at": None}
    return SigningSecret(secret_id, business_id, **(fields | given))


async def add_business(store: SqlStore, business_id: int = BUSINESS, code: str = CODE) -> None:
    await store.businesses.create(
        business(business_id, code),
        credential(f"key-{business_id}", business_id),
        signing_secret(f"sec-{business_id}", business_id),
        audit_entry("business.create", business_id),
    )


@asynccontextmanager
async def opened_store(url: str, **given: Any) -> AsyncIterator[SqlStore]:
    store = open_store(url, vault(), **given)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


# --- short ways to a state -----------------------------------------------------------------------------------------


async def create(store: SqlStore, *tasks: NewTask, limit: int = LIMIT) -> list[Task]:
    limits = dict.fromkeys({task.business_id for task in tasks}, limit)
    results = await store.tasks.create(tasks, limits, [None] * len(tasks), NOW)
    made = [result.task for result in results if isinstance(result, Created)]
    assert len(made) == len(tasks), results
    return made


async def own_shards(store: SqlStore, shards: Sequence[int] = (SHARD,), instance: str = "one") -> dict[int, int]:
    await store.leases.register(instance, address=None, host_identity=instance, ttl_ms=60_000)
    return await store.leases.acquire(instance, shards)


def request(task: Task, term: int = TERM, **given: Any) -> ClaimRequest:
    return replace(ClaimRequest(task.id, task.version, task.shard, term), **given)


async def claim(store: SqlStore, task: Task, term: int = TERM, now: int = NOW) -> Task:
    (claimed,) = await store.engine.claim([request(task, term)], now)
    return claimed


def execution(task: Task, status: ExecutionStatus = ExecutionStatus.SUCCESS, **given: Any) -> Execution:
    fields: dict[str, Any] = {
        "task_id": task.id,
        "business_id": task.business_id,
        "number": task.sends,
        "run": task.run,
        "attempt": task.current_retry + 1,
        "term": task.term,
        "scheduled_at": task.scheduled_at,
        "started_at": task.scheduled_at + 3,
        "duration_ms": 12.5,
        "lateness_ms": 3.25,
        "status": status,
        "response_status": 200,
        "response_headers": {"Content-Type": "text/plain"},
        "response_body": b"ok\n\xff",
        "error_message": None,
        "request_headers": {"webhook-id": f"{task.id}-1"},
        "wait_reason": "rate_limit",
        "policy_wait_ms": 2.5,
    }
    return Execution(**(fields | given))


def move(task: Task, status: Status, **given: Any) -> Move:
    fields: dict[str, Any] = {
        "current_retry": task.current_retry,
        "deferrals": task.deferrals,
        "run": task.run,
        "runs_done": task.runs_done,
    }
    return Move(status=status, **(fields | given))


def outcome(task: Task, to: Move | None = None, **given: Any) -> Outcome:
    """What became of a claimed task; a success unless told otherwise."""
    fields: dict[str, Any] = {
        "task_id": task.id,
        "business_id": task.business_id,
        "version": task.version,
        "term": task.term,
        "sends": task.sends,
        "execution": execution(task),
        "move": to or move(task, Status.SUCCEEDED),
    }
    return Outcome(**(fields | given))


async def fetch(database: Database, sql: str, params: Sequence[Param] = ()) -> list[Row]:
    async def work(connection: Connection) -> list[Row]:
        return await connection.fetch(sql, params)

    return await database.read(work)


def database_of(store: SqlStore) -> Database:
    """The store's own connections, for a look at what it wrote."""
    return store._database  # a test looks behind the verbs at the rows


async def check_books(store: SqlStore, business_id: int = BUSINESS) -> None:
    """The ledger says what the rows say, the tags are those of the tasks, the audit chain holds."""
    counters = await store.businesses.counters(business_id)
    rows = await fetch(
        database_of(store),
        "SELECT status, COUNT(*) FROM tasks WHERE kind = 'callback' AND business_id = ? GROUP BY status",
        (business_id,),
    )
    found = {Status(word): number for word, number in rows}
    assert counters.created == sum(found.values())
    assert counters.active == sum(found.get(status, 0) for status in ACTIVE)
    for status in TERMINAL:
        assert getattr(counters, status.value) == found.get(status, 0)
    ((attempts,),) = await fetch(
        database_of(store),
        "SELECT COUNT(*) FROM task_executions e JOIN tasks t ON t.id = e.task_id"
        " WHERE e.business_id = ? AND t.kind = 'callback'",
        (business_id,),
    )
    assert counters.callbacks == attempts
    entries = await store.audit.page(business_id, None, 100_000)
    assert verify(reversed(entries)) is None
