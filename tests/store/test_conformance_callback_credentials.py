"""A business's credentials for callbacks, the same on every store: sealed, bound to their row, resealed, never lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.store.connection_kit import by_hand
from tests.store.store_kit import BUSINESS, KEY, audit_entry, business, credential, signing_secret

from taskcenter.store.callback_credentials import BearerAuth, ClientCertificate, OAuth2Auth, Unreadable
from taskcenter.store.records import Business
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.vault import Vault

NEW = ("k2", bytes(range(1, 33)))
BEARER = BearerAuth("canary-token", ("a.example",))
OAUTH = OAuth2Auth("https://id.example/", "us", "canary-secret", ("*.b.example",), "s", None, "body")
TLS = ClientCertificate("PEM", "canary-key", ("c.example",), "CN=us", "CN=ca", 1, "f" * 64)


async def make(store: SqlStore, made: Business) -> Business:
    await store.businesses.create(
        made, credential(f"key-{made.id}", made.id), signing_secret(f"sec-{made.id}", made.id),
        audit_entry("business.create", made.id),
    )  # fmt: skip
    return made


async def opened(url: str, *keys: tuple[str, bytes]) -> SqlStore:
    store = open_store(url, Vault(keys))
    await store.open()
    return store


async def walk(store: SqlStore) -> tuple[int, int]:
    """Resealed, unreadable."""
    cursor, resealed, unreadable = None, 0, 0
    while True:
        page = await store.resealing.page(cursor, 7)
        resealed, unreadable, cursor = resealed + page.resealed, unreadable + page.unreadable, page.cursor
        if cursor is None:
            return resealed, unreadable


async def test_they_read_back_everywhere_as_they_were_given(bare_store: SqlStore) -> None:
    store = bare_store
    made = await make(store, business(callback_auth=BEARER, callback_tls=TLS))
    other = await make(store, business(8, "other", callback_auth=OAUTH))
    plain = await make(store, business(9, "plain"))
    assert await store.businesses.page(None, 9) == [other, plain, made]
    assert await store.businesses.get("shop") == await store.businesses.get_by_id(BUSINESS) == made
    assert await store.businesses.changed_since(0) == [made, other, plain]
    changed = replace(made, version=2, callback_auth=OAUTH, callback_tls=None)
    assert await store.businesses.update(changed, audit_entry("business.update"))
    assert await store.businesses.get("shop") == changed
    assert not await store.businesses.update(replace(made, version=2), audit_entry()), "an older version loses"
    assert await store.businesses.get("shop") == changed


async def test_nothing_of_them_is_in_clear_and_a_moved_one_does_not_open(migrated_url: str) -> None:
    store = await opened(migrated_url, KEY)
    try:
        made = await make(store, business(callback_auth=BEARER, callback_tls=TLS))
        await make(store, business(8, "other", callback_auth=OAUTH))
        rows = by_hand(migrated_url, "SELECT callback_auth, callback_tls FROM business_systems ORDER BY id")
        for sealed in (value for row in rows for value in row if value is not None):
            assert not any(word in bytes(sealed) for word in (b"canary", b"example", b"CN=", b"BearerAuth"))
        by_hand(migrated_url, "UPDATE business_systems SET callback_auth = callback_tls WHERE id = 7")
        by_hand(
            migrated_url,
            "UPDATE business_systems SET callback_tls = (SELECT a FROM (SELECT callback_auth AS a FROM business_systems"
            " WHERE id = 8) x) WHERE id = 8",
        )
        moved, other = await store.businesses.get_by_id(7), await store.businesses.get_by_id(8)
        assert moved is not None and isinstance(moved.callback_auth, Unreadable) and moved.callback_tls == TLS
        assert other is not None and isinstance(other.callback_tls, Unreadable) and other.callback_auth == OAUTH
        assert "canary" not in repr((made, moved, other)) + json.dumps(str(other))
    finally:
        await store.aclose()


async def test_a_rotation_of_the_key_seals_them_anew_and_a_lost_key_loses_nothing(migrated_url: str) -> None:
    old = await opened(migrated_url, KEY)
    made = await make(old, business(callback_auth=BEARER, callback_tls=TLS))
    other = await make(old, business(8, "other", callback_tls=TLS))
    await make(old, business(9, "plain"))
    await old.aclose()
    forgetful = await opened(migrated_url, NEW)
    unreadable = await forgetful.businesses.get("shop")
    assert unreadable is not None and isinstance(unreadable.callback_auth, Unreadable)
    renamed = replace(unreadable, version=2, name="Renamed")
    assert await forgetful.businesses.update(renamed, audit_entry("business.update")), "it can still be changed"
    assert (await walk(forgetful))[1] == 3 + 2, "three signing secrets and two businesses"
    await forgetful.aclose()
    both = await opened(migrated_url, NEW, KEY)
    assert await both.businesses.get("shop") == replace(made, version=2, name="Renamed"), "and keeps what it had"
    assert await walk(both) == (3 + 2, 0)
    assert await walk(both) == (0, 0)
    await both.aclose()
    new = await opened(migrated_url, NEW)
    assert await new.businesses.get("shop") == replace(made, version=2, name="Renamed")
    assert await new.businesses.get("other") == other
    await new.aclose()


@pytest.mark.parametrize("credentials", [BEARER, OAUTH, TLS])
def test_no_repr_shows_a_secret(credentials: object) -> None:
    assert "canary" not in repr(credentials) and "PEM" not in repr(credentials)
