"""Where credentials come from: API keys, signing secrets, the admin token. And the cache they are checked against."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from taskcenter.config import Settings
from taskcenter.service import api_keys
from taskcenter.service.api_keys import ApiKey, KeyHasher, RandomBytes
from taskcenter.store.interface import Store
from taskcenter.store.records import Credential, SigningSecret
from taskcenter.times import DAY_MS

KEY_LIFE_MS: Final = 365 * DAY_MS
ADMIN_PREFIX: Final = "tc_admin_"
ADMIN_META: Final = "admin_token_hash"
SIGNING_PREFIX: Final = "whsec_"
SIGNING_BYTES: Final = 32
ID_BYTES: Final = 15


@dataclass(frozen=True, slots=True)
class Issuer:
    """Makes new credentials."""

    hasher: KeyHasher
    random_bytes: RandomBytes
    environment: str = api_keys.LIVE

    def api_key(self, business_id: int, now: int, life_ms: int = KEY_LIFE_MS) -> tuple[ApiKey, Credential]:
        """A key for its owner, and what is kept of it."""
        key = api_keys.generate(self.random_bytes, self.environment)
        return key, Credential(key.key_id, business_id, self.hasher.hash(key), now, now + life_ms)

    def signing_secret(self, business_id: int, now: int) -> SigningSecret:
        """As Standard Webhooks has it: `whsec_` and 24 to 64 bytes in base 64."""
        secret = SIGNING_PREFIX + base64.b64encode(self.random_bytes(SIGNING_BYTES)).decode()
        return SigningSecret(
            base64.b32encode(self.random_bytes(ID_BYTES)).decode().lower(), business_id, secret, now, None
        )

    def business_id(self) -> int:
        """An id by chance, 62 bits: no counter that every create would have to lock. 0 is the system's own."""
        return (int.from_bytes(self.random_bytes(8), "big") >> 2) or 1


def in_force(credential: Credential, now: int) -> str | None:
    """None, or the reason why it is not."""
    if credential.revoked_at is not None and credential.revoked_at <= now:
        return "key_revoked"
    return "key_expired" if now >= credential.expires_at else None


class AdminToken:
    """Knows the admin token by its SHA-256, and nothing matches before `start`; its repr shows nothing."""

    def __init__(self) -> None:
        self._hash: bytes | None = None  # set once, by `start`

    async def start(self, store: Store, settings: Settings, random_bytes: RandomBytes) -> str | None:
        """Learn the token: the setting's, else the one that was made, else make one and return it to be printed.

        Raises `StoreUnavailable`.
        """
        made = await ensure_admin_token(store, settings, random_bytes)
        if settings.admin_token is not None:
            self._hash = _digest(settings.admin_token.get_secret_value())
        else:
            self._hash = await store.maintenance.meta(ADMIN_META)
        return made

    def matches(self, text: str) -> bool:
        return self._hash is not None and hmac.compare_digest(_digest(text), self._hash)

    def __repr__(self) -> str:
        return "<AdminToken>"


async def ensure_admin_token(store: Store, settings: Settings, random_bytes: RandomBytes) -> str | None:
    """Make the admin token if none is set and none was made; returned, to be printed, only by the one who made it.

    The hash alone is kept: a token that was lost is replaced by the setting. Raises `StoreUnavailable`.
    """
    if settings.admin_token is not None or await store.maintenance.meta(ADMIN_META) is not None:
        return None
    body = ADMIN_PREFIX + api_keys.base62(int.from_bytes(random_bytes(32), "big"), api_keys.SECRET_LETTERS)
    token = body + api_keys.checksum(body)
    kept = await store.maintenance.set_meta_once(ADMIN_META, _digest(token))
    return token if hmac.compare_digest(kept, _digest(token)) else None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
