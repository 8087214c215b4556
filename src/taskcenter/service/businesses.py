"""The use cases of businesses: register, look at, change, rotate credentials, issue tokens, read the audit.

Who may: the admin all of it, a business what concerns itself; another's does not exist for it (404). A secret is told
once, by the call that made it. Changes go through `Writes`, carry their audit entry in the same transaction, are
guarded by the row's version, and are told to the cache at once; other instances find them within a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from taskcenter.clock import Clock
from taskcenter.errors import Conflict, Forbidden, NotFound, StoreUnavailable
from taskcenter.service import business_input as given
from taskcenter.service.audit_entry import audit_entry
from taskcenter.service.audit_trail import SYSTEM_CHAIN, AuditTrail
from taskcenter.service.business_cache import BusinessCache
from taskcenter.service.callback_credential_input import check
from taskcenter.service.credential_input import RotateInput, token_input
from taskcenter.service.credentials import Issuer, in_force
from taskcenter.service.paging import decode_cursor, decode_number, encode_cursor
from taskcenter.service.principal import TOKEN_SCOPES, Principal, PrincipalKind, Scope
from taskcenter.service.read_through import ReadThrough
from taskcenter.service.shielded import Writes
from taskcenter.service.tokens import IssuedToken, TokenRing
from taskcenter.store.interface import AuditStore, BusinessStore
from taskcenter.store.records import AuditEntry, Business, BusinessStatus, Credential
from taskcenter.task import shard_of

MAX_VALID_KEYS: Final = 20
RACES: Final = 5


@dataclass(frozen=True, slots=True)
class Registered:
    """A new business with its secrets in the clear, for the one answer that shows them."""

    business: Business
    api_key: str = field(repr=False)
    api_key_expires_at: int
    signing_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rotated:
    """New credentials in the clear, for the one answer that shows them."""

    business: Business
    key_id: str
    api_key: str = field(repr=False)
    api_key_expires_at: int
    signing_secret: str | None = field(repr=False)
    previous_key_valid_until: int


@dataclass(frozen=True, slots=True)
class BusinessTools:
    """What the use cases work with."""

    store: BusinessStore
    audit: AuditStore
    cache: BusinessCache
    credentials: ReadThrough[str, Credential]
    issuer: Issuer
    tokens: TokenRing
    trail: AuditTrail
    writes: Writes
    clock: Clock
    token_life_ms: int
    check_url: Callable[[str], object]  # raises ValueError for what may not be called
    secrets_changed: Callable[[int], None]  # told the business's id when its signing secrets may have changed


class Businesses:
    """One method for each call under `/businesses`, but for the statistics."""

    def __init__(self, tools: BusinessTools) -> None:
        self._t = tools
        self._token_input = token_input(tools.token_life_ms)

    # --- reads ------------------------------------------------------------------------------------------------------

    async def get(self, principal: Principal, code: str) -> tuple[Business, list[Credential]]:
        """The business and its API keys, newest first. Raises `NotFound`."""
        business = await self.find(principal, code, Scope.BUSINESS_READ)
        return business, await self._t.store.credentials(business.id)

    async def find(self, principal: Principal, code: str, scope: Scope) -> Business:
        """A business this principal may see, as it is now. Raises `NotFound`, `Forbidden`."""
        if not principal.is_admin:
            own = principal.require(scope)
            if own.code != code:
                raise NotFound("no such business")
        business = await self._t.store.get(code) if given.is_code(code) else None
        if business is None:
            raise NotFound("no such business")
        return business

    async def page(self, principal: Principal, cursor: str | None, limit: int) -> tuple[list[Business], str | None]:
        """By code; a business sees itself."""
        if not principal.is_admin:
            own = principal.require(Scope.BUSINESS_READ)
            return [await self.find(principal, own.code, Scope.BUSINESS_READ)], None
        after = None if cursor is None else decode_cursor(cursor, "businesses")
        rows = await self._t.store.page(after, limit + 1)
        more = len(rows) > limit
        return rows[:limit], encode_cursor(rows[limit - 1].code, "businesses") if more else None

    async def audit(
        self, principal: Principal, code: str, cursor: str | None, limit: int
    ) -> tuple[list[AuditEntry], str | None]:
        """Newest first."""
        business = await self.find(principal, code, Scope.BUSINESS_READ)
        return await self._audit_page(business.id, cursor, limit)

    async def system_audit(
        self, principal: Principal, cursor: str | None, limit: int
    ) -> tuple[list[AuditEntry], str | None]:
        """What belongs to no business: unknown credentials, the admin's own doings. Newest first."""
        principal.require_admin()
        return await self._audit_page(SYSTEM_CHAIN, cursor, limit)

    async def _audit_page(self, chain: int, cursor: str | None, limit: int) -> tuple[list[AuditEntry], str | None]:
        question = f"audit {chain}"
        before = None if cursor is None else decode_number(cursor, question)
        rows = await self._t.audit.page(chain, before, limit + 1)
        more = len(rows) > limit
        return rows[:limit], encode_cursor(str(rows[limit - 1].seq), question) if more else None

    # --- changes ----------------------------------------------------------------------------------------------------

    async def register(self, principal: Principal, body: object) -> Registered:
        """Raises `Conflict('business_code_conflict')`."""
        principal.require_admin()
        asked = given.BusinessInput.read(body)
        now = self._t.clock.now_ms()
        check(asked.callback_auth, asked.callback_tls, now, self._t.check_url)
        business = Business(
            id=self._t.issuer.business_id(),
            code=asked.business_code,
            name=asked.business_name,
            shard=shard_of(asked.business_code),
            status=BusinessStatus.ACTIVE,
            rate_limit=asked.rate_limit,
            max_concurrent_tasks=asked.max_concurrent_tasks,
            max_active_tasks=asked.max_active_tasks,
            default_timeout_ms=asked.default_timeout or given.DEFAULT_TIMEOUT_MS,
            breaker=given.complete_breaker({}, asked.breaker),
            host_limits=asked.host_limits,
            version=1,
            created_at=now,
            updated_at=now,
            last_access_at=None,
            callback_auth=asked.callback_auth,
            callback_tls=asked.callback_tls,
        )
        key, credential = self._t.issuer.api_key(business.id, now)
        signing = self._t.issuer.signing_secret(business.id, now)
        entry = audit_entry(principal, business.id, now, "business.create", business.code)

        async def create() -> None:
            await self._t.store.create(business, credential, signing, entry)
            self._t.cache.changed_here(business)
            self._t.credentials.put(credential.key_id, credential, now)

        await self._t.writes.call(create)
        return Registered(business, key.text, credential.expires_at, signing.secret)

    async def update(self, principal: Principal, code: str, body: object, expected_version: int | None) -> Business:
        """Raises `Conflict('version_conflict')`, `NotFound`."""
        principal.require_admin()
        asked = given.BusinessUpdate.read(body)
        check(asked.callback_auth, asked.callback_tls, self._t.clock.now_ms(), self._t.check_url)
        return await self._t.writes.call(lambda: self._update(principal, code, asked, expected_version))

    async def _update(
        self, principal: Principal, code: str, asked: given.BusinessUpdate, expected_version: int | None
    ) -> Business:
        for _ in range(RACES):
            before = await self.find(principal, code, Scope.BUSINESS_READ)
            if expected_version is not None and before.version != expected_version:
                break
            now = self._t.clock.now_ms()
            after = given.apply(asked, before)
            fields = given.changed_fields(before, after)
            if not fields:
                return before
            after = replace(after, version=before.version + 1, updated_at=max(now, before.updated_at))
            entry = audit_entry(principal, before.id, now, "business.update", f"{code}: {', '.join(fields)}")
            if await self._t.store.update(after, entry):
                self._t.cache.changed_here(after)
                return after
        raise Conflict("version_conflict", "the business was changed meanwhile; read it again")

    async def rotate(self, principal: Principal, code: str, body: object) -> Rotated:
        """Raises `Conflict('too_many_api_keys')`, `NotFound`."""
        asked = RotateInput.read(body)
        business = await self.find(principal, code, Scope.BUSINESS_WRITE)
        now = self._t.clock.now_ms()
        earlier = await self._t.store.credentials(business.id)
        valid = [credential for credential in earlier if in_force(credential, now) is None]
        if len(valid) >= MAX_VALID_KEYS and not asked.revoke_previous:
            raise Conflict(
                "too_many_api_keys", f"{len(valid)} keys are valid; rotate with revoke_previous, or a short grace"
            )
        key, credential = self._t.issuer.api_key(business.id, now, asked.expires_in)
        signing = self._t.issuer.signing_secret(business.id, now) if asked.rotate_signing_secret else None
        until = now if asked.revoke_previous else now + asked.grace_seconds
        entry = audit_entry(principal, business.id, now, "credentials.rotate", f"{code}: new key {key.key_id}")

        async def rotate() -> None:
            try:
                await self._t.store.rotate(
                    credential, previous_valid_until=until, revoke_previous=asked.revoke_previous, now=now,
                    signing=signing, audit=entry,
                )  # fmt: skip
            finally:
                for former in earlier:
                    self._t.credentials.drop(former.key_id)
                if signing is not None:
                    self._t.secrets_changed(business.id)
            self._t.credentials.put(credential.key_id, credential, now)

        await self._t.writes.call(rotate)
        return Rotated(
            business, key.key_id, key.text, credential.expires_at, None if signing is None else signing.secret, until
        )

    async def revoke(self, principal: Principal, code: str, key_id: str) -> Credential:
        """End one API key at once; one that was revoked before stays as it is. Raises `NotFound`, `Forbidden`."""
        business = await self.find(principal, code, Scope.BUSINESS_WRITE)
        now = self._t.clock.now_ms()
        entry = audit_entry(principal, business.id, now, "credentials.revoke", f"{code}: key {key_id[:64]}")

        async def revoke() -> Credential | None:
            try:
                await self._t.store.revoke(business.id, key_id, now, entry)
            finally:
                self._t.credentials.drop(key_id)
            return await self._t.store.credential(key_id)

        key = await self._t.writes.call(revoke) if key_id.isascii() else None
        if key is None or key.business_id != business.id:
            raise NotFound("no such API key")
        return key

    async def issue_token(self, principal: Principal, code: str, body: object) -> IssuedToken:
        """Only for an API key of the business. Raises `Forbidden`, `NotFound`, `StoreUnavailable`."""
        asked = self._token_input.read(body)
        business = await self.find(principal, code, Scope.BUSINESS_READ)
        if principal.kind is not PrincipalKind.API_KEY or principal.key_id is None:
            raise Forbidden("a token is issued to an API key of the business only")
        key = await self._t.credentials.get(principal.key_id)
        if key is None:
            raise NotFound("no such business")
        now = self._t.clock.now_ms()
        expires_at = min(now + (asked.ttl or self._t.token_life_ms), key.expires_at)
        scopes = asked.scopes or TOKEN_SCOPES
        names = " ".join(sorted(scopes))
        entry = audit_entry(principal, business.id, now, "token.issue", f"{code}: {names}")
        if not await self._t.trail.settle(self._t.trail.add(entry)):
            raise StoreUnavailable("the token was not issued: it cannot be written to the audit trail")
        return self._t.tokens.issue(business.code, principal.key_id, scopes, expires_at, now)
