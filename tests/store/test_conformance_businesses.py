"""Businesses, their keys, signing secrets and ledgers, the same on every store."""

from dataclasses import replace

import pytest
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    add_business,
    audit_entry,
    business,
    credential,
    database_of,
    fetch,
    signing_secret,
)
from tests.store.unanswered import UnansweredDatabase

from taskcenter.errors import CommitUnknown, Conflict
from taskcenter.store.records import Business, BusinessStatus, Counters, Credential, SigningSecret
from taskcenter.store.sql_store import SqlStore
from taskcenter.store.vault import Unsealable, Vault

UNTIL = NOW + 86_400_000


async def make(store: SqlStore, made: Business) -> Business:
    await store.businesses.create(
        made, credential(f"key-{made.id}", made.id), signing_secret(f"sec-{made.id}", made.id),
        audit_entry("business.create", made.id),
    )  # fmt: skip
    return made


async def test_a_business_reads_back_as_it_was_made(bare_store: SqlStore) -> None:
    made = await make(bare_store, business(last_access_at=NOW + 1, breaker={"enabled": False, "failure_rate": 0.5}))
    assert await bare_store.businesses.get("shop") == made
    assert await bare_store.businesses.get_by_id(BUSINESS) == made
    assert await bare_store.businesses.counters(BUSINESS) == Counters(BUSINESS, 0, 0, 0, 0, 0, 0, 0)
    assert await bare_store.businesses.credentials(BUSINESS) == [credential("key-7")]
    assert await bare_store.businesses.credential("key-7") == credential("key-7")
    assert await bare_store.businesses.signing_secrets(BUSINESS, NOW) == [signing_secret("sec-7")]
    (entry,) = await bare_store.audit.page(BUSINESS, None, 9)
    assert (entry.action, entry.seq) == ("business.create", 1)


async def test_keys_are_checked_on_a_sample_of_what_they_sealed(bare_store: SqlStore) -> None:
    database, key = database_of(bare_store), b"k" * 32
    stranger = SqlStore(database, Vault([("n", key)]))
    await stranger.businesses.check_keys()  # nothing is sealed yet
    await make(bare_store, business())
    await bare_store.businesses.check_keys()
    with pytest.raises(Unsealable, match="which is not in TASKCENTER_ENCRYPTION_KEYS"):
        await stranger.businesses.check_keys()
    await make(stranger, business(BUSINESS + 1, "other"))  # the newest; the oldest is not its own, nor the other way
    with pytest.raises(Unsealable):
        await stranger.businesses.check_keys()
    with pytest.raises(Unsealable):
        await bare_store.businesses.check_keys()


async def test_what_is_not_there(bare_store: SqlStore) -> None:
    assert await bare_store.businesses.get("shop") is None
    assert await bare_store.businesses.get_by_id(BUSINESS) is None
    assert await bare_store.businesses.credential("key-7") is None
    assert await bare_store.businesses.credentials(BUSINESS) == []
    assert await bare_store.businesses.signing_secrets(BUSINESS, NOW) == []
    assert await bare_store.businesses.counters(BUSINESS) == Counters(BUSINESS, 0, 0, 0, 0, 0, 0, 0)
    assert not await bare_store.businesses.update(business(version=2), audit_entry())
    assert await bare_store.audit.page(BUSINESS, None, 9) == []


async def test_code_is_taken_once(bare_store: SqlStore) -> None:
    first = await make(bare_store, business())
    with pytest.raises(Conflict, match="shop is taken") as caught:
        await make(bare_store, business(8, "shop"))
    assert caught.value.code == "business_code_conflict"
    assert await bare_store.businesses.get_by_id(8) is None
    assert await bare_store.businesses.credentials(8) == []
    for number, code in enumerate(("Shop", "shóp", "shop ", "sho"), start=10):
        await make(bare_store, business(number, code))
        assert (await bare_store.businesses.get(code)) == business(number, code)
    assert await bare_store.businesses.get("shop") == first


