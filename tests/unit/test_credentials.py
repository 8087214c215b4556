"""New credentials, and when they are in force."""

import base64
import random

from taskcenter.service.api_keys import KeyHasher, parse
from taskcenter.service.credentials import Issuer, in_force
from taskcenter.store.records import Business, BusinessStatus, Credential
from taskcenter.times import DAY_MS

NOW = 1_800_000_000_000
BUSINESS = Business(1, "orders", "Orders", 0, BusinessStatus.ACTIVE, 1, 1, 1, 1, {}, {}, 1, 0, 0, None)
ISSUER = Issuer(KeyHasher([("k1", bytes(32))]), random.Random(1).randbytes)


def credential(expires_at: int, revoked_at: int | None = None) -> Credential:
    return Credential("key", 1, b"", 0, expires_at, revoked_at)


def test_a_key_is_in_force_until_the_very_ms() -> None:
    assert in_force(credential(NOW + 1), NOW) is None
    assert in_force(credential(NOW), NOW) == "key_expired"
    assert in_force(credential(NOW + 1, revoked_at=NOW), NOW) == "key_revoked"
    assert in_force(credential(NOW + 1, revoked_at=NOW + 1), NOW) is None


def test_a_new_key_is_good_for_a_year_and_kept_as_a_hash() -> None:
    key, kept = ISSUER.api_key(7, NOW)
    assert parse(key.text) == key and kept.key_id == key.key_id and kept.business_id == 7
    assert ISSUER.hasher.verify(key, kept.secret_hash)
    assert kept.expires_at - kept.created_at == 365 * DAY_MS


def test_signing_secrets_are_of_standard_webhooks() -> None:
    first, second = ISSUER.signing_secret(7, NOW), ISSUER.signing_secret(7, NOW)
    assert first.id != second.id and first.secret != second.secret
    assert len(base64.b64decode(first.secret.removeprefix("whsec_"), validate=True)) == 32
    assert first.secret not in repr(first)


def test_business_ids_fit_a_signed_column_and_are_never_the_systems() -> None:
    assert Issuer(ISSUER.hasher, lambda n: b"\xff" * n).business_id() == 2**62 - 1
    assert Issuer(ISSUER.hasher, lambda n: bytes(n)).business_id() == 1
