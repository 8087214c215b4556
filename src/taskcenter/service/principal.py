"""Who asks: the outcome of authentication, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from taskcenter.errors import Forbidden
from taskcenter.store.records import Business


class PrincipalKind(StrEnum):
    ADMIN = "admin"
    API_KEY = "api_key"
    JWT = "jwt"


class Scope(StrEnum):
    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    BUSINESS_READ = "business:read"  # its own settings, stats, audit
    BUSINESS_WRITE = "business:write"  # its own credentials; never in a token


ALL_SCOPES: Final = frozenset(Scope)
TOKEN_SCOPES: Final = frozenset({Scope.TASKS_READ, Scope.TASKS_WRITE, Scope.BUSINESS_READ})


@dataclass(frozen=True, slots=True)
class Principal:
    kind: PrincipalKind
    key_id: str | None  # public id of the API key (also the one a JWT was issued for); None for the admin
    business: Business | None  # its own, or the one an admin acts on (X-TaskCenter-Business)
    scopes: frozenset[Scope]
    ip: str | None
    request_id: str | None
    audited: trio.Event | None = field(default=None, compare=False, repr=False)  # set once this use is in the audit

    @property
    def is_admin(self) -> bool:
        return self.kind is PrincipalKind.ADMIN

    def require(self, scope: Scope) -> Business:
        """The business to act on. Raises `Forbidden` without the scope, or for an admin that names no business."""
        if scope not in self.scopes:
            raise Forbidden(f"this credential lacks the scope {scope.value}")
        if self.business is None:
            raise Forbidden("an admin names the business to act on in the header X-TaskCenter-Business")
        return self.business

    def require_admin(self) -> None:
        if not self.is_admin:
            raise Forbidden("this call needs the admin token")