async def test_one_key_is_revoked_once_with_its_entry(bare_store: SqlStore) -> None:
    store = bare_store
    await make(store, business())
    await make(store, business(8, "other"))
    for key_id, business_id in (("key-8", BUSINESS), ("none", BUSINESS), ("key-7", 8)):
        assert not await store.businesses.revoke(business_id, key_id, NOW + 1, audit_entry("credentials.revoke"))
    assert await store.businesses.revoke(BUSINESS, "key-7", NOW + 1, audit_entry("credentials.revoke"))
    assert not await store.businesses.revoke(BUSINESS, "key-7", NOW + 2, audit_entry("credentials.revoke"))
    assert await store.businesses.credential("key-7") == credential("key-7", revoked_at=NOW + 1)
    assert await store.businesses.credential("key-8") == credential("key-8", 8)
    assert [made.code for made in await store.businesses.changed_since(NOW + 1)] == ["shop"]
    assert [entry.action for entry in await store.audit.page(BUSINESS, None, 9)] == [
        "credentials.revoke", "business.create",
    ]  # fmt: skip
    assert await store.businesses.keys_in_force([BUSINESS, 8], NOW) == [credential("key-8", 8)]


async def test_repeated_create_and_rotate_are_harmless(bare_store: SqlStore) -> None:
    store = bare_store
    made = await make(store, business())
    await make(store, made)
    new = credential("key-new", created_at=NOW + 5)
    for _ in range(2):
        await store.businesses.rotate(
            new, previous_valid_until=UNTIL, revoke_previous=False, now=NOW + 5, signing=signing_secret("sec-new"),
            audit=audit_entry("credentials.rotate"),
        )  # fmt: skip
    assert [key.key_id for key in await store.businesses.credentials(BUSINESS)] == ["key-new", "key-7"]
    entries = await store.audit.page(BUSINESS, None, 9)
    assert [entry.action for entry in entries] == ["credentials.rotate", "business.create"]


async def test_create_after_a_lost_commit(unanswered: tuple[SqlStore, UnansweredDatabase]) -> None:
    store, database = unanswered
    made = business(9, "late")
    for lost in ("before", "after"):
        database.lost = lost
        with pytest.raises(CommitUnknown):
            await make(store, made)
    await make(store, made)
    assert await store.businesses.get("late") == made
    assert len(await store.audit.page(9, None, 9)) == 1


async def test_pages_by_code(bare_store: SqlStore) -> None:
    for number, code in enumerate(("b", "a", "c", "á", "B"), start=1):
        await add_business(bare_store, number, code)
    first = await bare_store.businesses.page(None, 3)
    rest = await bare_store.businesses.page(first[-1].code, 3)
    assert [found.code for found in first + rest] == ["B", "a", "b", "c", "á"]


async def test_update_is_guarded_by_the_version(store: SqlStore) -> None:
    changed = business(
        name="Neu", status=BusinessStatus.PAUSED, rate_limit=1, max_concurrent_tasks=2, max_active_tasks=3,
        default_timeout_ms=4, breaker={"enabled": False}, host_limits={"*": {"parallelism": 2}},
        version=2, updated_at=NOW + 9,
    )  # fmt: skip
    assert await store.businesses.update(changed, audit_entry("business.update"))
    assert await store.businesses.get("shop") == changed
    assert not await store.businesses.update(replace(changed, name="Lost"), audit_entry("business.update"))
    assert await store.businesses.get("shop") == changed
    assert await store.businesses.update(replace(changed, version=3), audit_entry("business.update"))
    assert len(await store.audit.page(BUSINESS, None, 9)) == 3


async def test_changed_since(bare_store: SqlStore) -> None:
    for number in range(3):
        await make(bare_store, business(number + 1, f"b{number}", updated_at=NOW + number))
    for since, codes in ((NOW, ["b0", "b1", "b2"]), (NOW + 1, ["b1", "b2"]), (NOW + 3, [])):
        assert [found.code for found in await bare_store.businesses.changed_since(since)] == codes


async def test_last_access_never_goes_back(bare_store: SqlStore) -> None:
    for number in range(1, 4):
        await add_business(bare_store, number, f"b{number}")
    await bare_store.businesses.touch({1: NOW + 5, 2: NOW, 99: NOW})
    await bare_store.businesses.touch({1: NOW + 4, 2: NOW + 1})
    await bare_store.businesses.touch({})
    found = [(await bare_store.businesses.get_by_id(number)) for number in (1, 2, 3)]
    assert [one and one.last_access_at for one in found] == [NOW + 5, NOW + 1, None]
    assert [one and one.version for one in found] == [1, 1, 1]
    await bare_store.businesses.touch_credentials({"key-1": NOW + 5, "none": NOW})
    await bare_store.businesses.touch_credentials({"key-1": NOW + 4, "key-2": NOW})
    keys = [await bare_store.businesses.credential(f"key-{number}") for number in (1, 2, 3)]
    assert [key and key.last_used_at for key in keys] == [NOW + 5, NOW, None]


