"""The first schema: businesses, tasks, history, audit, leases; 256 shard rows and the system's own ledger.

Every step is skipped when its work is there already: MySQL commits each CREATE by itself, so a run that was cut off
is simply run again.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SERVERS = ("mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_row_format": "DYNAMIC",
}  # fmt: skip
TABLES = (
    "business_systems", "credentials", "signing_secrets", "business_ledger", "tasks", "task_tags", "task_executions",
    "cancelled_attempts", "audit_log", "shards", "instances", "meta",
)  # fmt: skip


def word(length: int) -> Any:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), *SERVERS)


def text(length: int) -> Any:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *SERVERS)


def binary(length: int) -> Any:
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), *SERVERS)


ID = sa.CHAR(26).with_variant(mysql.CHAR(26, charset="ascii", collation="ascii_bin"), *SERVERS)
DOCUMENT = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *SERVERS)
BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *SERVERS)


def key(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, nullable=False, autoincrement=False)


def required(name: str, kind: Any, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, server_default=default)


def optional(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def table(name: str, *items: sa.schema.SchemaItem) -> None:
    """The table with its indexes, or what of them is missing."""
    op.create_table(name, *(item for item in items if not isinstance(item, sa.Index)), if_not_exists=True, **OPTIONS)
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(name)}
    for item in items:
        if isinstance(item, sa.Index) and item.name not in there:
            op.create_index(item.name, name, list(item.expressions))


def upgrade() -> None:
    businesses()
    tasks()
    history()
    cluster()
    rows()


def businesses() -> None:
    table(
        "business_systems",
        key("id", sa.BigInteger),
        required("business_code", binary(64)),
        required("business_name", text(255)),
        required("rate_limit", sa.Integer),
        required("max_concurrent_tasks", sa.Integer),
        required("max_active_tasks", sa.Integer),
        required("default_timeout_ms", sa.Integer),
        required("breaker", DOCUMENT),
        required("host_limits", DOCUMENT),
        required("shard", sa.SmallInteger),
        required("status", word(16)),
        required("version", sa.BigInteger),
        required("created_at", sa.BigInteger),
        required("updated_at", sa.BigInteger),
        optional("last_access_at", sa.BigInteger),
        optional("callback_auth", BLOB),
        optional("callback_tls", BLOB),
        sa.UniqueConstraint("business_code", name="uq_business_systems_code"),
        sa.Index("ix_business_systems_shard", "shard"),
        sa.Index("ix_business_systems_updated", "updated_at"),
    )
    table(
        "credentials",
        key("key_id", word(64)),
        required("business_id", sa.BigInteger),
        required("secret_hash", binary(64)),
        required("created_at", sa.BigInteger),
        required("expires_at", sa.BigInteger),
        optional("revoked_at", sa.BigInteger),
        optional("last_used_at", sa.BigInteger),
        sa.Index("ix_credentials_business", "business_id", "created_at"),
    )
    table(
        "signing_secrets",
        key("id", word(64)),
        required("business_id", sa.BigInteger),
        required("secret", binary(1024)),
        required("created_at", sa.BigInteger),
        optional("expires_at", sa.BigInteger),
        sa.Index("ix_signing_secrets_business", "business_id", "created_at"),
    )
    counters = ("active", "created", "succeeded", "failed", "stopped", "cancelled", "callbacks", "audit_seq")
    table(
        "business_ledger",
        key("business_id", sa.BigInteger),
        *(required(name, sa.BigInteger, "0") for name in counters),
        required("audit_head", binary(32)),
    )


def tasks() -> None:
    table(
        "tasks",
        key("id", ID),
        required("business_id", sa.BigInteger),
        required("business_code", binary(64)),
        required("shard", sa.SmallInteger),
        required("business_unique_id", binary(513)),
        required("request_hash", binary(128)),
        required("callback_url", text(2048)),
        required("callback_host", text(255)),
        required("callback_method", word(8)),
        optional("headers", BLOB),
        required("payload", BLOB),
        required("retry_intervals", word(255)),
        required("max_retries", sa.SmallInteger),
        required("current_retry", sa.SmallInteger),
        required("timeout_ms", sa.Integer),
        optional("schedule", DOCUMENT),
        optional("deadline_at", sa.BigInteger),
        optional("finish_url", text(2048)),
        optional("tags", DOCUMENT),
        optional("flow_key", text(255)),
        optional("flow_limit", DOCUMENT),
        required("kind", word(8)),
        required("status", word(10)),
        optional("finish_reason", word(32)),
        required("deferrals", sa.SmallInteger),
        required("interruptions", sa.SmallInteger),
        required("doubtful", sa.SmallInteger),
        required("manual", sa.SmallInteger),
        required("run", sa.Integer),
        required("runs_done", sa.Integer),
        required("sends", sa.Integer),
        required("term", sa.BigInteger),
        required("scheduled_at", sa.BigInteger),
        required("anchor_at", sa.BigInteger),
        optional("next_execute_at", sa.BigInteger),
        required("version", sa.BigInteger),
        optional("last_error", text(1024)),
        required("created_at", sa.BigInteger),
        required("updated_at", sa.BigInteger),
        optional("finished_at", sa.BigInteger),
        sa.UniqueConstraint("business_id", "business_unique_id", name="uq_tasks_unique_id"),
        sa.Index("ix_tasks_due", "next_execute_at", "id", "shard"),
        sa.Index("ix_tasks_business_due", "business_id", "next_execute_at", "id"),
        sa.Index("ix_tasks_business_status", "business_id", "kind", "status", "id"),
        sa.Index("ix_tasks_business", "business_id", "id"),
        sa.Index("ix_tasks_business_host", "business_id", "callback_host", "id"),
        sa.Index("ix_tasks_business_finished", "business_id", "finished_at", "id"),
        sa.Index("ix_tasks_finished", "finished_at", "id"),
    )
    table(
        "task_tags",
        key("business_id", sa.BigInteger),
        key("tag", binary(255)),
        key("task_id", ID),
        sa.Index("ix_task_tags_task", "task_id"),
    )


def history() -> None:
    table(
        "task_executions",
        key("task_id", ID),
        key("number", sa.Integer),
        required("business_id", sa.BigInteger),
        required("run", sa.Integer),
        required("attempt", sa.SmallInteger),
        required("term", sa.BigInteger),
        required("status", word(20)),
        required("scheduled_at", sa.BigInteger),
        required("execution_time", sa.BigInteger),
        required("duration", sa.Double),
        required("lateness_ms", sa.Double),
        required("policy_wait_ms", sa.Double),
        optional("wait_reason", word(32)),
        optional("request_data", BLOB),
        optional("response_status", sa.SmallInteger),
        optional("response_data", BLOB),
        optional("error_message", text(1024)),
        required("created_at", sa.BigInteger),
        sa.Index("ix_task_executions_time", "business_id", "execution_time", "status"),
    )
    table(
        "cancelled_attempts",
        key("task_id", ID),
        key("number", sa.Integer),
        required("business_id", sa.BigInteger),
        required("business_code", binary(64)),
        required("shard", sa.SmallInteger),
        required("term", sa.BigInteger),
        required("run", sa.Integer),
        required("attempt", sa.SmallInteger),
        required("scheduled_at", sa.BigInteger),
        required("claimed_at", sa.BigInteger),
        sa.Index("ix_cancelled_attempts_shard", "shard", "term"),
    )
    table(
        "audit_log",
        key("business_id", sa.BigInteger),
        key("seq", sa.BigInteger),
        required("at", sa.BigInteger),
        required("actor_kind", word(16)),
        optional("actor_key_id", text(128)),
        required("action", text(64)),
        required("target", text(512)),
        required("result", text(64)),
        optional("ip", text(64)),
        optional("request_id", text(128)),
        required("hash", binary(32)),
    )


def cluster() -> None:
    table(
        "shards",
        key("shard", sa.SmallInteger),
        optional("owner", word(64)),
        required("term", sa.BigInteger),
    )
    table(
        "instances",
        key("id", word(64)),
        optional("address", text(255)),
        required("host_identity", text(255)),
        required("expires_at", sa.BigInteger),
        required("seq", sa.BigInteger),
        required("dead", sa.SmallInteger),
        required("leaving", sa.SmallInteger, "0"),
        required("started_at", sa.BigInteger),
    )
    table("meta", key("name", word(64)), required("value", BLOB))


def rows() -> None:
    """A shard without its row is refused by all owners, so all 256 stand here once and for ever."""
    connection = op.get_bind()
    shards = sa.table("shards", sa.column("shard"), sa.column("term"))
    there = set(connection.execute(sa.select(shards.c.shard)).scalars())
    missing = [{"shard": shard, "term": 0} for shard in range(256) if shard not in there]
    if missing:
        connection.execute(shards.insert(), missing)
    ledger = sa.table("business_ledger", sa.column("business_id"), sa.column("audit_head"))
    if connection.execute(sa.select(ledger.c.business_id).where(ledger.c.business_id == 0)).first() is None:
        connection.execute(ledger.insert(), [{"business_id": 0, "audit_head": bytes(32)}])


def downgrade() -> None:
    for name in reversed(TABLES):
        op.drop_table(name, if_exists=True)
