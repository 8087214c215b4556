"""The use cases of businesses and authentication put together, with the background tasks they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from taskcenter.clock import Clock
from taskcenter.config import Settings, split_secrets
from taskcenter.errors import ConfigError
from taskcenter.metrics import Metrics
from taskcenter.service.api_keys import KeyHasher, RandomBytes
from taskcenter.service.audit_trail import AuditTrail
from taskcenter.service.authenticator import Authenticator, Verifiers
from taskcenter.service.business_cache import BusinessCache
from taskcenter.service.businesses import Businesses, BusinessTools
from taskcenter.service.credentials import AdminToken, Issuer
from taskcenter.service.engine_port import Engine
from taskcenter.service.external_tokens import ExternalIssuer
from taskcenter.service.read_through import ReadThrough
from taskcenter.service.shielded import Writes
from taskcenter.service.stats import BusinessStats, StatsTools
from taskcenter.service.tokens import TokenRing
from taskcenter.service.usage import Usage
from taskcenter.store.interface import Store
from taskcenter.store.records import Credential

JWKS_EXAMPLE: Final = "TASKCENTER_JWT_ISSUER=https://id.example"


@dataclass(frozen=True, slots=True)
class BusinessServices:
    """Everything about businesses. Run it outside the server's nursery; cancel it after the last request."""

    businesses: Businesses
    stats: BusinessStats
    authenticator: Authenticator
    cache: BusinessCache
    trail: AuditTrail
    usage: Usage
    start_admin_token: Callable[[], Awaitable[str | None]]  # before the first request; a new token, to be printed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever; when cancelled, what is noted and not yet written is written."""
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: self.cache.run(task_status=task_status))
            await nursery.start(lambda *, task_status: self.usage.run(task_status=task_status))
            await nursery.start(lambda *, task_status: self.trail.run(task_status=task_status))
            await nursery.start(lambda *, task_status: self.authenticator.run(task_status=task_status))
            task_status.started()


def build_business_services(
    store: Store,
    engine: Engine,
    clock: Clock,
    *,
    settings: Settings,
    metrics: Metrics,
    writes: Writes,
    encryption_keys: Sequence[tuple[str, bytes]],
    random_bytes: RandomBytes,
    check_url: Callable[[str], object],
) -> BusinessServices:
    """`encryption_keys`: (id, 32 bytes), newest first. Raises `ConfigError`."""
    admin = AdminToken()
    hasher = KeyHasher(encryption_keys)
    secrets = [] if settings.jwt_secret is None else split_secrets(settings.jwt_secret.get_secret_value())
    tokens = TokenRing.of(secrets, encryption_keys, audience=settings.jwt_audience, random_bytes=random_bytes)
    cache = BusinessCache(store.businesses, clock)
    cache.listen(engine.business_changed)
    credentials: ReadThrough[str, Credential] = ReadThrough(store.businesses.credential, clock.now_ms)
    trail = AuditTrail(store.audit, clock)
    usage = Usage(store.businesses)
    businesses = Businesses(
        BusinessTools(
            store=store.businesses,
            audit=store.audit,
            cache=cache,
            credentials=credentials,
            issuer=Issuer(hasher, random_bytes, settings.key_environment),
            tokens=tokens,
            trail=trail,
            writes=writes,
            clock=clock,
            token_life_ms=int(settings.jwt_ttl * 1000),
            check_url=check_url,
            secrets_changed=engine.secrets_changed,
        )
    )
    authenticator = Authenticator(
        Verifiers(admin, hasher, tokens, _external(settings), settings.key_environment),
        businesses=cache,
        credentials=credentials,
        trail=trail,
        usage=usage,
        clock=clock,
        metrics=metrics,
    )
    stats = BusinessStats(StatsTools(businesses, store.tasks, store.stats, store.engine, engine, clock))
    return BusinessServices(
        businesses,
        stats,
        authenticator,
        cache,
        trail,
        usage,
        start_admin_token=lambda: admin.start(store, settings, random_bytes),
    )


def _external(settings: Settings) -> ExternalIssuer | None:
    if settings.jwt_jwks is None:
        return None
    if settings.jwt_issuer is None:
        raise ConfigError(f"TASKCENTER_JWT_ISSUER: is required with TASKCENTER_JWT_JWKS; e.g. {JWKS_EXAMPLE}")
    return ExternalIssuer(
        settings.jwt_jwks,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        business_claim=settings.jwt_business_claim,
    )
