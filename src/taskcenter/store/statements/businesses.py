"""Statements on businesses, their keys and their ledgers."""

from __future__ import annotations

from typing import Final

from taskcenter.store.statements.text import NUMBER, WORD, Query, batch, by_key, insert, locking

COLUMNS: Final = (
    "id", "business_code", "business_name", "shard", "status", "rate_limit", "max_concurrent_tasks", "max_active_tasks",
    "default_timeout_ms", "breaker", "host_limits", "version", "created_at", "updated_at", "last_access_at",
    "callback_auth", "callback_tls",
)  # fmt: skip
_ALL: Final = ", ".join(COLUMNS)
CREDENTIAL_COLUMNS: Final = (
    "key_id", "business_id", "secret_hash", "created_at", "expires_at", "revoked_at", "last_used_at",
)  # fmt: skip
_KEY: Final = ", ".join(CREDENTIAL_COLUMNS)
SECRET_COLUMNS: Final = ("id", "business_id", "secret", "created_at", "expires_at")
COUNTERS: Final = ("active", "created", "succeeded", "failed", "stopped", "cancelled", "callbacks")

INSERT: Final = insert("business_systems", COLUMNS)
GET: Final = f"SELECT {_ALL} FROM business_systems WHERE business_code = ?"
GET_BY_ID: Final = f"SELECT {_ALL} FROM business_systems WHERE id = ?"
PAGE: Final = f"SELECT {_ALL} FROM business_systems WHERE business_code > ? ORDER BY business_code LIMIT ?"
CHANGED: Final = f"SELECT {_ALL} FROM business_systems WHERE updated_at >= ? ORDER BY updated_at, id"
# version n → n + 1, with all that may change
UPDATE: Final = (
    "UPDATE business_systems SET business_name = ?, status = ?, rate_limit = ?, max_concurrent_tasks = ?,"
    " max_active_tasks = ?, default_timeout_ms = ?, breaker = ?, host_limits = ?, version = ?, updated_at = ?,"
    " callback_auth = ?, callback_tls = ? WHERE id = ? AND version = ?"
)
# so that every instance sees new keys and secrets as a change; the version is its settings' and stays
MARK_CHANGED: Final = "UPDATE business_systems SET updated_at = ? WHERE id = ? AND updated_at < ?"
_ACCESS: Final = batch(id=NUMBER, at=NUMBER)
TOUCH: Final = Query(
    mysql=f"UPDATE {_ACCESS.mysql} STRAIGHT_JOIN business_systems b ON b.id = r.id SET b.last_access_at = r.at"
    " WHERE b.last_access_at IS NULL OR b.last_access_at < r.at",
    sqlite=f"UPDATE business_systems SET last_access_at = r.at FROM {_ACCESS.sqlite}"
    " WHERE business_systems.id = +r.id AND (last_access_at IS NULL OR last_access_at < r.at)",
)

# --- keys and secrets ----------------------------------------------------------------------------------------------

INSERT_CREDENTIAL: Final = insert("credentials", CREDENTIAL_COLUMNS)
CREDENTIAL: Final = f"SELECT {_KEY} FROM credentials WHERE key_id = ?"
CREDENTIALS: Final = f"SELECT {_KEY} FROM credentials WHERE business_id = ? ORDER BY created_at DESC, key_id DESC"
KEYS_IN_FORCE: Final = (
    f"SELECT {_KEY} FROM credentials WHERE business_id IN (...) AND revoked_at IS NULL AND expires_at > ?"
)
# in force → in force until then at most
END_CREDENTIALS: Final = (
    "UPDATE credentials SET expires_at = ?"
    " WHERE business_id = ? AND key_id <> ? AND revoked_at IS NULL AND expires_at > ?"
)
# in force → revoked
REVOKE_CREDENTIALS: Final = (
    "UPDATE credentials SET revoked_at = ? WHERE business_id = ? AND key_id <> ? AND revoked_at IS NULL"
)
REVOKE_CREDENTIAL: Final = (
    "UPDATE credentials SET revoked_at = ? WHERE business_id = ? AND key_id = ? AND revoked_at IS NULL"
)
# the same key under another hash, unless somebody was faster
REHASH: Final = "UPDATE credentials SET secret_hash = ? WHERE key_id = ? AND secret_hash = ?"
_USE: Final = batch(id=WORD, at=NUMBER)
TOUCH_CREDENTIALS: Final = Query(
    mysql=f"UPDATE {_USE.mysql} STRAIGHT_JOIN credentials c ON c.key_id = r.id SET c.last_used_at = r.at"
    " WHERE c.last_used_at IS NULL OR c.last_used_at < r.at",
    sqlite=f"UPDATE credentials SET last_used_at = r.at FROM {_USE.sqlite}"
    " WHERE credentials.key_id = +r.id AND (last_used_at IS NULL OR last_used_at < r.at)",
)
INSERT_SECRET: Final = insert("signing_secrets", SECRET_COLUMNS)
SECRETS: Final = (
    f"SELECT {', '.join(SECRET_COLUMNS)} FROM signing_secrets"
    " WHERE business_id = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY created_at DESC, id DESC"
)
OLDEST_AND_NEWEST_SECRET: Final = (
    f"SELECT {', '.join(SECRET_COLUMNS)} FROM signing_secrets"
    " WHERE id IN ((SELECT MIN(id) FROM signing_secrets), (SELECT MAX(id) FROM signing_secrets))"
)
# current | in grace → in grace until then at most
END_SECRETS: Final = (
    "UPDATE signing_secrets SET expires_at = ?"
    " WHERE business_id = ? AND id <> ? AND (expires_at IS NULL OR expires_at > ?)"
)

# --- ledger --------------------------------------------------------------------------------------------------------

INSERT_LEDGER: Final = insert("business_ledger", ("business_id", "audit_head"))
LEDGER: Final = f"SELECT {', '.join(COUNTERS)} FROM business_ledger WHERE business_id = ?"
# businesses' counters, held until the end of the transaction
LOCK_LEDGERS: Final = locking(
    "SELECT business_id, active FROM business_ledger WHERE business_id IN (...) ORDER BY business_id"
)
# counters + what this transaction did, of all its businesses in the order of their ids
_DELTAS: Final = batch(id=NUMBER, **dict.fromkeys(COUNTERS, NUMBER))
COUNT: Final = Query(
    mysql=f"UPDATE {_DELTAS.mysql} STRAIGHT_JOIN business_ledger l ON l.business_id = r.id SET "
    + ", ".join(f"l.{name} = l.{name} + r.{name}" for name in COUNTERS),
    sqlite="UPDATE business_ledger SET "
    + ", ".join(f"{name} = business_ledger.{name} + r.{name}" for name in COUNTERS)
    + f" FROM {_DELTAS.sqlite} WHERE business_ledger.business_id = +r.id",
)
# the same, of one
COUNT_ONE: Final = by_key(
    f"UPDATE business_ledger SET {', '.join(f'{name} = {name} + ?' for name in COUNTERS)} WHERE business_id = ?"
)
# the heads of the audit chains, held until the end of the transaction
LOCK_CHAINS: Final = locking(
    "SELECT business_id, audit_seq, audit_head FROM business_ledger WHERE business_id IN (...) ORDER BY business_id"
)
ADVANCE_CHAIN: Final = "UPDATE business_ledger SET audit_seq = ?, audit_head = ? WHERE business_id = ?"
