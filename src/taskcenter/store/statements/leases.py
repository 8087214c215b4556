"""Statements of the leases: the only ones that ask the store's clock (RELIABILITY.md §2)."""

from __future__ import annotations

from typing import Final

from taskcenter.store.statements.text import Query, by_key

# ms since 1970, at the statement's start
NOW: Final = Query(
    mysql="SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000",
    sqlite="SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
)

# --- instances -----------------------------------------------------------------------------------------------------

# (none) → alive
REGISTER: Final = (
    "INSERT INTO instances (id, address, host_identity, expires_at, seq, dead, started_at) VALUES (?, ?, ?, ?, 1, 0, ?)"
)
# alive → alive for longer
HEARTBEAT: Final = "UPDATE instances SET expires_at = ?, seq = seq + 1 WHERE id = ? AND dead = 0"
EXPIRED: Final = "SELECT id FROM instances WHERE dead = 0 AND expires_at < ?"
# alive → dead, its time has passed
BURY_EXPIRED: Final = "UPDATE instances SET dead = 1 WHERE id = ? AND dead = 0 AND expires_at < ?"
# alive → dead, its heart has not beaten since it was looked at
BURY_STALLED: Final = "UPDATE instances SET dead = 1 WHERE id = ? AND dead = 0 AND seq = ?"
# alive → alive, but wants no shards any more
LEAVE: Final = "UPDATE instances SET leaving = 1 WHERE id = ? AND dead = 0"
# alive → dead, by its own will
RETIRE: Final = "UPDATE instances SET dead = 1 WHERE id = ?"
INSTANCES: Final = (
    "SELECT id, address, host_identity, seq, dead, leaving, expires_at, started_at FROM instances ORDER BY id"
)

# --- shards --------------------------------------------------------------------------------------------------------

INSERT_SHARD: Final = "INSERT INTO shards (shard, term) VALUES (?, ?)"
SHARDS: Final = "SELECT shard, owner, term FROM shards ORDER BY shard"
# whether I may own anything: my row, held so that nobody buries me meanwhile
_ALIVE: Final = "SELECT id FROM instances WHERE id = ? AND dead = 0"
ALIVE: Final = by_key(_ALIVE, " LOCK IN SHARE MODE")
# those of the shards whose row nobody holds: one in a claim of a frozen owner must not keep the others from being taken
_FREE: Final = "SELECT shard FROM shards WHERE shard IN (...) ORDER BY shard"
UNHELD: Final = by_key(_FREE, " FOR UPDATE SKIP LOCKED")
# free | orphaned → mine, at the next term
_ORPHANED: Final = "(owner IS NULL OR NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = owner AND i.dead = 0))"
ACQUIRE: Final = by_key(f"UPDATE shards SET owner = ?, term = term + 1 WHERE shard IN (...) AND {_ORPHANED}")
MINE: Final = "SELECT shard, term FROM shards WHERE shard IN (...) AND owner = ?"
# mine at this term → free
RELEASE: Final = "UPDATE shards SET owner = NULL WHERE shard = ? AND owner = ? AND term = ?"
# mine → free
RELEASE_ALL: Final = "UPDATE shards SET owner = NULL WHERE owner = ?"
