"""Statements on the audit log; the chain's head is in the ledger (`statements.businesses`)."""

from __future__ import annotations

from typing import Final

from taskcenter.store.statements.text import insert

COLUMNS: Final = (
    "business_id", "seq", "at", "actor_kind", "actor_key_id", "action", "target", "result", "ip", "request_id", "hash",
)  # fmt: skip
INSERT: Final = insert("audit_log", COLUMNS)
PAGE: Final = f"SELECT {', '.join(COLUMNS)} FROM audit_log WHERE business_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
