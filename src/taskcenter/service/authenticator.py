"""Who asks? One answer for three credentials: the admin token, an API key, a JWT.

The secret is judged first and the rest after it: whoever shows no right secret hears one and the same 401, whatever was
wrong, and only the audit and the metrics know the reason. Only failures are throttled (`auth_throttle`), so a right
secret always passes. What is read from the store is at most 1.5 s old (`read_through`): a key that was revoked, a
business that was disabled is out on every instance within 2 s. While the store is out nothing older is believed, and
the caller hears 503.

`_Attempt` gathers what is known of the caller on the way, so that a failure is booked on the business whose key it
was. Nothing the caller wrote becomes a label or an audit field unless it was found in the store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.errors import ConfigError, FieldFault, Forbidden, InvalidInput, NotFound, TooMany, Unauthenticated
from taskcenter.metrics import Metrics
from taskcenter.service import api_keys
from taskcenter.service.api_keys import KeyHasher
from taskcenter.service.audit_entry import audit_entry
from taskcenter.service.audit_trail import SYSTEM_CHAIN, AuditTrail
from taskcenter.service.auth_throttle import SECRET_COST, TOKEN_COST, AuthThrottle
from taskcenter.service.business_cache import BusinessCache
from taskcenter.service.credentials import AdminToken, in_force
from taskcenter.service.external_tokens import ALGORITHMS as EXTERNAL_ALGORITHMS
from taskcenter.service.external_tokens import ExternalIssuer
from taskcenter.service.principal import ALL_SCOPES, Principal, PrincipalKind, Scope
from taskcenter.service.read_through import ReadThrough
from taskcenter.service.tokens import ALGORITHM, TokenRing, read_header
from taskcenter.service.usage import Usage
from taskcenter.store.records import Business, BusinessStatus, Credential

REFRESH_S: Final = 30.0
MAX_CREDENTIAL_CHARS: Final = 4096
MISSING: Final = "missing"
THROTTLED: Final = "throttled"

_log = log.get("authenticator")


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request shows of its sender: header values as they came, each as often as it was sent."""

    authorization: tuple[str, ...] = field(default=(), repr=False)
    api_key: tuple[str, ...] = field(default=(), repr=False)  # X-API-Key
    business: tuple[str, ...] = ()  # X-TaskCenter-Business
    ip: str | None = None
    request_id: str | None = None


@dataclass(slots=True)
class _Attempt:
    """One authentication under way, and what is known so far."""

    presented: Presented
    now: int
    kind: PrincipalKind | None = None
    cost: float = SECRET_COST
    business: Business | None = None
    key_id: str | None = None  # once it was found in the store
    scopes: frozenset[Scope] = ALL_SCOPES


@dataclass(frozen=True, slots=True)
class Verifiers:
    """What secrets are judged with."""

    admin: AdminToken
    hasher: KeyHasher
    tokens: TokenRing
    external: ExternalIssuer | None = None
    environment: str = api_keys.LIVE  # of API keys