async def test_touching_thousands(store: SqlStore) -> None:
    await store.businesses.touch(dict.fromkeys(range(2500), NOW))
    found = await store.businesses.get_by_id(BUSINESS)
    assert found is not None
    assert found.last_access_at == NOW


# --- keys and secrets ----------------------------------------------------------------------------------------------


async def rotate(store: SqlStore, number: int, *, revoke: bool = False, secret: bool = False) -> None:
    await store.businesses.rotate(
        credential(f"key-r{number}", created_at=NOW + number, expires_at=NOW + (1 << 40)),
        previous_valid_until=UNTIL + number, revoke_previous=revoke, now=NOW + number,
        signing=signing_secret(f"sec-r{number}", created_at=NOW + number) if secret else None,
        audit=audit_entry("credentials.rotate"),
    )  # fmt: skip


async def keys_of(store: SqlStore) -> dict[str, Credential]:
    return {key.key_id: key for key in await store.businesses.credentials(BUSINESS)}


async def secrets_of(store: SqlStore, at: int) -> list[SigningSecret]:
    return await store.businesses.signing_secrets(BUSINESS, at)


async def test_rotation_with_grace(bare_store: SqlStore) -> None:
    store = bare_store
    await store.businesses.create(
        business(), credential("key-7", expires_at=NOW + (1 << 40)), signing_secret("sec-7"), audit_entry()
    )
    await rotate(store, 1, secret=True)
    keys = await keys_of(store)
    assert (keys["key-7"].expires_at, keys["key-7"].revoked_at) == (UNTIL + 1, None)
    assert keys["key-r1"].expires_at == NOW + (1 << 40)
    assert [secret.id for secret in await secrets_of(store, NOW)] == ["sec-r1", "sec-7"]
    assert [secret.expires_at for secret in await secrets_of(store, NOW)] == [None, UNTIL + 1]
    assert [secret.id for secret in await secrets_of(store, UNTIL + 1)] == ["sec-r1"]
    await rotate(store, 2)  # the signing secret stays; an end that is near does not move away
    keys = await keys_of(store)
    assert [keys[name].expires_at for name in ("key-7", "key-r1")] == [UNTIL + 1, UNTIL + 2]
    assert [secret.expires_at for secret in await secrets_of(store, NOW)] == [None, UNTIL + 1]


async def test_rotation_that_revokes(bare_store: SqlStore) -> None:
    store = bare_store
    await make(store, business())
    await rotate(store, 1, revoke=True, secret=True)
    keys = await keys_of(store)
    assert (keys["key-7"].revoked_at, keys["key-r1"].revoked_at) == (NOW + 1, None)
    assert [secret.id for secret in await secrets_of(store, NOW + 1)] == ["sec-r1"]
    await rotate(store, 2, revoke=True)
    assert (await keys_of(store))["key-7"].revoked_at == NOW + 1
    assert [secret.id for secret in await secrets_of(store, NOW + 2)] == ["sec-r1"]


async def test_rotation_shows_as_a_change(store: SqlStore) -> None:
    await rotate(store, 50)
    (found,) = await store.businesses.changed_since(NOW + 50)
    assert (found.id, found.version) == (BUSINESS, 1)
    assert await store.businesses.update(business(version=2, updated_at=NOW + 60), audit_entry())


async def test_rehash_only_what_is_known(store: SqlStore) -> None:
    await store.businesses.rehash("key-7", b"other", b"new")
    await store.businesses.rehash("key-7", b"h" * 32, b"n" * 32)
    await store.businesses.rehash("key-7", b"h" * 32, b"x" * 32)
    assert (await keys_of(store))["key-7"].secret_hash == b"n" * 32


async def test_signing_secrets_are_sealed_at_rest(store: SqlStore) -> None:
    ((sealed,),) = await fetch(database_of(store), "SELECT secret FROM signing_secrets")
    assert b"whsec" not in sealed
    (secret,) = await secrets_of(store, NOW)
    assert secret.secret == "whsec_sec-7"
    assert "whsec" not in repr(secret)
