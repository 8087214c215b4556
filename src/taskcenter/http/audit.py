"""The audit trail, to be read: a business's own, and the system's for its operator."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from taskcenter.http.business_models import AuditPage, audit_fields
from taskcenter.http.openapi import Reply, describe
from taskcenter.http.requests import json_response, principal, query
from taskcenter.service.businesses import Businesses
from taskcenter.service.task_filter import PageQuery
from taskcenter.store.records import AuditEntry

TAG: Final = "Businesses"


def audit_blueprint(businesses: Businesses) -> Blueprint:
    """Mounted below the API's prefix."""
    blueprint = Blueprint("audit", __name__)

    @blueprint.get("/businesses/<business_code>/audit")
    @describe(
        "Read a business's audit trail",
        tag=TAG,
        description="Newest first: what was done in its name, with which credential, from where; and what was refused.",
        query=PageQuery,
        replies={200: Reply("A page of entries.", AuditPage)},
    )
    async def of_business(business_code: str) -> Response:
        given = query(PageQuery)
        return _page(*await businesses.audit(principal(), business_code, given.cursor, given.limit))

    @blueprint.get("/audit")
    @describe(
        "Read the system's audit trail",
        tag=TAG,
        description="What belongs to no business: credentials nobody knows, and uses of the admin token. Newest first.",
        query=PageQuery,
        admin=True,
        replies={200: Reply("A page of entries.", AuditPage)},
    )
    async def of_system() -> Response:
        given = query(PageQuery)
        return _page(*await businesses.system_audit(principal(), given.cursor, given.limit))

    return blueprint


def _page(entries: list[AuditEntry], cursor: str | None) -> Response:
    return json_response({"items": [audit_fields(entry) for entry in entries], "next_cursor": cursor})
