"""The audit log: for each business a chain of entries, each hashed with its predecessor, so that a change shows.

`hash` = SHA-256 over the former entry's hash and the canonical JSON of the entry (its fields but the hash, names
sorted, no blanks, UTF-8). The first entry follows 32 zero bytes. The chain's head is in the business's ledger row,
whose lock makes the sequence gapless; entries are written in the transaction of what they tell about. A purge removes
a chain's oldest entries; what is left is verified from its own first hash on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from taskcenter.store.connection import Connection, Database, Param, QueryFault, Row
from taskcenter.store.records import AuditEntry, NewAuditEntry
from taskcenter.store.rows import clipped
from taskcenter.store.statements import audit as sql
from taskcenter.store.statements import businesses as ledgers
from taskcenter.store.statements.text import chunks, in_list

GENESIS: Final = bytes(32)
SYSTEM: Final = 0  # the business of what belongs to none
NEWEST: Final = (1 << 63) - 1
ROWS_AT_ONCE: Final = 250
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def canonical(entry: AuditEntry | NewAuditEntry, seq: int) -> bytes:
    """What is hashed of an entry."""
    before_at, before_seq = _frame(
        entry.action, entry.actor_key_id, entry.actor_kind, entry.business_id, entry.ip, entry.request_id, entry.result
    )
    return f'{before_at}{entry.at}{before_seq}{seq},"target":{_encode(entry.target)}}}'.encode()


@lru_cache(maxsize=256)
def _frame(  # noqa: PLR0917  # the names of an entry that sort before `seq`, but `at`
    action: str,
    actor_key_id: str | None,
    actor_kind: str,
    business_id: int,
    ip: str | None,
    request_id: str | None,
    result: str,
) -> tuple[str, str]:
    """The canonical text up to `at`, and on to `seq`: what all entries of a batch have in common."""
    who = {"action": action, "actor_key_id": actor_key_id, "actor_kind": actor_kind}
    where = {"business_id": business_id, "ip": ip, "request_id": request_id, "result": result}
    return f'{_encode(who)[:-1]},"at":', f',{_encode(where)[1:-1]},"seq":'


def chain_hash(previous: bytes, entry: AuditEntry | NewAuditEntry, seq: int | None = None) -> bytes:
    """The hash of an entry that follows one with the hash `previous`. A new entry needs its `seq`."""
    if seq is None:
        assert isinstance(entry, AuditEntry), "a new entry has no sequence number of its own"
        seq = entry.seq
    return hashlib.sha256(previous + canonical(entry, seq)).digest()


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a chain does not hold: `seq` is the first entry that was changed, moved, or follows a missing one."""

    seq: int
    reason: str


def verify(entries: Iterable[AuditEntry], previous: AuditEntry | None = None) -> Broken | None:
    """Check one business's entries, oldest first; `previous` is the one before the first, if it is known.

    Without it the first entry is checked only when it is the chain's first.
    """
    former = previous
    for entry in entries:
        if former is not None and entry.seq != former.seq + 1:
            return Broken(entry.seq, f"follows {former.seq}: entries are missing")
        before = former.hash if former is not None else GENESIS if entry.seq == 1 else None
        if before is not None and chain_hash(before, entry) != entry.hash:
            return Broken(entry.seq, "is not what was written, or its predecessor is not")
        former = entry
    return None


def _fitting(entry: NewAuditEntry) -> NewAuditEntry:
    """The entry with every text as long as its column; what came from outside may be longer."""
    return NewAuditEntry(
        entry.business_id, entry.at, entry.actor_kind, clipped(entry.actor_key_id, 128),
        clipped(entry.action, 64) or "", clipped(entry.target, 512) or "", clipped(entry.result, 64) or "",
        clipped(entry.ip, 64), clipped(entry.request_id, 128),
    )  # fmt: skip


async def append_audit(connection: Connection, entries: Sequence[NewAuditEntry]) -> None:
    """Chain and insert within the caller's transaction, as its last act: it locks the businesses' ledgers."""
    by_business: dict[int, list[NewAuditEntry]] = {}
    for entry in entries:
        by_business.setdefault(entry.business_id, []).append(entry)
    for some in chunks(sorted(by_business)):
        statement, values = in_list(ledgers.LOCK_CHAINS.on(connection.dialect), list(some))
        heads = {row[0]: (row[1], row[2]) for row in await connection.fetch(statement, values)}
        for business_id in some:
            if business_id not in heads:
                raise QueryFault("an audit entry names a business without a ledger")
            await _append(connection, business_id, by_business[business_id], *heads[business_id])


async def _append(
    connection: Connection, business_id: int, entries: Sequence[NewAuditEntry], seq: int, head: bytes
) -> None:
    """One business's entries after its chain's head. In slices: hashing a thousand at once would hold up the loop."""
    for some in chunks(entries, ROWS_AT_ONCE):
        rows: list[tuple[Param, ...]] = []
        for given in some:
            entry = _fitting(given)
            seq += 1
            head = chain_hash(head, entry, seq)
            rows.append((
                business_id, seq, entry.at, entry.actor_kind, entry.actor_key_id, entry.action, entry.target,
                entry.result, entry.ip, entry.request_id, head,
            ))  # fmt: skip
        await connection.insert_many(sql.INSERT, rows)
    await connection.execute(ledgers.ADVANCE_CHAIN, (seq, head, business_id))


class SqlAuditStore:
    """See `interface.AuditStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entries: Sequence[NewAuditEntry]) -> None:
        if not entries:
            return

        async def work(connection: Connection) -> None:
            await append_audit(connection, entries)

        await self._database.write(work)

    async def page(self, business_id: int, before_seq: int | None, limit: int) -> list[AuditEntry]:
        before = NEWEST if before_seq is None else before_seq

        async def work(connection: Connection) -> list[Row]:
            return await connection.fetch(sql.PAGE, (business_id, before, limit))

        return [AuditEntry(*row) for row in await self._database.read(work)]
