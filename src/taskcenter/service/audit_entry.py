"""What a principal did, as an audit entry."""

from __future__ import annotations

from taskcenter.service.principal import Principal
from taskcenter.store.records import NewAuditEntry

MAX_TARGET_CHARS = 200


def audit_entry(principal: Principal, business_id: int, at: int, action: str, target: str) -> NewAuditEntry:
    """Something that was done; it stands in the store once the change does.

    `at` in ms since 1970; `business_id` names the chain the entry belongs to.
    """
    return NewAuditEntry(
        business_id=business_id,
        at=at,
        actor_kind=principal.kind.value,
        actor_key_id=principal.key_id,
        action=action,
        target=target[:MAX_TARGET_CHARS],
        result="ok",
        ip=principal.ip,
        request_id=principal.request_id,
    )