class Authenticator:
    """One per process; `run` beside the server."""

    def __init__(
        self, verifiers: Verifiers, *, businesses: BusinessCache, credentials: ReadThrough[str, Credential],
        trail: AuditTrail, usage: Usage, clock: Clock, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._verifiers = verifiers
        self._businesses = businesses
        self._credentials = credentials
        self._trail = trail
        self._usage = usage
        self._clock = clock
        self._counts = metrics.auth
        self._throttle = AuthThrottle()

    async def authenticate(self, presented: Presented) -> Principal:
        """Raises `Unauthenticated`, `TooMany`, `Forbidden`, `NotFound`, `InvalidInput`, `StoreUnavailable`."""
        attempt = _Attempt(presented, self._clock.now_ms())
        try:
            await self._identify(attempt, credential_of(presented))
        except Unauthenticated as error:
            raise await self._refuse(attempt, error.reason) from None
        business = attempt.business
        if (
            business is not None
            and business.status is BusinessStatus.DISABLED
            and attempt.kind is not PrincipalKind.ADMIN
        ):
            await self._book_refusal(attempt, "business_disabled")
            raise Forbidden(f"the business {business.code} is disabled")
        await self._choose_business(attempt)
        return self._accept(attempt)

    async def settle(self, principal: Principal) -> None:
        """Return once this use of a credential is in the audit, if it is one that is written; soon in any case."""
        if principal.audited is not None:
            await self._trail.settle(principal.audited)

    async def forbidden(self, principal: Principal, call: str) -> None:
        """Book that `principal` may not do `call`: a route of ours by name, not what was sent."""
        business = principal.business
        self._count(business, "refused", "forbidden")
        receipt = self._trail.failure(
            f"forbidden: {call}",
            business_id=SYSTEM_CHAIN if business is None else business.id,
            key_id=principal.key_id,
            ip=principal.ip,
            request_id=principal.request_id,
            actor_kind=principal.kind.value,
        )
        await self._trail.settle(receipt)

    # --- the three credentials ------------------------------------------------------------------------------------

    async def _identify(self, attempt: _Attempt, text: str) -> None:
        """Raises `Unauthenticated`."""
        if not attempt.presented.api_key and self._verifiers.admin.matches(text):
            attempt.kind = PrincipalKind.ADMIN
        elif text.startswith(api_keys.prefix_of(self._verifiers.environment)) or attempt.presented.api_key:
            await self._by_key(attempt, text)
        elif text.count(".") == 2:
            attempt.cost = TOKEN_COST
            await self._by_token(attempt, text)
        else:
            raise Unauthenticated("unknown_credential")

    async def _by_key(self, attempt: _Attempt, text: str) -> None:
        key = api_keys.parse(text)
        if key is None or key.environment != self._verifiers.environment:
            raise Unauthenticated("key_malformed")
        if self._credentials.last_seen(key.key_id) is None and not self._throttle.may_look_up(
            attempt.presented.ip, attempt.now
        ):
            raise Unauthenticated(THROTTLED)
        credential = await self._credential(attempt, key.key_id)
        if not self._verifiers.hasher.verify(key, credential.secret_hash):
            raise Unauthenticated("key_wrong_secret")
        if reason := in_force(credential, attempt.now):
            raise Unauthenticated(reason)
        attempt.kind = PrincipalKind.API_KEY
        if self._verifiers.hasher.needs_rehash(credential.secret_hash):
            self._usage.rehash(credential.key_id, credential.secret_hash, self._verifiers.hasher.hash(key))

    async def _by_token(self, attempt: _Attempt, text: str) -> None:
        header = read_header(text)
        external = self._verifiers.external
        if header["alg"] == ALGORITHM:
            claims = self._verifiers.tokens.verify(text, header, attempt.now)
        elif external is not None and header["alg"] in EXTERNAL_ALGORITHMS:
            claims = external.verify(text, header, attempt.now)
        else:
            raise Unauthenticated("token_algorithm")
        if claims.key_id is None:
            attempt.business = await self._businesses.by_code(claims.business_code)
        else:
            credential = await self._credential(attempt, claims.key_id)
            if reason := in_force(credential, attempt.now):
                raise Unauthenticated(reason)
        if attempt.business is None or attempt.business.code != claims.business_code:
            raise Unauthenticated("token_business")
        attempt.kind = PrincipalKind.JWT
        attempt.scopes = claims.scopes

    async def _credential(self, attempt: _Attempt, key_id: str) -> Credential:
        credential = await self._credentials.get(key_id)
        if credential is None:
            raise Unauthenticated("key_unknown")
        attempt.key_id = key_id
        attempt.business = await self._businesses.by_id(credential.business_id)
        if attempt.business is None:
            raise Unauthenticated("key_unknown")
        return credential

    # --- what follows -----------------------------------------------------------------------------------------------

    async def _choose_business(self, attempt: _Attempt) -> None:
        """X-TaskCenter-Business: the admin acts on it, others may name their own only."""
        named = attempt.presented.business
        if not named:
            return
        if len(set(named)) > 1:
            raise InvalidInput([FieldFault("X-TaskCenter-Business", "is given more than once; name one, e.g. orders")])
        if attempt.kind is not PrincipalKind.ADMIN:
            if attempt.business is None or named[0] != attempt.business.code:
                await self._book_refusal(attempt, "other_business")
                raise Forbidden("only the admin may act on another business with X-TaskCenter-Business")
            return
        attempt.business = await self._businesses.by_code(named[0]) if len(named[0]) <= 64 else None
        if attempt.business is None:
            raise NotFound("no business has the code that X-TaskCenter-Business names")

    def _accept(self, attempt: _Attempt) -> Principal:
        assert attempt.kind is not None
        presented, business = attempt.presented, attempt.business
        principal = Principal(
            attempt.kind, attempt.key_id, business, attempt.scopes, presented.ip, presented.request_id
        )
        self._count(business, "ok", attempt.kind.value)
        receipt = self._trail.use(audit_entry(
            principal, SYSTEM_CHAIN if business is None else business.id, attempt.now, "credential.use",
            SYSTEM_NAME if business is None else business.code,
        ))  # fmt: skip
        if business is not None and attempt.kind is not PrincipalKind.ADMIN:
            self._usage.note(business.id, attempt.key_id, attempt.now)
        return principal if receipt is None else replace(principal, audited=receipt)

    async def _refuse(self, attempt: _Attempt, reason: str) -> Unauthenticated | TooMany:
        """Book the failure; the error to raise."""
        await self._book_refusal(attempt, reason)
        if reason == MISSING:
            return Unauthenticated(reason)
        wait_s = self._throttle.failed(attempt.presented.ip, attempt.key_id, attempt.cost, attempt.now)
        if reason == THROTTLED:
            wait_s = max(wait_s or 0, 1.0)
        if wait_s is None:
            return Unauthenticated(reason, key_id=attempt.key_id)
        return TooMany("rate_limited", "too many credentials that are not valid", retry_after_s=math.ceil(wait_s))

    async def _book_refusal(self, attempt: _Attempt, reason: str) -> None:
        """Returns once it stands in the audit, if it is one that is written at once."""
        business = attempt.business
        self._count(business, "refused", reason)
        receipt = self._trail.failure(
            reason,
            business_id=SYSTEM_CHAIN if business is None else business.id,
            key_id=attempt.key_id,
            ip=attempt.presented.ip,
            request_id=attempt.presented.request_id,
        )
        await self._trail.settle(receipt)

    def _count(self, business: Business | None, result: str, reason: str) -> None:
        self._counts.labels("" if business is None else business.code, result, reason).inc()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read an external issuer's keys again when their file changes; for ever."""
        task_status.started()
        while True:
            await trio.sleep(REFRESH_S)
            if self._verifiers.external is None:
                continue
            try:
                if await trio.to_thread.run_sync(self._verifiers.external.refresh):
                    _log.info("the external issuer's keys were read again")
            except ConfigError as error:
                _log.error("the external issuer's keys cannot be read; the former stay", fault=str(error))

    def __repr__(self) -> str:
        return f"<Authenticator {self._verifiers.tokens!r} {self._throttle!r}>"


SYSTEM_NAME: Final = "system"


def credential_of(presented: Presented) -> str:
    """The one credential of a request. Raises `Unauthenticated`."""
    texts = {_bearer(value) for value in presented.authorization} | set(presented.api_key)
    if not texts:
        raise Unauthenticated(MISSING)
    if len(texts) > 1:
        raise Unauthenticated("ambiguous")
    text = texts.pop()
    if not text or len(text) > MAX_CREDENTIAL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise Unauthenticated("malformed")
    return text


def _bearer(value: str) -> str:
    scheme, _, text = value.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("unsupported_scheme")
    return text.strip(" ")
